"""Where a training run stands: all that the next step depends on, besides model, optimiser and average."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from equipot.fit.metrics import COLUMNS, Errors
from equipot.fit.schedule import Plateau

TRACKED = 6 + COLUMNS
"""Numbers summed over an epoch: three sums and three counts of the loss, and the error sums of `metrics`."""


@dataclass
class State:
    """Where a run stands; a checkpoint holds exactly this, and the tensors of model, optimiser and average.

    Attributes:
        epoch: Number of the present epoch, from 0.
        step_in_epoch: Steps taken in it.
        step: Steps taken in all.
        stage: Stages that have begun.
        stage_step: Steps taken when the last one began.
        seconds: Wall time of the run, earlier parts included, s.
        sums: Sums over the steps of the present epoch; see `TRACKED`.
        validated_step: Step at which the last validation was made, −1 before the first.
        records: Lines written to metrics.jsonl.
        waited: Validations of the last stage since the best one.
        plateau: State of the plateau schedule.
        best_loss: Smallest validation loss.
        best_epoch: Epoch of it; −1 before the first validation, or where the weights at the start are the best.
        best_errors: Validation errors there.
        best_weights: Averaged weights there, by name; empty before the first validation.
        norm: Norm of the last gradient.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    stage: int = 0
    stage_step: int = 0
    seconds: float = 0.0
    sums: Tensor = field(default_factory=lambda: torch.zeros(TRACKED, dtype=torch.float64))
    validated_step: int = -1
    records: int = 0
    waited: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    best_loss: float = math.inf
    best_epoch: int = -1
    best_errors: Errors = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    norm: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns numbers, strings, tensors, and dicts of them."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"plateau": asdict(self.plateau)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "State":
        """Returns the state that `as_dict` gave.

        Raises:
            LookupError: An entry is missing.
        """
        missing = [f.name for f in fields(cls) if f.name not in saved]
        if missing:
            raise LookupError(f"its state lacks {', '.join(missing)}")
        return cls(**{**saved, "plateau": Plateau(**saved["plateau"])})
