"""The training loop: a run is epochs, an epoch is steps and a validation, a step is one minibatch."""

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipot.data.dataset import Batch, Dataset
from equipot.errors import EquipotError
from equipot.fit import distributed
from equipot.fit.batches import prefetched, share
from equipot.fit.interrupt import Interrupted, StopRequest
from equipot.fit.labels import check_labels, label_numbers
from equipot.fit.loss import formula, label_counts, label_errors, loss, loss_sums, training_prediction
from equipot.fit.metrics import Errors, batch_maker, error_sums, evaluate_set, named_errors
from equipot.fit.non_finite import NonFiniteError, stop_non_finite, stop_non_finite_validation
from equipot.fit.optimise import build_average, build_optimiser, only_trained, overwrite, trainable
from equipot.fit.options import FitOptions
from equipot.fit.reporter import Reporter, StepReport, all_reporters
from equipot.fit.run import BEST, CHECKPOINT, Run, SaveModel, Status
from equipot.fit.state import TRACKED
from equipot.kernels.backend import backend_of
from equipot.models.model_file import save_potential
from equipot.models.potential import Potential

logger = logging.getLogger("equipot.fit")


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes:
        status: "finished" (all epochs), "patience", "min_lr", "time", or "interrupted".
        epochs: Whole epochs trained.
        steps: Steps taken.
        seconds: Wall time of the run, earlier parts included, s.
        best_epoch: Epoch of the smallest validation loss; −1 where none was made.
        best_loss: That loss.
        errors: Validation errors of the best model.
        model: File of the best model.
        checkpoint: File to resume from.
    """

    status: Status
    epochs: int
    steps: int
    seconds: float
    best_epoch: int
    best_loss: float
    errors: Errors
    model: Path
    checkpoint: Path


def fit(
    potential: Potential,
    train: Dataset,
    valid: Dataset,
    options: FitOptions,
    folder: Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
    save_model: SaveModel | None = None,
) -> FitResult:
    """Trains a potential in place, and leaves it with the averaged weights of its best validation.

    The folder then holds `best.equipot` and `last.equipot` (models), `last.ckpt` (to resume from) and
    `metrics.jsonl` (a line for each validation). SIGINT and SIGTERM to any of the processes end the run after
    the step or the validation batch in hand, with the same files. On a CPU a resumed run ends with the same
    bits as one that never stopped, at an equal number of threads and without `max_minutes`. Under `torchrun`
    (see `distributed.started`) all processes call this with the same arguments, and only the first writes.

    Args:
        potential: The model, on the device, in the precision and with the backend (`equipot.use_backend`) that it is
            trained in.
        train: Structures to learn from.
        valid: Structures to choose the best model by.
        options: How to train.
        folder: Where the files of the run go.
        resume: Go on with the run that is in `folder`.
        reporter: Is told how it goes, besides the log.
        save_model: Writes model files; default: `save_potential`.

    Raises:
        EquipotError: There is nothing to learn from, `folder` holds a run already or none to resume, or the
            configuration has changed since.
        NonFiniteError: The loss or a gradient became infinite or NaN; the message names the structures. The
            files hold the run as it was before that step.
    """
    for name, dataset in (("training", train), ("validation", valid)):
        check_labels(name, dataset, options)
    processes = distributed.current()
    processes.copy_from_first(list(potential.state_dict().values()))
    with only_trained(potential, options.train_only), StopRequest(insist=processes.count == 1) as stop:
        optimiser = build_optimiser(potential, options)
        run = Run(
            model=potential,
            train=train,
            valid=valid,
            options=options,
            folder=Path(folder),
            processes=processes,
            optimiser=optimiser,
            average=build_average(potential, optimiser, options),
            reporter=all_reporters(options, Path(folder), reporter, processes.rank),
            save_model=_save_model if save_model is None else save_model,
            stop=stop,
        )
        if resume:
            run.restore()
        else:
            run.begin()
        logger.info("%s", formula(options, label_numbers(train)))
        return _supervised(run)


def _supervised(run: Run) -> FitResult:
    """Runs the loop, and whatever happens leaves files and closes the reporter."""
    status = "failed"
    run.reporter.start(run.options.max_epochs, len(run.minibatches))
    try:
        if run.state.step == 0:
            if run.options.keep_start:
                remember_start(run)
            run.save()
        status = train_run(run)
        run.save_last()
    except NonFiniteError:
        _save_after_failure(run)
        raise
    finally:
        run.reporter.finish(status)
    state = run.state
    if state.best_weights:
        parameters = trainable(run.model)
        overwrite(parameters.values(), [state.best_weights[name] for name in parameters])
    logger.info(
        "%s after %d epochs, %d steps, %.0f s; best validation loss %.6g %s",
        status, state.epoch, state.step, state.seconds, state.best_loss,
        f"in epoch {state.best_epoch}" if state.best_epoch >= 0 else "before the first step",
    )  # fmt: skip
    return FitResult(
        status=status,
        epochs=state.epoch,
        steps=state.step,
        seconds=state.seconds,
        best_epoch=state.best_epoch,
        best_loss=state.best_loss,
        errors=dict(state.best_errors),
        model=run.folder / BEST,
        checkpoint=run.folder / CHECKPOINT,
    )


def _save_after_failure(run: Run) -> None:
    try:
        run.save_last()
    except EquipotError as error:
        logger.error("the last weights could not be written: %s", error)


def train_run(run: Run) -> Status:
    """Trains epoch after epoch; returns why it stopped."""
    while (status := run.ended()) is None:
        status = train_epoch(run)
        if status == "interrupted":
            return status
        if (status == "time" or run.validation_due) and run.state.validated_step != run.state.step:
            try:
                validate(run)
            except Interrupted:
                return "interrupted"
        if status is not None:
            return status
        run.end_epoch()
    return status


def train_epoch(run: Run) -> Status | None:
    """Takes the steps of the present epoch that are left; returns why it ended early, if it did."""
    run.begin_epoch()
    todo = run.minibatches[run.state.step_in_epoch :]
    own = [share(m, run.num_atoms, run.processes.rank, run.processes.count) for m in todo]
    make = batch_maker(run.train, run.device)
    with closing(prefetched(lambda indices: make(indices) if indices else None, own)) as batches:
        for indices, batch in zip(own, batches, strict=True):
            if status := run.tick():
                return status
            take_step(run, indices, batch)
            run.save_if_due()
    return run.tick()


def take_step(run: Run, indices: Sequence[int], batch: Batch | None) -> None:
    """Changes the weights by one minibatch.

        L = loss of the minibatch (see `loss.loss`),   g = ∂L/∂θ,   θ ← optimiser(θ, g · min(1, clip/‖g‖))

    L is a sum over structures divided by counts over all processes, so the sum of everyone's g is the
    gradient of the whole minibatch, however it was shared.

    Args:
        run: The run.
        indices: Structures of this process's share.
        batch: The share; None where it is empty.

    Raises:
        NonFiniteError: L or ‖g‖ is not finite.
    """
    with run.model.at_work():
        _take_step(run, indices, batch)


def _take_step(run: Run, indices: Sequence[int], batch: Batch | None) -> None:
    parameters = run.parameters
    weights, lr = run.options.loss_weights(run.state.stage), run.lr
    sums, gradients = _share_of_step(run, batch, parameters)
    for parameter, gradient in zip(parameters, run.processes.sum_gradients(gradients, parameters), strict=True):
        # torch's fused optimisers take the memory of a gradient as it lies, whatever its strides
        parameter.grad = None if gradient is None else gradient.contiguous()
    norm = torch.nn.utils.clip_grad_norm_(parameters, run.options.clip or math.inf)
    sums = run.processes.sum(sums)
    tracked = torch.cat([sums, norm.detach().double().reshape(1)]).cpu()
    tracked, norm_value = tracked[:-1], tracked[-1].item()
    value = loss(tracked[:3], tracked[3:6], weights).item()
    if not (math.isfinite(value) and math.isfinite(norm_value)):
        stop_non_finite(run, indices, value, norm_value)
    for group in run.optimiser.param_groups:
        group["lr"] = lr
    run.optimiser.step()
    run.average.update()
    run.state.step += 1
    run.state.step_in_epoch += 1
    run.state.sums += tracked
    run.state.norm = norm_value
    if run.leads:
        run.reporter.step(_step_report(run, lr))


def _share_of_step(
    run: Run, batch: Batch | None, parameters: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Returns the tracked sums and the gradients of this process's share of a minibatch."""
    if batch is None:
        tracked = torch.zeros(TRACKED, dtype=torch.float64, device=run.device)
        run.processes.sum(tracked[3:6])
        return tracked, [None] * len(parameters)
    prediction, labels = training_prediction(run.model, batch, run.learns_derivatives)
    counts = label_counts(labels)
    errors = label_errors(prediction, labels, batch.graph)
    terms = loss_sums(errors, labels, batch.graph, run.options)
    value = loss(terms, run.processes.sum(counts), run.options.loss_weights(run.state.stage))
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    by_structure = error_sums(errors, labels, batch.graph)
    return torch.cat([terms.detach(), counts, by_structure.sum(dim=0)]), gradients


