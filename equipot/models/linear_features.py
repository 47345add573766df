"""Potentials as linear models: what the energy, forces and stress are linear in."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from equipot.geometry import Graph, Prediction


class Rows(NamedTuple):
    """Derivatives of what is predicted for a batch with respect to each weight: rows of a design matrix, float64.

    Attributes:
        energy: Of each system's energy, eV.
        forces: Of each component of the forces, atoms outermost, eV/Å.
        stress: Of the stress's components xx yy zz yz xz xy, systems outermost, eV/Å³; NaN unless all three
            directions are periodic.
    """

    energy: Float[Tensor, "system weight"]
    forces: Float[Tensor, "node_xyz weight"]
    stress: Float[Tensor, "system_voigt weight"]


@runtime_checkable
class LinearFeatures(Protocol):
    """A potential that is linear in some of its weights: E = offset + rows · weights.

    Attributes:
        num_columns: Number of those weights.
        penalties: Smoothness prior: the prior precision of weight p is λ penalties[p]².
        orders: Group of each weight for reports: the correlation order ν, or the layer that is read out.
        atoms_at_once: Of how many atoms rows may be asked at once, as far as the model's own memory goes.
    """

    num_columns: int
    penalties: Float[Tensor, " weight"]
    orders: Int[Tensor, " weight"]
    atoms_at_once: int

    def rows(self, graph: Graph, *, forces: bool = True, stress: bool = True) -> Rows:
        """Returns the rows of a batch; what is not wanted has none."""

    def node_rows(self, graph: Graph) -> Float[Tensor, "owned weight"]:
        """Returns the derivative of each atom's energy with respect to each weight."""

    def offset(self, graph: Graph) -> Prediction:
        """Returns the part of the prediction that does not depend on the weights."""

    def prediction(self, graph: Graph) -> Prediction:
        """Returns the whole prediction, with the present weights."""

    def weights(self) -> Float[Tensor, " weight"]:
        """Returns the weights, float64."""

    def set_weights(self, weights: Float[Tensor, " weight"]) -> None:
        """Writes new weights into the potential."""
