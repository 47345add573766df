"""h⁰: the elements' embedding vectors."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.design import Design
from equipot.interactions import embedding_width


class TrainedEmbedding(nn.Module):
    """h⁰_z = f W_z: a table of weights, scaled by f.

    Args:
        num_species: Number of elements.
        width: Width of h⁰.
        factor: 1/√S for a one-hot vector through a normalised linear map, 1 for a plain table.
        dtype: Type of the weights, which start from N(0, 1).
    """

    def __init__(self, num_species: int, width: int, factor: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_species, width, dtype=dtype))
        self.factor = factor

    def vectors(self) -> Float[Tensor, "species feature"]:
        """Returns h⁰ of each element."""
        return self.weight * self.factor


class OneHotEmbedding(nn.Module):
    """h⁰_z = the unit vector of the element: no weights.

    Source: nequix.
    """

    def __init__(self, num_species: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("unit", torch.eye(num_species, dtype=dtype), persistent=False)

    unit: Tensor

    def vectors(self) -> Float[Tensor, "species feature"]:
        """Returns h⁰ of each element."""
        return self.unit


def element_embedding(design: Design, num_species: int, dtype: torch.dtype) -> TrainedEmbedding | OneHotEmbedding:
    """Returns the embedding of this design for this number of elements."""
    width = embedding_width(design, num_species)
    if design.element_embedding == "one_hot":
        return OneHotEmbedding(width, dtype)
    factor = {"linear": 1.0 / math.sqrt(num_species), "table": 1.0}[design.element_embedding]
    return TrainedEmbedding(num_species, width, factor, dtype)
