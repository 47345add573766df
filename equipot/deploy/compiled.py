"""Compiled potentials: one file with a model, and the machine code of its energies, forces and stress.

A compiled potential is a `.pt2` package of AOTInductor that calls equipot's fused operators, with the model file and
a few facts beside it. It runs on processors like the one it was made on, with the torch that made it; it is checked
against its own model when it is written and each time it is loaded. Unlike a model file it contains code: load only
files that you trust.
"""

import json
import logging
import os
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from equipot.deploy.trace import export_evaluation, inputs_of
from equipot.errors import EquipotError
from equipot.files import write_atomically
from equipot.geometry.derivatives import Prediction, evaluate
from equipot.geometry.graph import Graph
from equipot.geometry.neighbors import build_graph
from equipot.interactions import radial_choice
from equipot.kernels.backend import choice_of, choose, use_backend
from equipot.kernels.cpu.compiler import target
from equipot.models.model_file import as_dtype, dtype_name, load_potential, save_potential
from equipot.models.potential import Potential

logger = logging.getLogger(__name__)

SUFFIX = ".pt2"
_MODEL, _FACTS = "equipot/model.equipot", "equipot/facts.json"
TOLERANCES = {torch.float32: 2e-5, torch.float64: 1e-11}
"""Allowed difference from the model itself, relative to 1 + the largest force, eV/Å."""


class Engine(Protocol):
    """What gives a calculator its numbers."""

    potential: Potential

    def evaluate(self, graph: Graph) -> Prediction:
        """Returns energies, forces, virial and stress."""


class Plain:
    """A potential as it is, operation after operation."""

    def __init__(self, potential: Potential) -> None:
        self.potential = potential

    def __str__(self) -> str:
        return str(choice_of(self.potential))

    def evaluate(self, graph: Graph) -> Prediction:
        """Returns energies, forces, virial and stress as `equipot.geometry.evaluate`."""
        return evaluate(self.potential, graph)


class CompiledPotential:
    """A potential whose energies, forces and stress come from compiled code.

    Args:
        path: The file it came from.
        potential: The model inside it, for structures that compiled code has no form for (fewer than two atoms or
            edges, several systems at once).
        package: The compiled code.

    Attributes:
        difference: Largest difference of forces found when it was compared with the model, eV/Å.
    """

    def __init__(self, path: Path, potential: Potential, package: Any) -> None:
        self.path, self.potential, self.package = path, potential, package
        self.difference = 0.0

    def __str__(self) -> str:
        return f"compiled potential {self.path}: {choice_of(self.potential)}"

    def evaluate(self, graph: Graph) -> Prediction:
        """Returns energies, forces, virial and stress as `equipot.geometry.evaluate`, not differentiable."""
        if graph.num_systems != 1 or graph.num_owned != graph.num_nodes or min(graph.num_nodes, graph.num_edges) < 2:
            return evaluate(self.potential, graph)
        node_energy, forces, strain_gradient = self.package(*inputs_of(graph))
        volume = graph.volumes()
        volume = torch.where(graph.pbc.all(dim=1) & (volume > 0), volume, torch.nan)
        strain_gradient = strain_gradient.unsqueeze(0)
        return Prediction(
            node_energy.sum().reshape(1), node_energy, forces, -strain_gradient, strain_gradient / volume[:, None, None]
        )


