"""A training run: what it holds, where it stands, and the files that it leaves."""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from equipot.data.dataset import Dataset
from equipot.errors import EquipotError
from equipot.fit.batches import minibatches
from equipot.fit.checkpoint import check_unchanged, load_checkpoint, save_checkpoint
from equipot.fit.distributed import Processes
from equipot.fit.interrupt import StopRequest
from equipot.fit.metrics import COLUMNS, Errors, device_of
from equipot.fit.optimise import Average, Optimiser, trainable, weights_replaced
from equipot.fit.options import FitOptions
from equipot.fit.reporter import Reporter
from equipot.fit.schedule import Plateau, learning_rate, stage_at
from equipot.models.potential import Potential

logger = logging.getLogger("equipot.fit")

BEST = "best.equipot"
LAST = "last.equipot"
CHECKPOINT = "last.ckpt"
METRICS = "metrics.jsonl"

TRACKED = 6 + COLUMNS
"""Numbers summed over an epoch: three sums and three counts of the loss, and the error sums of `metrics`."""

Status = Literal["finished", "patience", "min_lr", "time", "interrupted"]


@runtime_checkable
class SaveModel(Protocol):
    """Writes a model file, atomically."""

    def __call__(self, path: Path, potential: Potential, facts: dict[str, Any]) -> None:
        """Writes `potential` with `facts` about its training (epoch, errors, options, data hashes)."""


@dataclass
class State:
    """Where a run stands; a checkpoint holds exactly this, and the tensors of model, optimiser and average.

    Attributes:
        epoch: Number of the present epoch, from 0.
        step_in_epoch: Steps taken in it.
        step: Steps taken in all.
        stage: Stages that have begun.
        seconds: Wall time of the run, earlier parts included, s.
        sums: Sums over the steps of the present epoch; see `TRACKED`.
        validated_step: Step at which the last validation was made, −1 before the first.
        records: Lines written to metrics.jsonl.
        waited: Validations of the last stage since the best one.
        plateau: State of the plateau schedule.
        best_loss: Smallest validation loss.
        best_epoch: Epoch of it; −1 before the first validation.
        best_errors: Validation errors there.
        best_weights: Averaged weights there, by name.
        norm: Norm of the last gradient.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    stage: int = 0
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
        """Returns the state that `as_dict` gave."""
        return cls(**{**saved, "plateau": Plateau(**saved["plateau"])})


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
        self.num_atoms = [int(n) for n in self.train.num_atoms]
        self.minibatches = minibatches(self.num_atoms, self.options, 0)
        self._data = {"train_data": self.train.hash(), "valid_data": self.valid.hash()}
        self._best_written = -1
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
        mine = [float(self.stop.requested), seconds if self.leads else 0.0]
        device = self.device if self.processes.count > 1 else None
        asked, self.state.seconds = self.processes.sum(torch.tensor(mine, dtype=torch.float64, device=device)).tolist()
        if asked > 0:
            return "interrupted"
        limit = self.options.max_minutes
        return "time" if limit is not None and self.state.seconds >= 60 * limit else None

    @property
    def progress(self) -> float:
        """Fraction of the run that is over, by epochs or by the clock, whichever is ahead."""
        epochs = self.state.epoch + self.state.step_in_epoch / len(self.minibatches)
        clock = self.state.seconds / (60 * self.options.max_minutes) if self.options.max_minutes else 0.0
        return min(1.0, max(epochs / self.options.max_epochs, clock))

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
            self.state.stage = stage_at(
                self.options, epoch=self.state.epoch, progress=self.progress, stage=self.state.stage
            )

    def end_epoch(self) -> None:
        """Goes to the first step of the next epoch."""
        self.state.epoch += 1
        self.state.step_in_epoch = 0
        self.state.sums = torch.zeros_like(self.state.sums)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return learning_rate(
            self.options,
            step=self.state.step,
            progress=self.progress,
            plateau=self.state.plateau.factor,
            stage=self.state.stage,
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
            if self.state.best_epoch > self._best_written:
                with self.best_applied():
                    self.save_model(self.folder / BEST, self.model, self.facts("best"))
            save_checkpoint(self.folder / CHECKPOINT, self._content())
        self._best_written = self.state.best_epoch
        self._saved = time.monotonic()

    def save_last(self) -> None:
        """Saves, and writes the averaged weights as they are now; before any validation also as the best."""
        self.save()
        if not self.leads:
            return
        with self.average.applied():
            self.save_model(self.folder / LAST, self.model, self.facts("last"))
            if self.state.best_epoch < 0:
                self.save_model(self.folder / BEST, self.model, self.facts("last"))

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
        content = load_checkpoint(self.folder / CHECKPOINT)
        check_unchanged(content["configuration"], self.configuration)
        self.model.load_state_dict(content["model"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.average.load_state_dict(content["average"])
        self.state = State.from_dict(content["state"])
        self.state.best_weights = {k: v.to(self.device) for k, v in self.state.best_weights.items()}
        torch.set_rng_state(content["random"]["cpu"])
        if self.device.type == "cuda" and content["random"]["cuda"] is not None:
            torch.cuda.set_rng_state(content["random"]["cuda"], self.device)
        self._best_written = self.state.best_epoch
        self._keep_records()
        self.minibatches = minibatches(self.num_atoms, self.options, self.state.epoch)
        self.begin_session()
        logger.info("resumed at epoch %d, step %d", self.state.epoch, self.state.step)

    def _keep_records(self) -> None:
        """Drops lines of metrics.jsonl written after the checkpoint: they will be written again."""
        path = self.folder / METRICS
        if self.leads and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            path.write_text("".join(lines[: self.state.records]), encoding="utf-8")

    def begin(self) -> None:
        """Prepares the folder of a new run.

        Raises:
            EquipotError: The folder holds a run already.
        """
        if (self.folder / CHECKPOINT).exists():
            raise EquipotError(f"{self.folder} holds a run already ({CHECKPOINT}); resume it, or name another folder")
        if self.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / METRICS).unlink(missing_ok=True)
