"""Where the radial functions are evaluated: at the edges themselves, or at knots from which a spline leads to them."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.basis import RadialBasis, RadialFeatures
from equipot.kernels.operations import Splined


class RadialPoints(NamedTuple):
    """Distances between elements, by what the radial networks see of them.

    Attributes:
        features: Basis functions and envelope.
        sender_species: Index of the sender's element.
        receiver_species: Index of the receiver's element.
    """

    features: RadialFeatures
    sender_species: Int[Tensor, " point"]
    receiver_species: Int[Tensor, " point"]


@runtime_checkable
class RadialLayer(Protocol):
    """A layer, as far as distances concern it."""

    def radial_functions(self, points: RadialPoints) -> tuple[Float[Tensor, "point _"], ...]:
        """Returns all that the layer computes of each point: tensors with one row for each."""

    def radial_factors(self, points: RadialPoints) -> tuple[tuple[Tensor, Tensor | None], ...]:
        """Returns the same as products Φ W of functions and matrices; None for the unit matrix."""

    def radial_weights(self) -> list[Tensor]:
        """Returns the weights in these functions."""


@runtime_checkable
class Radial(Protocol):
    """How the radial functions of any layer come to the edges of a structure."""

    def __call__(self, layer: RadialLayer) -> tuple[Splined | Float[Tensor, "edge _"], ...]:
        """Returns the values of the layer's functions at the edges; R may be a spline still to be evaluated."""


class ExactRadial(nn.Module):
    """The functions themselves, evaluated at each edge.

    Args:
        species: Atomic numbers of the elements.
    """

    species: Tensor

    def __init__(self, species: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("species", torch.tensor(species), persistent=False)

    def forward(
        self,
        basis: RadialBasis,
        lengths: Float[Tensor, " edge"],
        sender_species: Int[Tensor, " edge"],
        receiver_species: Int[Tensor, " edge"],
    ) -> Radial:
        """Returns the way for these edges."""
        Z_j, Z_i = (self.species.index_select(0, end) for end in (sender_species, receiver_species))
        points = RadialPoints(basis(lengths, Z_j, Z_i), sender_species, receiver_species)
        return lambda layer: layer.radial_functions(points)
