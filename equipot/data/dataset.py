"""Sets of structures as training sees them: graphs built once, labels as tensors, batches on demand."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equipot.data.check import check_distances
from equipot.data.frame import Frame
from equipot.errors import EquipotError
from equipot.geometry import Graph, batch_graphs, graph_from_atoms

Progress = Callable[[int, int], None]
"""Called with the number of structures done and the number in all."""


@dataclass(frozen=True)
class Labels:
    """What a potential should predict for a batch, float64; NaN where the data do not say.

    Attributes:
        energy: E of each structure, eV.
        forces: F_i of each atom, eV/Å.
        stress: σ of each structure, eV/Å³, tension positive; NaN unless three directions are periodic.
        virial: −∂E/∂ε of each structure, eV.
        energy_weight: Weight of the energy: those of frame, config_type and label multiplied.
        forces_weight: Weight of the forces, likewise.
        stress_weight: Weight of the stress, likewise.
    """

    energy: Float[Tensor, " system"]
    forces: Float[Tensor, "node xyz"]
    stress: Float[Tensor, "system 3 3"]
    virial: Float[Tensor, "system 3 3"]
    energy_weight: Float[Tensor, " system"]
    forces_weight: Float[Tensor, " system"]
    stress_weight: Float[Tensor, " system"]

    def to(self, device: torch.device | str) -> "Labels":
        """Returns the labels with their tensors on `device`."""
        return Labels(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class Batch:
    """Some structures of a set: one graph, its labels, and the name of each structure."""

    graph: Graph
    labels: Labels
    names: tuple[str, ...]

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the batch with its tensors on `device`."""
        return Batch(self.graph.to(device), self.labels.to(device), self.names)


class Dataset:
    """Structures with their graphs and labels.

    Attributes:
        frames: The structures, in the given order.
        r_max: Cutoff of the graphs, Å.
        graphs: One graph for each structure.
        num_atoms: Number of atoms of each structure.
        min_distances: Shortest distance between two atoms of each structure, Å; infinite without neighbours.
    """

    def __init__(self, frames: Sequence[Frame], r_max: float, progress: Progress | None = None):
        """Builds the graph of every structure.

        Args:
            frames: The structures.
            r_max: Cutoff, Å.
            progress: Told how many structures are done.

        Raises:
            EquipotError: There is no structure, or two atoms of one lie on top of each other.
        """
        if not frames:
            raise EquipotError("a set of structures needs at least one structure, and none was given.")
        self.frames = tuple(frames)
        self.r_max = float(r_max)
        self.num_atoms = np.array([len(frame.atoms) for frame in self.frames])
        self.graphs: list[Graph] = []
        self.min_distances = np.zeros(len(self.frames))
        self._labels = [_labels(frame) for frame in self.frames]
        for number, frame in enumerate(self.frames):
            graph = graph_from_atoms(frame.atoms, r_max)
            self.min_distances[number] = check_distances(frame, graph)
            self.graphs.append(graph)
            if progress is not None:
                progress(number + 1, len(self.frames))

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def names(self) -> list[str]:
        """Name of each structure, such as ``train.xyz#12``."""
        return [frame.name for frame in self.frames]

    @property
    def config_types(self) -> list[str]:
        """The config_type of each structure."""
        return [frame.config_type for frame in self.frames]

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(sorted({int(z) for frame in self.frames for z in frame.atoms.numbers}))

    def batch(self, indices: Sequence[int]) -> Batch:
        """Returns the structures at `indices`, in that order, as one batch."""
        labels = [self._labels[i] for i in indices]
        return Batch(
            graph=batch_graphs([self.graphs[i] for i in indices]),
            labels=Labels(**{f.name: torch.cat([getattr(label, f.name) for label in labels]) for f in fields(Labels)}),
            names=tuple(self.frames[i].name for i in indices),
        )

    def select(self, indices: Sequence[int]) -> "Dataset":
        """Returns the set of the structures at `indices`; graphs are shared, not built again."""
        part = copy.copy(self)
        part.frames = tuple(self.frames[i] for i in indices)
        part.graphs = [self.graphs[i] for i in indices]
        part._labels = [self._labels[i] for i in indices]
        part.num_atoms = self.num_atoms[list(indices)]
        part.min_distances = self.min_distances[list(indices)]
        return part

    def hash(self) -> str:
        """Returns the SHA-256 of structures, labels and weights in order; names of files do not enter it."""
        digest = hashlib.sha256()
        for frame, labels in zip(self.frames, self._labels, strict=True):
            digest.update(frame.config_type.encode())
            _update(digest, frame.atoms.numbers, "<i8")
            for values in (frame.atoms.positions, frame.atoms.cell.array, frame.atoms.pbc):
                _update(digest, values, "<f8")
            for f in fields(labels):
                _update(digest, getattr(labels, f.name).numpy(), "<f8")
        return digest.hexdigest()


def _update(digest: "hashlib._Hash", values: np.ndarray, dtype: str) -> None:
    """Adds numbers to a digest, in an order of bytes that depends on no machine; −0 counts as 0, one NaN as another."""
    values = np.ascontiguousarray(values, dtype=dtype)
    digest.update(np.where(np.isnan(values), np.nan, values + 0.0).astype(dtype).tobytes())


def _labels(frame: Frame) -> Labels:
    n = len(frame.atoms)
    return Labels(
        energy=_tensor(frame.energy, (1,)),
        forces=_tensor(frame.forces, (n, 3)),
        stress=_tensor(frame.stress, (1, 3, 3)),
        virial=_tensor(frame.virial, (1, 3, 3)),
        energy_weight=_tensor(frame.weight * frame.energy_weight, (1,)),
        forces_weight=_tensor(frame.weight * frame.forces_weight, (1,)),
        stress_weight=_tensor(frame.weight * frame.stress_weight, (1,)),
    )


def _tensor(values: float | np.ndarray | None, shape: tuple[int, ...]) -> Tensor:
    if values is None:
        return torch.full(shape, torch.nan, dtype=torch.float64)
    return torch.tensor(values, dtype=torch.float64).reshape(shape)
