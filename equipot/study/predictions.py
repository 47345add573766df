"""Predictions of a potential beside their references, kept as arrays for errors, figures and files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ase
import numpy as np
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from equipot.data.dataset import Batch, Dataset
from equipot.errors import EquipotError
from equipot.fit.loss import label_errors
from equipot.fit.metrics import COLUMNS, ErrorTable, element_sums, error_sums, named_errors
from equipot.fit.metrics import predictions as evaluated
from equipot.geometry.derivatives import Prediction
from equipot.models.potential import Potential
from equipot.study.array_file import Arrays
from equipot.units import MEV

Quantity = Literal["energies", "forces", "stresses"]


@dataclass(frozen=True)
class Predictions(Arrays):
    """What a potential says about a set of structures, and what the labels say; NaN where there is none.

    Attributes:
        num_atoms: Atoms of each structure.
        isolated_energy: Σ E0 of each structure, eV.
        energy_reference: E of each structure, eV.
        energy_predicted: The same, predicted.
        forces_reference: Forces on all atoms of all structures, [node 3], eV/Å.
        forces_predicted: The same, predicted.
        stress_reference: Stress of each structure, [system 3 3], eV/Å³.
        stress_predicted: The same, predicted.
    """

    content = "predictions"
    single = ("forces_reference", "forces_predicted", "stress_reference", "stress_predicted")

    num_atoms: np.ndarray
    isolated_energy: np.ndarray
    energy_reference: np.ndarray
    energy_predicted: np.ndarray
    forces_reference: np.ndarray
    forces_predicted: np.ndarray
    stress_reference: np.ndarray
    stress_predicted: np.ndarray

    def pairs(self, quantity: Quantity) -> tuple[np.ndarray, np.ndarray]:
        """Returns references and predictions of one quantity where both exist, flat.

        Energies are (E − Σ E0)/N in eV/atom, forces and stresses single components, of a stress all nine.
        """
        if quantity == "energies":
            both = (self.energy_reference, self.energy_predicted)
            reference, predicted = ((e - self.isolated_energy) / self.num_atoms for e in both)
        elif quantity == "forces":
            reference, predicted = self.forces_reference.ravel(), self.forces_predicted.ravel()
        else:
            reference, predicted = self.stress_reference.ravel(), self.stress_predicted.ravel()
        known = np.isfinite(reference) & np.isfinite(predicted)
        return reference[known], predicted[known]


def predict(
    potential: Potential, dataset: Dataset, batch_size: int = 16
) -> tuple[Predictions, ErrorTable, Sequence[np.ndarray]]:
    """Returns predictions, errors, and the energies of the atoms of each structure, from one pass over a set.

    Args:
        potential: The model, wherever its parameters are.
        dataset: Structures, with or without labels.
        batch_size: Structures evaluated at a time.
    """
    energies = dict(zip(potential.statistics.species, potential.statistics.atomic_energies, strict=True))
    isolated = np.array([sum(energies[int(z)] for z in frame.atoms.numbers) for frame in dataset.frames])
    parts: list[tuple[np.ndarray, ...]] = []
    by_structure: list[Tensor] = []
    by_element = torch.zeros(len(chemical_symbols), 3, dtype=torch.float64)
    node_energies: list[np.ndarray] = []
    for indices, batch, prediction in evaluated(potential, dataset, range(len(dataset)), batch_size):
        errors = label_errors(prediction, batch.labels, batch.graph)
        by_structure.append(error_sums(errors, batch.labels, batch.graph).cpu())
        by_element += element_sums(errors, batch.labels, batch.graph).cpu()
        parts.append(_arrays(batch, prediction))
        cuts = np.cumsum(dataset.num_atoms[indices])[:-1]
        node_energies += np.split(prediction.node_energy.cpu().numpy(), cuts)
    energy, forces, stress = (
        [np.concatenate([part[k] for part in parts]) for k in pair] for pair in ((0, 1), (2, 3), (4, 5))
    )
    found = Predictions(dataset.num_atoms, isolated, *energy, *forces, *stress)
    return found, _table(torch.cat(by_structure), by_element, dataset.config_types), node_energies


def _arrays(batch: Batch, prediction: Prediction) -> tuple[np.ndarray, ...]:
    labels = batch.labels
    tensors = (
        labels.energy, prediction.energy, labels.forces, prediction.forces, labels.stress, prediction.stress,
    )  # fmt: skip
    return tuple(tensor.detach().cpu().numpy() for tensor in tensors)


def _table(sums: Tensor, by_element: Tensor, config_types: Sequence[str]) -> ErrorTable:
    groups = {name: [i for i, t in enumerate(config_types) if t == name] for name in sorted(set(config_types))}
    return ErrorTable(
        total=named_errors(sums.sum(dim=0)),
        config_types={name: named_errors(sums[rows].sum(dim=0)) for name, rows in groups.items()},
        elements={chemical_symbols[z]: _forces(row) for z, row in enumerate(by_element) if row[0] > 0},
    )


def _forces(row: Tensor) -> dict[str, Any]:
    sums = torch.zeros(COLUMNS, dtype=torch.float64)
    sums[5:8] = row
    return {name: value for name, value in named_errors(sums).items() if name.startswith("forces")}


def labelled_atoms(
    dataset: Dataset, predictions: Predictions, node_energies: Sequence[np.ndarray]
) -> Iterator[ase.Atoms]:
    """Yields each structure with its predictions as results, and its labels under `REF_` keys."""
    first = 0
    for i, frame in enumerate(dataset.frames):
        atoms = frame.atoms.copy()
        here = slice(first, first + len(atoms))
        first += len(atoms)
        atoms.info["config_type"] = frame.config_type
        for name, value in (("REF_energy", frame.energy), ("REF_stress", frame.stress)):
            if value is not None:
                atoms.info[name] = value
        if frame.forces is not None:
            atoms.arrays["REF_forces"] = frame.forces
        results = {
            "energy": predictions.energy_predicted[i], "forces": predictions.forces_predicted[here],
            "energies": node_energies[i],
        }  # fmt: skip
        stress = predictions.stress_predicted[i]
        if np.isfinite(stress).all():
            results["stress"] = full_3x3_to_voigt_6_stress(stress)
        atoms.calc = SinglePointCalculator(atoms, **results)
        yield atoms


@dataclass(frozen=True)
class ScanPath:
    """Energies along a path of structures, such as the rotation about a bond.

    Attributes:
        name: Of the path.
        x: Values of what is scanned.
        energy_reference: E, eV.
        energy_predicted: The same, predicted.
    """

    name: str
    x: np.ndarray
    energy_reference: np.ndarray
    energy_predicted: np.ndarray

    @property
    def rmse(self) -> float:
        """RMSE of the energies, meV."""
        return float(np.sqrt(np.mean((self.energy_predicted - self.energy_reference) ** 2)) * MEV)

    @property
    def shape_rmse(self) -> float:
        """RMSE of the energies after their mean difference is taken away, meV."""
        return float(np.std(self.energy_predicted - self.energy_reference) * MEV)

    @property
    def barriers(self) -> tuple[float, float]:
        """Highest minus lowest energy of the path, reference and predicted, meV."""
        return float(np.ptp(self.energy_reference) * MEV), float(np.ptp(self.energy_predicted) * MEV)

    def as_dict(self) -> dict[str, Any]:
        """Returns the path as JSON can hold it."""
        return {
            "name": self.name, "x": self.x.tolist(), "energy_reference_eV": self.energy_reference.tolist(),
            "energy_predicted_eV": self.energy_predicted.tolist(), "rmse_meV": self.rmse,
            "shape_rmse_meV": self.shape_rmse,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ScanPath":
        """Returns the path that `as_dict` gave."""
        columns = (values["x"], values["energy_reference_eV"], values["energy_predicted_eV"])
        return cls(values["name"], *(np.array(column, dtype=float) for column in columns))


def scan_paths(infos: Sequence[dict[str, Any]], predictions: Predictions, x: str, group: str | None) -> list[ScanPath]:
    """Returns the paths of a file of scans, in order of first appearance.

    Args:
        infos: What the file says about each structure beside its labels.
        predictions: For the same structures.
        x: Key of what is scanned.
        group: Key that tells the paths apart; None for one path.

    Raises:
        EquipotError: A structure lacks one of the keys, or an energy.
    """
    check_scan(infos, x, group)
    if not np.isfinite(predictions.energy_reference).all():
        frame = int(np.flatnonzero(~np.isfinite(predictions.energy_reference))[0])
        raise EquipotError(f"scan: frame {frame} has no energy; every point of a scan needs one.")
    names = [str(info[group]) if group else "scan" for info in infos]
    paths = []
    for name in dict.fromkeys(names):
        rows = [i for i, other in enumerate(names) if other == name]
        rows.sort(key=lambda i: float(infos[i][x]))
        title = f"{group} {name}{_constants(infos, rows, (x, group))}" if group else "scan"
        values = np.array([float(infos[i][x]) for i in rows])
        paths.append(ScanPath(title, values, predictions.energy_reference[rows], predictions.energy_predicted[rows]))
    return paths


def check_scan(infos: Sequence[dict[str, Any]], x: str, group: str | None) -> None:
    """Looks whether every structure of a scan has the keys that order it.

    Raises:
        EquipotError: One lacks a key, or what is scanned is no number.
    """
    for number, info in enumerate(infos):
        for key in filter(None, (x, group)):
            if key not in info:
                known = ", ".join(sorted(info)) or "no keys"
                raise EquipotError(f"scan: frame {number} has no '{key}'; it has {known}. Set scan.x and scan.group.")
        if not isinstance(info[x], int | float | np.number):
            raise EquipotError(f"scan: '{x}' of frame {number} is {info[x]!r}; what is scanned is a number.")


def _constants(infos: Sequence[dict[str, Any]], rows: Sequence[int], skip: tuple[str | None, ...]) -> str:
    """Returns what numbers stay the same along a path and differ between paths, in words."""
    numbers = [k for k, v in infos[rows[0]].items() if isinstance(v, int | float) and not isinstance(v, bool)]
    fixed = [
        k for k in numbers
        if k not in skip and len({infos[i].get(k) for i in rows}) == 1 and len({info.get(k) for info in infos}) > 1
    ]  # fmt: skip
    return f" ({', '.join(f'{k} {infos[rows[0]][k]:g}' for k in fixed)})" if fixed else ""
