"""How far the surroundings of an atom are from those of the training atoms of its element."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

MOST_DIRECTIONS = 512
"""Of the features of one element's atoms, however many features and atoms there are."""
ATOMS_PER_DIRECTION = 8
"""Training atoms for each direction: with fewer, new atoms quite like them lie outside their ellipsoid."""
LEAST_DIRECTIONS = 8
TERMS = 8
"""Directions that each feature adds to."""
RIDGE = 1e-6
"""Of the mean square of ψ: what is added to every principal moment of the training atoms."""


class Extrapolation(nn.Module):
    r"""Leverage of an atom's features among those of the training atoms of its element: the grade of extrapolation.

        g_i² = ψ_i (Ψ_zᵀ Ψ_z / n_z + ε)⁻¹ ψ_iᵀ / max_j,   ψ_i = (1, s_z φ_i P_z),   z = z_i

    | symbol | meaning |
    |---|---|
    | φ_i | derivatives of the atom's energy by all fitted weights |
    | s_z | for each feature one over its root mean square over training atoms of z |
    | P_z | sparse random signs: at most 512 directions, at least 8, no more than one for every 8 training atoms |
    | Ψ_z | ψ of the n_z training atoms of z |
    | ε | 10⁻⁶ of the mean square of Ψ_z |
    | max_j | the largest value of a training atom of z |

    The ellipsoid is that of the training atoms' second moments, about their mean because of the constant 1: a
    Mahalanobis distance, scaled such that the farthest training atom is on it. All training atoms have g ≤ 1; above 1
    an atom is farther out than all of them, also one whose features vanish because it is alone. The measure
    does not depend on labels or on fitted weights. Features that no training atom of the element has, such as
    neighbours of a new element, count as very far. An element without training atoms has g = ∞.

    Args:
        draws: Random integers, TERMS for each feature, that choose P_z.
        scale: s_z; 0 for elements without training atoms.
        directions: Number of columns of P_z.
        metric: W with ψ (ΨᵀΨ/n + ε)⁻¹ ψᵀ = ‖ψ W‖², padded with zeros, float32.
        limits: √ max_j with this W.

    Source: leverage as a criterion of extrapolation, there as D-optimality by MaxVol: Podryabinkin and Shapeev,
    Comput. Mater. Sci. 140, 171 (2017); of linear ACE, by element of the centre: Lysogorskiy, Bochkarev, Mrovec and
    Drautz, Phys. Rev. Mater. 7, 043801 (2023). Sparse random projection: Kane and Nelson, J. ACM 61, 4 (2014).
    """

    draws: Tensor
    scale: Tensor
    directions: Tensor
    metric: Tensor
    limits: Tensor

    def __init__(
        self,
        draws: Int[Tensor, "weight term"],
        scale: Float[Tensor, "species weight"],
        directions: Int[Tensor, " species"],
        metric: Float[Tensor, "species direction direction"],
        limits: Float[Tensor, " species"],
    ) -> None:
        super().__init__()
        self.register_buffer("draws", draws.int())
        self.register_buffer("scale", scale.float())
        self.register_buffer("directions", directions.long())
        self.register_buffer("metric", metric.float())
        self.register_buffer("limits", limits.double())

    @torch.no_grad()
    def forward(self, rows: Float[Tensor, "atom weight"], species: Int[Tensor, " atom"]) -> Float[Tensor, " atom"]:
        """Returns g of atoms.

        Args:
            rows: φ of each atom.
            species: Index of each atom's element.
        """
        grades = rows.new_full((len(rows),), torch.inf)
        for z in species.unique().tolist():
            if self.limits[z] > 0:
                own = species == z
                grades[own] = self.leverages(rows[own], z) / self.limits[z]
        return grades

    def projected(self, rows: Float[Tensor, "atom weight"], z: int) -> Float[Tensor, "atom direction"]:
        """Returns ψ of atoms that are all of one element.

        Args:
            rows: φ of each atom.
            z: Index of the element.
        """
        columns, D = rows.shape[1], int(self.directions[z])
        feature = torch.arange(columns, device=rows.device)[:, None].expand_as(self.draws)
        places = torch.stack([(self.draws >> 1).long() % D, feature]).flatten(1)
        signs = (2.0 * (self.draws & 1) - 1.0).to(rows.dtype) * self.scale[z, :, None] / TERMS**0.5
        P = torch.sparse_coo_tensor(places, signs.flatten(), (D, columns), check_invariants=False)
        return torch.cat([rows.new_ones(len(rows), 1), (P @ rows.T).T], dim=1)

    def leverages(self, rows: Float[Tensor, "atom weight"], z: int) -> Float[Tensor, " atom"]:
        """Returns ‖ψ W‖ of atoms that are all of one element.

        Args:
            rows: φ of each atom.
            z: Index of the element.
        """
        size = int(self.directions[z]) + 1
        W = self.metric[z, :size, :size].to(rows.dtype)
        return torch.linalg.vector_norm(self.projected(rows, z) @ W, dim=1)
