"""`equipot fit`: from structures to a checked potential by linear least squares."""

from json import dumps as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equipot.cli.output import Json, command, note, print_json, print_table, progress_bar
from equipot.cli.runs import Files, Set, configuration, end_with_problems, free_folder, print_run
from equipot.errors import EquipotError

if TYPE_CHECKING:
    from equipot.config import Config
    from equipot.linear_pipeline import LinearResult


@command
def fit(  # noqa: PLR0913 (one parameter for each flag)
    files: Files = None,
    set_: Set = None,
    refit: Annotated[
        Path | None,
        typer.Option(
            "--refit-readout",
            metavar="MODEL",
            help="Refit the last weights of this trained model, of any design; the same as --set start.model=…",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="MODEL",
            help="Fit what this model of any design leaves of the labels; the result is the sum of both, in one file. "
            "The same as --set baseline.model=…",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep-weights",
            help="With --refit-readout: the weights stay as they were trained, and only their uncertainty is found; "
            "the same as --set linear.keep_weights=true",
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default: runs/NAME.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the data, print configuration and size of the fit, and stop.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="The same as --set run.seed=…", rich_help_panel="Run")] = None,
    dtype: Annotated[str | None, typer.Option(help="The same as --set run.dtype=…", rich_help_panel="Run")] = None,
    threads: Annotated[int | None, typer.Option(help="The same as --set run.threads=…", rich_help_panel="Run")] = None,
    backend: Annotated[str | None, typer.Option(help="The same as --set run.backend=…", rich_help_panel="Run")] = None,
    json: Json = False,
) -> None:
    """Fit a potential by linear least squares, with its uncertainty, check it, and write a report.

    [bold]equipot fit my.extxyz[/bold] fits a linear ACE: no epochs, one solution. A YAML file and --set change
    everything; `equipot options linear` lists solvers, priors and weights.
    [bold]--refit-readout model.equipot[/bold] refits the last weights of a model that was trained, and gives it the
    uncertainty of its predictions. [bold]--baseline model.equipot[/bold] corrects a model by a linear ACE.
    Ctrl-C ends; before the weights are found nothing is left but the log.
    """
    flags = {"seed": seed, "dtype": dtype, "threads": threads, "backend": backend}
    settings = [*(set_ or []), *(f"run.{name}={value}" for name, value in flags.items() if value is not None)]
    if refit is not None:
        settings.insert(0, f"start.model={json_text(str(refit))}")
    if baseline is not None:
        settings.insert(0, f"baseline.model={json_text(str(baseline))}")
    if keep:
        settings.append("linear.keep_weights=true")
    if not files:
        raise EquipotError("nothing to fit to: give a file of structures, or a YAML configuration.")
    config = configuration(files, settings, linear=True)
    folder = out or free_folder(files[0])
    if dry_run:
        _print_plan(config, folder, json)
        return
    result = _run(config, folder)
    print_run(result, json, {"linear.json": "what is known about the fit"})
    end_with_problems(result)


def _run(config: "Config", folder: Path) -> "LinearResult":
    """Runs the pipeline with bars."""
    from equipot.linear_pipeline import linear_fit

    with progress_bar("fit") as show, progress_bar("dynamics") as show_dynamics:

        def progress(what: str, done: int, total: int) -> None:
            show(done if total else 0, total or 1, what if total else f"{what} {done}")

        return linear_fit(
            config, folder, progress=progress,
            md_progress=lambda row, steps: show_dynamics(row.step, steps, f"{row.temperature_K:.0f} K"),
        )  # fmt: skip


def _print_plan(config: "Config", folder: Path, json: bool) -> None:
    from equipot.fit.reporter import logging_to
    from equipot.linear_pipeline import size
    from equipot.pipeline import prepare
    from equipot.run_record import data_facts
    from equipot.study.cost import threads

    with logging_to(None), threads(config.run.threads):
        prepared = prepare(config)
        sizes = size(config, prepared)
    if json:
        data = data_facts(prepared.data)
        print_json({"folder": str(folder), "config": config.as_dict(), "data": data, "size": sizes})
        return
    typer.echo(config.to_yaml())
    print_table("Size of the fit", ["quantity", "value"], [[name.replace("_", " "), n] for name, n in sizes.items()])
    note(f"dry run: nothing was written; the run would go to {folder}.")
