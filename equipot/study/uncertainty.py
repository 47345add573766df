"""Errors of a potential beside what it says about them: arrays for figures and files, and numbers for words."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import ase
import numpy as np
import torch
from scipy.stats import rankdata

from equipot.data.dataset import Dataset
from equipot.fit.linear.memory import cut
from equipot.models.linear import linear_features, own_uncertainty
from equipot.models.linear_features import LinearFeatures
from equipot.models.model_file import converted
from equipot.models.potential import Potential
from equipot.study.array_file import Arrays
from equipot.study.predictions import Predictions
from equipot.study.style import significant
from equipot.units import MEV

Kind = Literal["energies", "forces"]
KINDS: tuple[Kind, ...] = ("energies", "forces")
UNITS_OF = {"energies": "eV/atom", "forces": "eV/Å"}

_NUMBERS = 40_000_000
"""In the rows of a block: 320 MB."""

FEWEST = 8
"""Of fewer values no rank correlation is given, and no bin is drawn."""

MOST_ATOMS = 5000
"""Deviations of forces are those of structures with so many atoms in all, evenly spaced in a set."""


class Calibrated(NamedTuple):
    """How errors and deviations compare.

    Attributes:
        number: How many.
        rms_error: Of energies per atom eV/atom, of force components eV/Å.
        rms_deviation: The same of what was said.
        ratio: The first over the second; above 1 the model thinks too well of itself.
        rank_correlation: Spearman's, of absolute error and deviation; None of fewer than `FEWEST` values, whose
            order is chance, and where one of them does not vary.
    """

    number: int
    rms_error: float
    rms_deviation: float
    ratio: float | None
    rank_correlation: float | None


@dataclass(frozen=True)
class SetDeviations(Arrays):
    """Standard deviations on one set of structures; NaN where they were not asked for.

    Attributes:
        num_atoms: Atoms of each structure.
        energy: Of the energy of each structure, eV.
        node_energy: Of the energy of each atom, eV.
        forces: Of each component, [node 3], eV/Å.
        extrapolation: Grade of each atom; above 1 it is unlike all that were fitted.
        energy_error: Predicted minus reference, eV; NaN without label.
        forces_error: Likewise, [node 3], eV/Å.
    """

    content = "deviations"
    single = ("forces", "forces_error")

    num_atoms: np.ndarray
    energy: np.ndarray
    node_energy: np.ndarray
    forces: np.ndarray
    extrapolation: np.ndarray
    energy_error: np.ndarray
    forces_error: np.ndarray

    def pairs(self, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
        """Returns absolute errors and deviations where both are known, flat; energies per atom."""
        if kind == "energies":
            error, deviation = self.energy_error / self.num_atoms, self.energy / self.num_atoms
        else:
            error, deviation = self.forces_error.ravel(), self.forces.ravel()
        known = np.isfinite(error) & np.isfinite(deviation)
        return np.abs(error[known]), deviation[known]

    def calibrated(self, kind: Kind) -> Calibrated | None:
        """Returns how the errors of a kind compare with what was said; None without any."""
        error, deviation = self.pairs(kind)
        if not len(error):
            return None
        rms_error, rms_deviation = (float(np.sqrt(np.mean(np.square(x)))) for x in (error, deviation))
        ratio = rms_error / rms_deviation if rms_deviation > 0 else None
        return Calibrated(len(error), rms_error, rms_deviation, ratio, _rank_correlation(error, deviation))

    @property
    def num_extrapolating(self) -> int:
        """How many atoms are unlike all that were fitted."""
        return int((self.extrapolation > 1.0).sum())

    def as_dict(self) -> dict[str, Any]:
        """Returns the comparison of each kind, and how many atoms extrapolate, as JSON can hold it."""
        found = {kind: self.calibrated(kind) for kind in KINDS}
        largest = float(np.nanmax(self.extrapolation))
        return {
            **{kind: None if c is None else c._asdict() for kind, c in found.items()},
            "atoms": len(self.extrapolation),
            "atoms_that_extrapolate": self.num_extrapolating,
            "largest_extrapolation": largest if np.isfinite(largest) else None,
        }


def pooled(sets: Sequence[SetDeviations]) -> SetDeviations:
    """Returns several sets as one: between them the uncertainty has more to tell apart."""
    names = [f.name for f in fields(SetDeviations)]
    return SetDeviations(**{name: np.concatenate([getattr(each, name) for each in sets]) for name in names})


def calibration_in_words(found: SetDeviations) -> str:
    """Returns what the comparison of errors and deviations comes to, in one line."""
    words = []
    for kind in KINDS:
        c, unit = found.calibrated(kind), UNITS_OF[kind]
        if c is not None:
            rank = "–" if c.rank_correlation is None else f"{c.rank_correlation:.2f}"
            error, deviation = significant(MEV * c.rms_error), significant(MEV * c.rms_deviation)
            words.append(f"{kind}: rms error {error}, rms deviation {deviation} m{unit}, rank correlation {rank}")
    beyond, atoms = found.num_extrapolating, len(found.extrapolation)
    return "; ".join([*words, f"{beyond} of {atoms} atoms extrapolate"])


def deviations(
    potential: Potential,
    dataset: Dataset,
    predictions: Predictions,
    *,
    most_atoms: float = MOST_ATOMS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SetDeviations:
    """Returns deviations on a set of structures, in double precision on the CPU.

    Args:
        potential: The model, with its uncertainty.
        dataset: The structures.
        predictions: For the same structures.
        most_atoms: See `MOST_ATOMS`.
        progress: Told how many structures are done.

    Raises:
        EquipotError: The model has no uncertainty.
    """
    own_uncertainty(potential, "the model")
    on_cpu = next(potential.parameters()).device.type == "cpu"
    model = potential if on_cpu and potential.dtype == torch.float64 else converted(potential, torch.float64, "cpu")
    features = linear_features(model.eval().requires_grad_(False))
    chosen = evenly_spaced(dataset.num_atoms.tolist(), most_atoms)
    parts: list[tuple[np.ndarray, ...]] = [()] * len(dataset)
    done = 0
    with model.at_work():
        for block in blocks(dataset.num_atoms.tolist(), chosen, _at_once(features)):
            for index, part in zip(block, _of_some(features, model, dataset, block, chosen), strict=True):
                parts[index] = part
            done += len(block)
            progress(done, len(dataset))
    energy, node_energy, forces, extrapolation = (np.concatenate(column) for column in zip(*parts, strict=True))
    return SetDeviations(
        num_atoms=dataset.num_atoms, energy=energy, node_energy=node_energy, forces=forces, extrapolation=extrapolation,
        energy_error=predictions.energy_predicted - predictions.energy_reference,
        forces_error=predictions.forces_predicted - predictions.forces_reference,
    )  # fmt: skip


def _of_some(
    features: LinearFeatures, model: Potential, dataset: Dataset, block: list[int], chosen: set[int]
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields the deviations of each structure: energy, energies of atoms, forces, extrapolation."""
    graph = dataset.batch(block).graph
    species = model.species(graph.atomic_numbers)[: graph.num_owned]
    found = own_uncertainty(model, "the model")(features, graph, species, forces=block[0] in chosen)
    cuts = np.cumsum(dataset.num_atoms[block])[:-1]
    by_atom = [np.split(x.numpy(), cuts) for x in (found.node_energy, found.forces, found.extrapolation)]
    yield from zip(np.split(found.energy.numpy(), len(block)), *by_atom, strict=True)