def remember_start(run: Run) -> None:
    """Takes the weights before the first step for the best ones, until a validation is better."""
    state = run.state
    evaluation = evaluate_set(run.model, run.valid, run.options, run.processes)
    if math.isfinite(evaluation.loss):
        state.best_loss, state.best_errors = evaluation.loss, evaluation.table.total
        state.best_weights = {n: p.detach().clone() for n, p in trainable(run.model).items()}


def validate(run: Run) -> None:
    """Evaluates the averaged weights on the validation structures, remembers the best, and writes a record.

    Raises:
        NonFiniteError: The validation loss is not finite.
        Interrupted: One of the processes was asked to stop; nothing is remembered.
    """
    state, options = run.state, run.options
    with run.average.applied():
        evaluation = evaluate_set(run.model, run.valid, options, run.processes, run.check_stop)
        if not math.isfinite(evaluation.loss):
            stop_non_finite_validation(run)
        better = evaluation.loss < state.best_loss
        if better:
            state.best_loss, state.best_epoch = evaluation.loss, state.epoch
            state.best_errors = evaluation.table.total
            state.best_weights = {n: p.detach().clone() for n, p in trainable(run.model).items()}
    state.plateau.validated(better, options)
    last_stage = state.stage == len(options.stages)
    state.waited = state.waited + 1 if last_stage and not better else 0
    state.validated_step = state.step
    train_errors = named_errors(state.sums[6:])
    record = {
        "epoch": state.epoch,
        "step": state.step,
        "time_s": round(state.seconds, 3),
        "lr": run.lr,
        "stage": state.stage,
        "backend": backend_of(run.model),
        "gradient_norm": state.norm,
        "train_loss": _train_loss(run),
        **{f"train_{k}": v for k, v in train_errors.items() if not k.endswith("count")},
        "valid_loss": evaluation.loss,
        **{f"valid_{k}": v for k, v in evaluation.table.total.items()},
        "valid_config_types": evaluation.table.config_types,
        "valid_elements": evaluation.table.elements,
        "best": better,
    }
    run.append(record)
    if run.leads:
        run.reporter.validation(record)


def _train_loss(run: Run) -> float:
    """Returns the training loss over the steps of the epoch, weights changing meanwhile."""
    sums = run.state.sums
    return loss(sums[:3], sums[3:6], run.options.loss_weights(run.state.stage)).item()


def _step_report(run: Run, lr: float) -> StepReport:
    errors = named_errors(run.state.sums[6:])
    return StepReport(
        epoch=run.state.epoch,
        step=run.state.step,
        progress=run.progress,
        seconds_left=run.seconds_left,
        lr=lr,
        loss=_train_loss(run),
        energy_rmse_meV_per_atom=errors["energy_rmse_meV_per_atom"],
        forces_rmse_meV_per_A=errors["forces_rmse_meV_per_A"],
    )


def _save_model(path: Path, potential: Potential, facts: dict[str, Any]) -> None:
    save_potential(path, potential, provenance=facts)
