"""Last-layer uncertainty of a trained model: the strength of its prior, and its scale, from validation errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from equipot.data.dataset import Dataset
from equipot.fit.linear.posterior import Posterior, varying
from equipot.fit.linear.shares import labelled, shares
from equipot.fit.linear.weighting import label_differences
from equipot.models.linear_features import LinearFeatures

_MOST_FORCES = 100
"""Validation structures whose forces are compared; energies are of all."""
_LEAST, _GREATEST, _STEPS = 1e-14, 1e2, 33
"""Of tr FᵀF: ends of the search for ς², and how many steps between them are tried before the best is refined."""


@dataclass(frozen=True)
class Rigidity:
    r"""What predictions vary by.

        σ² = α² f (FᵀF + ς²)⁻¹ fᵀ

    Attributes:
        factor: L with σ² = ‖f L‖², α in it.
        strength: ς².
        scale: α.
        ratios: √ mean (error/σ)² by kind of label.
    """

    factor: Float[Tensor, "weight member"]
    strength: float
    scale: float
    ratios: dict[str, float]

    def facts(self) -> dict[str, Any]:
        """Returns the numbers, as JSON can hold them."""
        return {
            "prior_strength": self.strength, "scale": self.scale, "error_over_deviation": self.ratios,
        }  # fmt: skip


@dataclass(frozen=True)
class _Errors:
    """Of one kind: squared errors, and the squares of their rows in the eigenvectors of FᵀF."""

    squares: Float[np.ndarray, " error"]
    rows: Float[np.ndarray, "error weight"]


@torch.no_grad()
def rigidity(posterior: Posterior, features: LinearFeatures, valid: Dataset) -> Rigidity | None:
    r"""Returns the α and ς that make the validation errors most likely, each kind counting by its structures.

        −ln p = ½ Σ_kinds s_kind mean( ln σ² + e²/σ² ),   s as in `equipot.fit.linear.shares`

    Args:
        posterior: Of the fit; its weighted rows F are what is taken from it.
        features: The model with the weights whose errors these are.
        valid: Structures that the fit has not seen.

    Returns:
        None where no validation structure has a label.

    Source: Bigi, Chong, Ceriotti and Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024).
    """
    U = np.triu(posterior.factor.matrix)[:-1, :-1]
    FF = U.T @ U
    FF[np.diag_indices_from(FF)] -= posterior.factor.precisions
    D, Q = np.linalg.eigh(FF)
    D = np.clip(D, 0.0, None)
    scaled = Q / posterior.penalties.numpy()[posterior.columns, None]
    errors = _errors(features, valid, posterior.columns, scaled)
    if not errors:
        return None
    weights = shares({kind: number for kind, number in labelled(valid).items() if kind in errors})
    of_kinds = np.array([weights[kind] for kind in errors])
    low, high = np.log(np.array([_LEAST, _GREATEST]) * D.sum()).tolist()

    def score(x: float) -> float:
        variances, α2 = _scaled(errors, of_kinds, D, float(np.exp(x)))
        return float(sum(s * np.log(α2 * v).mean() for s, v in zip(of_kinds, variances, strict=True)) + 1.0) / 2.0

    grid = np.linspace(low, high, _STEPS)
    best = int(np.argmin([score(x) for x in grid]))
    x = float(grid[best])
    if 0 < best < len(grid) - 1:
        x = float(minimize_scalar(score, bounds=(grid[best - 1], grid[best + 1]), method="bounded").x)
    strength = float(np.exp(x))
    variances, α2 = _scaled(errors, of_kinds, D, strength)
    factor = torch.zeros(len(posterior.mean), len(D), dtype=torch.float64)
    factor[torch.from_numpy(posterior.columns)] = torch.from_numpy(np.sqrt(α2) * scaled / np.sqrt(D + strength))
    ratios = {
        kind: float(np.sqrt((e.squares / (α2 * v)).mean()))
        for (kind, e), v in zip(errors.items(), variances, strict=True)
    }
    return Rigidity(factor, strength, float(np.sqrt(α2)), ratios)


def _scaled(
    errors: dict[str, _Errors],
    of_kinds: Float[np.ndarray, " kind"],
    D: Float[np.ndarray, " weight"],
    strength: float,
) -> tuple[list[np.ndarray], float]:
    """Returns variances with α = 1, and the α² that is most likely."""
    variances = [e.rows @ (1.0 / (D + strength)) for e in errors.values()]
    ratios = [(e.squares / v).mean() for e, v in zip(errors.values(), variances, strict=True)]
    return variances, max(float(of_kinds @ ratios), np.finfo(float).tiny)


def _errors(
    features: LinearFeatures, valid: Dataset, columns: np.ndarray, scaled: Float[np.ndarray, "weight weight"]
) -> dict[str, _Errors]:
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"energy": [], "forces": []}
    with_forces = set(np.linspace(0, len(valid) - 1, min(_MOST_FORCES, len(valid))).round().astype(int).tolist())
    for index in range(len(valid)):
        batch = valid.batch([index])
        wanted = index in with_forces and bool(batch.labels.forces.isfinite().any())
        rows = features.rows(batch.graph, forces=wanted, stress=False)
        errors = label_differences(batch.labels, features.prediction(batch.graph))
        for kind, X, e in (("energy", rows.energy, errors.energy), ("forces", rows.forces, errors.forces)):
            known = e.isfinite().flatten() if len(X) else torch.zeros(0, dtype=torch.bool)
            projected = np.square(X[known].numpy()[:, columns] @ scaled) if known.any() else np.zeros((0, len(scaled)))
            if len(projected):
                found[kind].append((np.square(e.flatten()[known].numpy()), projected))
    joined = {kind: _varying(parts) for kind, parts in found.items() if parts}
    return {kind: errors for kind, errors in joined.items() if len(errors.squares)}


def _varying(parts: list[tuple[np.ndarray, np.ndarray]]) -> _Errors:
    """Returns the errors of what the weights can change."""
    squares, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    free = varying(rows.sum(axis=1))
    return _Errors(squares[free], rows[free])
