"""A training run: what it holds, where it stands, and the files that it leaves."""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from equipot.data.dataset import Dataset
from equipot.errors import EquipotError
from equipot.files import write_atomically
from equipot.fit.batches import minibatches
from equipot.fit.checkpoint import CHECKPOINT, check_unchanged, load_checkpoint, misfit, save_checkpoint
from equipot.fit.distributed import Processes
from equipot.fit.interrupt import Interrupted, StopRequest
from equipot.fit.labels import learns_derivatives
from equipot.fit.metrics import device_of
from equipot.fit.optimise import Average, Optimiser, trainable, weights_replaced
from equipot.fit.options import FitOptions
from equipot.fit.reporter import Reporter
from equipot.fit.schedule import learning_rate, stage_at
from equipot.fit.state import State
from equipot.kernels.backend import backend_of
from equipot.models.potential import Potential

logger = logging.getLogger("equipot.fit")

BEST = "best.equipot"
LAST = "last.equipot"
METRICS = "metrics.jsonl"

Status = Literal["finished", "patience", "min_lr", "time", "interrupted"]


@runtime_checkable
class SaveModel(Protocol):
    """Writes a model file, atomically."""

    def __call__(self, path: Path, potential: Potential, facts: dict[str, Any]) -> None:
        """Writes `potential` with `facts` about its training (epoch, errors, options, data hashes)."""


