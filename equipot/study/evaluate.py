"""A potential on files of structures: predictions, errors, scans."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.io.formats import UnknownFileTypeError

from equipot.data.dataset import Dataset
from equipot.data.files import read_structures
from equipot.data.frame import Frame
from equipot.data.load import load_set
from equipot.data.options import Keys
from equipot.errors import EquipotError
from equipot.fit.metrics import ErrorTable
from equipot.models.potential import Potential
from equipot.study.predictions import Predictions, ScanPath, labelled_atoms, predict, scan_paths
from equipot.study.uncertainty import SetDeviations, with_deviations


@dataclass(frozen=True)
class Evaluated:
    """A potential on one set of structures.

    Attributes:
        dataset: The structures.
        predictions: What the potential says and what the labels say.
        table: Errors: total, by config_type, by element.
        node_energies: Energies of the atoms of each structure, eV.
    """

    dataset: Dataset
    predictions: Predictions
    table: ErrorTable
    node_energies: Sequence[np.ndarray]

    def as_dict(self) -> dict[str, Any]:
        """Returns number of structures and errors as JSON can hold them."""
        return {
            "structures": len(self.dataset), "atoms": int(self.dataset.num_atoms.sum()), "total": self.table.total,
            "config_types": self.table.config_types, "elements": self.table.elements,
        }  # fmt: skip


def evaluate_set(potential: Potential, dataset: Dataset, batch_size: int = 16) -> Evaluated:
    """Returns predictions and errors on structures that are in memory."""
    return Evaluated(dataset, *predict(potential, dataset, batch_size))


def evaluate_file(potential: Potential, path: str | Path, keys: Keys | None = None, batch_size: int = 16) -> Evaluated:
    """Returns predictions and errors on a file; isolated atoms in it are left out.

    Args:
        potential: The model.
        path: Anything that ASE reads.
        keys: Names of the labels; default: recognised.
        batch_size: Structures evaluated at a time.

    Raises:
        EquipotError: The file cannot be used, or has an element that the model does not know.
    """
    dataset, _ = load_set(str(path), potential.r_max, potential.statistics, keys)
    return evaluate_set(potential, dataset, batch_size)


def evaluate_scan(
    potential: Potential, path: str | Path, x: str, group: str | None, keys: Keys | None = None
) -> tuple[Evaluated, list[ScanPath]]:
    """Returns errors on a file of scans, and its paths; see `scan_paths`."""
    found = evaluate_file(potential, path, keys)
    return found, scan_paths(frame_infos(path, found.dataset.frames), found.predictions, x, group)


def frame_infos(path: str | Path, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """Returns what a file says about some of its structures beside coordinates, as ASE reads it."""
    structures = read_structures(path).structures
    return [dict(structures[frame.index].info) for frame in frames]


def write_predictions(
    path: Path, evaluated: Iterable[Evaluated], uncertain: Iterable[SetDeviations | None] = ()
) -> int:
    """Writes structures with predictions as results and labels under ``REF_`` keys; returns how many.

    Args:
        path: File to write; its suffix says the format (.xyz, .extxyz, .traj, .db).
        evaluated: Sets to write, one after the other.
        uncertain: Deviations on each, written as ``energy_std``, ``energies_std``, ``forces_std`` (eV, eV/Å) and
            ``extrapolation``.

    Raises:
        EquipotError: ASE cannot write such a file.
    """
    frames: list[ase.Atoms] = []
    for part, found in zip_longest(evaluated, uncertain):
        labelled = labelled_atoms(part.dataset, part.predictions, part.node_energies)
        frames += labelled if found is None else with_deviations(labelled, found)
    try:
        ase.io.write(path, frames, format="extxyz" if path.suffix in (".xyz", ".extxyz") else None)
    except (UnknownFileTypeError, ValueError, KeyError, NotImplementedError) as error:
        raise EquipotError(
            f"{path} cannot be written ({type(error).__name__}: {error}); give a path that ends in .extxyz or .traj."
        ) from error
    return len(frames)
