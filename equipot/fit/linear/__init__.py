"""Linear least squares: the weights of models that are linear in them, found at once, with their uncertainty."""

from equipot.fit.linear.fit import KindErrors, LinearFitResult, fit_linear
from equipot.fit.linear.options import LinearFitOptions, TypeWeights
from equipot.fit.linear.posterior import (
    Calibration,
    Deviations,
    Posterior,
    calibration,
)
from equipot.fit.linear.problem import SingularError

__all__ = [
    "Calibration",
    "Deviations",
    "KindErrors",
    "LinearFitOptions",
    "LinearFitResult",
    "Posterior",
    "SingularError",
    "TypeWeights",
    "calibration",
    "fit_linear",
]
