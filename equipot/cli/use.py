"""`equipot evaluate`, `md`, `relax`: a trained potential at work."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equipot.cli.label_files import keys_of, load_files
from equipot.cli.output import (
    INTERRUPTED,
    Backend,
    Device,
    Dtype,
    Json,
    Radial,
    Threads,
    check_output,
    command,
    error_rows,
    note,
    print_json,
    print_table,
    progress_bar,
    with_options,
)
from equipot.deploy.options import MDOptions, RelaxOptions
from equipot.errors import EquipotError

if TYPE_CHECKING:
    from ase import Atoms

    from equipot.data.dataset import Dataset
    from equipot.deploy.ase_calculator import EquipotCalculator
    from equipot.deploy.md import MDResult
    from equipot.deploy.relaxation import RelaxResult
    from equipot.models.potential import Potential
    from equipot.study.evaluate import Evaluated
    from equipot.study.uncertainty import SetDeviations

Model = Annotated[Path, typer.Argument(help="Model file.", show_default=False)]
Index = Annotated[int, typer.Option(help="Number of the structure in its file, from 0; −1 is the last.")]


@command
def evaluate(  # noqa: PLR0913 (one parameter for each flag)
    model: Model,
    files: Annotated[list[Path], typer.Argument(help="Files of structures with labels.", show_default=False)],
    report: Annotated[Path | None, typer.Option(help="Write figures and tables to this HTML file.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the structures with predictions to this file.")
    ] = None,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also give standard deviations, compare them with the errors, and write them to --out (energy_std, "
            "energies_std, forces_std, extrapolation).",
        ),
    ] = False,
    energy_key: Annotated[str, typer.Option(help="Key of the energy; auto, or none.")] = "auto",
    forces_key: Annotated[str, typer.Option(help="Key of the forces; auto, or none.")] = "auto",
    stress_key: Annotated[str, typer.Option(help="Key of the stress; auto, or none.")] = "auto",
    virial_key: Annotated[str, typer.Option(help="Key of the virial; auto, or none.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Structures evaluated at a time.")] = 16,
    device: Device = None,
    dtype: Dtype = None,
    radial: Radial = None,
    threads: Threads = None,
    backend: Backend = None,
    json: Json = False,
) -> None:
    """Compare a model with reference energies, forces and stresses.

    Prints the errors for each file, and for each config_type where a file has several. Files without labels are
    predicted where --out is given.
    """
    from equipot.fit.reporter import logging_to
    from equipot.kernels.backend import choice_of
    from equipot.models.linear import own_uncertainty
    from equipot.models.model_file import load_potential
    from equipot.study.cost import threads as using
    from equipot.study.evaluate import evaluate_set, write_predictions

    named = dict(zip(_names(files), files, strict=True))
    check_output("--out", out, [model, *files], structures=True)
    check_output("--report", report, [model, *files, *([out] if out else [])])
    keys = keys_of({"energy": energy_key, "forces": forces_key, "stress": stress_key, "virial": virial_key})
    with logging_to(None):
        potential = load_potential(
            model, device=device or "auto", dtype=dtype, radial=radial, backend=backend or "auto", check=True
        )
        note(str(choice_of(potential)))
    if uncertainty:
        own_uncertainty(potential, str(model))
    sets = load_files(named, potential, keys, predict=out is not None)
    work = partial(_evaluate_some, potential, next(iter(sets.values())), batch_size)
    with using(_thread_count(threads, device, work)):
        found = {name: evaluate_set(potential, dataset, batch_size) for name, dataset in sets.items()}
    uncertain = _deviations(potential, found) if uncertainty else {}
    documents = {name: each.as_dict() for name, each in found.items()}
    if out is not None:
        if out.suffix not in (".xyz", ".extxyz"):
            note(f"warning: {out} cannot hold reference forces (REF_forces); a path that ends in .extxyz can.")
        note(f"{write_predictions(out, found.values(), uncertain.values())} structures with predictions are in {out}.")
    if report is not None:
        _write_report(report, model, found, uncertain)
        note(f"the report is in {report}.")
    if json:
        more = {"uncertainty": {name: each.as_dict() for name, each in uncertain.items()}} if uncertainty else {}
        print_json({"model": str(model), "sets": documents, **more})
        return
    headings, rows = error_rows(documents)
    if len(headings) > 2:
        print_table(f"Errors of {model}", headings, rows)
    if uncertainty:
        _print_uncertainty(uncertain)


def _deviations(potential: "Potential", found: dict[str, "Evaluated"]) -> dict[str, "SetDeviations"]:
    """Returns the deviations on each set, with a bar."""
    from equipot.study.uncertainty import deviations

    uncertain = {}
    for name, each in found.items():
        with progress_bar("uncertainty") as show:
            uncertain[name] = deviations(
                potential, each.dataset, each.predictions, most_atoms=float("inf"),
                progress=partial(_shown, show, name),
            )  # fmt: skip
    return uncertain


def _shown(show: Callable[[int, int, str], None], name: str, done: int, total: int) -> None:
    show(done, total, name)


def _print_uncertainty(uncertain: dict[str, "SetDeviations"]) -> None:
    from equipot.study.linear import CALIBRATION_COLUMNS, calibration_rows, in_words
    from equipot.study.uncertainty import calibration_in_words

    rows = calibration_rows(uncertain)
    if rows:
        print_table("Uncertainty", CALIBRATION_COLUMNS, rows)
        note(in_words(uncertain))
    else:
        for name, each in uncertain.items():
            note(f"{name}: {calibration_in_words(each)}")


def _evaluate_some(potential: "Potential", dataset: "Dataset", batch_size: int) -> None:
    """Evaluates one batch, to see how long it takes."""
    from equipot.geometry.derivatives import evaluate as derivatives

    with potential.at_work():
        derivatives(potential, dataset.batch(range(min(batch_size, len(dataset)))).graph)


def _thread_count(given: int | None, device: str | None, work: Callable[[], object]) -> int | None:
    """Returns the number of CPU threads to use; None leaves torch's, on a GPU."""
    from equipot.models.model_file import as_device
    from equipot.study.cost import fastest_threads

    on_cpu = as_device(device or "auto").type == "cpu"
    return fastest_threads(work) if given is None and on_cpu else given


