"""The last linear weights of any potential: its energy is linear in them, whatever lies before."""

import copy
from collections.abc import Iterator
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.errors import EquipotError
from equipot.geometry import Graph, Prediction, evaluate, pool, voigt
from equipot.geometry.derivatives import from_edge_gradient
from equipot.models.linear_features import Rows
from equipot.models.potential import Potential
from equipot.models.readout import Readout

_ATOMS = 512
"""Of more atoms the features and their derivatives would need memory that a fit does not know of."""


class LastLayer:
    r"""A potential as a linear model in the last weights of its readouts, everything before them fixed.

        ∂E_i/∂w_k = scale_{z_i} x_{ik},   x the inputs of the readouts' last linear maps

    Forces take one derivative with respect to the edge vectors for each weight.

    Args:
        potential: Any potential with readouts that have weights; best in float64.

    Raises:
        EquipotError: Its readouts have no weights.

    Source: last-layer features: Bigi et al., Mach. Learn.: Sci. Technol. 5, 045018 (2024).
    """

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.parameters = [w for weights in _last_weights(potential) for w in weights]
        self.num_columns = sum(w.numel() for w in self.parameters)
        if self.num_columns == 0:
            raise EquipotError(
                f"readout={potential.design.readout!r} has no weights of its own: there is nothing to refit. "
                "Take a model with another readout, or fit all weights of a linear ACE (design.name=ace_linear)."
            )
        counts = [sum(w.numel() for w in weights) for weights in _last_weights(potential)]
        self.penalties = torch.ones(self.num_columns, dtype=torch.float64)
        self.orders = torch.arange(1, len(counts) + 1).repeat_interleave(torch.tensor(counts))
        self.atoms_at_once = _ATOMS
        self._rest = copy.deepcopy(potential)
        for w in (w for weights in _last_weights(self._rest) for w in weights):
            nn.init.zeros_(w)

    def node_rows(self, graph: Graph) -> Float[Tensor, "owned weight"]:
        """Returns the derivative of each atom's energy with respect to each weight."""
        with torch.no_grad():
            return self._node_rows(graph, graph.vectors())

    def rows(self, graph: Graph, *, forces: bool = True, stress: bool = True) -> Rows:
        """Returns the rows of a batch; what is not wanted has none."""
        if not forces and not stress:
            x = self.node_rows(graph)
            return Rows(_by_system(x, graph), x.new_zeros(0, self.num_columns), x.new_zeros(0, self.num_columns))
        vectors = graph.vectors().requires_grad_(True)
        with torch.enable_grad():
            x = self._node_rows(graph, vectors)
            sums = x.sum(dim=0).unbind()
        parts = list(self._derivatives(x.detach(), sums, vectors, graph))
        by_force = torch.stack([p.forces.flatten() for p in parts], dim=1) if forces else x.new_zeros(0, len(parts))
        by_stress = torch.stack([voigt(p.stress).flatten() for p in parts], dim=1) if stress else by_force[:0]
        return Rows(_by_system(x.detach(), graph), by_force, by_stress)

    def offset(self, graph: Graph) -> Prediction:
        """Returns the part of the prediction that does not depend on the weights."""
        return evaluate(self._rest, graph)

    def prediction(self, graph: Graph) -> Prediction:
        """Returns the whole prediction, with the present weights."""
        return evaluate(self.potential, graph)

    def weights(self) -> Float[Tensor, " weight"]:
        """Returns the weights, float64."""
        return torch.cat([w.detach().flatten() for w in self.parameters]).double()

    def set_weights(self, weights: Float[Tensor, " weight"]) -> None:
        """Writes new weights into the potential."""
        with torch.no_grad():
            for w, new in zip(self.parameters, weights.split([w.numel() for w in self.parameters]), strict=True):
                w.copy_(new.reshape(w.shape))

    def _node_rows(self, graph: Graph, vectors: Tensor) -> Tensor:
        potential = self.potential
        species = potential.species(graph.atomic_numbers)[: graph.num_owned]
        scale = potential.scale.expand_as(potential.E0).index_select(0, species).unsqueeze(1)
        features = potential.features(graph, vectors)
        heads = cast("list[Readout]", list(potential.readouts))
        return scale * torch.cat([head.last_inputs(h).double() for head, h in zip(heads, features, strict=True)], dim=1)

    def _derivatives(self, x: Tensor, sums: tuple[Tensor, ...], vectors: Tensor, graph: Graph) -> Iterator[Prediction]:
        """Yields what each weight adds to the prediction if it is 1, from the sums of its column of x."""
        for k, total in enumerate(sums):
            last = k == self.num_columns - 1
            (g,) = torch.autograd.grad(total, vectors, retain_graph=not last, allow_unused=True, materialize_grads=True)
            yield from_edge_gradient(x[:, k], vectors.detach(), g, graph)


def _last_weights(potential: Potential) -> list[list[nn.Parameter]]:
    """The last weights of each readout."""
    return [head.last_weights() for head in cast("list[Readout]", list(potential.readouts))]


def _by_system(x: Tensor, graph: Graph) -> Tensor:
    return pool(x, graph.system[: graph.num_owned], graph.num_systems)
