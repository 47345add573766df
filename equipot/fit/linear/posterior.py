"""What a linear fit does not know: the posterior of the weights, and what follows for energies, forces and atoms."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipot.data.dataset import Dataset
from equipot.fit.linear.factor import Factor
from equipot.fit.linear.weighting import label_differences
from equipot.geometry.graph import Graph
from equipot.models.linear_features import LinearFeatures

_BLOCK = 512
"""Rows that go through the factor together."""


class Deviations(NamedTuple):
    """Standard deviations of predictions, float64; what was not asked for is empty.

    Attributes:
        energy: Of the energy of each system, eV.
        forces: Of each component of the forces, eV/Å.
        stress: Of xx yy zz yz xz xy of each system, eV/Å³.
    """

    energy: Float[Tensor, " system"]
    forces: Float[Tensor, "node xyz"]
    stress: Float[Tensor, "system 6"]


@dataclass(frozen=True)
class Posterior:
    r"""The weights as a normal distribution.

        w ~ N(ŵ, σ² Γ⁻¹ (XᵀX + Λ)⁻¹ Γ⁻¹),   variance of a prediction x·w:  σ² x Γ⁻¹ (XᵀX + Λ)⁻¹ Γ⁻¹ xᵀ

    It is about the weights alone: not about noise of labels, nor about what no weights could describe. That is what
    `calibrated` is for.

    Attributes:
        mean: ŵ; of features seen from weights w₀ (`Around`) ŵ − w₀.
        penalties: Γ.
        columns: Weights that vary; others are what they are (with ard).
        factor: Of XᵀX + Λ.
        noise: σ.
    """

    mean: Float[Tensor, " column"]
    penalties: Float[Tensor, " column"]
    columns: Int[np.ndarray, " kept"]
    factor: Factor
    noise: float

    def leverages(self, rows: Float[Tensor, "row column"]) -> Float[Tensor, " row"]:
        """Returns x Γ⁻¹ (XᵀX + Λ)⁻¹ Γ⁻¹ xᵀ of each row x."""
        X, scale = rows.detach().numpy(), self.penalties.numpy()
        parts = []
        for start in range(0, len(X), _BLOCK):
            white = self.factor.whiten((X[start : start + _BLOCK] / scale)[:, self.columns])
            parts.append(np.einsum("pr,pr->r", white, white))
        return torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0))

    def variances(self, rows: Float[Tensor, "row column"]) -> Float[Tensor, " row"]:
        """Returns the variance of x·w for each row x."""
        return self.noise**2 * self.leverages(rows)

    def weight_deviations(self) -> Float[Tensor, " column"]:
        """Returns the standard deviation of each weight."""
        result = torch.zeros_like(self.mean)
        result[torch.from_numpy(self.columns)] = torch.from_numpy(np.sqrt(self.factor.inverse_diagonal()))
        return self.noise * result / self.penalties

    def draw(self, number: int, seed: int) -> Float[Tensor, "member column"]:
        """Returns a committee: sets of weights from the posterior.

        Args:
            number: How many.
            seed: The same seed gives the same weights.
        """
        noise = np.random.default_rng(seed).standard_normal((number, len(self.columns))).T
        members = self.mean.repeat(number, 1)
        steps = torch.from_numpy(np.ascontiguousarray(self.factor.colour(noise).T))
        kept = torch.from_numpy(self.columns)
        members[:, kept] += self.noise * steps / self.penalties[kept]
        return members

    def deviations(
        self, features: LinearFeatures, graph: Graph, *, forces: bool = True, stress: bool = True
    ) -> Deviations:
        """Returns the standard deviations of the predictions for a batch.

        Args:
            features: The model.
            graph: The batch.
            forces: Whether those of the forces are wanted.
            stress: Whether those of the stress are wanted; NaN unless all three directions are periodic.
        """
        rows = features.rows(graph, forces=forces, stress=stress)
        volumes = graph.pbc.all(dim=1)
        σ_stress = self.variances(torch.nan_to_num(rows.stress)).sqrt().view(-1, 6)
        return Deviations(
            self.variances(rows.energy).sqrt(),
            self.variances(rows.forces).sqrt().view(-1, 3),
            torch.where(volumes[:, None], σ_stress, torch.nan) if stress else σ_stress,
        )

    def calibrated(self, factor: float) -> "Posterior":
        """Returns the posterior with all standard deviations multiplied by a number."""
        return replace(self, noise=self.noise * factor)


class Calibration(NamedTuple):
    """How errors compare with predicted deviations, over some structures.

    Attributes:
        energy: √ mean (error/deviation)² of energies; None without labels.
        forces: Likewise of force components.
        stress: Likewise of stress components.
    """

    energy: float | None
    forces: float | None
    stress: float | None


@torch.no_grad()
def calibration(posterior: Posterior, features: LinearFeatures, dataset: Dataset) -> Calibration:
    r"""Returns by how much larger errors are than the posterior's standard deviations.

        α² = 1/n Σ (label − prediction)² / variance

    It is the α that makes these errors most likely; `Posterior.calibrated(α)` applies it.

    Args:
        posterior: Of the weights.
        features: The model, with the fitted weights.
        dataset: Structures that the fit has not seen.

    Source: Bigi, Chong, Ceriotti and Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024), calibration of α.
    """
    parts: list[list[Tensor]] = [[], [], []]
    for index in range(len(dataset)):
        batch = dataset.batch([index])
        errors = label_differences(batch.labels, features.prediction(batch.graph))
        forces, stress = (bool(error.isfinite().any()) for error in errors[1:])
        rows = features.rows(batch.graph, forces=forces, stress=stress)
        for kind, (error, X) in enumerate(zip(errors, rows, strict=True)):
            known = error.isfinite()
            if known.any():
                parts[kind].append(torch.stack([error[known].square(), posterior.variances(X[known])]))
    return Calibration(*(_scale(torch.cat(of_kind, dim=1).numpy()) if of_kind else None for of_kind in parts))


def _scale(squares_and_variances: Float[np.ndarray, "2 label"]) -> float | None:
    """Returns α of one kind of label."""
    squares, variances = squares_and_variances
    free = varying(variances)
    return float(np.sqrt((squares[free] / variances[free]).mean())) if free.any() else None


def varying(variances: Float[np.ndarray, " label"]) -> Bool[np.ndarray, " label"]:
    """Returns which labels the weights can change: not forces that symmetry makes zero but for rounding errors.

    The others have no deviation to compare their errors with: it is below 10⁻⁴ of the root mean square.
    """
    return variances > 1e-8 * variances.mean()
