"""The interaction layer, once for every point of the design space."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.design import Design
from equipot.interactions.gate import SCALAR, Gate
from equipot.interactions.linear import (
    Absent,
    EmbeddingLinear,
    IndexedLinear,
    Linear,
    NoResidual,
    PlainLinear,
    Residual,
    SpeciesLinear,
    Unchanged,
)
from equipot.interactions.norm import LayerNorm, RMSNorm
from equipot.interactions.normalise import normalisations
from equipot.interactions.pair_embedding import pair_embedding, radial_inputs
from equipot.interactions.plan import LayerPlan, embedding_width
from equipot.interactions.product import NoProduct, ProductBasis
from equipot.interactions.radial_map import radial_map
from equipot.interactions.radial_points import Radial, RadialPoints
from equipot.kernels.operations import ConvolutionOperation, EdgeIndex
from equipot.kernels.reference import SpeciesGroups
from equipot.o3 import Irreps
from equipot.statistics import Statistics


class Edges(NamedTuple):
    """Edges j → i and their functions, the same for every layer."""

    ends: EdgeIndex
    Y: Float[Tensor, "edge lm"]
    radial: Radial


class Elements(NamedTuple):
    """The elements of the atoms: of all, of the owned ones (receivers), and their embedding vectors."""

    species: Int[Tensor, " node"]
    owned: SpeciesGroups
    embedding: Float[Tensor, "species feature"]

    @property
    def num_owned(self) -> int:
        """Number of owned atoms; they come first."""
        return self.owned.species.shape[0]


class Interaction(nn.Module):
    r"""One layer of multi-layer ACE.

        a_i  = Σ_{j∈N(i)} R(r_ij) [ Y(r̂_ij) ⊗ U h_j ]      `up`, `radial`, `convolution`
        m_i  = N · P_{z_i} W a_i                             `mix` (W), `species_weights` (P), `normalise` (N)
        A_i  = V γ( m_i + Q U h_i )                          `message_residual` (Q), `message_nonlinearity` (γ),
                                                             `message_mix` (V)
        B_i  = Σ_ν w^(ν)_{z_i} [ A_i^{⊗ν} ]_sym              `product`
        h'_i = σ( D B_i + S_{z_i} h_i )                      `down` (D), `self_connection` (S), `nonlinearity` (σ)

    Every published architecture is this layer with other values of the axes; what a point lacks is a module
    that does nothing (`NoPairEmbedding`, `Unchanged`, `NoResidual`, `NoProduct`, `Absent`, `torch.nn.Identity`).

    Args:
        design: The axes; those of this layer are `design.of_layer(plan.index)`.
        plan: Irreps of this layer.
        statistics: Elements and mean numbers of neighbours.
        dtype: Type of weights and features.

    Source: Batatia et al. 2025, Eqs. for A, B and the update; exact conventions per point in docs/design_space.md.
    """

    def __init__(self, design: Design, plan: LayerPlan, statistics: Statistics, dtype: torch.dtype) -> None:
        super().__init__()
        num_species, channels = len(statistics.species), plan.h.count(SCALAR)
        design, num_inputs = design.of_layer(plan.index), radial_inputs(design.of_layer(plan.index), channels)
        self.plan = plan
        self.pair_embedding = pair_embedding(design, num_species, channels, dtype)
        self.up = Linear(plan.h, plan.up, dtype)
        self.radial = radial_map(design, plan.convolution, num_species, dtype, num_inputs=num_inputs)
        self.convolution = ConvolutionOperation(plan.convolution, dtype)
        self.mix = Linear(plan.convolution.irreps_out, plan.message, dtype)
        self.species_weights = _species_weights(design, plan, num_species, dtype)
        self.normalise_senders, self.normalise = normalisations(design, statistics, num_inputs, dtype)
        self.message_residual = Residual(plan.up, plan.message, dtype) if design.message_residual else NoResidual()
        self.message_nonlinearity, self.message_mix = _message_update(design, plan, dtype)
        self.product, self.down = _product(design, plan, num_species, dtype)
        self.self_connection = _self_connection(design, plan, num_species, dtype)
        self.norm_update = LayerNorm(plan.update, dtype) if design.feature_norm == "layer" else _SAME
        self.nonlinearity = _nonlinearity(design, plan, dtype)
        self.norm = RMSNorm(plan.out, dtype) if design.feature_norm == "rms" else _SAME

    def forward(
        self, h: Float[Tensor, "node dim_in"], edges: Edges, elements: Elements
    ) -> Float[Tensor, "owned dim_out"]:
        """Returns the features h' of the owned atoms."""
        R, rho = edges.radial(self)
        h_up = self.up(h)
        a = self.convolution(
            h_up * self.normalise_senders(rho, edges.ends.receivers, elements.species),
            edges.Y, R, edges.ends,
        )  # fmt: skip
        N = self.normalise(rho, edges.ends.receivers, elements.owned.species)
        m = self.species_weights(N * self.mix(a), elements.owned, elements.embedding)
        A = self.message_mix(self.message_nonlinearity(self.message_residual(m, h_up[: elements.num_owned])))
        B = self.product(A, elements.owned)
        S_h = self.self_connection(h[: elements.num_owned], elements.owned, elements.embedding)
        return self.norm(self.nonlinearity(self.norm_update(self.down(B) + S_h)))

    def radial_functions(self, points: RadialPoints) -> tuple[Float[Tensor, "point weights"], Float[Tensor, "point _"]]:
        """Returns all that the layer takes from distances: R, and ρ of N, which has no column where N needs none."""
        e = self.pair_embedding(points.features, points.sender_species, points.receiver_species)
        return self.radial(e, points.sender_species), self.normalise.density(e)

    def radial_factors(self, points: RadialPoints) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, None]]:
        """Returns the same as products of functions and matrices, None where the functions are all."""
        e = self.pair_embedding(points.features, points.sender_species, points.receiver_species)
        return self.radial.factors(e, points.sender_species), (self.normalise.density(e), None)

    def radial_weights(self) -> list[Tensor]:
        """Returns the weights in these functions."""
        return [w for part in (self.pair_embedding, self.radial, self.normalise) for w in part.parameters()]


