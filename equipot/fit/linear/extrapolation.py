"""The ellipsoids of the training atoms' features, from which the grade of extrapolation is measured."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipot.data.dataset import Dataset
from equipot.fit.linear.memory import cut
from equipot.models.extrapolation import (
    ATOMS_PER_DIRECTION,
    LEAST_DIRECTIONS,
    MOST_DIRECTIONS,
    RIDGE,
    TERMS,
    Extrapolation,
)
from equipot.models.linear_features import LinearFeatures

_ELEMENTS = 2e7
"""Numbers in a block of rows."""
_SMALLEST = 1e-6
"""Of the largest root mean square of an element's features: smaller ones count as this."""
_ROUNDING = 1e-6
"""By how much limits are above the grades that they are found from."""


def atom_rows(
    features: LinearFeatures, dataset: Dataset, species: tuple[int, ...]
) -> Iterator[tuple[Float[Tensor, "atom weight"], Int[Tensor, " atom"]]]:
    """Yields the features of all atoms, in blocks of bounded size, and the index of each atom's element.

    Args:
        features: The model.
        dataset: The structures.
        species: Atomic numbers of the model's elements, ascending.
    """
    known = torch.tensor(species)
    most = int(max(1, min(features.atoms_at_once, _ELEMENTS / features.num_columns)))
    for indices in cut(range(len(dataset)), dataset.num_atoms.tolist(), most):
        graph = dataset.batch(indices).graph
        yield features.node_rows(graph), torch.searchsorted(known, graph.atomic_numbers[: graph.num_owned])


@torch.no_grad()
def extrapolation(
    features: LinearFeatures, train: Dataset, species: tuple[int, ...], *, seed: int = 0
) -> Extrapolation:
    """Returns what measures the extrapolation of atoms, from three passes over the training atoms.

    Args:
        features: The model.
        train: The training structures.
        species: Atomic numbers of the model's elements, ascending.
        seed: Of the random directions.
    """
    columns, elements = features.num_columns, len(species)
    squares = torch.zeros(elements, columns, dtype=torch.float64)
    counts = torch.zeros(elements, dtype=torch.int64)
    for rows, z in atom_rows(features, train, species):
        squares.index_add_(0, z, rows.square())
        counts += torch.bincount(z, minlength=elements)
    directions = (counts // ATOMS_PER_DIRECTION).clamp(LEAST_DIRECTIONS, max(1, min(MOST_DIRECTIONS, columns)))
    size = int(directions.max()) + 1
    draws = np.random.default_rng(seed).integers(0, 2**31, (columns, TERMS))
    measure = Extrapolation(torch.from_numpy(draws), _scale(squares, counts), directions,
                            torch.zeros(elements, size, size), torch.zeros(elements))  # fmt: skip
    moments = torch.zeros(elements, size, size, dtype=torch.float64)
    for index, rows in _by_element(features, train, species):
        ψ, D = measure.projected(rows, index), int(directions[index]) + 1
        moments[index, :D, :D] += ψ.T @ ψ / counts[index]
    for index in counts.nonzero().flatten().tolist():
        D = int(directions[index]) + 1
        measure.metric[index, :D, :D] = _whitening(moments[index, :D, :D]).float()
    for index, rows in _by_element(features, train, species):
        largest = (1.0 + _ROUNDING) * measure.leverages(rows, index).max()
        measure.limits[index] = torch.maximum(measure.limits[index], largest)
    return measure


def _by_element(
    features: LinearFeatures, dataset: Dataset, species: tuple[int, ...]
) -> Iterator[tuple[int, Float[Tensor, "atom weight"]]]:
    """Yields an index of an element and features of its atoms, until all atoms were had."""
    for rows, z in atom_rows(features, dataset, species):
        for index in z.unique().tolist():
            yield index, rows[z == index]


def _scale(
    squares: Float[Tensor, "species weight"], counts: Int[Tensor, " species"]
) -> Float[Tensor, "species weight"]:
    """Returns one over the root mean squares, none of them less than some part of the largest."""
    rms = (squares / counts.clamp(min=1)[:, None]).sqrt()
    floor = (_SMALLEST * rms.amax(dim=1, keepdim=True)).clamp(min=1e-30)
    return torch.where(counts[:, None] > 0, 1.0 / torch.maximum(rms, floor), 0.0)


def _whitening(moments: Float[Tensor, "direction direction"]) -> Float[Tensor, "direction direction"]:
    """Returns W with W Wᵀ = (moments + ε)⁻¹."""
    unit = torch.eye(len(moments), dtype=moments.dtype)
    L = torch.linalg.cholesky(moments + RIDGE * moments.diagonal().mean() * unit)
    return torch.linalg.solve_triangular(L, unit, upper=False).T.contiguous()
