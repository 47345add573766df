"""A linear model seen from the weights that it has: what is fitted is how they change."""

import copy

from jaxtyping import Float
from torch import Tensor

from equipot.geometry import Graph, Prediction, evaluate
from equipot.models.linear_features import LinearFeatures, Rows
from equipot.models.potential import Potential


class Around:
    r"""The features of a trained potential with its present weights w₀ as the origin.

        E = Ê_{w₀} + Σ_p δ_p ∂E/∂w_p,   w = w₀ + δ

    The prior is then about δ: data that say little leave the potential as it is.

    Args:
        features: Of the potential.
        potential: With the weights w₀.
        keep: Leave the weights as they are whatever is set; for their uncertainty alone.
    """

    def __init__(self, features: LinearFeatures, potential: Potential, *, keep: bool = False) -> None:
        self._features, self._keep, self._origin = features, keep, features.weights()
        self._start = copy.deepcopy(potential)
        self.num_columns, self.penalties, self.orders = features.num_columns, features.penalties, features.orders
        self.atoms_at_once = features.atoms_at_once

    def rows(self, graph: Graph, *, forces: bool = True, stress: bool = True) -> Rows:
        """Returns the rows of a batch; what is not wanted has none."""
        return self._features.rows(graph, forces=forces, stress=stress)

    def node_rows(self, graph: Graph) -> Float[Tensor, "owned weight"]:
        """Returns the derivative of each atom's energy with respect to each weight."""
        return self._features.node_rows(graph)

    def offset(self, graph: Graph) -> Prediction:
        """Returns the prediction with the weights w₀."""
        return evaluate(self._start, graph)

    def prediction(self, graph: Graph) -> Prediction:
        """Returns the prediction with the present weights."""
        return self._features.prediction(graph)

    def weights(self) -> Float[Tensor, " weight"]:
        """Returns δ."""
        return self._features.weights() - self._origin

    def set_weights(self, weights: Float[Tensor, " weight"]) -> None:
        """Puts w₀ + δ into the potential, unless its weights are kept."""
        if not self._keep:
            self._features.set_weights(self._origin + weights)
