"""Short range: the shortest distance of each pair of elements in training, and functions that see none below it."""

from itertools import combinations_with_replacement

import torch
from ase.data import covalent_radii
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.statistics import Statistics

UNSEEN = 0.7
"""Of the sum of covalent radii: the shortest distance of elements that were never neighbours in training."""
_WIDTH = 0.1
"""Of the shortest distance: how far below it distances still differ for `DistanceFloor`."""


def shortest_distances(statistics: Statistics | None) -> Float[Tensor, "element element"]:
    """Returns the shortest distance in training by atomic numbers, Å; 0 where there was none or none was measured."""
    shortest = torch.zeros(len(covalent_radii), len(covalent_radii), dtype=torch.float64)
    if statistics is not None and statistics.pair_distances:
        pairs = combinations_with_replacement(statistics.species, 2)
        for (first, second), distance in zip(pairs, statistics.pair_distances, strict=True):
            shortest[first, second] = shortest[second, first] = distance
    return shortest


def wall_distances(statistics: Statistics | None) -> Float[Tensor, "element element"]:
    """Returns the same, with 0.7 times the sum of covalent radii in place of 0."""
    shortest, radii = shortest_distances(statistics), torch.as_tensor(covalent_radii, dtype=torch.float64)
    return torch.where(shortest > 0, shortest, UNSEEN * (radii[:, None] + radii[None, :]))


class NoFloor(nn.Module):
    """Distances as they are."""

    def forward(self, r: Tensor, Z_sender: Tensor, Z_receiver: Tensor) -> Tensor:
        """Returns r."""
        return r


class DistanceFloor(nn.Module):
    r"""Distances that end a little below the shortest one a of the pair of elements in training.

        r̃ = r                               r ≥ a
        r̃ = a − w (t − t³ + t⁴/2),          t = (a − r)/w, at most 1;   w = a/10

    r̃ is twice continuously differentiable, and 0.95 a for all r below 0.9 a. Functions of r̃ are those of r wherever
    there are data, and do not change where there are none.

    Args:
        statistics: Elements and shortest distances; those of pairs that were never seen are 0.7 times the sum of their
            covalent radii.
    """

    shortest: Tensor

    def __init__(self, statistics: Statistics | None) -> None:
        super().__init__()
        self.register_buffer("shortest", wall_distances(statistics), persistent=False)

    def forward(
        self, r: Float[Tensor, " edge"], Z_sender: Int[Tensor, " edge"], Z_receiver: Int[Tensor, " edge"]
    ) -> Float[Tensor, " edge"]:
        """Returns r̃, Å."""
        a = self.shortest[Z_sender, Z_receiver]
        w = _WIDTH * a
        t = ((a - r) / w).clamp(0.0, 1.0)
        return torch.where(r < a, a - w * (t - t**3 + 0.5 * t**4), r)
