"""The layer of linear ACE: coupled channels, every factor of a product with its own n, ℓ and element."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.design import Design
from equipot.geometry import pool
from equipot.interactions.layer import Edges, Elements
from equipot.interactions.radial_points import RadialPoints
from equipot.kernels.coupled import CoupledProduct
from equipot.kernels.coupled_operations import AtomicBasisOperation, CoupledEnergyOperation
from equipot.kernels.operations import Splined
from equipot.o3 import Irreps
from equipot.statistics import Statistics


@dataclass(frozen=True)
class CoupledPlan:
    """What the layer of linear ACE makes.

    Attributes:
        index: 0: it is the first and only layer.
        h: Irreps of the features that come in, the one-hot elements; only the elements themselves are used.
        out: Irreps of the features that go out: one scalar, the energy.
        product: The basis.
        num_pair: Two-body functions of each pair of elements.
    """

    index: int
    h: Irreps
    out: Irreps
    product: CoupledProduct
    num_pair: int


def plan_coupled(design: Design, statistics: Statistics) -> CoupledPlan:
    """Returns the plan of the one layer of a coupled design.

    Args:
        design: The axes.
        statistics: Elements; their fractions in the training set, which `degree_rarity` makes costs of, and their
            bonds, of which `terminal_correlation` makes use.
    """
    num_species = len(statistics.species)
    product = CoupledProduct(
        num_species, design.max_ell, design.num_radial, design.degrees, design.degree_weight_ell,
        _costs(design.degree_rarity, statistics.species_fractions),
        _orders(design.terminal_correlation, design.correlation, statistics.mean_bonds),
    )  # fmt: skip
    return CoupledPlan(0, Irreps([(num_species, "0e")]), Irreps("1x0e"), product, int(design.degrees[0]))


def _costs(rarity: float, fractions: Sequence[float]) -> tuple[float, ...]:
    """κ log₂(1 / x_z) of elements that occur; those that do not are as rare as the rarest."""
    present = [x for x in fractions if x > 0]
    if rarity == 0 or not present:
        return ()
    return tuple(rarity * math.log2(1.0 / (x if x > 0 else min(present))) for x in fractions)


def _orders(terminal: int | None, correlation: int, bonds: Sequence[float]) -> tuple[int, ...]:
    """Highest orders of centres, where some elements are terminal but not all."""
    ends = [0 < number <= _TERMINAL for number in bonds]
    if terminal is None or terminal >= correlation or not any(ends) or all(ends):
        return ()
    return tuple(terminal if end else correlation for end in ends)


_TERMINAL = 1.25
"""Most bonds of a terminal element, on average."""


class CoupledInteraction(nn.Module):
    r"""Linear ACE.

        A_i[z, lm, n] = Σ_{j: z_j = z} R_n^{z_i z_j}(r_ij) Y_lm(r̂_ij)                         `atomic_basis`
        ε_i = ½ Σ_j Σ_n v[{z_i z_j}, n] P_n(r_ij) + Σ_f w[z_i, f] B_f(A_i)                     `pair_energy`, `energy`

    B_f are the orthonormal invariants of `CoupledProduct`; R_n have a cutoff and an inner envelope of their
    own. The energy is linear in v and w.

    Args:
        design: The axes.
        plan: The basis.
        statistics: Elements.
        dtype: Type of weights and basis. Weights start from N(0, 1/F).

    Source: Drautz, Phys. Rev. B 99, 014104 (2019); Dusson et al., J. Comput. Phys. 454, 110946 (2022).
    """

    pair_of: Tensor

    def __init__(self, design: Design, plan: CoupledPlan, statistics: Statistics, dtype: torch.dtype) -> None:
        super().__init__()
        num_species, num_functions = len(statistics.species), int(plan.product.active.sum())
        self.plan = plan
        self.atomic_basis = AtomicBasisOperation(plan.product, dtype)
        self.energy = CoupledEnergyOperation(plan.product, dtype)
        first, second = torch.triu_indices(num_species, num_species)
        pair_of = torch.zeros(num_species, num_species, dtype=torch.int64)
        pair_of[first, second] = pair_of[second, first] = torch.arange(len(first))
        self.register_buffer("pair_of", pair_of, persistent=False)
        scale = math.sqrt(num_species / max(1, num_functions))
        self.weights = nn.Parameter(scale * torch.randn(num_functions, dtype=dtype))
        self.pair_weights = nn.Parameter(scale * torch.randn(len(first), plan.num_pair, dtype=dtype))

    def forward(self, h: Float[Tensor, "node dim_in"], edges: Edges, elements: Elements) -> Float[Tensor, "owned one"]:
        """Returns ε of the owned atoms."""
        A, P = self.one_particle(edges, elements)
        return (self.energy(A, self.weights, elements.owned) + self.pair_energy(P, edges, elements)).unsqueeze(1)

    def one_particle(
        self, edges: Edges, elements: Elements
    ) -> tuple[Float[Tensor, "owned zlmn"], Float[Tensor, "edge pair_radial"]]:
        """Returns A of the owned atoms, and the two-body functions P of the edges."""
        R, P = (x.values() if isinstance(x, Splined) else x for x in edges.radial(self))
        z_j = elements.species.index_select(0, edges.ends.senders)
        return self.atomic_basis(R, edges.Y, z_j, edges.ends), P

    def pair_energy(
        self, P: Float[Tensor, "edge pair_radial"], edges: Edges, elements: Elements
    ) -> Float[Tensor, " owned"]:
        """Returns half of the two-body energy of each atom's edges."""
        v = self.pair_weights.index_select(0, self.pairs(edges, elements))
        return pool((0.5 * P * v).sum(dim=1), edges.ends.receivers, elements.num_owned)

    def pairs(self, edges: Edges, elements: Elements) -> Tensor:
        """Returns the index of each edge's pair of elements."""
        z_j, z_i = (elements.species.index_select(0, end) for end in (edges.ends.senders, edges.ends.receivers))
        return self.pair_of[z_i, z_j]

    def radial_functions(self, points: RadialPoints) -> tuple[Float[Tensor, "point radial"], Float[Tensor, "point _"]]:
        """Returns R of the products, and P of the pairs."""
        basis, _, pair = points.features
        return basis[:, : self.plan.product.num_radial], (basis if pair is None else pair)[:, : self.plan.num_pair]

    def radial_factors(self, points: RadialPoints) -> tuple[tuple[Tensor, None], tuple[Tensor, None]]:
        """Returns the same as products of functions and matrices: the functions are all."""
        R, P = self.radial_functions(points)
        return (R, None), (P, None)

    def radial_weights(self) -> list[Tensor]:
        """Returns the weights in these functions: there are none."""
        return []