def compile_potential(potential: Potential, path: str | os.PathLike[str]) -> CompiledPotential:
    """Compiles a potential and writes it, atomically and only if it gives what the potential gives.

    Args:
        potential: On the device, in the precision and with the radial form (exact or spline) that are wanted.
        path: Where to write; it ends in ``.pt2``.

    Raises:
        EquipotError: The name does not end so, there are no fused operations here, or the compiled code differs.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise EquipotError(f"{path}: a compiled potential ends in {SUFFIX}; write {path.with_suffix(SUFFIX)}.")
    program = export_evaluation(potential, trial_graph(potential, 8))
    options = {"cpp.threads": 1, **_compiler()}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = Path(folder, "package.pt2")
        torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=options)
        model = save_potential(Path(folder, "model.equipot"), potential)
        with zipfile.ZipFile(package, "a") as archive:
            archive.write(model, f"package/{_MODEL}")
            archive.writestr(f"package/{_FACTS}", json.dumps(_facts(potential)))
        load_compiled(package)
        content = package.read_bytes()
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return load_compiled(path)


def compiled_path(potential: Potential | str | os.PathLike[str]) -> Path | None:
    """Returns the path of a compiled potential, known by its name; None for anything else."""
    path = None if isinstance(potential, Potential) else Path(potential)
    return path if path is not None and path.suffix == SUFFIX else None


def load_compiled(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    radial: str | None = None,
    backend: str | None = None,
) -> CompiledPotential:
    """Returns a compiled potential, after comparing it with its model on two structures.

    Args:
        path: The file.
        device: None or "auto", or the device it was compiled for.
        dtype: None, or the precision it was compiled in.
        radial: None, or the form of radial functions it was compiled with.
        backend: None or "auto", or the backend it was compiled with.

    Raises:
        EquipotError: The file is not one, is damaged, was made for another processor or torch, or otherwise than asked
            for, or gives something else than its model.
    """
    path = Path(path)
    asked = {
        "device": None if device in (None, "auto") else torch.device(device).type,  # type: ignore[arg-type]
        "dtype": None if dtype is None else dtype_name(as_dtype(dtype)),
        "radial": None if radial is None else radial_choice(radial),
        "backend": None if backend == "auto" else backend,
    }
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            names = {name.split("/", 1)[1]: name for name in archive.namelist() if "/" in name}
            facts = json.loads(archive.read(names[_FACTS]))
            _refuse_damaged(path, archive)
            _refuse_other_machine(path, facts)
            _refuse_other_form(path, facts, asked)
            model = Path(folder, "model.equipot")
            model.write_bytes(archive.read(names[_MODEL]))
            potential = load_potential(model, dtype=facts["dtype"], device=facts["device"])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        if isinstance(error, EquipotError):
            raise
        raise EquipotError(
            f"{path} is not a compiled potential of equipot ({error}); make one: equipot compile."
        ) from error
    potential.eval().requires_grad_(False)
    use_backend(potential, "auto", training=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = torch._inductor.aoti_load_package(str(path))
    compiled = CompiledPotential(path, potential, package)
    for atoms in (6, 20):
        _compare(compiled, trial_graph(potential, atoms))
    return compiled


def trial_graph(potential: Potential, atoms: int) -> Graph:
    """Returns a periodic structure of a potential's elements, at distances that occur in its training data."""
    statistics = potential.statistics
    side = int(np.ceil(atoms ** (1 / 3)))
    spacing = min(max(1.3 * statistics.min_distance, 1.0), 0.7 * potential.r_max)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:atoms]
    positions = spacing * (grid + np.random.default_rng(atoms).uniform(-0.1, 0.1, grid.shape))
    numbers = np.resize(statistics.species, atoms)
    cell = np.eye(3) * max(spacing * side, 0.6 * potential.r_max)
    graph = build_graph(positions, cell, np.ones(3, dtype=bool), numbers, potential.r_max)
    return graph.to(next(potential.parameters()).device)


def _facts(potential: Potential) -> dict[str, Any]:
    here = target()
    return {
        "torch": torch.__version__,
        "processor": here.fingerprint if here else None,
        "device": next(potential.parameters()).device.type,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "radial": potential.radial,
        "backend": choose("auto", next(potential.parameters()).device).name,
    }


def _compiler() -> dict[str, Any]:
    """Torch's option for the compiler that equipot's own operations are compiled with; none for a GPU alone."""
    here = target()
    return {"cpp.cxx": (None, here.compiler)} if here else {}


def _refuse_damaged(path: Path, archive: zipfile.ZipFile) -> None:
    """Compares the content with its checksums: damaged machine code would end the process without a word."""
    damaged = archive.testzip()
    if damaged:
        raise EquipotError(
            f"{path} is damaged: {Path(damaged).name} in it is not what was written. Copy it again, or make it again: "
            "equipot compile MODEL."
        )


def _refuse_other_machine(path: Path, facts: dict[str, Any]) -> None:
    here = target()
    pairs = [
        ("torch", facts["torch"], torch.__version__),
        ("processor", facts["processor"], here.fingerprint if here else None),
    ]
    for name, made, now in pairs:
        if made != now:
            raise EquipotError(
                f"{path} was compiled with {name} {made}, and here is {now}: compiled potentials stay where they were "
                "made. Compile the model here: equipot compile MODEL."
            )


def _refuse_other_form(path: Path, facts: dict[str, Any], asked: dict[str, str | None]) -> None:
    for name, wanted in asked.items():
        if wanted is not None and wanted != facts[name]:
            raise EquipotError(
                f"{name} {wanted} was asked for, but {path} is compiled with {name} {facts[name]}, which cannot be "
                f"changed any more: compile the model again with that, or leave it out."
            )


def _compare(compiled: CompiledPotential, graph: Graph) -> None:
    """Refuses compiled code that differs from its model by more than rounding."""
    exact, made = evaluate(compiled.potential, graph), compiled.evaluate(graph)
    scale = 1.0 + exact.forces.abs().max().item()
    tolerance = TOLERANCES[compiled.potential.dtype] * scale
    pairs = ((exact.node_energy, made.node_energy), (exact.forces, made.forces), (exact.virial, made.virial))
    energy, forces, virial = ((a - b).abs().max().item() for a, b in pairs)
    logger.info("compiled and plain differ by %.1e eV, %.1e eV/Å, virial %.1e eV", energy, forces, virial)
    compiled.difference = max(compiled.difference, forces)
    if not max(energy, forces, virial / len(exact.forces)) <= tolerance:
        raise EquipotError(
            f"{compiled.path}: the compiled code does not give what its model gives (they differ by {energy:.3g} eV, "
            f"{forces:.3g} eV/Å, virial {virial:.3g} eV; {tolerance:.3g} are allowed). Do not use it; compile it "
            "again with: equipot compile MODEL, and please report it if that does not help."
        )
