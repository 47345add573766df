"""Automatic relevance determination: a prior strength for each weight, and none of those that the data do not need."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from equipot.fit.linear.factor import Factor
from equipot.fit.linear.problem import NormalEquations, absent
from equipot.fit.linear.search import log_evidence

_IRRELEVANT = 1e-3
"""A weight goes when the data determine less than this part of it."""
_SETTLED = 1e-2
"""Strengths are settled when none of a determined weight changes by more than this, in ln α."""


@dataclass(frozen=True)
class Relevance:
    """What is left.

    Attributes:
        columns: Of the weights that are kept, ascending.
        factor: Of those, with their strengths.
        rounds: How many rounds it took.
        evidence: Logarithm of the evidence.
    """

    columns: Int[np.ndarray, " kept"]
    factor: Factor
    rounds: int
    evidence: float


def relevant(problem: NormalEquations, strength: float, rounds: int, told: Callable[[int], None]) -> Relevance:
    r"""Returns the weights that matter, by MacKay's fixed point.

        γ_p = 1 − α_p [(XᵀX + diag α)⁻¹]_pp,    α_p ← σ² γ_p / v_p²,    σ² = ‖X v − y‖²/(n − Σ γ)

    Args:
        problem: All rows; it is left as it is but for its factor.
        strength: The α that all begin with.
        rounds: Most rounds.
        told: Called with the number of rounds done.

    Source: Tipping, J. Mach. Learn. Res. 1, 211 (2001), section 2.3.
    """
    columns = np.flatnonzero(~absent(problem.squared_norms))
    part = problem.select(columns)
    α = np.full(len(columns), strength)
    done = 0
    for done in range(1, rounds + 1):
        factor = part.factorise(α)
        γ = np.clip(1.0 - α * factor.inverse_diagonal(), 0.0, 1.0)
        variance = max(part.residual_sum(factor.weights), factor.objective * 1e-12) / max(part.num_rows - γ.sum(), 1.0)
        keep = γ > _IRRELEVANT
        keep[np.argmax(γ)] = True
        renewed = variance * γ[keep] / np.maximum(factor.weights[keep] ** 2, np.finfo(float).tiny)
        change = np.abs(np.log(renewed / α[keep]))[γ[keep] > 0.1].max(initial=0.0)
        α = renewed
        if not keep.all():
            columns, part = columns[keep], part.select(np.flatnonzero(keep))
        told(done)
        if change < _SETTLED and keep.all():
            break
    factor = part.factorise(α)
    return Relevance(columns, factor, done, log_evidence(part.num_rows, factor))
