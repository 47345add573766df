"""The interaction layer, once for every point of the design space."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.basis import RadialFeatures
from equipot.design import Design
from equipot.interactions.gate import Gate
from equipot.interactions.linear import (
    Absent,
    EmbeddingLinear,
    IndexedLinear,
    Linear,
    PlainLinear,
    SpeciesLinear,
    Unchanged,
)
from equipot.interactions.norm import LayerNorm, RMSNorm
from equipot.interactions.normalise import normalisations
from equipot.interactions.plan import LayerPlan, embedding_width
from equipot.interactions.product import NoProduct, ProductBasis
from equipot.interactions.radial_map import radial_map
from equipot.kernels.reference import ReferenceConvolution, SpeciesGroups
from equipot.o3 import Irreps
from equipot.statistics import Statistics


class Edges(NamedTuple):
    """Edges j → i and their functions, the same for every layer."""

    senders: Int[Tensor, " edge"]
    receivers: Int[Tensor, " edge"]
    sender_species: Int[Tensor, " edge"]
    Y: Float[Tensor, "edge lm"]
    radial: RadialFeatures


class Elements(NamedTuple):
    """The elements of the atoms: of all, of the owned ones (receivers), and their embedding vectors."""

    species: Int[Tensor, " node"]
    owned: SpeciesGroups
    embedding: Float[Tensor, "species feature"]


class Interaction(nn.Module):
    r"""One layer of multi-layer ACE.

        a_i  = Σ_{j∈N(i)} R(r_ij) [ Y(r̂_ij) ⊗ U h_j ]      `up`, `radial`, `convolution`
        A_i  = N · P_{z_i} W a_i                             `mix` (W), `species_weights` (P), `normalise` (N)
        B_i  = Σ_ν w^(ν)_{z_i} [ A_i^{⊗ν} ]_sym              `product`
        h'_i = σ( D B_i + S_{z_i} h_i )                      `down` (D), `self_connection` (S), `nonlinearity` (σ)

    Every published architecture is this layer with other values of the axes; what a point lacks is a module
    that does nothing (`Unchanged`, `Absent`, `NoProduct`, `torch.nn.Identity`).

    Args:
        design: The axes.
        plan: Irreps of this layer.
        statistics: Elements and mean numbers of neighbours.
        dtype: Type of weights and features.

    Source: Batatia et al. 2025, Eqs. for A, B and the update; exact conventions per point in docs/design_space.md.
    """

    def __init__(self, design: Design, plan: LayerPlan, statistics: Statistics, dtype: torch.dtype) -> None:
        super().__init__()
        num_species = len(statistics.species)
        self.plan = plan
        self.up = Linear(plan.h, plan.h, dtype)
        self.radial = radial_map(design, plan.convolution, num_species, dtype)
        self.convolution = ReferenceConvolution(plan.convolution, dtype)
        self.mix = Linear(plan.convolution.irreps_out, plan.A, dtype)
        self.species_weights = _species_weights(design, plan, num_species, dtype)
        self.normalise_senders, self.normalise = normalisations(design, statistics, dtype)
        self.product, self.down = _product(design, plan, num_species, dtype)
        self.self_connection = _self_connection(design, plan, num_species, dtype)
        self.norm_update = LayerNorm(plan.update, dtype) if design.feature_norm == "layer" else _SAME
        self.nonlinearity = _nonlinearity(design, plan)
        self.norm = RMSNorm(plan.out, dtype) if design.feature_norm == "rms" else _SAME

    def forward(
        self, h: Float[Tensor, "node dim_in"], edges: Edges, elements: Elements
    ) -> Float[Tensor, "owned dim_out"]:
        """Returns the features h' of the owned atoms."""
        num_owned = elements.owned.species.shape[0]
        R = self.radial(edges.radial, edges.sender_species)
        h_up = self.up(h) * self.normalise_senders(edges.radial, edges.receivers, elements.species)
        a = self.convolution(h_up, edges.Y, R, edges.senders, edges.receivers, num_owned)
        N = self.normalise(edges.radial, edges.receivers, elements.owned.species)
        A = self.species_weights(N * self.mix(a), elements.owned, elements.embedding)
        B = self.product(A, elements.owned)
        S_h = self.self_connection(h[:num_owned], elements.owned, elements.embedding)
        return self.norm(self.nonlinearity(self.norm_update(self.down(B) + S_h)))


_SAME = nn.Identity()


def _nonlinearity(design: Design, plan: LayerPlan) -> nn.Module:
    gated = design.nonlinearity == "gate"
    return Gate(plan.out, design.gate_activation, design.activation_constants) if gated else _SAME


def _species_weights(design: Design, plan: LayerPlan, num_species: int, dtype: torch.dtype) -> nn.Module:
    present = design.message_species == "all" or (design.message_species == "first" and plan.index == 0)
    return SpeciesLinear(plan.A, plan.A, num_species, dtype) if present else Unchanged()


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
