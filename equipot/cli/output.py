"""What commands share: tables, one JSON document, errors without traceback, flags from options."""

import functools
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from equipot.errors import EquipotError
from equipot.yaml_file import parse_yaml

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output instead of tables.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 …; auto (default): a GPU if there is one.", rich_help_panel="Run")
]
Dtype = Annotated[
    str | None, typer.Option(help="float32 or float64; default: as the model was saved.", rich_help_panel="Run")
]
Radial = Annotated[
    str | None,
    typer.Option(
        help="exact, or spline:KNOTS: radial functions interpolated from so many knots; default: as in training.",
        rich_help_panel="Run",
    ),
]

Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads; default: one or all, whichever is faster.", rich_help_panel="Run"),
]

Backend = Annotated[
    str | None,
    typer.Option(
        help="reference, cpu, triton or cuequivariance; auto (default): the fastest here.", rich_help_panel="Run"
    ),
]

INTERRUPTED = 130


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turns what a user can act on into a message and a status; anything else stays an exception."""

    @functools.wraps(function)
    def guarded(*args: Any, **values: Any) -> Any:
        try:
            return function(*args, **values)
        except EquipotError as error:
            fail(str(error))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:
            if error.strerror is None:
                raise
            fail(f"{error.strerror}: {error.filename}" if error.filename else error.strerror)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return guarded


def fail(message: str) -> None:
    """Prints a message to standard error and ends with status 1.

    Of the processes of torchrun the first prints; the others leave theirs to the list of failures that torchrun
    itself prints, so that a mistake is not told once for each.
    """
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"error: {message}", err=True)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        told = {"message": message, "extraInfo": {"timestamp": int(time.time())}}
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": told}), encoding="utf-8")
    raise typer.Exit(1)


def check_output(option: str, path: Path | None, inputs: Sequence[Path] = (), *, structures: bool = False) -> None:
    """Makes the folder of a file to be written, before any work is done for it.

    Args:
        option: The flag that names the file, for the message.
        path: The file; None where none is written.
        inputs: Files that are read or written besides, and must not be replaced.
        structures: Its suffix must be one of a format for structures.

    Raises:
        EquipotError: The file could not be written there.
    """
    if path is None:
        return
    if path.is_dir():
        raise EquipotError(f"{option} {path} is a folder; give the path of a file, such as {path / 'NAME'}.")
    if path.resolve() in [each.resolve() for each in inputs]:
        raise EquipotError(f"{option} {path} is also another file of this command; give another path.")
    if structures:
        _check_format(option, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EquipotError(
            f"{option} {path}: there is no folder {path.parent} and it cannot be made ({error.strerror}); give a path "
            "in a folder that can be written to."
        ) from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise EquipotError(f"{option} {path} may not be written (its permissions); give another path.")


def _check_format(option: str, path: Path) -> None:
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    try:
        known = ioformats[filetype(path.name, read=False)].can_write
    except (UnknownFileTypeError, KeyError):
        known = False
    if not known:
        raise EquipotError(f"{option} {path} cannot be written; give a path that ends in .extxyz or .traj.")


def note(message: str) -> None:
    """Prints a message to standard error."""
    typer.echo(message, err=True)


def print_json(document: Any) -> None:
    """Prints one JSON document; what is not a finite number is null."""
    from equipot.run_record import as_json

    typer.echo(as_json(document))


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table; numbers to the right, the text in full."""
    from equipot.study.style import significant

    table = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold", box=_box())
    numeric = [all(not isinstance(row[i], str) for row in rows) for i in range(len(headings))]
    for heading, right in zip(headings, numeric, strict=True):
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[_plain(cell if isinstance(cell, str) else significant(cell)) for cell in row])
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)


def _box() -> Any:
    from rich.box import SIMPLE_HEAD

    return SIMPLE_HEAD


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yields a function of steps done, steps in all, and words; it opens and moves a bar where there is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total, words: None
        return
    columns = (TextColumn(title), BarColumn(bar_width=24), TextColumn("{task.percentage:3.0f}%"),
               TextColumn("{task.fields[words]}"), TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(title, total=None, words="")

    def show(done: int, total: int, words: str) -> None:
        bar.start()
        bar.update(task, completed=done, total=total, words=words)

    try:
        yield show
    finally:
        bar.stop()


def with_options(model: type[BaseModel]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator that gives a command one flag for each field of an options model.

    The command's parameter `options` gets a dictionary of those that were given.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(function).parameters.values() if p.name != "options"]
        flags = [_flag(name, field) for name, field in model.model_fields.items()]

        @functools.wraps(function)
        def expanded(**values: Any) -> Any:
            given = {p.name: values.pop(p.name) for p in flags}
            chosen = {name: _parsed(model, name, value) for name, value in given.items() if value is not None}
            return function(options=chosen, **values)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *flags)]
        expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        expanded.__annotations__ = {p.name: p.annotation for p in parameters}
        return expanded

    return decorate


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    default = field.get_default()
    shown = f" [default: {default}]".replace("[", "\\[") if default is not None else ""
    help_text = f"{field.description}{shown}"
    kind = _flag_type(field.annotation)
    option = typer.Option(
        f"--{name.replace('_', '-')}", help=help_text, rich_help_panel="What to do", show_default=False
    )
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flag_type(annotation: Any) -> Any:
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if annotation in (int, float, bool, str):
        return annotation
    if get_origin(annotation) is not Literal and len(parts) == 1 and parts[0] in (int, float, bool, str):
        return parts[0]
    return str


def _parsed(model: type[BaseModel], name: str, value: Any) -> Any:
    """Reads lists and the like as YAML; numbers and words have been read already."""
    annotation = model.model_fields[name].annotation
    is_words = get_origin(annotation) is Literal or annotation is str
    return parse_yaml(value) if isinstance(value, str) and not is_words else value


def error_rows(sets: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Returns headings and rows of an error table: each set, and its config_types where there are several.

    Args:
        sets: Sets as `Evaluated.as_dict` gives them, by name.
    """
    from equipot.study.report import ERROR_COLUMNS

    columns = [c for c in ERROR_COLUMNS if any(s["total"].get(c[0]) is not None for s in sets.values())]
    rows: list[list[Any]] = []
    for name, found in sets.items():
        rows.append([name, found["structures"], *(found["total"].get(key) for key, _, _ in columns)])
        types = found["config_types"]
        if len(types) > 1:
            rows += [
                [f"  {kind}", e["energy_count"], *(e.get(key) for key, _, _ in columns)] for kind, e in types.items()
            ]
    return ["set", "structures", *(f"{heading}\n{unit}" for _, heading, unit in columns)], rows
