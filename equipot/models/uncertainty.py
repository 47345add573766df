"""Uncertainty of what is linear in fitted weights: standard deviations, and how far an atom is from those fitted."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.geometry import Graph, pool
from equipot.models.extrapolation import Extrapolation
from equipot.models.linear_features import LinearFeatures


class Deviations(NamedTuple):
    """Standard deviations of what a potential predicts, all float64.

    Attributes:
        energy: Of each system's energy, eV.
        node_energy: Of each owned atom's energy, eV.
        forces: Of each component of the forces, eV/Å; NaN where they were not asked for.
        extrapolation: Grade of each owned atom, see `Extrapolation`: above 1 the surroundings are farther from those of
            the training atoms of its element than any of these are.
    """

    energy: Float[Tensor, " system"]
    node_energy: Float[Tensor, " owned"]
    forces: Float[Tensor, "node xyz"]
    extrapolation: Float[Tensor, " owned"]


class Uncertainty(nn.Module):
    r"""The covariance of fitted weights as a factor: cov(w) = L Lᵀ.

        σ²(x · w) = ‖x L‖²

    L is the whole factor of the covariance, or has a column (w_m − w) / √M for each of M members of a committee drawn
    from the posterior, which estimates σ within 1/√(2M).

    Args:
        factor: L, as scaled to the errors of left-out structures.
        extrapolation: The training atoms that grades are measured from.

    Source: linear models: Bishop, *Pattern Recognition and Machine Learning* (2006), Eq. 3.59; last layers of networks:
    Bigi et al., Mach. Learn.: Sci. Technol. 5, 045018 (2024).
    """

    factor: Tensor

    def __init__(self, factor: Float[Tensor, "weight member"], extrapolation: Extrapolation) -> None:
        super().__init__()
        self.register_buffer("factor", factor.double())
        self.extrapolation = extrapolation

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Uncertainty":
        """Returns what a state holds.

        Args:
            tensors: As `state_dict` names them.
        """
        prefix = "extrapolation."
        measure = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
        return cls(tensors["factor"], Extrapolation(**measure))

    def draw(self, number: int, seed: int) -> Float[Tensor, "member weight"]:
        r"""Returns a committee: by how much sets of weights differ from the fitted ones.

            w_m = w + L z_m,   z ~ N(0, 1)

        Scaled to errors as deviations are. With x the rows of a structure (`linear_features(potential).rows(graph)`)
        x · (w_m − w) is by how much a member's prediction differs from the model's.

        Args:
            number: Of members.
            seed: The same seed gives the same ones.
        """
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(number, self.factor.shape[1], generator=generator, dtype=torch.float64)
        return z.to(self.factor.device) @ self.factor.T

    def forward(self, features: LinearFeatures, graph: Graph, species: Tensor, *, forces: bool = False) -> Deviations:
        """Returns the deviations of a batch.

        Args:
            features: The potential as a linear model.
            graph: The batch.
            species: Index of each owned atom's element.
            forces: Whether deviations of the forces are wanted, which cost a derivative for each weight.
        """
        by_node = features.node_rows(graph)
        by_atom = by_node @ self.factor
        by_system = pool(by_atom, graph.system[: graph.num_owned], graph.num_systems)
        node_energy = torch.linalg.vector_norm(by_atom, dim=1)
        by_force = torch.full((graph.num_nodes, 3), torch.nan, dtype=torch.float64)
        if forces:
            rows = features.rows(graph, forces=True, stress=False).forces
            by_force = torch.linalg.vector_norm(rows @ self.factor, dim=1).unflatten(0, (-1, 3))
        return Deviations(
            torch.linalg.vector_norm(by_system, dim=1), node_energy, by_force, self.extrapolation(by_node, species),
        )  # fmt: skip