def _calculator(
    model: Path, device: str | None, dtype: str | None, radial: str | None, backend: str | None
) -> "EquipotCalculator":
    from equipot.deploy.ase_calculator import EquipotCalculator
    from equipot.fit.reporter import logging_to
    from equipot.memory import keep_freed_memory
    from equipot.models.model_file import as_device

    if as_device(device or "auto").type == "cpu":
        keep_freed_memory()
    with logging_to(None):  # what is compiled, which takes its time, and what backend is taken
        return EquipotCalculator(model, device=device or "auto", dtype=dtype, radial=radial, backend=backend or "auto")


def _step(calculator: "EquipotCalculator", atoms: "Atoms") -> Callable[[], object]:
    """Returns the work of one step with these atoms; none where they cannot be evaluated."""
    if len(atoms) == 0 or set(atoms.numbers.tolist()) - set(calculator.potential.statistics.species):
        return lambda: None
    return partial(calculator.calculate, atoms, ["energy"])


def _names(files: Sequence[Path]) -> list[str]:
    """Returns a short name for each file: its own, or its path where two have the same."""
    twice = [file for file in files if files.count(file) > 1]
    if twice:
        raise EquipotError(f"{twice[0]} is given twice.")
    short = [file.name for file in files]
    return [str(file) if short.count(file.name) > 1 else file.name for file in files]


