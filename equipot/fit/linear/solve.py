"""Solvers: from rows to weights, each with what it knows about them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse.linalg import LinearOperator, lsqr

from equipot.errors import EquipotError
from equipot.fit.linear.ard import relevant
from equipot.fit.linear.assemble import KeptRows
from equipot.fit.linear.factor import Factor
from equipot.fit.linear.options import LinearFitOptions
from equipot.fit.linear.problem import NormalEquations, Problem, absent
from equipot.fit.linear.search import Search, by_cross_validation, by_evidence, log_evidence

Told = Callable[[str, int], None]
"""Called with what is done, and how often it has been done."""

_LSQR_ROWS = 4096
"""Rows of kept rows that are read at a time."""


@dataclass(frozen=True)
class Solution:
    r"""Weights v of the scaled columns X, and what is known about them.

    Attributes:
        weights: v; 0 in columns that are absent or were dropped.
        columns: Of the factor: which weights it is about.
        factor: Of those; None of lsqr.
        strength: λ; with ard the one that all weights began with.
        search: How it was found; None where it was given.
        residual_sum: ‖X v − y‖².
        noise: σ of a row of weight 1: √(‖X v − y‖²/(n − γ)).
        effective_parameters: γ = tr XᵀX (XᵀX + Λ)⁻¹, how many combinations of weights the data determine; None of lsqr.
        condition_number: Of the rows with √Λ below them, in the 2-norm; lsqr's own estimate is in Frobenius' norm.
        log_evidence: See `search.log_evidence`; None without a prior, and of lsqr.
        iterations: Of lsqr or ard; None of direct solvers.
        absent: Which columns are zero in all data.
    """

    weights: Float[np.ndarray, " column"]
    columns: Int[np.ndarray, " kept"]
    factor: Factor | None
    strength: float
    search: Search | None
    residual_sum: float
    noise: float
    effective_parameters: float | None
    condition_number: float
    log_evidence: float | None
    iterations: int | None
    absent: Int[np.ndarray, " none"]


def solve_direct(
    problem: Problem, options: LinearFitOptions, told: Told, folds: Sequence[NormalEquations] = ()
) -> Solution:
    """Returns the weights by a factorisation, with the prior that the options ask for.

    Args:
        problem: All rows.
        options: The prior.
        told: Told about the search for it.
        folds: For cross-validation, the same rows in parts.

    Raises:
        EquipotError: The weights are not determined.
    """
    none = absent(problem.squared_norms)
    search = _search(problem, options, told, folds)
    strength = float(options.prior) if search is None else search.strength  # type: ignore[arg-type]
    if strength == 0 and problem.num_rows < (~none).sum():
        raise EquipotError(
            f"{problem.num_rows} rows do not determine {(~none).sum()} weights without a prior; set prior: evidence, "
            "or a number above zero, give more structures, or choose a smaller basis"
        )
    iterations, columns = None, np.arange(len(none))
    if options.solver == "ard" and isinstance(problem, NormalEquations):
        found = relevant(problem, strength, options.ard_iterations, lambda n: told("relevance", n))
        factor, columns, iterations = found.factor, found.columns, found.rounds
    else:
        factor = problem.factorise(np.full(len(none), strength))
    weights = np.zeros(len(none))
    weights[columns] = factor.weights
    told("degrees of freedom", 1)
    effective = factor.effective_parameters()
    residual_sum = problem.residual_sum(weights)
    return Solution(
        weights=weights,
        columns=columns,
        factor=factor,
        strength=strength,
        search=search,
        residual_sum=residual_sum,
        noise=noise_of(residual_sum, problem.num_rows, effective),
        effective_parameters=effective,
        condition_number=factor.condition_number(),
        log_evidence=log_evidence(problem.num_rows, factor) if factor.precisions.all() else None,
        iterations=iterations,
        absent=np.flatnonzero(none),
    )


def _search(problem: Problem, options: LinearFitOptions, told: Told, folds: Sequence[NormalEquations]) -> Search | None:
    if options.prior == "evidence":
        return by_evidence(problem, lambda n: told("evidence", n))
    if options.prior == "cross_validation" and isinstance(problem, NormalEquations):
        return by_cross_validation(problem, folds, lambda n: told("cross-validation", n))
    return None


def noise_of(residual_sum: float, rows: int, effective: float) -> float:
    """Returns σ = √(‖X v − y‖²/(n − γ)); of a single row where the data determine all of themselves."""
    return float(np.sqrt(residual_sum / max(rows - effective, 1.0)))


def refined(solution: Solution, gradient: Float[np.ndarray, " column"], residual_sum: float, rows: int) -> Solution:
    r"""Returns weights corrected by what the rows themselves say about them.

        v ← v + (XᵀX + Λ)⁻¹ (Xᵀ(y − X v) − Λ v)

    The gradient comes from residuals, not from differences of sums, so that its error is that of X, not of its square;
    each pass brings the error of the normal equations down by about 10⁻¹⁶ κ².

    Args:
        solution: With its factor.
        gradient: Xᵀ(y − X v).
        residual_sum: ‖X v − y‖² at the weights of `solution`.
        rows: Number of rows.

    Source: Björck, Linear Algebra Appl. 88/89, 31 (1987), corrected seminormal equations.
    """
    factor = solution.factor
    if factor is None:
        return solution
    v = solution.weights[solution.columns]
    step = factor.solve(gradient[solution.columns] - factor.precisions * v)
    weights = solution.weights.copy()
    weights[solution.columns] = v + step
    effective = solution.effective_parameters or 0.0
    return replace(solution, weights=weights, residual_sum=residual_sum, noise=noise_of(residual_sum, rows, effective))


def solve_lsqr(kept: KeptRows, options: LinearFitOptions, told: Told) -> Solution:
    """Returns the weights by Golub-Kahan bidiagonalisation on rows in memory or in a file, with λ as damping.

    Raises:
        EquipotError: It has not converged.

    Source: Paige and Saunders, ACM Trans. Math. Softw. 8, 43 (1982).
    """
    rows, size = kept.array.shape
    passes = 0

    def product(v: np.ndarray) -> np.ndarray:
        nonlocal passes
        passes += 1
        told("lsqr", passes)
        blocks = range(0, rows, _LSQR_ROWS)
        return np.concatenate([kept.array[i : i + _LSQR_ROWS, :-1] @ v.ravel() for i in blocks])

    def transposed(u: np.ndarray) -> np.ndarray:
        total = np.zeros(size - 1)
        for i in range(0, rows, _LSQR_ROWS):
            total += u.ravel()[i : i + _LSQR_ROWS] @ kept.array[i : i + _LSQR_ROWS, :-1]
        return total

    strength = float(options.prior)  # type: ignore[arg-type]
    operator = LinearOperator((rows, size - 1), matvec=product, rmatvec=transposed, dtype=np.float64)
    y = np.array(kept.array[:, -1])
    weights, stop, iterations, residual, _, _, condition, *_ = lsqr(
        operator,
        y,
        damp=np.sqrt(strength),
        atol=options.lsqr_tolerance,
        btol=options.lsqr_tolerance,
        conlim=0,
        iter_lim=options.lsqr_iterations,
    )
    if stop == 7:
        raise EquipotError(
            f"lsqr has not converged to {options.lsqr_tolerance:g} in {iterations} iterations; raise lsqr_iterations, "
            "lsqr_tolerance or prior, or take solver: normal_equations"
        )
    norms = sum(np.square(kept.array[i : i + _LSQR_ROWS, :-1]).sum(axis=0) for i in range(0, rows, _LSQR_ROWS))
    residual_sum = float(residual) ** 2
    determined = 0.0 if strength > 0 else float(size - 1)
    return Solution(
        weights=weights,
        columns=np.arange(size - 1),
        factor=None,
        strength=strength,
        search=None,
        residual_sum=residual_sum,
        noise=noise_of(residual_sum, rows, determined),
        effective_parameters=None,
        condition_number=float(condition),
        log_evidence=None,
        iterations=int(iterations),
        absent=np.flatnonzero(absent(np.asarray(norms))),
    )
