"""Who is told how a run goes: the terminal, the log, TensorBoard, or nobody."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from equipot.errors import EquipotError
from equipot.fit.options import FitOptions

logger = logging.getLogger("equipot.fit")


@dataclass(frozen=True)
class StepReport:
    """State of a run after a step.

    Attributes:
        epoch: Number of the epoch, from 0.
        step: Steps taken.
        progress: Fraction of the run that is over.
        seconds_left: Estimated time to the end, s; None at the beginning.
        lr: Learning rate of the step.
        loss: Training loss of the epoch so far.
        energy_rmse_meV_per_atom: Training error of the epoch so far; None without labels.
        forces_rmse_meV_per_A: Likewise.
    """

    epoch: int
    step: int
    progress: float
    seconds_left: float | None
    lr: float
    loss: float
    energy_rmse_meV_per_atom: float | None
    forces_rmse_meV_per_A: float | None


@runtime_checkable
class Reporter(Protocol):
    """Is told how a run goes."""

    def start(self, max_epochs: int, steps_per_epoch: int) -> None:
        """The run begins or goes on."""

    def step(self, report: StepReport) -> None:
        """A step was taken."""

    def validation(self, record: Mapping[str, Any]) -> None:
        """A validation was made; `record` is the line of metrics.jsonl."""

    def finish(self, status: str) -> None:
        """The run ends, well or not."""


class NullReporter:
    """Is told, and says nothing."""

    def start(self, max_epochs: int, steps_per_epoch: int) -> None:
        """Does nothing."""

    def step(self, report: StepReport) -> None:
        """Does nothing."""

    def validation(self, record: Mapping[str, Any]) -> None:
        """Does nothing."""

    def finish(self, status: str) -> None:
        """Does nothing."""


class LogReporter(NullReporter):
    """Writes one line to the log for each validation."""

    def validation(self, record: Mapping[str, Any]) -> None:
        """Logs losses, errors, learning rate and time."""
        logger.info(
            "epoch %d  step %d  loss %.4g  valid loss %.4g%s  E %s meV/atom  F %s meV/Å%s  lr %.2g  %.0f s",
            record["epoch"],
            record["step"],
            record["train_loss"],
            record["valid_loss"],
            " (best)" if record["best"] else "",
            _number(record["valid_energy_rmse_meV_per_atom"]),
            _number(record["valid_forces_rmse_meV_per_A"]),
            _stress(record["valid_stress_rmse_meV_per_A3"]),
            record["lr"],
            record["time_s"],
        )


class ProgressReporter(NullReporter):
    """Shows a progress bar with losses, errors in meV and time left; silent where there is no terminal."""

    def __init__(self, console: Console | None = None, every_seconds: float = 0.1) -> None:
        self._console = Console(stderr=True) if console is None else console
        self._every = every_seconds
        self._last = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._valid = ""

    def start(self, max_epochs: int, steps_per_epoch: int) -> None:
        """Opens the bar."""
        if not self._console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=1.0, epoch="-", state="", left="?")
        self._bar.start()

    def step(self, report: StepReport) -> None:
        """Moves the bar, a few times a second."""
        now = time.monotonic()
        if self._bar is None or now - self._last < self._every:
            return
        self._last = now
        energy, forces = _number(report.energy_rmse_meV_per_atom), _number(report.forces_rmse_meV_per_A)
        self._bar.update(
            self._task,
            completed=report.progress,
            epoch=report.epoch,
            state=f"train loss {report.loss:.3g} · E {energy} meV/atom · F {forces} meV/Å{self._valid}",
            left=_clock(report.seconds_left),
        )

    def validation(self, record: Mapping[str, Any]) -> None:
        """Remembers the errors to show."""
        energy = _number(record["valid_energy_rmse_meV_per_atom"])
        self._valid = f" │ valid E {energy} · F {_number(record['valid_forces_rmse_meV_per_A'])}"

    def finish(self, status: str) -> None:
        """Closes the bar."""
        if self._bar is not None:
            if status not in ("interrupted", "failed"):
                self._bar.update(self._task, completed=1.0, left="0:00")
            self._bar.stop()
            self._bar = None


class TensorboardReporter(NullReporter):
    """Writes the numbers of every validation for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise EquipotError(
                "tensorboard is not installed; run `pip install equipot[tensorboard]` or set tensorboard: false"
            ) from error
        self._writer = SummaryWriter(str(folder))

    def validation(self, record: Mapping[str, Any]) -> None:
        """Writes each number under its name."""
        for name, value in record.items():
            if isinstance(value, float) and name != "time_s":
                self._writer.add_scalar(name, value, record["step"])

    def finish(self, status: str) -> None:
        """Closes the file."""
        self._writer.close()


class Reporters:
    """Tells several."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = tuple(reporters)

    def start(self, max_epochs: int, steps_per_epoch: int) -> None:
        """The run begins or goes on."""
        for reporter in self._reporters:
            reporter.start(max_epochs, steps_per_epoch)

    def step(self, report: StepReport) -> None:
        """A step was taken."""
        for reporter in self._reporters:
            reporter.step(report)

    def validation(self, record: Mapping[str, Any]) -> None:
        """A validation was made."""
        for reporter in self._reporters:
            reporter.validation(record)

    def finish(self, status: str) -> None:
        """The run ends."""
        for reporter in self._reporters:
            reporter.finish(status)


def all_reporters(options: FitOptions, folder: Path, reporter: Reporter | None, rank: int) -> Reporter:
    """Returns the log, the caller's, and TensorBoard where it is asked for; nobody on other processes."""
    if rank != 0:
        return Reporters([])
    reporters: list[Reporter] = [LogReporter()]
    if reporter is not None:
        reporters.append(reporter)
    if options.tensorboard:
        reporters.append(TensorboardReporter(folder / "tensorboard"))
    return Reporters(reporters)


class _PresentStderr(logging.StreamHandler):
    """Writes to what standard error is now, so that lines go above a progress bar, not through it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


@contextmanager
def logging_to(path: Path | None, level: int = logging.INFO) -> Iterator[None]:
    """Sends the messages of equipot to standard error and, with times, to a file, which grows.

    Args:
        path: The log file; None for standard error alone.
        level: Least level that is written.
    """
    root = logging.getLogger("equipot")
    handlers: list[logging.Handler] = [_PresentStderr()]
    handlers[0].setFormatter(logging.Formatter("%(message)s"))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
        handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = root.level
    root.setLevel(level)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _stress(value: float | None) -> str:
    return "" if value is None else f"  σ {value:.4g} meV/Å³"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