_SAME = nn.Identity()


def _nonlinearity(design: Design, plan: LayerPlan, dtype: torch.dtype) -> nn.Module:
    gated = design.nonlinearity == "gate"
    return Gate(plan.out, design.gate_activation, design.activation_constants, dtype) if gated else _SAME


def _species_weights(design: Design, plan: LayerPlan, num_species: int, dtype: torch.dtype) -> nn.Module:
    present = design.message_species == "all" or (design.message_species == "first" and plan.index == 0)
    return SpeciesLinear(plan.message, plan.message, num_species, dtype) if present else Unchanged()


def _message_update(design: Design, plan: LayerPlan, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """γ and V: the gate and the linear map behind it, or nothing."""
    if design.message_nonlinearity == "none":
        return _SAME, _SAME
    gate = Gate(plan.A, design.gate_activation, design.activation_constants, dtype, gates="sigmoid")
    return gate, Linear(plan.A, plan.A, dtype)


def _product(design: Design, plan: LayerPlan, num_species: int, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    if plan.product is None:
        return NoProduct(), nn.Identity()
    shared = 1 if design.product_weights == "shared" else num_species
    product = ProductBasis(plan.product, design.channels_per_degree[0], shared, dtype)
    return product, Linear(product.irreps_out, plan.update, dtype)


def _self_connection(design: Design, plan: LayerPlan, num_species: int, dtype: torch.dtype) -> nn.Module:
    if plan.index == 0 and not design.self_connection_first:
        return Absent()
    irreps: tuple[Irreps, Irreps] = (plan.h, plan.update)
    make: dict[str, Callable[[], nn.Module]] = {
        "none": Absent,
        "plain": lambda: PlainLinear(*irreps, dtype),
        "species": lambda: SpeciesLinear(*irreps, num_species, dtype),
        "indexed": lambda: IndexedLinear(*irreps, num_species, dtype),
        "embedding": lambda: EmbeddingLinear(*irreps, embedding_width(design, num_species), dtype),
    }
    return make[design.self_connection]()
