"""Linear ACE as a linear model: rows of its design matrix for energies, forces and stress."""

import copy
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.errors import EquipotError
from equipot.geometry import VOIGT, Graph, Prediction, evaluate, pool
from equipot.interactions import CoupledInteraction
from equipot.interactions.radial_points import RadialPoints
from equipot.kernels.coupled_rows import Atoms, CoupledRows, CoupledRowsOperation, EdgeBasis, harmonics_with_gradient
from equipot.kernels.operations import edge_index, follow_backend
from equipot.models.linear_features import Rows
from equipot.models.potential import Potential

_ATOMS = 1024
"""Of more atoms the derivatives of radial functions and harmonics would need memory that a fit does not know of."""
SMOOTHNESS = 2.0
"""Power of n and ℓ in the prior."""


class _Edges(NamedTuple):
    """A batch as the rows need it.

    Attributes:
        basis: R, Y and their derivatives.
        P: Two-body functions.
        dP: Their derivatives by the distance, 1/Å.
        atoms: Who and where.
    """

    basis: EdgeBasis
    P: Float[Tensor, "edge pair_radial"]
    dP: Float[Tensor, "edge pair_radial"]
    atoms: Atoms


class CoupledFeatures:
    r"""A potential of coupled channels as a linear model in all its weights.

    The columns are those of the functions, element of the centre outermost, then those of pairs. The prior holds rough
    functions at zero more strongly than smooth ones:

        Γ = Σ_t n_t^p + (w ℓ_t)^p,   p = 2

    Args:
        potential: With coupled channels.

    Raises:
        EquipotError: Its channels are not coupled.

    Source: smoothness priors of linear ACE: Witt et al., J. Chem. Phys. 159, 164101 (2023).
    """

    def __init__(self, potential: Potential) -> None:
        layer = potential.layers[0]
        if not isinstance(layer, CoupledInteraction):
            raise EquipotError(
                "these are the columns of coupled channels (`ace_linear`), and the channels of this potential are "
                f"{potential.design.channel_coupling}; `linear_features` takes the last weights of such potentials."
            )
        self.potential, self.layer = potential, layer
        product = layer.plan.product
        active = torch.from_numpy(product.active)
        columns = torch.full(active.shape, -1)
        columns[active] = torch.arange(int(active.sum()))
        self.operation = CoupledRowsOperation(product, columns).to(layer.weights.device)
        follow_backend(self.operation, potential)
        self.num_functions = layer.weights.numel()
        self.num_columns = self.num_functions + layer.pair_weights.numel()
        self.atoms_at_once = _ATOMS
        self.penalties, self.orders = _prior(layer, potential.design.degree_weight_ell)
        self._basis = copy.deepcopy(potential.radial_basis)
        self._basis.dtype = torch.float64
        self._rest = copy.deepcopy(potential)
        rest = self._rest.layers[0]
        for w in rest.parameters():
            nn.init.zeros_(w)

    def rows(self, graph: Graph, *, forces: bool = True, stress: bool = True) -> Rows:
        """Returns the rows of a batch; what is not wanted has none."""
        edges, P = self._edges(graph), self.num_columns
        energy = torch.zeros(graph.num_systems, P, dtype=torch.float64)
        out = CoupledRows(
            energy,
            torch.zeros(graph.num_nodes, 3, P, dtype=torch.float64) if forces else None,
            torch.zeros(graph.num_systems, 6, P, dtype=torch.float64) if stress else None,
        )
        self.operation(edges.basis, edges.atoms, out)
        self._add_pairs(edges, out)
        nothing = torch.zeros(0, P, dtype=torch.float64)
        by_stress = nothing
        if out.virial is not None:
            volume = graph.volumes()
            volume = torch.where(graph.pbc.all(dim=1) & (volume > 0), volume, torch.nan)
            by_stress = (out.virial / volume[:, None, None]).flatten(0, 1)
        return Rows(energy, nothing if out.forces is None else out.forces.flatten(0, 1), by_stress)

    def node_rows(self, graph: Graph) -> Float[Tensor, "owned weight"]:
        """Returns the derivative of each atom's energy with respect to each weight."""
        edges = self._edges(graph)
        rows = self.operation.node_rows(edges.basis, edges.atoms, self.num_columns)
        by_pair = self._by_pair(0.5 * edges.P, edges.atoms.edges.receivers, graph.num_owned, edges.atoms)
        rows[:, self.num_functions :] = by_pair
        return rows

    def offset(self, graph: Graph) -> Prediction:
        """Returns the part of the prediction that does not depend on the weights."""
        return evaluate(self._rest, graph)

    def prediction(self, graph: Graph) -> Prediction:
        """Returns the whole prediction, with the present weights."""
        return evaluate(self.potential, graph)

    def weights(self) -> Float[Tensor, " weight"]:
        """Returns the weights, float64."""
        return torch.cat([w.detach().double().flatten() for w in (self.layer.weights, self.layer.pair_weights)])

    def set_weights(self, weights: Float[Tensor, " weight"]) -> None:
        """Writes new weights into the potential."""
        functions, pairs = weights.split([self.num_functions, self.num_columns - self.num_functions])
        with torch.no_grad():
            self.layer.weights.copy_(functions.view_as(self.layer.weights))
            self.layer.pair_weights.copy_(pairs.view_as(self.layer.pair_weights))

    @torch.no_grad()
    def _edges(self, graph: Graph) -> _Edges:
        potential = self.potential
        vectors = graph.vectors()
        species = potential.species(graph.atomic_numbers)
        z_j, z_i = (species.index_select(0, end) for end in (graph.senders, graph.receivers))
        Z_j, Z_i = (graph.atomic_numbers.index_select(0, end) for end in (graph.senders, graph.receivers))

        def radial(r: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer.radial_functions(RadialPoints(self._basis.in_float64(r, Z_j, Z_i), z_j, z_i))

        lengths = torch.linalg.vector_norm(vectors, dim=1)
        both = torch.func.jvp(radial, (lengths,), (torch.ones_like(lengths),))
        (R, P), (dR, dP) = both[0], both[1]
        sign = -1.0 if potential.design.edge_vector == "to_receiver" else 1.0
        Y, dY = harmonics_with_gradient(vectors, potential.design.max_ell, sign)
        ends = edge_index(graph.senders, graph.receivers, graph.num_owned)
        basis = EdgeBasis(vectors, R.contiguous(), dR.contiguous(), Y, dY.contiguous())
        return _Edges(basis, P, dP, Atoms(ends, species, graph.system, graph.num_systems))

    def _add_pairs(self, edges: _Edges, out: CoupledRows) -> None:
        """Adds the rows of two-body functions."""
        atoms, first = edges.atoms, self.num_functions
        i, j = atoms.edges.receivers, atoms.edges.senders
        system = atoms.system.index_select(0, i)
        vectors = edges.basis.vectors
        slope = 0.5 * edges.dP / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        if out.energy is not None:
            out.energy[:, first:] += self._by_pair(0.5 * edges.P, system, atoms.num_systems, atoms)
        if out.forces is not None:
            for c in range(3):
                g, nodes = slope * vectors[:, c : c + 1], out.forces.shape[0]
                out.forces[:, c, first:] += self._by_pair(g, i, nodes, atoms) - self._by_pair(g, j, nodes, atoms)
        if out.virial is not None:
            for v, (a, b) in enumerate(VOIGT):
                strained = slope * (vectors[:, a] * vectors[:, b]).unsqueeze(1)
                out.virial[:, v, first:] += self._by_pair(strained, system, atoms.num_systems, atoms)

    def _by_pair(self, values: Tensor, index: Tensor, size: int, atoms: Atoms) -> Float[Tensor, "row pair_weight"]:
        """Sums over edges, into the columns of each edge's pair of elements."""
        num_pairs, width = self.layer.pair_weights.shape
        pair = self.layer.pair_of[atoms.species[atoms.edges.receivers], atoms.species[atoms.edges.senders]]
        return pool(values, index * num_pairs + pair, size * num_pairs).view(size, num_pairs * width)


def _prior(layer: CoupledInteraction, weight: float) -> tuple[Tensor, Tensor]:
    """Γ and ν of each column."""
    product = layer.plan.product
    rough = [sum(n**SMOOTHNESS + (weight * ell) ** SMOOTHNESS for _, n, ell in f.factors) for f in product.functions]
    of = torch.from_numpy(product.active).nonzero()[:, 1]
    pairs = torch.arange(1, layer.plan.num_pair + 1).double().pow(SMOOTHNESS).repeat(len(layer.pair_weights))
    penalties = torch.cat([torch.tensor(rough, dtype=torch.float64)[of], pairs])
    orders = torch.tensor([f.order for f in product.functions], dtype=torch.int64)[of]
    return penalties, torch.cat([orders, torch.ones(len(pairs), dtype=torch.int64)])
