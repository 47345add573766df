"""What a linear fit needs to know about a model: its energy, forces and stress as functions linear in the weights."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from equipot.geometry.derivatives import Prediction
from equipot.geometry.graph import Graph


class Rows(NamedTuple):
    """Derivatives of predictions with respect to the weights, float64; what was not asked for is [0, P].

    Attributes:
        energy: Of the energy of each system, eV.
        forces: Of the forces, atoms in order and x, y, z of each, eV/Å.
        stress: Of the stress of each system, in the order xx yy zz yz xz xy, eV/Å³; anything where there is no volume.
    """

    energy: Float[Tensor, "system column"]
    forces: Float[Tensor, "component column"]
    stress: Float[Tensor, "voigt column"]


@runtime_checkable
class LinearFeatures(Protocol):
    r"""A model whose predictions are linear in P weights.

        E = E_offset + Σ_p w_p ∂E/∂w_p,   prior:  w_p ~ N(0, σ²/(λ Γ_p²))

    Attributes:
        num_columns: P, the number of weights.
        penalties: Γ, all positive: how strongly each weight is held at zero, relative to the others.
        orders: Order ν of the function that each weight belongs to (1 for pairs), for reports.
    """

    @property
    def num_columns(self) -> int:
        """P, the number of weights."""

    @property
    def penalties(self) -> Float[Tensor, " column"]:
        """Γ, float64."""

    @property
    def orders(self) -> Int[Tensor, " column"]:
        """Order ν of each column."""

    def rows(self, graph: Graph, *, forces: bool, stress: bool) -> Rows:
        """Returns the derivatives of energies and, if wanted, of forces and stress of a batch."""

    def node_rows(self, graph: Graph) -> Float[Tensor, "owned column"]:
        """Returns the derivatives of the energy of each owned atom."""

    def offset(self, graph: Graph) -> Prediction:
        """Returns the part of the prediction that is not fitted: E0, repulsion, another model below."""

    def prediction(self, graph: Graph) -> Prediction:
        """Returns the whole prediction with the present weights."""

    def weights(self) -> Float[Tensor, " column"]:
        """Returns the present weights, float64."""

    def set_weights(self, weights: Float[Tensor, " column"]) -> None:
        """Puts weights into the model."""
