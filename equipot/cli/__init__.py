"""The command line: `equipot train`, `fit`, `convert`, `evaluate`, `md`, `relax`, `info`, `data`, `design` and others.

Tables and JSON go to standard output, messages and progress to standard error. A mistake of the user ends with
its message and status 1, never with a traceback; torch is imported by the commands that need it.
"""

import io
import sys
from typing import Annotated

import typer

import equipot
from equipot.cli.bring import convert
from equipot.cli.compiled import compile_
from equipot.cli.fit import fit
from equipot.cli.look import data, design, info, options, report
from equipot.cli.machine import doctor
from equipot.cli.train import train
from equipot.cli.use import evaluate, md, relax

app = typer.Typer(
    name="equipot",
    help="Interatomic potentials from the design space of E(3)-equivariant atom-centred models: train one on your "
    "structures, check it, use it.",
    epilog="A first model: equipot train my.extxyz",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_TRAIN, _USE, _LOOK = "Make a model", "Use a model", "Look"

app.command(rich_help_panel=_TRAIN)(train)
app.command(rich_help_panel=_TRAIN)(fit)
app.command(rich_help_panel=_TRAIN)(convert)
app.command(rich_help_panel=_USE)(evaluate)
app.command(rich_help_panel=_USE)(md)
app.command(rich_help_panel=_USE)(relax)
app.command("compile", rich_help_panel=_USE)(compile_)
app.command(rich_help_panel=_LOOK)(info)
app.command(rich_help_panel=_LOOK)(data)
app.add_typer(design, name="design", rich_help_panel=_LOOK)
app.command(rich_help_panel=_LOOK)(options)
app.command(rich_help_panel=_LOOK)(report)
app.command(rich_help_panel=_LOOK)(doctor)


def _print_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(equipot.__version__)
        raise typer.Exit


@app.callback()
def _equipot(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = None,
) -> None:
    pass


def main() -> None:
    """Runs the command line; a terminal that lacks a character (ℓ, Å) gets its escape instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()