def _write_report(
    path: Path, model: Path, found: dict[str, "Evaluated"], uncertain: dict[str, "SetDeviations"]
) -> None:
    from equipot.models import describe
    from equipot.models.model_file import read_model_header
    from equipot.run_report import cited, model_tables, provenance
    from equipot.study.report import Content, SetErrors, write_report

    header = read_model_header(model)
    point = str(header.provenance.get("config", {}).get("design", {}).get("name", ""))
    numbers = header.statistics
    described = describe(header.design, numbers.species, numbers)
    sets = {name: each.as_dict() for name, each in found.items()}
    content = Content(
        title=f"{model.name} on {', '.join(found)}",
        subtitle=f"design {point}" if point else "",
        errors={n: SetErrors(s["structures"], s["total"], s["config_types"], s["elements"]) for n, s in sets.items()},
        predictions={name: each.predictions for name, each in found.items()},
        uncertainty=uncertain,
        model=model_tables(described, point, header.design),
        axes=described["axes"],
        provenance=provenance(header, {}),
        papers=cited(header),
    )
    write_report(path, content)


@command
@with_options(MDOptions)
def md(  # noqa: PLR0913 (one parameter for each flag)
    options: dict[str, Any],
    model: Model,
    structure: Annotated[
        Path | None, typer.Argument(help="File to start from; not needed with --restart.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for trajectory, log and restart file.")] = Path("md"),
    restart: Annotated[bool, typer.Option("--restart", help="Go on with the run in the folder.")] = False,
    index: Index = -1,
    device: Device = None,
    dtype: Dtype = None,
    radial: Radial = None,
    threads: Threads = None,
    backend: Backend = None,
    json: Json = False,
) -> None:
    """Run molecular dynamics with a model.

    Writes thermo.csv, a trajectory, and a restart file. Stops with a clear word, and status 1, when the structure
    explodes; Ctrl-C keeps everything, and --restart goes on from there.
    """
    from equipot.deploy.md import run_md
    from equipot.kernels.backend import choice_of
    from equipot.run_record import md_facts
    from equipot.study.cost import threads as using

    if structure is None and not restart:
        raise EquipotError(
            "md needs a structure to start from: give a file as the argument STRUCTURE, after the model; or give "
            "--restart to go on with the run in the folder --out."
        )
    chosen = _restarted(out, options) if restart else MDOptions(**options)
    atoms = None if structure is None else _read_structure(structure, index)
    calculator = _calculator(model, device, dtype, radial, backend)
    start = _restart_atoms(out) if atoms is None and restart else atoms
    work = _step(calculator, start) if start is not None else lambda: None
    with using(_thread_count(threads, device, work)), progress_bar("dynamics") as show:
        result = run_md(
            calculator, atoms, chosen, out, restart=restart,
            progress=lambda row, steps: show(row.step, steps, f"{row.temperature_K:.0f} K"),
        )  # fmt: skip
    facts = {**md_facts(result, chosen.model_dump(mode="json")), "folder": str(out)}
    facts["backend"] = choice_of(calculator.potential).name
    if json:
        print_json(facts)
    else:
        _print_dynamics(result, chosen)
    if result.status != "finished":
        note(f"error: {result.message}" if result.status == "exploded" else result.message)
        raise typer.Exit(1 if result.status == "exploded" else INTERRUPTED)


def _restarted(folder: Path, options: dict[str, Any]) -> MDOptions:
    """Returns the options of the run that is continued, with those changed that were given."""
    from equipot.deploy.md_files import read_restart

    return read_restart(folder).options.replace(**options)


def _restart_atoms(folder: Path) -> "Atoms":
    from equipot.deploy.md_files import read_restart

    return read_restart(folder).atoms


def _print_dynamics(result: "MDResult", options: MDOptions) -> None:
    rows = [
        ["structure", f"{result.atoms.get_chemical_formula()}, {len(result.atoms)} atoms"],
        ["ensemble", f"{options.ensemble}, {options.temperature:g} K"],
        ["length", f"{result.step} steps, {result.step * options.timestep / 1000:g} ps"],
        ["mean temperature", f"{result.temperatures.mean():.1f} K"],
        ["potential energy", f"{result.potential_energies.mean():.5f} ± {result.potential_energies.std():.5f} eV/atom"],
        ["drift of the conserved energy", f"{result.drift:.3g} meV/atom/ns" if result.drift == result.drift else "–"],
        ["speed", f"{1000 * result.seconds_per_step:.3g} ms per step"],
        ["files", str(result.folder)],
    ]
    print_table(f"Molecular dynamics: {result.status}", ["quantity", "value"], rows)