@dataclass
class Run:
    """Everything that the loop works with.

    Attributes:
        model: The potential that is trained, in place.
        train: Structures to learn from.
        valid: Structures to choose the best model by.
        options: How to train.
        folder: Where the files go.
        processes: Those that train together.
        optimiser: Changes the weights.
        average: Makes the weights that are validated and saved.
        reporter: Is told how it goes.
        save_model: Writes model files.
        stop: Whether somebody asked to stop.
        state: Where the run stands.
    """

    model: Potential
    train: Dataset
    valid: Dataset
    options: FitOptions
    folder: Path
    processes: Processes
    optimiser: Optimiser
    average: Average
    reporter: Reporter
    save_model: SaveModel
    stop: StopRequest
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        self.device = device_of(self.model)
        self.parameters = list(trainable(self.model).values())
        self.num_atoms = [int(n) for n in self.train.num_atoms]
        self.minibatches = minibatches(self.num_atoms, self.options, 0)
        self.learns_derivatives = learns_derivatives(self.train, self.options)
        self._data = {"train_data": self.train.hash(), "valid_data": self.valid.hash()}
        self._best_written: int | None = None
        self.begin_session()

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.processes.rank == 0

    # time

    def begin_session(self) -> None:
        """Starts the clock of this session where the state of the run stands."""
        self._seconds_before, self._started = self.state.seconds, time.monotonic()
        self._saved = self._started
        self._progress_before = self.progress

    def tick(self) -> Status | None:
        """Agrees with all processes on the time, and returns why to stop before the next step, if so."""
        seconds = self._seconds_before + time.monotonic() - self._started
        asked, self.state.seconds = self._summed(self.stop.requested, seconds if self.leads else 0.0)
        if asked > 0:
            return "interrupted"
        limit = self.options.max_minutes
        return "time" if limit is not None and self.state.seconds >= 60 * limit else None

    def check_stop(self) -> None:
        """Agrees with all processes whether to stop now.

        Raises:
            Interrupted: One of them was asked to; it is raised on all.
        """
        if self._summed(self.stop.requested)[0] > 0:
            raise Interrupted

    def _summed(self, *numbers: float) -> list[float]:
        """Returns the sums of numbers over all processes; all must call it."""
        device = self.device if self.processes.count > 1 else None
        return self.processes.sum(torch.tensor(numbers, dtype=torch.float64, device=device)).tolist()

    @property
    def progress(self) -> float:
        """Fraction of the run that is over, by epochs or by the clock, whichever is ahead."""
        return self._progress(self.options)

    def _progress(self, options: FitOptions) -> float:
        epochs = self.state.epoch + self.state.step_in_epoch / len(self.minibatches)
        clock = self.state.seconds / (60 * options.max_minutes) if options.max_minutes else 0.0
        return min(1.0, max(epochs / options.max_epochs, clock))

    @property
    def seconds_left(self) -> float | None:
        """Time to the end at the pace of this session, s; None before there is a pace."""
        done = self.progress - self._progress_before
        elapsed = self.state.seconds - self._seconds_before
        return elapsed * (1 - self.progress) / done if done > 0 and elapsed > 1 else None

    def ended(self) -> Status | None:
        """Returns why no further epoch is to be trained, if so."""
        if self.state.epoch >= self.options.max_epochs:
            return "finished"
        if self.options.patience is not None and self.state.waited >= self.options.patience:
            return "patience"
        falls = self.options.schedule == "plateau"
        return "min_lr" if falls and self.options.lr * self.state.plateau.factor < self.options.min_lr else None

    # the parts of an epoch

    def begin_epoch(self) -> None:
        """Makes the minibatches of the present epoch; a new one also sees whether a stage begins."""
        self.minibatches = minibatches(self.num_atoms, self.options, self.state.epoch)
        if self.state.step_in_epoch == 0:
            before, epoch = self.state.stage, self.state.epoch
            self.state.stage = stage_at(self.options, epoch=epoch, progress=self.progress, stage=before)
            if self.state.stage > before:
                self.state.stage_step = self.state.step

    def end_epoch(self) -> None:
        """Goes to the first step of the next epoch."""
        self.state.epoch += 1
        self.state.step_in_epoch = 0
        self.state.sums = torch.zeros_like(self.state.sums)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self._lr(self.options)

    def _lr(self, options: FitOptions) -> float:
        return learning_rate(
            options,
            step=self.state.step,
            progress=self._progress(options),
            plateau=self.state.plateau.factor,
            stage=self.state.stage,
            step_in_stage=self.state.step - self.state.stage_step,
        )

    @property
    def validation_due(self) -> bool:
        """Whether the epoch that has just been trained is to be validated."""
        number = self.state.epoch + 1
        return number % self.options.validate_every == 0 or number >= self.options.max_epochs

    # files

    @property
    def configuration(self) -> dict[str, Any]:
        """All that must be the same when the run is resumed."""
        return {
            "fit": self.options.model_dump(mode="json"),
            "design": self.model.design.model_dump(mode="json"),
            "statistics": self.model.statistics.model_dump(mode="json"),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "radial": self.model.radial,
            **self._data,
        }

    def facts(self, kind: str) -> dict[str, Any]:
        """Returns what a model file says about the training."""
        best = kind == "best"
        return {
            "kind": kind,
            "epoch": self.state.best_epoch if best else self.state.epoch,
            "step": self.state.step,
            "seconds": self.state.seconds,
            "processes": self.processes.count,
            "backend": backend_of(self.model),
            "valid_loss": self.state.best_loss if best else None,
            "valid_errors": dict(self.state.best_errors) if best else None,
            "fit": self.options.model_dump(mode="json"),
            **self._data,
        }

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        self.state.records += 1
        if self.leads:
            with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def save_if_due(self) -> None:
        """Saves where the last time is `checkpoint_seconds` ago."""
        if time.monotonic() - self._saved >= self.options.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        """Writes the best model, if it is new, and the checkpoint."""
        if self.leads:
            if self._best_epoch != self._best_written:
                with self.best_applied():
                    self.save_model(self.folder / BEST, self.model, self.facts("best"))
            save_checkpoint(self.folder / CHECKPOINT, self._content())
        self._best_written = self._best_epoch
        self._saved = time.monotonic()

    def save_last(self) -> None:
        """Saves, and writes the averaged weights as they are now; before any validation also as the best."""
        self.save()
        if not self.leads:
            return
        with self.average.applied():
            self.save_model(self.folder / LAST, self.model, self.facts("last"))
            if self._best_epoch is None:
                self.save_model(self.folder / BEST, self.model, self.facts("last"))

    @property
    def _best_epoch(self) -> int | None:
        """Epoch of the best weights so far, −1 for those at the start; None where there are none yet."""
        return self.state.best_epoch if self.state.best_weights else None

    @contextmanager
    def best_applied(self) -> Iterator[None]:
        """A context in which the model has the best weights so far."""
        parameters = trainable(self.model)
        with weights_replaced(parameters.values(), [self.state.best_weights[name] for name in parameters]):
            yield

    def _content(self) -> dict[str, Any]:
        on_gpu = self.device.type == "cuda"
        return {
            "configuration": self.configuration,
            "state": self.state.as_dict(),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.state_dict(),
            "random": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            },
        }

    def restore(self) -> None:
        """Takes up the run where its checkpoint stands.

        Raises:
            EquipotError: There is no usable checkpoint, or the configuration has changed.
        """
        path = self.folder / CHECKPOINT
        content = load_checkpoint(path)
        changed = check_unchanged(content["configuration"], self.configuration)
        try:
            self._take_up(content)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise misfit(path, error) from error
        self._best_written = self._best_epoch
        self._keep_records()
        self.minibatches = minibatches(self.num_atoms, self.options, self.state.epoch)
        self.begin_session()
        logger.info("resumed at epoch %d, step %d", self.state.epoch, self.state.step)
        if changed:
            self._announce(changed)

    def _take_up(self, content: Mapping[str, Any]) -> None:
        self.model.load_state_dict(content["model"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.average.load_state_dict(content["average"])
        self.state = State.from_dict(content["state"])
        names = trainable(self.model) if self.state.best_weights else ()
        self.state.best_weights = {name: self.state.best_weights[name].to(self.device) for name in names}
        torch.set_rng_state(content["random"]["cpu"])
        if self.device.type == "cuda" and content["random"]["cuda"] is not None:
            torch.cuda.set_rng_state(content["random"]["cuda"], self.device)

    def _announce(self, changed: Mapping[str, tuple[Any, Any]]) -> None:
        """Says what another length of the run does to the learning rate."""
        before = self.options.model_copy(update={key.removeprefix("fit."): old for key, (old, _) in changed.items()})
        what = ", ".join(f"{key} was {old} and is now {new}" for key, (old, new) in changed.items())
        was, now = self._lr(before), self._lr(self.options)
        if self.ended():
            effect = "there is no epoch left to train"
        elif math.isclose(was, now, rel_tol=1e-9):
            effect = f"the learning rate of the next step stays at {now:.3g}"
        else:
            effect = (
                f"the learning rate goes from {was:.3g} to {now:.3g} at this point, because the "
                f"{self.options.schedule} schedule now spans the new length"
            )
        logger.warning("%s: %s (epoch %d, step %d)", what, effect, self.state.epoch, self.state.step)

    def _keep_records(self) -> None:
        """Drops lines of metrics.jsonl written after the checkpoint: they will be written again."""
        path = self.folder / METRICS
        if self.leads and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(lines[: self.state.records])
            write_atomically(path, lambda temporary: temporary.write_text(kept, encoding="utf-8"))

    def begin(self) -> None:
        """Prepares the folder of a new run.

        Raises:
            EquipotError: The folder holds a run already.
        """
        # all processes look before any goes on, because the first one writes the checkpoint soon
        if any(self.processes.gather((self.folder / CHECKPOINT).exists())):
            raise EquipotError(f"{self.folder} holds a run already ({CHECKPOINT}); resume it, or name another folder")
        if self.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / METRICS).unlink(missing_ok=True)
