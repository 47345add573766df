"""Structures and tasks for the workers: the same atoms, elements, E0 and numbers of neighbours for every code."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from cases import Model

from equipot.data.read import read_frames
from equipot.geometry import graph_from_atoms

EXAMPLE = Path(__file__).parents[1] / "examples" / "xtb_3bpa" / "train_300K.xyz.gz"
ENERGY, FORCES = "reference_energy", "reference_forces"
GENTLE = 0.02
"""Scale of the energies in dynamics, eV: weights are random, and large forces would tear the atoms apart."""


def spatially_sorted(atoms: Atoms, edge: float = 7.0) -> Atoms:
    """The atoms in the order of a Morton curve through cubes of `edge` Å, so that neighbours lie near in memory."""
    cells = np.floor(atoms.positions / edge).astype(np.int64)
    cells -= cells.min(axis=0)
    bits = sum(((cells[:, axis] >> bit) & 1) << (3 * bit + axis) for bit in range(10) for axis in range(3))
    return atoms[np.lexsort((np.arange(len(atoms)), bits))]


def silicon(num_atoms: int = 512) -> Atoms:
    """So many atoms (8 times a cube) of diamond, displaced by 0.05 Å, sorted if many; with labels that mean nothing."""
    atoms = bulk("Si", cubic=True).repeat(round((num_atoms / 8) ** (1 / 3)))
    atoms.rattle(0.05, seed=1)
    atoms = atoms if num_atoms <= 512 else spatially_sorted(atoms)
    atoms.info = {ENERGY: 0.0}
    atoms.arrays[FORCES] = np.random.default_rng(2).normal(size=(len(atoms), 3))
    return atoms


def copper(num_atoms: int) -> Atoms:
    """Bulk copper of so many atoms (a multiple of 4), as near to a cube as goes, displaced by 0.05 Å, sorted."""
    cells = num_atoms // 4
    shapes = [
        (a, b, cells // (a * b))
        for a in range(1, round(cells ** (1 / 3)) + 1)
        for b in range(a, int((cells / a) ** 0.5) + 1)
        if cells % (a * b) == 0
    ]
    atoms = bulk("Cu", cubic=True).repeat(min(shapes, key=lambda shape: shape[2] / shape[0]))
    atoms.rattle(0.05, seed=1)
    return spatially_sorted(atoms)


def molecules(folder: str | None, count: int) -> list[Atoms]:
    """The first molecules of 3BPA at 300 K, with labels; those of the examples where no folder is given."""
    path = EXAMPLE if folder is None else Path(folder) / "3bpa" / "train_300K.xyz"
    frames = read_frames(path).frames[:count]
    found = [frame.atoms.copy() for frame in frames]
    for atoms, frame in zip(found, frames, strict=True):
        atoms.info = {ENERGY: frame.energy}
        atoms.arrays[FORCES] = frame.forces
    return found


@dataclass
class Tasks:
    """Makes tasks, and keeps the files that they name.

    Attributes:
        folder: For files of structures and weights.
        data: Folder with 3bpa, or None for the examples.
        choices: What is the same in all tasks: backend, radial.
    """

    folder: Path
    data: str | None
    choices: dict[str, Any]
    _known: dict[str, list[Atoms]] = field(default_factory=dict)

    def structures(self, system: str) -> tuple[Path, list[Atoms]]:
        """The file and the structures of a system: 3bpa-N, si-N or cu-N."""
        path = self.folder / f"{system}.xyz"
        if system not in self._known:
            kind, count = system.split("-")
            makers = {
                "3bpa": lambda: molecules(self.data, int(count)),
                "si": lambda: [silicon(int(count))],
                "cu": lambda: [copper(int(count))],
            }
            self._known[system] = makers[kind]()
            ase.io.write(path, self._known[system], format="extxyz")
        return path, self._known[system]

    def task(self, model: Model, kind: str, system: str, dtype: str, threads: int) -> dict[str, Any]:
        """The task of one model and system, for every code; `neighbours`, E0 and scale are measured from the system."""
        path, structures = self.structures(system)
        r_max = model.design.r_max
        sample = structures if len(structures[0]) < 5000 else [silicon() if system.startswith("si") else copper(512)]
        edges = sum(graph_from_atoms(a, r_max).num_edges for a in sample)
        species = sorted({int(z) for a in structures for z in a.numbers})
        labelled = kind == "train"
        E0 = float(np.mean([a.info[ENERGY] / len(a) for a in structures])) if labelled else 0.0
        F = np.concatenate([a.arrays[FORCES] for a in structures]) if labelled else np.full(1, GENTLE)
        return {
            "kind": kind, "structures": str(path), "dtype": dtype, "threads": threads, "seed": 0, "r_max": r_max,
            "architecture": model.architecture, "design": model.design.model_dump(mode="json"),
            "species": species, "E0": [E0] * len(species), "scale": float(np.sqrt(np.mean(F**2))),
            "neighbours": edges / sum(len(a) for a in sample), **self.choices,
        }  # fmt: skip

    def size(self, model: Model, system: str) -> dict[str, int]:
        """Atoms, edges and elements of a system with the cutoff of a model."""
        structures = self.structures(system)[1]
        return {
            "atoms": sum(len(a) for a in structures),
            "edges": sum(graph_from_atoms(a, model.design.r_max).num_edges for a in structures),
            "species": len({int(z) for a in structures for z in a.numbers}),
        }
