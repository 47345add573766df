"""What the radial network sees of an edge beside its length: the elements of sender and receiver."""

import math
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.basis import RadialFeatures
from equipot.design import Design
from equipot.interactions.activation import FUNCTIONS


class PairEmbedding(nn.Module):
    r"""Embeddings of both elements beside the basis: (e(r_ij), s_{z_j}, t_{z_i}).

    They are not multiplied by the envelope, so what a network makes of them vanishes at the cutoff only where the
    envelope is on the weights.

    Args:
        num_species: Number of elements S; embeddings are divided by √S.
        channels: Width of each embedding.
        dtype: Type of the weights, which start from U(−0.001, 0.001) as published.

    Source: mace-torch, `RealAgnosticResidualNonLinearInteractionBlock`.
    """

    def __init__(self, num_species: int, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.sender, self.receiver = (
            nn.Parameter(0.002 * torch.rand(num_species, channels, dtype=dtype) - 0.001) for _ in range(2)
        )
        self.factor = 1.0 / math.sqrt(num_species)

    def forward(
        self,
        radial: RadialFeatures,
        sender_species: Int[Tensor, " point"],
        receiver_species: Int[Tensor, " point"],
    ) -> RadialFeatures:
        """Returns the widened features."""
        s, t = (self.factor * table.to(radial.basis.dtype) for table in (self.sender, self.receiver))
        s, t = s.index_select(0, sender_species), t.index_select(0, receiver_species)
        return radial._replace(basis=torch.cat([radial.basis, s, t], dim=1))


class NoPairEmbedding(nn.Module):
    """The basis alone."""

    def forward(self, radial: RadialFeatures, sender_species: Tensor, receiver_species: Tensor) -> RadialFeatures:
        """Returns the features as they are."""
        return radial


class ScalarLayerNorm(nn.Module):
    """(x − mean) / √(variance + ε) · g + b over the last axis, ε = 10⁻⁵.

    torch's fused layer norm is the same function, but its third derivatives are wrong (torch 2.13), and with them the
    second derivatives of forces.
    """

    epsilon = 1e-5

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(width, dtype=dtype))

    def forward(self, x: Float[Tensor, "point channel"]) -> Float[Tensor, "point channel"]:
        """Returns the normalised values."""
        d = x - x.mean(dim=-1, keepdim=True)
        g, b = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return d * torch.rsqrt(d.square().mean(dim=-1, keepdim=True) + self.epsilon) * g + b


class LayerNormMLP(nn.Module):
    r"""x ← σ(LayerNorm(x W + b)) for hidden layers, then x W + b; torch's usual start of the weights.

    Args:
        widths: Widths of input, hidden layers and output.
        activation: σ, "silu" as published.
        dtype: Type of the weights.

    Source: mace-torch, `RadialMLP`, after eSEN (Fu et al., 2025).
    """

    def __init__(self, widths: list[int], activation: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.activation = FUNCTIONS[activation]
        self.linears = nn.ModuleList([nn.Linear(a, b, dtype=dtype) for a, b in pairwise(widths)])
        self.norms = nn.ModuleList([ScalarLayerNorm(b, dtype) for b in widths[1:-1]])

    def forward(self, x: Float[Tensor, "point _in"]) -> Float[Tensor, "point _out"]:
        """Returns the output of the network."""
        x, W, b = self.hidden(x)
        return nn.functional.linear(x, W.T, b)

    def hidden(
        self, x: Float[Tensor, "point _in"]
    ) -> tuple[Float[Tensor, "point _hidden"], Float[Tensor, "_hidden _out"], Float[Tensor, " _out"]]:
        """Returns the last hidden layer, and the matrix and bias behind it."""
        for linear, norm in zip(list(self.linears)[:-1], self.norms, strict=True):
            x = self.activation(norm(nn.functional.linear(x, *_matrix(linear, x.dtype))))
        W, b = _matrix(self.linears[-1], x.dtype)
        return x, W.T, b


def _matrix(linear: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns W and b in another precision."""
    return linear.weight.to(dtype), linear.bias.to(dtype)


def radial_inputs(design: Design, channels: int) -> int:
    """Returns the width of the radial network's input, for this many scalar channels of h."""
    return design.num_radial + (2 * channels if design.radial_species == "embedding" else 0)


def pair_embedding(design: Design, num_species: int, channels: int, dtype: torch.dtype) -> nn.Module:
    """Returns the embedding of pairs of this design, as wide as the scalar channels of h."""
    present = design.radial_species == "embedding"
    return PairEmbedding(num_species, channels, dtype) if present else NoPairEmbedding()
