"""Sums over edges and atoms, and the six components of a symmetric tensor: what many rooms need the same way."""

from jaxtyping import Float, Int
from torch import Tensor

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""The components xx yy zz yz xz xy, ASE's order."""


def pool(values: Tensor, index: Int[Tensor, " item"], size: int) -> Tensor:
    """Returns the sums of the values that have the same index: of edges by node, of atoms by system.

    Args:
        values: One row for each item.
        index: To which sum each belongs.
        size: Number of sums.
    """
    return values.new_zeros((size, *values.shape[1:])).index_add(0, index, values)


def voigt(tensors: Float[Tensor, "system 3 3"]) -> Float[Tensor, "system 6"]:
    """Returns the components xx yy zz yz xz xy of symmetric tensors."""
    first, second = zip(*VOIGT, strict=True)
    return tensors[:, first, second]
