"""A linear fit from structures to weights, and all that is known about them."""

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equipot.data.dataset import Dataset
from equipot.fit.linear.assemble import Assembly, Gradient, KeptRows, Progress, silent
from equipot.fit.linear.memory import Plan, plan
from equipot.fit.linear.options import LinearFitOptions
from equipot.fit.linear.posterior import Calibration, Posterior, calibration
from equipot.fit.linear.problem import NormalEquations, TriangularProblem
from equipot.fit.linear.solve import Solution, refined, solve_direct, solve_lsqr
from equipot.fit.linear.weighting import KINDS, Survey, Weighting, label_differences
from equipot.fit.loss import atoms_per_system
from equipot.models.linear_features import LinearFeatures

logger = logging.getLogger("equipot.fit")

_SQUARES = {"normal_equations": 1, "ard": 3, "qr": 3, "lsqr": 0}
"""Matrices of P by P that solvers hold, folds apart; QR and ARD hold one more while they make one from another."""


@dataclass(frozen=True)
class KindErrors:
    """Errors of one kind of label in training.

    Attributes:
        rows: How many labels count.
        rmse: Energy per atom, eV/atom; forces, eV/Å; stress, eV/Å³; every label counts once.
        noise: Root mean square of the weighted residuals over σ: below 1, labels of this kind are fitted better than
            their weight says, above 1 worse; at 1 the weights fit the noise.
    """

    rows: int
    rmse: float
    noise: float


@dataclass(frozen=True)
class LinearFitResult:
    """A finished fit; the model has its weights.

    Attributes:
        weights: w; with `start.model` (`Around`) δ = w − w₀, by how much they change. The same goes for `solution`,
            the mean of `posterior`, and the number of weights at zero, which then stay as they were.
        solution: The scaled weights and what the solver knows.
        survey: How many rows there were.
        errors: Of training, by kind; those with labels.
        posterior: Of the weights; None without uncertainty, and of lsqr.
        calibration: Validation errors over predicted deviations; None without validation structures or posterior.
        plan: Sizes of blocks, and memory.
        seconds: Time of each part of the work.
        orders: Order ν of each weight.
    """

    weights: Float[Tensor, " column"]
    solution: Solution
    survey: Survey
    errors: dict[str, KindErrors]
    posterior: Posterior | None
    calibration: Calibration | None
    plan: Plan
    seconds: dict[str, float]
    orders: tuple[int, ...]

    @property
    def learnt_nothing(self) -> bool:
        """Whether the labels look like noise to these functions: no combination of weights is determined by them."""
        return learnt_nothing(self.solution)

    def facts(self) -> dict[str, Any]:
        """Returns all but the large arrays, as a JSON document."""
        s = self.solution
        numbers = {ν: self.orders.count(ν) for ν in sorted(set(self.orders))}
        absent = [self.orders[p] for p in s.absent]
        search = s.search and {
            "trace": s.search.trace,
            "at_end_of_range": s.search.at_end,
            "resolved": s.search.resolved,
        }
        return {
            "weights": len(self.weights),
            "weights_by_order": {str(ν): number for ν, number in numbers.items()},
            "weights_without_data": {str(ν): absent.count(ν) for ν in numbers},
            "weights_at_zero": int((self.weights == 0).sum()),
            "rows": self.survey.rows,
            "rows_by_kind": self.survey.counted,
            "prior_strength": s.strength,
            "prior_search": search,
            "log_evidence": s.log_evidence,
            "effective_parameters": s.effective_parameters,
            "learnt_nothing": self.learnt_nothing,
            "condition_number": s.condition_number,
            "noise": s.noise,
            "iterations": s.iterations,
            "training": {kind: vars(e) for kind, e in self.errors.items()},
            "calibration": self.calibration and self.calibration._asdict(),
            "matrices_GB": self.plan.bytes / 1e9,
            "seconds": self.seconds,
        }


