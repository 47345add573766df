"""What `equipot train` and `equipot fit` share: where a run comes from, where it goes, and what is printed of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from equipot.cli.output import error_rows, note, print_json, print_table
from equipot.errors import EquipotError

if TYPE_CHECKING:
    from equipot.config import Config
    from equipot.run_stages import RunResult

_DULL_NAMES = ("train", "fit", "config", "training", "equipot")

Files = Annotated[
    list[Path] | None,
    typer.Argument(help="One YAML configuration, or one or more files of structures.", show_default=False),
]

_MODELS = (".equipot", ".pt2")

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Change one key, for example design.r_max=6, data.valid=valid.xyz, md=false; may be repeated. "
        "`equipot options` lists all keys.",
    ),
]


def configuration(files: Sequence[Path], settings: Sequence[str], *, linear: bool = False) -> "Config":
    """Returns the configuration that a YAML file holds, or that files of structures stand for.

    Args:
        files: At least one.
        settings: ``key=value``.
        linear: Whether it is for a linear fit.

    Raises:
        EquipotError: There are a YAML file and others, or the configuration is not allowed.
    """
    from equipot.config import Config

    for file in files:
        if file.suffix.lower() in _MODELS:
            how = (
                f"--refit-readout {file} refits its last weights to them, --baseline {file} corrects it"
                if linear
                else f"--from {file} trains it further on them"
            )
            raise EquipotError(f"{file} is a model, not structures. Give a file of structures; {how}.")
    is_yaml = [file.suffix.lower() in (".yaml", ".yml") for file in files]
    if any(is_yaml) and len(files) > 1:
        raise EquipotError("give one YAML configuration, or files of structures, not both.")
    if is_yaml[0]:
        return Config.from_yaml(files[0], settings, linear=linear)
    return Config.from_files(files, settings, linear=linear)


def free_folder(file: Path) -> Path:
    """Returns a folder for a run, named after what it is trained on: a new one, or that of a start that failed."""
    stem = file.name.split(".")[0]
    name = file.resolve().parent.name if stem in _DULL_NAMES else stem
    folder, number = Path("runs") / name, 2
    while folder.exists() and not _failed_early(folder):
        folder, number = Path("runs") / f"{name}-{number}", number + 1
    return folder


def _failed_early(folder: Path) -> bool:
    """Whether a folder holds nothing but the log of a run that a mistake ended before it began."""
    from equipot.pipeline import LOG

    return folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOG}


def print_run(result: "RunResult", json: bool, others: Mapping[str, str]) -> None:
    """Prints errors and files of a run, and what went wrong.

    Args:
        result: Of the run.
        json: Print one JSON document instead.
        others: Further files of the folder, and what they are.
    """
    from equipot.run_record import read_json
    from equipot.run_stages import result_facts

    if json:
        print_json(result_facts(result))
    else:
        sets = read_json(result.folder / "errors.json")
        scan = read_json(result.folder / "scan.json")
        sets |= {"scan": scan["errors"]} if scan else {}
        if sets:
            headings, rows = error_rows(sets)
            print_table("Errors", headings, rows)
        print_table("", ["file", "what it is"], _files(result, others))
    for problem in result.problems:
        note(f"error: {problem}")


def end_with_problems(result: "RunResult") -> None:
    """Ends with status 1 where something failed after the weights were found."""
    if result.problems:
        note(f"the model is safe in {result.model}, but what is named above went wrong.")
        raise typer.Exit(1)


def _files(result: "RunResult", others: Mapping[str, str]) -> list[list[str]]:
    found = {
        result.model: "the model",
        result.report: "figures and tables, for a browser",
        result.folder / "config.yaml": "all that was set",
        **{result.folder / name: meaning for name, meaning in others.items()},
        result.folder / "equipot.log": "the log",
    }
    return [[str(path), meaning] for path, meaning in found.items() if path.exists()]