def _at_once(features: LinearFeatures) -> int:
    """Returns of how many atoms the rows may be in memory."""
    return int(min(features.atoms_at_once, max(1, _NUMBERS // (4 * features.num_columns))))


def blocks(num_atoms: Sequence[int], chosen: set[int], most: int) -> Iterator[list[int]]:
    """Yields structures of not too many atoms together, those that are chosen apart from the others."""
    for wanted in (True, False):
        yield from cut([i for i in range(len(num_atoms)) if (i in chosen) == wanted], num_atoms, most)


def with_deviations(structures: Iterable[ase.Atoms], found: SetDeviations) -> Iterator[ase.Atoms]:
    """Yields structures that say how uncertain they are: energy_std, energies_std, forces_std, extrapolation."""
    first = 0
    for atoms, energy in zip(structures, found.energy, strict=True):
        here = slice(first, first + len(atoms))
        first += len(atoms)
        atoms.info["energy_std"] = float(energy)
        atoms.arrays["energies_std"] = found.node_energy[here]
        atoms.arrays["forces_std"] = found.forces[here]
        atoms.arrays["extrapolation"] = found.extrapolation[here]
        yield atoms


def evenly_spaced(num_atoms: Sequence[int], most: float) -> set[int]:
    """Returns indices of structures, evenly spaced, with no more atoms than so many in all; at least one."""
    number = len(num_atoms)
    if sum(num_atoms) > most:
        number = max(1, int(number * most / sum(num_atoms)))
    return set(np.linspace(0, len(num_atoms) - 1, number).round().astype(int).tolist())


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < FEWEST:
        return None
    x, y = rankdata(a) - (len(a) + 1) / 2, rankdata(b) - (len(b) + 1) / 2
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else None
