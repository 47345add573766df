"""N: how pooled messages are normalised by the number of neighbours."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.basis import RadialFeatures
from equipot.design import Design
from equipot.geometry import pool
from equipot.interactions.pair_embedding import LayerNormMLP
from equipot.statistics import Statistics


class CountNormalisation(nn.Module):
    """A factor per element, 1/n̄^power, from the training set's mean number of neighbours.

    Args:
        counts: n̄ of each element; all equal for a global mean.
        power: 0 (none), 1/2 (NequIP) or 1 (BOTNet, MACE).
        dtype: Type of the factor.
    """

    def __init__(self, counts: tuple[float, ...], power: float, dtype: torch.dtype) -> None:
        super().__init__()
        n = torch.tensor(counts, dtype=torch.float64)
        factors = torch.where(n > 0, n, 1.0).pow(-power)
        self.register_buffer("factors", factors.to(dtype), persistent=False)

    factors: Tensor

    def density(self, radial: RadialFeatures) -> Float[Tensor, "point 0"]:
        """Returns nothing for each point: no function of the distance is needed."""
        return radial.envelope[:, :0]

    def forward(
        self, rho: Float[Tensor, "edge _"], receivers: Int[Tensor, " edge"], species: Int[Tensor, " node"]
    ) -> Float[Tensor, "node 1"]:
        """Returns the factor of each atom."""
        return self.factors.index_select(0, species).unsqueeze(-1)


class DensityNormalisation(nn.Module):
    r"""1 / (1 + Σ_j ρ_ij) with ρ_ij = tanh((e(r_ij) · w / √n)²) f(r_ij): the density of neighbours, learned.

    f is the envelope where e does not contain it already; without it atoms would cross the cutoff with a jump.

    Args:
        num_inputs: Number n of inputs, the radial basis functions (and embeddings of the elements).
        dtype: Type of the weights.

    Source: mace-torch, `RealAgnosticDensityInteractionBlock`.
    """

    def __init__(self, num_inputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_inputs, dtype=dtype))

    def density(self, radial: RadialFeatures) -> Float[Tensor, "point 1"]:
        """Returns ρ."""
        w = self.weight.to(radial.basis.dtype)
        rho = torch.tanh((radial.basis @ w / w.shape[0] ** 0.5) ** 2)
        return (rho * radial.envelope.squeeze(1)).unsqueeze(-1)

    def forward(
        self, rho: Float[Tensor, "edge 1"], receivers: Int[Tensor, " edge"], species: Int[Tensor, " node"]
    ) -> Float[Tensor, "node 1"]:
        """Returns the factor of each atom."""
        return (1.0 / (1.0 + pool(rho.squeeze(1), receivers, species.shape[0]))).unsqueeze(-1)


class DensityMLPNormalisation(nn.Module):
    r"""1 / (α + β Σ_j ρ_ij) with ρ_ij = tanh(MLP(e_ij)²) f(r_ij), one hidden layer; f as for `DensityNormalisation`.

    α starts at 20, about the number of neighbours, and β at 0, as published.

    Args:
        num_inputs: Width of e, with embeddings of the elements where the design has them.
        dtype: Type of the weights.

    Source: mace-torch, `RealAgnosticResidualNonLinearInteractionBlock`.
    """

    hidden = 64

    def __init__(self, num_inputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.mlp = LayerNormMLP([num_inputs, self.hidden, 1], "silu", dtype)
        self.alpha = nn.Parameter(torch.tensor(20.0, dtype=dtype))
        self.beta = nn.Parameter(torch.tensor(0.0, dtype=dtype))

    def density(self, radial: RadialFeatures) -> Float[Tensor, "point 1"]:
        """Returns ρ."""
        return torch.tanh(self.mlp(radial.basis) ** 2) * radial.envelope

    def forward(
        self, rho: Float[Tensor, "edge 1"], receivers: Int[Tensor, " edge"], species: Int[Tensor, " node"]
    ) -> Float[Tensor, "node 1"]:
        """Returns the factor of each atom."""
        return 1.0 / (self.alpha + self.beta * pool(rho, receivers, species.shape[0]))


Normalisation = CountNormalisation | DensityNormalisation | DensityMLPNormalisation


def normalisations(
    design: Design, statistics: Statistics, num_inputs: int, dtype: torch.dtype
) -> tuple[nn.Module, Normalisation]:
    """Returns the factors on senders' features and on pooled messages; one of them is 1."""
    num_species = len(statistics.species)
    one = CountNormalisation((1.0,) * num_species, 0.0, dtype)
    if design.neighbour_normalisation == "density":
        return one, DensityNormalisation(num_inputs, dtype)
    if design.neighbour_normalisation == "density_mlp":
        return one, DensityMLPNormalisation(num_inputs, dtype)
    power = {"none": 0.0, "sqrt": 0.5, "mean": 1.0}[design.neighbour_normalisation]
    if design.neighbour_count == "global":
        return one, CountNormalisation((statistics.mean_neighbours,) * num_species, power, dtype)
    per_species = CountNormalisation(statistics.mean_neighbours_per_species, power, dtype)
    return (per_species, one) if design.neighbour_count == "per_sender" else (one, per_species)
