"""`equipot info`, `data`, `design`, `options`, `report`: what there is, and what it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipot.cli.output import Backend, Json, command, note, print_json, print_table
from equipot.errors import EquipotError

if TYPE_CHECKING:
    from equipot.design import Design
    from equipot.models.model_file import ModelHeader

design = typer.Typer(
    help="Named points of the design space, their axes and what they cost.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="AXIS=VALUE", help="Change an axis, for example channels=64; may be repeated."),
]


@command
def info(
    model: Annotated[Path, typer.Argument(help="Model file.", show_default=False)],
    check: Annotated[
        bool, typer.Option("--check", help="Measure symmetries, derivatives and limits; status 1 where one fails.")
    ] = False,
    structure: Annotated[
        Path | None, typer.Option(help="Check on the last structure of this file; default: a small cluster.")
    ] = None,
    backend: Backend = None,
    json: Json = False,
) -> None:
    """Say what a model file holds: design, elements, training, errors, versions."""
    from equipot.models.model_file import read_model_header
    from equipot.points import nearest_point

    header = read_model_header(model)
    point = nearest_point(header.design)
    checks = _checks(model, structure, backend or "auto") if check else {}
    if json:
        print_json({"file": str(model), "point": point, **header.model_dump(mode="json"), "checks": checks})
    else:
        _print_header(model, header, point)
        if checks:
            rows = [
                [n, c["value"], c["unit"], "–" if c["limit"] is None else f"{c['limit']:g}", _verdict(c), c["meaning"]]
                for n, c in checks.items()
            ]
            print_table("Checks, in float64", ["check", "measured", "unit", "limit", "", "meaning"], rows)
    failed = [name for name, c in checks.items() if not c["passed"]]
    if failed:
        note(f"error: {model} fails {', '.join(failed)}.")
        raise typer.Exit(1)


def _verdict(check: dict[str, Any]) -> str:
    if check["limit"] is None:
        return ""
    return "passed" if check["passed"] else "FAILED"


def _checks(model: Path, structure: Path | None, backend: str) -> dict[str, dict[str, Any]]:
    from ase import Atoms

    from equipot.data.files import read_structures
    from equipot.deploy.doctor import check_potential
    from equipot.fit.reporter import logging_to
    from equipot.kernels.backend import choice_of
    from equipot.models.model_file import load_potential
    from equipot.models.self_test import self_test_tensors

    with logging_to(None):
        potential = load_potential(model, backend=backend, check=True)
    note(str(choice_of(potential)))
    if structure is None:
        cluster = self_test_tensors(potential)
        atoms = Atoms(cluster["atomic_numbers"].numpy(), positions=cluster["positions"].numpy())
    else:
        atoms = read_structures(structure).structures[-1]
    found = check_potential(potential, atoms)
    return {name: {**check._asdict(), "passed": check.passed} for name, check in found.items()}


def _print_header(model: Path, header: "ModelHeader", point: str) -> None:
    from equipot.linear_report import baseline_of, in_header, start_label
    from equipot.points import named_point
    from equipot.run_record import energies_in_words, in_words
    from equipot.run_report import converted_from, fine_tuned_from

    statistics, trained = header.statistics, header.provenance
    changed = header.design.differences(named_point(point))
    rows = [
        ["design", f"{point}, with " + (", ".join(f"{a}={v[0]}" for a, v in changed.items()) or "no change")],
        ["parameters", f"{header.parameters}, {header.dtype}"],
        ["radial functions", header.radial],
        ["cutoff", f"{header.design.r_max:g} Å, {header.design.layers} layers"],
        *([["on top of the baseline", below]] if (below := baseline_of(header)) else []),
        ["E0 (eV)", energies_in_words(statistics, 5, "equipot info --json")],
        ["source of E0", (header.baseline or header).statistics.atomic_energies_source.replace("_", " ")],
        ["units", ", ".join(f"{name} {unit}" for name, unit in header.units.items())],
        ["versions", ", ".join(f"{name} {version}" for name, version in header.versions.items())],
        ["format", str(header.format_version)],
        *([["converted from", origin]] if (origin := converted_from(trained)) else []),
        *([[start_label(trained), start]] if (start := fine_tuned_from(header)) else []),
        *([label, text] for label, text in in_header(trained).items()),
        *([["training data (SHA-256)", str(trained["train_data"])]] if "train_data" in trained else []),
        *[[f"errors of {name}", in_words(errors)] for name, errors in _in_order(trained.get("errors", {}))],
    ]
    print_table(str(model), ["", ""], rows)


def _in_order(errors: dict[str, Any]) -> list[tuple[str, Any]]:
    """Returns training and validation first."""
    return sorted(errors.items(), key=lambda item: (item[0] != "train", item[0] != "valid"))


@command
def data(
    files: Annotated[list[Path], typer.Argument(help="Files of structures.", show_default=False)],
    r_max: Annotated[float, typer.Option(help="Cutoff for counting neighbours, Å.")] = 5.0,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="KEY=VALUE", help="As for train, for example data.energy_key=E; repeatable."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Look at structures before training on them: what was found, what is measured, what looks wrong.

    What training would refuse is an error here too; what only looks wrong is printed as a warning.
    """
    from equipot.config import Config
    from equipot.study.survey import survey

    found = survey(Config.from_files(files, set_ or []).data, r_max)
    if json:
        print_json(found)
        return
    rows = [{**row, "file": Path(row["file"]).name} for row in found["files"]]
    columns = [key for key in rows[0] if any(row[key] not in ("–", 0, "") for row in rows)]
    print_table("Files: what was found (frames)", columns, [[row[key] for key in columns] for row in rows])
    elements = [{**row, "E0 (eV)": f"{row['E0 (eV)']:.5f}".replace("-", "−")} for row in found["elements"]]
    print_table(
        f"Elements (E0: {found['atomic_energies_source']})", list(elements[0]), [list(e.values()) for e in elements]
    )
    print_table("Structures", ["quantity", "value"], [[name, value] for name, value in found["measured"].items()])
    for warning in found["warnings"]:
        note(f"warning: {warning}")
    if not found["warnings"]:
        note("nothing looks wrong.")