class _Clock:
    """Times the parts of the work, and tells of them."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.progress, self._last = progress, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def told(self, what: str, number: int) -> None:
        self.progress(what, number, 0)


def fit_linear(
    features: LinearFeatures,
    train: Dataset,
    valid: Dataset | None,
    options: LinearFitOptions,
    progress: Progress = silent,
) -> LinearFitResult:
    """Finds the weights of a linear model, and puts them into it.

    Args:
        features: The model.
        train: Structures to learn from.
        valid: Structures that are not learned from, for the calibration of deviations; may be None.
        options: Solver, prior, weights.
        progress: Told what is done: "rows" with the number of structures done and in all; "evidence",
            "cross-validation", "relevance" and "lsqr" with the number of strengths, rounds or iterations, and 0.

    Raises:
        EquipotError: There are no labels, the matrices do not fit into memory, or the weights are not determined.
    """
    weighting, clock = Weighting(options, train), _Clock(progress)
    survey, columns = weighting.survey, features.num_columns
    squares = _SQUARES[options.solver] + (options.folds if options.prior == "cross_validation" else 0)
    sizes = plan(columns, squares, survey.per_structure, options.max_memory_GB, keep=options.solver == "lsqr")
    logger.info("%s", _opening(options, survey, columns, sizes))
    assembly = Assembly(features, weighting, sizes, progress)
    solution = _solved(assembly, options, clock)
    penalties = assembly.penalties
    weights = torch.from_numpy(solution.weights) / penalties
    features.set_weights(weights)
    errors = _training_errors(assembly, solution.noise)
    clock.lap("training errors")
    posterior, calibrated = None, None
    if options.uncertainty and solution.factor is not None:
        posterior = Posterior(weights, penalties, solution.columns, solution.factor, solution.noise)
        if valid is not None and options.calibrate and not learnt_nothing(solution):
            calibrated = calibration(posterior, features, valid)
        clock.lap("uncertainty")
    orders = tuple(features.orders.tolist())
    result = LinearFitResult(weights, solution, survey, errors, posterior, calibrated, sizes, clock.seconds, orders)
    logger.info("%s", _closing(result))
    if result.learnt_nothing and not options.keep_weights:
        logger.warning("%s", _nothing(solution))
    if options.solver != "qr" and solution.search is not None and not solution.search.resolved:
        logger.info(
            "priors much weaker than %.3g are lost in rounding errors of the normal equations; solver: qr resolves "
            "them, and may find a better one", solution.strength,
        )  # fmt: skip
    return result


def learnt_nothing(solution: Solution) -> bool:
    """Returns whether the prior leaves nothing to the data: less than one effective parameter, or no end to it."""
    few = solution.effective_parameters is not None and solution.effective_parameters < 1.0
    return few or (solution.search is not None and solution.search.too_strong)


def _nothing(solution: Solution) -> str:
    γ = solution.effective_parameters or 0.0
    end = ", at the strong end of the search" if solution.search is not None and solution.search.too_strong else ""
    return (
        f"the fit has learnt next to nothing: {γ:.2g} effective parameters, prior {solution.strength:.3g}{end}. "
        "What is left of the labels looks like noise to these functions, so the result is what was there before (E0, "
        "repulsion, baseline, or the weights it started from). Validation errors say nothing about such weights, and "
        "their deviations are not scaled to them. Was a baseline or model trained on these data already? Otherwise "
        "look at the labels, or choose another basis"
    )


def _solved(assembly: Assembly, options: LinearFitOptions, clock: _Clock) -> Solution:
    """Sums the rows up as the solver wants them, and solves."""
    columns, survey = assembly.features.num_columns, assembly.weighting.survey
    if options.solver == "lsqr":
        return _solved_lsqr(assembly, options, clock)
    if options.solver == "qr":
        triangular = TriangularProblem(columns)
        assembly.stream(triangular)
        clock.lap("rows")
        solution = solve_direct(triangular, options, clock.told)
        clock.lap("solver")
        return solution
    problem, folds = NormalEquations(columns), []
    if options.prior == "cross_validation":
        for indices in fold_indices(len(survey.per_structure), options.folds, options.seed):
            folds.append(NormalEquations(columns))
            assembly.stream(folds[-1], indices)
            problem.merge(folds[-1])
    else:
        assembly.stream(problem)
    clock.lap("rows")
    solution = solve_direct(problem, options, clock.told, folds)
    clock.lap("solver")
    for _ in range(options.refinements):
        gradient = Gradient(solution.weights)
        assembly.stream(gradient)
        solution = refined(solution, gradient.gradient, gradient.residual_sum, survey.rows)
        clock.lap("refinement")
    return solution


def _solved_lsqr(assembly: Assembly, options: LinearFitOptions, clock: _Clock) -> Solution:
    columns, rows = assembly.features.num_columns, assembly.weighting.survey.rows
    with ExitStack() as stack:
        file = None
        if not assembly.plan.kept_in_memory:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="equipot-rows-", dir=options.scratch))
            file = Path(folder) / "rows.f64"
            logger.info("rows of %.1f GB are kept in %s", rows * (columns + 1) * 8e-9, folder)
        kept = KeptRows(rows, columns, file)
        assembly.stream(kept)
        kept.check()
        clock.lap("rows")
        solution = solve_lsqr(kept, options, clock.told)
        del kept
        clock.lap("solver")
    return solution


def fold_indices(structures: int, folds: int, seed: int) -> list[list[int]]:
    """Returns the structures of each fold: a seeded shuffle, dealt evenly, each fold in ascending order."""
    order = np.random.default_rng(seed).permutation(structures)
    return [sorted(order[fold::folds].tolist()) for fold in range(folds)]


@torch.no_grad()
def _training_errors(assembly: Assembly, σ: float) -> dict[str, KindErrors]:
    """Returns the errors of the model with its new weights, from its predictions, which need no rows."""
    weighting = assembly.weighting
    sums = torch.zeros(3, 3, dtype=torch.float64)
    for group in assembly.groups():
        batch = weighting.dataset.batch(group)
        residuals = label_differences(batch.labels, assembly.features.prediction(batch.graph))
        N = atoms_per_system(batch.graph)
        natural = (residuals.energy / N, residuals.forces, residuals.stress)
        factors, counting = weighting.factors(group, batch), weighting.counting(group, batch)
        for kind, (x, e, f, counts) in enumerate(zip(natural, residuals, factors, counting, strict=True)):
            sums[kind] += torch.stack([counts.sum(), x[counts].square().sum(), (e[counts] * f[counts]).square().sum()])
    return {
        kind: KindErrors(int(n), float((x / n).sqrt()), float((e / n).sqrt()) / max(σ, np.finfo(float).tiny))
        for kind, (n, x, e) in zip(KINDS, sums, strict=True)
        if n > 0
    }


def _opening(options: LinearFitOptions, survey: Survey, columns: int, sizes: Plan) -> str:
    rows = ", ".join(f"{number} {kind}" for kind, number in survey.counted.items() if number)
    return (
        f"linear fit of {columns} weights to {survey.rows} rows ({rows}) by {options.solver}, prior {options.prior}, "
        f"convention {options.convention}; matrices of {sizes.bytes / 1e9:.2f} GB"
    )


def _closing(result: LinearFitResult) -> str:
    s = result.solution
    determined = "" if s.effective_parameters is None else f", {s.effective_parameters:.1f} effective parameters"
    units: Sequence[tuple[str, str]] = (("energy", "eV/atom"), ("forces", "eV/Å"), ("stress", "eV/Å³"))
    errors = ", ".join(f"{kind} {result.errors[kind].rmse:.3g} {unit}" for kind, unit in units if kind in result.errors)
    found = f"prior strength {s.strength:.3g}, condition number {s.condition_number:.2g}{determined}"
    return f"{found}; training rmse: {errors}"
