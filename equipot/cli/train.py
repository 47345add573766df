"""`equipot train`: from structures to a checked potential."""

from json import dumps as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipot.cli.output import (
    INTERRUPTED,
    Json,
    command,
    note,
    print_json,
    print_table,
    progress_bar,
)
from equipot.cli.runs import Files, Set, configuration, end_with_problems, free_folder, print_run
from equipot.errors import EquipotError

if TYPE_CHECKING:
    from equipot.config import Config
    from equipot.run_stages import TrainResult


@command
def train(  # noqa: PLR0913 (one parameter for each flag)
    files: Files = None,
    set_: Set = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="MODEL", help="Fine-tune this model file; the same as --set start.model=…"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default: runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the data, print configuration and cost, and stop.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="The same as --set run.seed=…", rich_help_panel="Run")] = None,
    device: Annotated[str | None, typer.Option(help="The same as --set run.device=…", rich_help_panel="Run")] = None,
    dtype: Annotated[str | None, typer.Option(help="The same as --set run.dtype=…", rich_help_panel="Run")] = None,
    radial: Annotated[
        str | None, typer.Option(help="exact or spline:KNOTS; the same as --set run.radial=…", rich_help_panel="Run")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="The same as --set run.threads=…", rich_help_panel="Run")] = None,
    backend: Annotated[str | None, typer.Option(help="The same as --set run.backend=…", rich_help_panel="Run")] = None,
    json: Json = False,
) -> None:
    """Train a potential, check it, and write a report.

    [bold]equipot train my.extxyz[/bold] is enough for a first model: keys of energy and forces are recognised, a
    tenth of the structures is kept for validation, and the design is a small MACE. A YAML file and --set change
    everything. [bold]--from model.equipot[/bold] starts from a model that you have (fine-tuning). Ctrl-C ends early
    and leaves a usable model; --resume goes on with it.
    """
    flags = {
        "seed": seed, "device": device, "dtype": dtype, "radial": radial, "threads": threads, "backend": backend
    }  # fmt: skip
    settings = [*(set_ or []), *(f"run.{name}={value}" for name, value in flags.items() if value is not None)]
    if start is not None:
        settings.insert(0, f"start.model={json_text(str(start))}")
        if resume is not None:
            raise EquipotError("--resume goes on with a run as it is, from its own weights: leave out --from.")
    config, folder = _configuration(files or [], settings, out, resume)
    if dry_run:
        _print_plan(config, folder, json)
        return
    result = _run(config, folder, resume is not None)
    if result is not None:
        _print_result(result, json)


def _configuration(
    files: list[Path], settings: list[str], out: Path | None, resume: Path | None
) -> tuple["Config", Path]:
    if resume is not None:
        if files or out is not None:
            raise EquipotError("--resume goes on with a run as it is: leave out files and --out.")
        from equipot.config import Config

        _check_run_folder(resume)
        return Config.from_yaml(resume / "config.yaml", settings), resume
    if not files:
        raise EquipotError("nothing to train on: give a file of structures, a YAML configuration, or --resume RUN.")
    return configuration(files, settings), out or free_folder(files[0])


def _check_run_folder(folder: Path) -> None:
    if folder.is_file():
        raise EquipotError(
            f"--resume {folder} is a file; give the folder of the run, such as {folder.resolve().parent}."
        )
    if not folder.exists():
        near = sorted(str(path.parent) for path in Path("runs").glob("*/last.ckpt"))
        hint = f" Runs here: {', '.join(near)}." if near else ""
        raise EquipotError(f"--resume {folder}: there is no such folder.{hint}")
    if not (folder / "config.yaml").exists():
        raise EquipotError(f"{folder} has no config.yaml: it is not a run folder that can be resumed.")


def _run(config: "Config", folder: Path, resume: bool) -> "TrainResult | None":
    """Runs the pipeline with bars; returns None on the processes that do not lead."""
    from equipot.fit.reporter import ProgressReporter
    from equipot.pipeline import train as run

    with progress_bar("dynamics") as show:
        result = run(
            config, folder, resume=resume, reporter=ProgressReporter(),
            md_progress=lambda row, steps: show(row.step, steps, f"{row.temperature_K:.0f} K"),
        )  # fmt: skip
    return result if result.leads else None


def _print_result(result: "TrainResult", json: bool) -> None:
    print_run(result, json, {"metrics.jsonl": "one line for each validation"})
    if result.fit.status == "interrupted":
        note(f"interrupted; equipot train --resume {result.folder} goes on.")
        raise typer.Exit(INTERRUPTED)
    end_with_problems(result)


def _print_plan(config: "Config", folder: Path, json: bool) -> None:
    from equipot.fit.reporter import logging_to
    from equipot.models.model_file import as_device
    from equipot.pipeline import prepare, refuse_linear
    from equipot.run_record import data_facts
    from equipot.study.cost import estimate, threads

    refuse_linear(config)
    with logging_to(None), threads(config.run.threads):
        prepared = prepare(config, as_device(config.run.device))
        cost = estimate(prepared.potential, prepared.data.train, prepared.data.valid, config.fit)
    if json:
        document: dict[str, Any] = {
            "folder": str(folder), "config": config.as_dict(), "data": data_facts(prepared.data), "cost": cost.as_dict()
        }  # fmt: skip
        print_json(document)
        return
    typer.echo(config.to_yaml())
    rows = [[name.replace("_", " "), value] for name, value in cost.as_dict().items()]
    print_table("Cost, measured on a few steps", ["quantity", "value"], rows)
    note(f"dry run: nothing was written; the run would go to {folder}.")
