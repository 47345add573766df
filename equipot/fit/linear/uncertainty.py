"""From a finished fit to what its model says about its own errors."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equipot.data.dataset import Dataset
from equipot.fit.linear.extrapolation import atom_rows, extrapolation
from equipot.fit.linear.fit import LinearFitResult
from equipot.fit.linear.options import LinearFitOptions
from equipot.fit.linear.posterior import Posterior
from equipot.fit.linear.rigidity import rigidity
from equipot.fit.linear.shares import FEWEST, labelled, shares
from equipot.models.linear_features import LinearFeatures
from equipot.models.uncertainty import Uncertainty

logger = logging.getLogger("equipot.fit")

EXACT = 1024
"""Of more weights a committee stands for their covariance."""


@dataclass(frozen=True)
class Known:
    """What is known of a fitted model beside its weights.

    Attributes:
        uncertainty: Of its predictions; None where the fit has no posterior.
        facts: How it was found, as JSON can hold it.
        contributions: Root mean square of what the weights of each group add to the energies of training atoms, eV.
    """

    uncertainty: Uncertainty | None
    facts: dict[str, Any]
    contributions: dict[int, float]


def known(
    fitted: LinearFitResult,
    features: LinearFeatures,
    sets: tuple[Dataset, Dataset],
    species: tuple[int, ...],
    options: LinearFitOptions,
    *,
    trained: bool,
) -> Known:
    """Returns the uncertainty of a fitted model, and what its weights contribute.

    Args:
        fitted: The fit.
        features: The model, with the fitted weights.
        sets: Training and validation structures.
        species: Atomic numbers of the model's elements, ascending.
        options: Of the fit.
        trained: Whether the model was trained before, so that the prior of its last weights says nothing about them and
            its strength is found from validation errors.
    """
    train, valid = sets
    factor, facts = None, {}
    if fitted.posterior is not None:
        scaled_on = labelled(valid) if options.calibrate else {}
        found = rigidity(fitted.posterior, features, valid) if trained and options.calibrate else None
        if found is not None:
            factor, facts = _members(found.factor, options), found.facts()
        elif fitted.learnt_nothing:
            logger.warning(
                "the model says nothing about its uncertainty: the posterior of a fit that has learnt nothing is the "
                "prior, which no error can scale"
            )
        else:
            factor, facts = _posterior_factor(fitted, fitted.posterior, options, scaled_on)
        if factor is not None:
            _few(scaled_on)
            facts |= {
                "members": factor.shape[1], "exact": len(fitted.posterior.columns) <= EXACT, "scaled_on": scaled_on,
            }  # fmt: skip
    contributions = _contributions(features, train, species)
    if factor is None:
        return Known(None, {}, contributions)
    measure = extrapolation(features, train, species, seed=options.seed)
    return Known(Uncertainty(factor, measure), facts, contributions)


def _posterior_factor(
    fitted: LinearFitResult, posterior: Posterior, options: LinearFitOptions, scaled_on: Mapping[str, int]
) -> tuple[Float[Tensor, "weight member"], dict[str, Any]]:
    """Returns the factor of the covariance that validation errors scale, by their numbers."""
    found = fitted.calibration
    α = {} if found is None else {k: a for k, a in found._asdict().items() if a and k != "stress"}
    w = shares({kind: scaled_on.get(kind, 0) for kind in α})
    scale = math.sqrt(sum(w[kind] * a**2 for kind, a in α.items())) if w else 1.0
    columns = len(posterior.columns)
    noise = np.eye(columns) if columns <= EXACT else _normal(columns, options)
    steps = torch.from_numpy(posterior.factor.colour(noise))
    kept = torch.from_numpy(posterior.columns)
    factor = torch.zeros(len(posterior.mean), noise.shape[1], dtype=torch.float64)
    factor[kept] = scale * posterior.noise * steps / posterior.penalties[kept, None]
    ratios = {kind: a / scale for kind, a in α.items()}
    return factor, {"prior_strength": fitted.solution.strength, "scale": scale, "error_over_deviation": ratios}


def _few(scaled_on: Mapping[str, int]) -> None:
    """Warns where so few structures scale the deviations that the scale is uncertain itself."""
    known = [number for number in scaled_on.values() if number]
    if known and max(known) < FEWEST:
        what = {"energy": "energies", "forces": "structures with forces"}
        listed = " and ".join(f"{number} {what[kind]}" for kind, number in scaled_on.items() if number)
        logger.warning(
            "predicted deviations are scaled on only %s: the scale may be wrong by a factor of two or more; give %d or "
            "more validation structures (data.valid)", listed, FEWEST,
        )  # fmt: skip


def _members(factor: Float[Tensor, "weight weight"], options: LinearFitOptions) -> Float[Tensor, "weight member"]:
    """Returns a factor as it is, or a committee drawn from its covariance where it is large."""
    columns = factor.shape[1]
    return factor if columns <= EXACT else factor @ torch.from_numpy(_normal(columns, options))


def _normal(columns: int, options: LinearFitOptions) -> Float[np.ndarray, "weight member"]:
    draws = np.random.default_rng(options.seed).standard_normal((columns, options.committee))
    return draws / math.sqrt(options.committee)


@torch.no_grad()
def _contributions(features: LinearFeatures, train: Dataset, species: tuple[int, ...]) -> dict[int, float]:
    """Returns the root mean square of what each group of weights adds to the energies of atoms."""
    groups, group_of = features.orders.unique(return_inverse=True)
    w = features.weights()
    squares = torch.zeros(len(groups), dtype=torch.float64)
    count = 0
    for rows, _ in atom_rows(features, train, species):
        parts = rows.new_zeros(len(rows), len(groups)).index_add(1, group_of, rows * w)
        squares += parts.square().sum(dim=0)
        count += len(rows)
    contributions = (squares / max(count, 1)).sqrt().tolist()
    return dict(zip(groups.tolist(), contributions, strict=True))
