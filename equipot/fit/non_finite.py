"""The end of a run whose numbers are no longer finite: which structures did it."""

import math
from collections.abc import Sequence
from typing import NoReturn

import torch

from equipot.errors import EquipotError
from equipot.fit.loss import label_counts, label_errors, loss, loss_sums, training_prediction
from equipot.fit.metrics import batch_maker
from equipot.fit.optimise import trainable
from equipot.fit.run import BEST, Run
from equipot.geometry.derivatives import evaluate


class NonFiniteError(EquipotError):
    """The loss or a gradient is not a finite number."""


def stop_non_finite(run: Run, indices: Sequence[int], value: float, norm: float) -> NoReturn:
    """Names the structures of a minibatch that spoil it, each evaluated alone."""
    what = f"the loss is {value}" if not math.isfinite(value) else f"the norm of the gradient is {norm}"
    parameters = list(trainable(run.model).values())
    make = batch_maker(run.train, run.device)
    present: list[str] = []
    guilty: list[str] = []
    for index in indices:
        batch = make([index])
        prediction, labels = training_prediction(run.model, batch, run.learns_derivatives)
        terms = loss_sums(label_errors(prediction, labels, batch.graph), labels, batch.graph, run.options)
        alone = loss(terms, label_counts(labels), run.options.loss_weights(run.state.stage))
        gradients = torch.autograd.grad(alone, parameters, allow_unused=True)
        present += batch.names
        if not all(t.isfinite().all() for t in (alone, *gradients) if t is not None):
            guilty += batch.names
    _raise_non_finite(run, f"{what} in step {run.state.step} (epoch {run.state.epoch})", present, guilty)


def stop_non_finite_validation(run: Run) -> NoReturn:
    """Names the validation structures that spoil the loss, each evaluated alone."""
    make = batch_maker(run.valid, run.device)
    guilty: list[str] = []
    for index in range(run.processes.rank, len(run.valid), run.processes.count):
        batch = make([index])
        prediction = evaluate(run.model, batch.graph)
        errors = label_errors(prediction, batch.labels, batch.graph)
        if not loss_sums(errors, batch.labels, batch.graph, run.options).isfinite().all():
            guilty += batch.names
    _raise_non_finite(run, f"the validation loss is not finite in epoch {run.state.epoch}", [], guilty)


def _raise_non_finite(run: Run, what: str, present: Sequence[str], guilty: Sequence[str]) -> NoReturn:
    guilty = [name for names in run.processes.gather(list(guilty)) for name in names]
    present = [name for names in run.processes.gather(list(present)) for name in names]
    if guilty:
        who = f"Structures that give this alone: {_listed(guilty)}"
    else:
        who = f"No structure gives this alone; the minibatch is {_listed(present)}"
    raise NonFiniteError(
        f"training stopped: {what}. {who}. Look at their labels and shortest distances, or use a smaller lr "
        f"(it is {run.options.lr:g}) or clip ({run.options.clip}). "
        f"The last good model is {run.folder / BEST}."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
