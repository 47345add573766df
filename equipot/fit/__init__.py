"""Training: loss, optimiser, schedule, and a loop that can be stopped and resumed."""

from equipot.fit.metrics import Errors, ErrorTable, error_table, errors, predictions
from equipot.fit.non_finite import NonFiniteError
from equipot.fit.options import FitOptions, LossWeights, Stage
from equipot.fit.reporter import NullReporter, ProgressReporter, Reporter, StepReport, logging_to
from equipot.fit.train import FitResult, fit

__all__ = [
    "Errors",
    "ErrorTable",
    "FitOptions",
    "FitResult",
    "LossWeights",
    "NonFiniteError",
    "NullReporter",
    "ProgressReporter",
    "Reporter",
    "Stage",
    "StepReport",
    "error_table",
    "errors",
    "fit",
    "logging_to",
    "predictions",
]
