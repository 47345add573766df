"""The strength of the prior: by the evidence of the data, or by the error of what is left out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from equipot.errors import EquipotError
from equipot.fit.linear.factor import Factor
from equipot.fit.linear.problem import NormalEquations, Problem, SingularError, absent

_WORST = 1e200
_STRIDE = float(np.log(100.0))
_START, _GREATEST = 1e-11, 1e3
"""Of tr XᵀX: where the search begins, and its upper end; the lower end is the resolution of the problem."""
_MOST_STEPS = 12
_DECIMALS = 9
_NEAR, _TOLERANCE = 1.0, 0.4
"""Of ln λ: the vertex of a parabola is the minimum when it is nearer to the best so far than the second, and that to
another point than the first. Both curves are flat at their best, so that more changes nothing that matters."""


@dataclass(frozen=True)
class Search:
    """How a strength was found.

    Attributes:
        strength: λ.
        trace: Strengths that were tried and what they scored, in order of strength; less is better.
        at_end: Whether the best one is at an end of the range.
        resolved: Whether weaker strengths, too, can be told apart from none, so that this is not just the last.
    """

    strength: float
    trace: tuple[tuple[float, float], ...]
    at_end: bool
    resolved: bool

    @property
    def too_strong(self) -> bool:
        """Whether the best is at the strong end of the range, where weights are zero."""
        return self.at_end and len(self.trace) > 1 and self.strength >= max(strength for strength, _ in self.trace)


def log_evidence(num_rows: int, factor: Factor) -> float:
    r"""Returns the logarithm of the probability of the weighted targets given the prior, the noise profiled out.

        ln p(y|λ) = −½ [ n ln(2π S/n) + n + ln |XᵀX + Λ| − Σ_p ln λ_p ],   σ² = S/n

    Args:
        num_rows: n.
        factor: With S, the factor and λ.

    Source: MacKay, Neural Comput. 4, 415 (1992); σ² here is where p is largest, so that λ alone is left.
    """
    prior = float(np.log(factor.precisions).sum())
    noise = num_rows * (np.log(2 * np.pi * factor.objective / num_rows) + 1.0)
    return -0.5 * float(noise + factor.log_determinant - prior)


def by_evidence(problem: Problem, told: Callable[[int], None]) -> Search:
    """Returns the strength with the largest evidence: one factorisation for each that is tried, about ten.

    Args:
        problem: The rows.
        told: Called with the number of strengths tried.
    """
    columns = len(problem.squared_norms)

    def score(strength: float) -> float:
        return -log_evidence(problem.num_rows, problem.factorise(np.full(columns, strength)))

    return _search(score, problem, told)


def by_cross_validation(
    problem: NormalEquations, folds: Sequence[NormalEquations], told: Callable[[int], None]
) -> Search:
    r"""Returns the strength with which structures that were left out are predicted best: least Σ_f ‖y_f − X_f v₋f‖².

    Args:
        problem: All rows.
        folds: The same in parts.
        told: Called with the number of strengths tried.

    Raises:
        EquipotError: A part has no rows.
    """
    if any(fold.num_rows == 0 for fold in folds):
        raise EquipotError(
            f"cross-validation in {len(folds)} folds needs labels in each; give more structures, or fewer folds"
        )
    columns = len(problem.squared_norms)

    def score(strength: float) -> float:
        precisions = np.full(columns, strength)
        left_out = [fold.residual_sum(problem.factorise(precisions, without=fold).weights) for fold in folds]
        return float(np.log(max(sum(left_out) / problem.num_rows, np.finfo(float).tiny)))

    return _search(score, problem, told)


def _scale(problem: Problem) -> float:
    norms = problem.squared_norms
    if absent(norms).all():
        raise EquipotError(
            "all features are zero for all structures: no atom has a neighbour within the cutoff that the model knows; "
            "choose a larger r_max"
        )
    return float(norms.sum())


def _search(score: Callable[[float], float], problem: Problem, told: Callable[[int], None]) -> Search:
    """Goes downhill in steps of a factor of 100, then by parabolas between the neighbours of the best."""
    known: dict[float, float] = {}
    scale = _scale(problem)
    low, high = np.log([problem.resolution * scale, _GREATEST * scale]).tolist()

    def f(x: float) -> float:
        x = round(x, _DECIMALS)  # steps there and back end where they began
        if x not in known:
            try:
                known[x] = score(float(np.exp(x)))
            except SingularError:
                known[x] = _WORST
            told(len(known))
        return known[x]

    best = float(np.log(_START * scale))
    step = _STRIDE if f(best + _STRIDE) < f(best) or f(best) == _WORST else -_STRIDE
    while low <= best + step <= high and (f(best + step) < f(best) or f(best) == _WORST):
        best += step
    inside = low <= best - abs(step) and best + abs(step) <= high
    if inside and f(best) < min(f(best - step), f(best + step)):
        f(_between(f, best - _STRIDE, best, best + _STRIDE))
        best = min(known, key=known.__getitem__)
    trace = tuple((float(np.exp(x)), value) for x, value in sorted(known.items()) if value < _WORST)
    if not trace:
        raise SingularError(
            "no strength of the prior makes the weights determined: the features are too large or not finite; look at "
            "the data (equipot data)"
        )
    lost = best - _STRIDE < low or any(x < best and value == _WORST for x, value in known.items())
    return Search(float(np.exp(best)), trace, not inside, not lost)


def _between(f: Callable[[float], float], a: float, b: float, c: float) -> float:
    """Returns the minimum between a and c, given that b is below both: vertices of parabolas through the three best."""
    for _ in range(_MOST_STEPS):
        left, right = (b - a) * (f(b) - f(c)), (b - c) * (f(b) - f(a))
        vertex = b - 0.5 * ((b - a) * left - (b - c) * right) / (left - right)
        if abs(vertex - b) < _TOLERANCE and min(b - a, c - b) < _NEAR:
            return b
        x = min(max(vertex, a + 0.2 * (b - a)), c - 0.2 * (c - b))
        x = x if abs(x - b) > _TOLERANCE else b + math.copysign(_NEAR / 2, x - b)
        if f(x) < f(b):
            a, b, c = (b, x, c) if x > b else (a, x, b)
        else:
            a, b, c = (a, b, x) if x > b else (x, b, c)
    return b