@command
@with_options(RelaxOptions)
def relax(  # noqa: PLR0913 (one parameter for each flag)
    options: dict[str, Any],
    model: Model,
    structure: Annotated[Path, typer.Argument(help="File to start from.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the relaxed structure; default: NAME-relaxed.extxyz.")
    ] = None,
    trajectory: Annotated[Path | None, typer.Option(help="Write every step to this file.")] = None,
    index: Index = -1,
    device: Device = None,
    dtype: Dtype = None,
    radial: Radial = None,
    threads: Threads = None,
    backend: Backend = None,
    json: Json = False,
) -> None:
    """Relax a structure, and its cell if asked to, to a minimum of the energy.

    Ends with status 1 when the forces do not fall below --fmax within the steps.
    """
    from equipot.deploy.md_files import append_frame
    from equipot.deploy.relaxation import relax as run
    from equipot.study.cost import threads as using

    chosen = RelaxOptions(**options)
    out = out or structure.with_name(f"{structure.name.split('.')[0]}-relaxed.extxyz")
    check_output("--out", out, [model, structure])
    check_output("--trajectory", trajectory, [model, structure, out])
    atoms = _read_structure(structure, index)
    calculator = _calculator(model, device, dtype, radial, backend)
    with using(_thread_count(threads, device, _step(calculator, atoms))), progress_bar("relaxation") as show:
        result = run(
            calculator, atoms, chosen, trajectory=trajectory,
            progress=lambda step, energy, fmax: show(step, chosen.steps, f"E {energy:.6f} eV, fmax {fmax:.4f} eV/Å"),
        )  # fmt: skip
    out.unlink(missing_ok=True)
    append_frame(out, result.atoms)
    if json:
        print_json(_relax_facts(result, out))
    else:
        _print_relaxation(result, out)
    if result.status != "converged":
        note(f"error: {result.message}")
        raise typer.Exit(1)


def _relax_facts(result: "RelaxResult", out: Path) -> dict[str, Any]:
    return {
        "status": result.status, "message": result.message, "steps": result.steps,
        "energy_start_eV": float(result.energies[0]), "energy_eV": float(result.energies[-1]),
        "fmax_eV_per_A": result.fmax, "pressure_GPa": result.pressure, "file": str(out),
    }  # fmt: skip


def _print_relaxation(result: "RelaxResult", out: Path) -> None:
    first, last = float(result.energies[0]), float(result.energies[-1])
    pressure = [["pressure", f"{result.pressure:.4g} GPa"]] if result.pressure == result.pressure else []
    rows = [
        ["steps", str(result.steps)],
        ["energy at the start", f"{first:.6f} eV"],
        ["energy", f"{last:.6f} eV ({last - first:+.6f} eV)"],
        ["largest force", f"{result.fmax:.4g} eV/Å"],
        *pressure,
        ["file", str(out)],
    ]
    print_table(f"Relaxation: {result.status}", ["quantity", "value"], rows)


def _read_structure(path: Path, index: int) -> "Atoms":
    """Returns one structure of a file.

    Raises:
        EquipotError: The file cannot be read, or has no such structure.
    """
    from equipot.data.files import read_structures

    structures = read_structures(path).structures
    if not -len(structures) <= index < len(structures):
        raise EquipotError(f"{path} has {len(structures)} structures; --index {index} is none of them.")
    if len(structures) > 1:
        note(f"{path}: structure {index % len(structures)} of 0 … {len(structures) - 1} is taken (--index).")
    return structures[index]
