"""From structures to rows: in blocks, so that memory does not grow with the data."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equipot.data.dataset import Batch
from equipot.errors import EquipotError
from equipot.fit.linear.memory import Plan, cut
from equipot.fit.linear.weighting import KINDS, WeightedRows, Weighting
from equipot.models.linear_features import LinearFeatures, Rows

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it is done, and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody is told."""


@runtime_checkable
class Sink(Protocol):
    """What blocks of rows are worked into."""

    def add(self, block: Float[np.ndarray, "row size"]) -> None:
        """Takes weighted and scaled rows [X | y], in C's order; the memory is used again afterwards."""


class Assembly:
    r"""The rows of a set of structures, weighted and scaled.

        X = W · ∂(energies, forces, stresses)/∂w · Γ⁻¹,   y = W · (labels − offset),

    W the square roots of the labels' weights and Γ the penalties (to the power `smoothness`), so that every weight has
    the same prior.
    """

    def __init__(self, features: LinearFeatures, weighting: Weighting, plan: Plan, progress: Progress = silent):
        """Checks the penalties.

        Args:
            features: The model.
            weighting: Labels and weights, with their structures.
            plan: Sizes of blocks.
            progress: Told how many structures are done.

        Raises:
            EquipotError: A penalty is not positive.
        """
        penalties = features.penalties**weighting.options.smoothness
        if not bool((penalties.isfinite() & (penalties > 0)).all()):
            raise EquipotError(
                f"penalties of the smoothness prior must be positive, but the least is {float(penalties.min()):g}; "
                "give a small one to weights that should hardly be held"
            )
        self.features, self.weighting, self.plan, self.progress = features, weighting, plan, progress
        self.penalties, self.scale = penalties, 1.0 / penalties
        per_atom = max(plan.model_rows / features.atoms_at_once, 0.0)
        atoms, rows = weighting.dataset.num_atoms.tolist(), weighting.survey.per_structure
        self._sizes = [r and max(r, math.ceil(n * per_atom)) for r, n in zip(rows, atoms, strict=True)]

    def groups(self, indices: Sequence[int] | None = None) -> list[list[int]]:
        """Returns structures with labels that count, in groups that the model may be asked for at once.

        Args:
            indices: Of which structures; all by default.
        """
        return cut(range(len(self._sizes)) if indices is None else indices, self._sizes, self.plan.model_rows)

    def stream(self, sink: Sink, indices: Sequence[int] | None = None) -> None:
        """Works the rows of structures into a sink.

        Args:
            sink: Where they go.
            indices: Which structures; all by default.

        Raises:
            EquipotError: A row is not finite.
        """
        buffer = _Buffer(self.plan.block_rows, self.features.num_columns, sink)
        groups = self.groups(indices)
        done, number = 0, sum(map(len, groups))
        for group in groups:
            self._group(group, buffer)
            done += len(group)
            self.progress("rows", done, number)
        buffer.flush()

    @torch.no_grad()
    def _group(self, group: Sequence[int], buffer: "_Buffer") -> None:
        batch = self.weighting.dataset.batch(group)
        forces, stress = self.weighting.wanted(batch)
        rows = self.features.rows(batch.graph, forces=forces, stress=stress)
        self._check(rows, batch.graph.num_systems, batch.graph.num_nodes)
        for part in self.weighting.weighted(group, batch, rows, self.features.offset(batch.graph)):
            _check_finite(part, batch)
            buffer.put(part.rows, self.scale, part.factor, part.target)

    def _check(self, rows: Rows, systems: int, nodes: int) -> None:
        columns = self.features.num_columns
        for kind, X, number in zip(KINDS, rows, (systems, 3 * nodes, 6 * systems), strict=True):
            if X.shape not in ((number, columns), (0, columns)):
                raise ValueError(f"rows of {kind} have shape {tuple(X.shape)}, not ({number}, {columns})")


def _check_finite(part: WeightedRows, batch: Batch) -> None:
    finite_rows, finite_targets = part.rows.isfinite().all(dim=1), part.target.isfinite()
    bad = part.system[~(finite_rows & finite_targets)].unique().tolist()
    if not bad:
        return
    what = (
        "the model's features are"
        if not bool(finite_rows.all())
        else "what the model has beside its weights (E0, repulsion, baseline) is"
    )
    names = ", ".join(batch.names[index] for index in bad[:6]) + (" …" if len(bad) > 6 else "")
    raise EquipotError(
        f"{what} not finite for {names}; look at these structures (equipot data), and at what a baseline predicts for "
        "them (equipot evaluate), and leave them out if they are wrong"
    )


class _Buffer:
    """Collects rows of many small groups into blocks that are worth a matrix product."""

    def __init__(self, rows: int, columns: int, sink: Sink) -> None:
        self.block = torch.empty(rows, columns + 1, dtype=torch.float64)
        self.filled, self.sink = 0, sink

    def put(
        self,
        rows: Float[Tensor, "row column"],
        scale: Float[Tensor, " column"],
        factor: Float[Tensor, " row"],
        target: Float[Tensor, " row"],
    ) -> None:
        start = 0
        while start < len(rows):
            number = min(len(rows) - start, len(self.block) - self.filled)
            here, there = slice(start, start + number), slice(self.filled, self.filled + number)
            torch.mul(rows[here], factor[here, None], out=self.block[there, :-1])
            self.block[there, :-1].mul_(scale)
            self.block[there, -1] = target[here] * factor[here]
            start, self.filled = start + number, self.filled + number
            if self.filled == len(self.block):
                self.flush()

    def flush(self) -> None:
        if self.filled:
            self.sink.add(self.block[: self.filled].numpy())
        self.filled = 0


class KeptRows:
    """All rows [X | y], in memory or in a file that lasts as long as this object."""

    def __init__(self, rows: int, columns: int, file: Path | None) -> None:
        """Makes room.

        Args:
            rows: How many there will be.
            columns: Number of weights.
            file: A file for them, which must not exist; None for memory.
        """
        shape = (rows, columns + 1)
        self.array: np.ndarray = np.empty(shape) if file is None else np.memmap(file, np.float64, "w+", shape=shape)
        self.filled = 0

    def add(self, block: Float[np.ndarray, "row size"]) -> None:
        """Keeps a copy of some rows."""
        self.array[self.filled : self.filled + len(block)] = block
        self.filled += len(block)

    def check(self) -> None:
        """Checks that all rows are there.

        Raises:
            RuntimeError: Some are missing, and what is in their place is not data.
        """
        if self.filled != len(self.array):
            raise RuntimeError(f"{self.filled} rows were kept, but there should be {len(self.array)}")


class Gradient:
    r"""Sums Xᵀ(y − X v) and ‖X v − y‖² for given weights, from the rows themselves."""

    def __init__(self, weights: Float[np.ndarray, " column"]) -> None:
        self._x = np.append(-weights, 1.0)
        self.gradient = np.zeros(len(weights))
        self.residual_sum = 0.0

    def add(self, block: Float[np.ndarray, "row size"]) -> None:
        """Adds the contribution of some rows."""
        residuals = block @ self._x
        self.gradient += residuals @ block[:, :-1]
        self.residual_sum += float(residuals @ residuals)