def _point(name: str, settings: list[str] | None) -> "Design":
    import yaml

    from equipot.points import named_point
    from equipot.yaml_file import parse_yaml, yaml_problem

    axes: dict[str, Any] = {}
    for setting in settings or []:
        axis, equals, text = setting.partition("=")
        if not equals:
            raise EquipotError(f"--set {setting}: write axis=value, for example --set channels=64.")
        try:
            axes[axis.strip().removeprefix("design.")] = parse_yaml(text)
        except yaml.YAMLError as error:
            raise EquipotError(f"--set {setting}: the value is not YAML ({yaml_problem(error)}).") from None
    return named_point(name, **axes)


def _species(text: str) -> list[int]:
    from ase.data import atomic_numbers

    symbols = [symbol.strip() for symbol in text.replace(" ", ",").split(",") if symbol.strip()]
    unknown = [symbol for symbol in symbols if symbol not in atomic_numbers or symbol == "X"]
    if unknown or not symbols:
        raise EquipotError(f"--species {text}: {unknown or 'nothing'} are not chemical symbols; write H,C,O.")
    return sorted({atomic_numbers[symbol] for symbol in symbols})


@design.command("show")
@command
def show(
    name: Annotated[str, typer.Argument(help="Named point; see `equipot design list`.", show_default=False)],
    set_: Set = None,
    species: Annotated[str, typer.Option(help="Elements, for example H,C,O.")] = "H,C,N,O",
    json: Json = False,
) -> None:
    """Show a design: axes, layers, parameters, paths, body order, receptive field, operations."""
    from equipot.models import describe
    from equipot.run_report import model_tables

    chosen = _point(name, set_)
    described = describe(chosen, _species(species))
    if json:
        print_json({"point": name, **described})
        return
    print_table(name, ["axis", "value"], [[axis, str(value)] for axis, value in described["axes"].items()])
    for table in model_tables(described, name, chosen):
        print_table(table.caption, table.headings, table.rows)


@design.command("compare")
@command
def compare(
    first: Annotated[str, typer.Argument(help="Named point.", show_default=False)],
    second: Annotated[str, typer.Argument(help="Named point.", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="AXIS=VALUE", help="Change an axis of both; may be repeated."),
    ] = None,
    second_set: Annotated[
        list[str] | None,
        typer.Option("--second-set", metavar="AXIS=VALUE", help="Change an axis of the second; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Print the axes in which two points differ: the path between them, one axis at a time."""
    differences = _point(first, set_).differences(_point(second, [*(set_ or []), *(second_set or [])]))
    if json:
        print_json({"points": [first, second], "axes": {axis: list(pair) for axis, pair in differences.items()}})
        return
    rows = [[axis, str(a), str(b)] for axis, (a, b) in differences.items()]
    print_table(f"{first} and {second} differ in {len(rows)} axes", ["axis", first, second], rows)


@design.command("list")
@command
def list_points(json: Json = False) -> None:
    """List the named points."""
    from equipot.points import NAMED_POINTS

    first = {name: (point.__doc__ or "").strip().splitlines()[0] for name, point in NAMED_POINTS.items()}
    if json:
        print_json({"points": first})
        return
    print_table("Named points", ["point", "what it is"], [[name, text] for name, text in first.items()])


@command
def options(
    section: Annotated[
        str | None,
        typer.Argument(
            help="data, design, start, baseline, fit, linear, run, md or scan; default: all.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the keys of a configuration: meaning, default, unit."""
    from equipot.config import SECTIONS, section_keys, unknown_key

    if section is not None and section not in SECTIONS:
        raise EquipotError(unknown_key(section, list(SECTIONS)))
    found = {name: section_keys(name) for name in SECTIONS if section in (None, name)}
    if json:
        print_json(found)
        return
    for name, keys in found.items():
        rows = [[f"{name}.{key}", str(entry["default"]), entry["meaning"]] for key, entry in keys.items()]
        print_table(name, ["key", "default", "meaning"], rows)


@command
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file to write; default: report.html in the folder.")
    ] = None,
) -> None:
    """Write the report of a run again, from the files in its folder."""
    from equipot.run_report import write_run_report

    typer.echo(str(write_run_report(run, out)))
