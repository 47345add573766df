"""From radial basis functions to R, the weights of each path and channel."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.basis import RadialFeatures
from equipot.design import Design
from equipot.interactions.activation import Activation
from equipot.interactions.pair_embedding import LayerNormMLP
from equipot.kernels.polynomial import Convolution


class Factors(NamedTuple):
    """R = Φ W, a function of the distance times a constant matrix: what splines make use of.

    Attributes:
        functions: Φ, few columns.
        weights: W, with a column for each of R.
    """

    functions: Float[Tensor, "point few"]
    weights: Float[Tensor, "few weights"]


class _Scaling(NamedTuple):
    """How a radial MLP scales: x ← σ(f x W), W drawn with standard deviation s; f and s from the inputs per layer."""

    constant: bool
    factors: Callable[[list[int]], list[float]]
    starts: Callable[[list[int]], list[float]]
    draw: Callable[..., Tensor]


class RadialMLP(nn.Module):
    r"""R = MLP(e), without biases.

        e3nn:   x ← c σ(x W / √h) for hidden layers, R = x W / √h         (c makes E[(cσ)²] = 1)
        nequip: x ← σ(x W / √h) for the first, σ(x W √(2/h)) for later ones, R = x W √(2/h)
        plain:  x ← σ(x W), R = x W, with W from N(0, 4/h) but the last from N(0, 1/h)

    Args:
        design: The axes radial_mlp, radial_scaling, radial_activation and activation_constants.
        num_inputs: Width of e, with embeddings of the elements where the design has them.
        num_weights: Columns of R.
        dtype: Type of the weights.

    Source: e3nn `FullyConnectedNet` (NequIP's paper, BOTNet, MACE); nequip 0.19 `ScalarMLPFunction`;
    nequix `MLP`.
    """

    def __init__(self, design: Design, num_inputs: int, num_weights: int, dtype: torch.dtype) -> None:
        super().__init__()
        widths = [num_inputs, *design.radial_mlp, num_weights]
        pairs = list(pairwise(widths))
        scaling = _SCALINGS[design.radial_scaling]
        self.activation = Activation(
            design.radial_activation, design.activation_constants if scaling.constant else "one"
        )
        self.scales = scaling.factors([a for a, _ in pairs])
        starts = scaling.starts([a for a, _ in pairs])
        self.weights = nn.ParameterList(
            [nn.Parameter(s * scaling.draw(a, b, dtype=dtype)) for s, (a, b) in zip(starts, pairs, strict=True)]
        )

    def forward(self, features: RadialFeatures, sender_species: Int[Tensor, " edge"]) -> Float[Tensor, "edge weights"]:
        """Returns R."""
        x, W = self._hidden(features)
        return (x @ W) * features.envelope

    def factors(self, features: RadialFeatures, sender_species: Int[Tensor, " edge"]) -> Factors:
        """Returns R as a product."""
        x, W = self._hidden(features)
        return Factors(x * features.envelope, W)

    def _hidden(self, features: RadialFeatures) -> tuple[Tensor, Tensor]:
        """The last hidden layer, and the matrix behind it."""
        x = features.basis
        *hidden, last = (W.to(x.dtype) * scale for W, scale in zip(self.weights, self.scales, strict=True))
        for W in hidden:
            x = self.activation(x @ W)
        return x, last


class RadialLayerNormMLP(nn.Module):
    r"""R = MLP(e) with biases and LayerNorm, times the envelope where e does not contain it.

    Biases do not vanish with e: with the envelope on the basis, as in mace-torch's default, R jumps at the cutoff.

    Args:
        design: The axes radial_mlp and radial_activation.
        num_inputs: Width of e, with embeddings of the elements where the design has them.
        num_weights: Columns of R.
        dtype: Type of the weights.
    """

    def __init__(self, design: Design, num_inputs: int, num_weights: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.mlp = LayerNormMLP([num_inputs, *design.radial_mlp, num_weights], design.radial_activation, dtype)

    def forward(self, features: RadialFeatures, sender_species: Int[Tensor, " edge"]) -> Float[Tensor, "edge weights"]:
        """Returns R."""
        return self.mlp(features.basis) * features.envelope

    def factors(self, features: RadialFeatures, sender_species: Int[Tensor, " edge"]) -> Factors:
        """Returns R as a product, the bias as the last row of W."""
        x, W, b = self.mlp.hidden(features.basis)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        return Factors(x * features.envelope, torch.cat([W, b.unsqueeze(0)]))


class RadialLinear(nn.Module):
    """R = e W / √n, the same for every element."""

    def __init__(self, design: Design, num_weights: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(design.num_radial, num_weights, dtype=dtype))

    def forward(self, features: RadialFeatures, sender_species: Int[Tensor, " edge"]) -> Float[Tensor, "edge weights"]:
        """Returns R."""
        return (features.basis @ self._scaled(features)) * features.envelope

    def factors(self, features: RadialFeatures, sender_species: Int[Tensor, " edge"]) -> Factors:
        """Returns R as a product."""
        return Factors(features.basis * features.envelope, self._scaled(features))

    def _scaled(self, features: RadialFeatures) -> Tensor:
        return self.weight.to(features.basis.dtype) / math.sqrt(self.weight.shape[0])


class RadialSpeciesLinear(nn.Module):
    r"""R_{e k} = Σ_n e_n(r) W_{z_j n k}: linear, with weights per element of the sender.

    Args:
        design: The axis num_radial.
        num_weights: Columns of R.
        num_species: Number of elements.
        dtype: Type of the weights, which start from the published uniform distribution.

    Source: BOTNet's element-dependent interaction (Batatia et al. 2025, released code).
    """

    def __init__(self, design: Design, num_weights: int, num_species: int, dtype: torch.dtype) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / ((design.num_radial + num_species) * num_weights))
        uniform = 2.0 * torch.rand(num_species, design.num_radial, num_weights, dtype=dtype) - 1.0
        self.weight = nn.Parameter(bound * uniform)

    def forward(self, features: RadialFeatures, sender_species: Int[Tensor, " edge"]) -> Float[Tensor, "edge weights"]:
        """Returns R."""
        per_species, W = self._per_species(features, sender_species)
        return (per_species @ W) * features.envelope

    def factors(self, features: RadialFeatures, sender_species: Int[Tensor, " edge"]) -> Factors:
        """Returns R as a product."""
        per_species, W = self._per_species(features, sender_species)
        return Factors(per_species * features.envelope, W)

    def _per_species(self, features: RadialFeatures, sender_species: Tensor) -> tuple[Tensor, Tensor]:
        """The basis functions in the columns of the sender's element, and the weights of all elements."""
        num_species = self.weight.shape[0]
        one_hot = torch.nn.functional.one_hot(sender_species, num_species).to(features.basis.dtype)
        per_species = (one_hot.unsqueeze(-1) * features.basis.unsqueeze(1)).flatten(1)
        return per_species, self.weight.to(per_species.dtype).flatten(0, 1)


class RadialFixed(nn.Module):
    """R_{p k} = e_{k mod n}: no weights; channel k sees one of the n basis functions, the same in every path p."""

    def __init__(self, design: Design, convolution: Convolution) -> None:
        super().__init__()
        channels = torch.cat([torch.arange(path.mul) for path in convolution.paths])
        self.register_buffer("index", channels % design.num_radial, persistent=False)

    index: Tensor

    def forward(self, features: RadialFeatures, sender_species: Int[Tensor, " edge"]) -> Float[Tensor, "edge weights"]:
        """Returns R."""
        return features.basis.index_select(1, self.index) * features.envelope

    def factors(self, features: RadialFeatures, sender_species: Int[Tensor, " edge"]) -> Factors:
        """Returns R as a product, with a matrix of zeros and ones."""
        basis = features.basis
        columns = torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device).index_select(1, self.index)
        return Factors(basis * features.envelope, columns)


