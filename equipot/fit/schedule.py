"""The learning rate of a step."""

import math
from dataclasses import dataclass

from equipot.fit.options import FitOptions


def shape(options: FitOptions, progress: float) -> float:
    r"""Returns the factor of the learning rate at a fraction p of the run.

        constant, plateau: 1      cosine: f + (1 − f)(1 + cos πp)/2      exponential: fᵖ

    with f = `final_lr_fraction`.
    """
    p = min(max(progress, 0.0), 1.0)
    f = options.final_lr_fraction
    if options.schedule == "cosine":
        return f + (1 - f) * (1 + math.cos(math.pi * p)) / 2
    if options.schedule == "exponential":
        return f**p
    return 1.0


def learning_rate(
    options: FitOptions, *, step: int, progress: float, plateau: float, stage: int, step_in_stage: int
) -> float:
    """Returns lr · warm-ups · shape(progress) · plateau factor · stage factors.

    Args:
        options: The schedule.
        step: Number of steps already taken.
        progress: Fraction of the run that is over.
        plateau: Factor of the plateau schedule; 1 for the others.
        stage: Number of stages that have begun.
        step_in_stage: Steps taken since the last one began.
    """
    begun = options.stages[:stage]
    warmup = _warmup(step, options.warmup_steps) * (_warmup(step_in_stage, begun[-1].warmup_steps) if begun else 1.0)
    factors = math.prod(change.lr_factor for change in begun)
    return options.lr * warmup * shape(options, progress) * plateau * factors


def _warmup(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / steps) if steps else 1.0


def stage_at(options: FitOptions, *, epoch: int, progress: float, stage: int) -> int:
    """Returns how many stages have begun at the start of an epoch; a stage that has begun never ends.

    Args:
        options: The stages, in order.
        epoch: Number of the epoch that starts.
        progress: Fraction of the run that is over.
        stage: Number of stages that had begun before.
    """
    while stage < len(options.stages):
        change = options.stages[stage]
        by_epoch = change.from_epoch is not None and epoch >= change.from_epoch
        by_progress = change.from_progress is not None and progress >= change.from_progress
        if not (by_epoch or by_progress):
            break
        stage += 1
    return stage


@dataclass
class Plateau:
    """The factor by which the learning rate has fallen, each time the validation loss stopped getting better.

    Attributes:
        factor: Present factor.
        waited: Validations since the last better loss, or since the factor last fell.
    """

    factor: float = 1.0
    waited: int = 0

    def validated(self, better: bool, options: FitOptions) -> None:
        """Takes in one validation: after more than `plateau_patience` of them in vain, the factor falls."""
        if options.schedule != "plateau":
            return
        self.waited = 0 if better else self.waited + 1
        if self.waited > options.plateau_patience:
            self.factor *= options.plateau_factor
            self.waited = 0
