"""`equipot compile`: a model becomes one file of machine code."""

import time
from pathlib import Path
from typing import Annotated

import typer

from equipot.cli.output import Device, Dtype, Json, check_output, command, note, print_json, print_table


@command
def compile_(
    model: Annotated[Path, typer.Argument(help="Model file.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="File to write, NAME.pt2; default: beside the model.")] = None,
    radial: Annotated[
        str | None,
        typer.Option(help="exact, spline or spline:KNOTS; default: as the model was trained."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    json: Json = False,
) -> None:
    """Compile a model for dynamics: energies, forces and stress in one call of machine code.

    Takes about a minute. The result is checked against the model now, and each time it is loaded; it runs on this kind
    of processor with this version of torch. It holds code: open only compiled potentials that you trust.
    """
    from equipot.deploy.compiled import SUFFIX, compile_potential
    from equipot.models.model_file import load_potential

    path = out or model.with_suffix(SUFFIX)
    check_output("--out", path, [model])
    potential = load_potential(model, device=device or "cpu", dtype=dtype, check=True)
    if radial is not None:
        potential.choose_radial(radial)
    note("compiling; this takes about a minute")
    begin = time.monotonic()
    compiled = compile_potential(potential, path)
    facts = {
        "file": str(path),
        "size_MB": round(path.stat().st_size / 1e6, 1),
        "seconds": round(time.monotonic() - begin, 1),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "radial": compiled.potential.radial,
        "largest_force_difference_eV_per_A": compiled.difference,
    }
    if json:
        print_json(facts)
    else:
        rows = [
            ["size", f"{facts['size_MB']} MB"],
            ["compiled and checked in", f"{facts['seconds']} s"],
            ["precision", str(facts["dtype"])],
            ["radial functions", str(facts["radial"])],
            ["largest difference of forces from the model", f"{compiled.difference:.1e} eV/Å"],
        ]
        print_table(str(path), ["quantity", "value"], rows)
    note(f"{path} is ready; use it with: equipot md {path} STRUCTURE")