RadialMap = RadialMLP | RadialLayerNormMLP | RadialLinear | RadialSpeciesLinear | RadialFixed


def radial_map(
    design: Design, convolution: Convolution, num_species: int, dtype: torch.dtype, *, num_inputs: int | None = None
) -> RadialMap:
    """Returns the map of this design, from so many inputs (default: the basis) to the weights of this convolution."""
    num_weights = convolution.num_weights
    mlp = RadialLayerNormMLP if design.radial_scaling == "layer_norm" else RadialMLP
    make: dict[str, Callable[[], RadialMap]] = {
        "mlp": lambda: mlp(design, num_inputs or design.num_radial, num_weights, dtype),
        "linear": lambda: RadialLinear(design, num_weights, dtype),
        "linear_species": lambda: RadialSpeciesLinear(design, num_weights, num_species, dtype),
        "fixed": lambda: RadialFixed(design, convolution),
    }
    return make[design.radial_map]()


def _unit_uniform(*shape: int, dtype: torch.dtype) -> Tensor:
    return math.sqrt(3.0) * (2.0 * torch.rand(*shape, dtype=dtype) - 1.0)


def _ones(inputs: list[int]) -> list[float]:
    return [1.0] * len(inputs)


_SCALINGS = {
    "e3nn": _Scaling(True, lambda inputs: [math.sqrt(1.0 / n) for n in inputs], _ones, torch.randn),
    "nequip": _Scaling(
        False,
        lambda inputs: [math.sqrt((2.0 if layer > 0 else 1.0) / n) for layer, n in enumerate(inputs)],
        _ones,
        _unit_uniform,
    ),
    "plain": _Scaling(
        False,
        _ones,
        lambda inputs: [math.sqrt((1.0 if layer == len(inputs) - 1 else 4.0) / n) for layer, n in enumerate(inputs)],
        torch.randn,
    ),
}
