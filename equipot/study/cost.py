"""What a training run will cost, and with how many threads it is fastest: measured before it starts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from equipot.data.dataset import Dataset
from equipot.fit.batches import minibatches
from equipot.fit.labels import learns_derivatives
from equipot.fit.loss import label_counts, label_errors, loss, loss_sums, training_prediction
from equipot.fit.metrics import device_of
from equipot.fit.options import FitOptions
from equipot.models.potential import Potential


@dataclass(frozen=True)
class Cost:
    """An estimate; times in s, on the machine that made it.

    Attributes:
        parameters: Of the model.
        structures: For training.
        atoms_per_step: Mean over the minibatches.
        edges_per_step: Mean over the minibatches.
        steps_per_epoch: Minibatches.
        seconds_per_step: Median over the measured steps.
        seconds_per_epoch: Training and validation.
        epochs: How many there will be: all, or as many as fit into `max_minutes`.
        minutes: The whole training.
    """

    parameters: int
    structures: int
    atoms_per_step: float
    edges_per_step: float
    steps_per_epoch: int
    seconds_per_step: float
    seconds_per_epoch: float
    epochs: int
    minutes: float

    def as_dict(self) -> dict[str, Any]:
        """Returns the numbers by name."""
        return asdict(self)


def estimate(potential: Potential, train: Dataset, valid: Dataset, options: FitOptions, repeats: int = 3) -> Cost:
    """Returns what training would cost; a few minibatches are evaluated, the weights stay.

    A validation costs a third of a step for each structure, because it needs no second derivative.

    Args:
        potential: The model.
        train: Structures to learn from.
        valid: Structures of every validation.
        options: How it will be trained.
        repeats: Steps to measure, after one to warm up.
    """
    num_atoms = [int(n) for n in train.num_atoms]
    parts = minibatches(num_atoms, options, 0)
    seconds = [_time_step(potential, train, parts[i % len(parts)], options) for i in range(repeats + 1)]
    step = float(np.median(seconds[1:]))
    atoms = sum(num_atoms)
    edges = sum(graph.num_edges for graph in train.graphs)
    per_atom = step * len(parts) / atoms
    epoch = step * len(parts) + per_atom * int(valid.num_atoms.sum()) / 3.0 / options.validate_every
    limit = float("inf") if options.max_minutes is None else 60.0 * options.max_minutes
    epochs = max(1, min(options.max_epochs, int(min(limit / epoch, 1e9))))
    return Cost(
        parameters=potential.parameter_counts().parameters,
        structures=len(train),
        atoms_per_step=atoms / len(parts),
        edges_per_step=edges / len(parts),
        steps_per_epoch=len(parts),
        seconds_per_step=step,
        seconds_per_epoch=epoch,
        epochs=epochs,
        minutes=min(limit, epochs * epoch) / 60.0,
    )


def _time_step(potential: Potential, train: Dataset, indices: list[int], options: FitOptions) -> float:
    """Returns the time of one step without its update, s."""
    device = device_of(potential)
    started = time.perf_counter()
    batch = train.batch(indices).to(device)
    parameters = [p for p in potential.parameters() if p.requires_grad]
    with potential.at_work():
        prediction, labels = training_prediction(potential, batch, learns_derivatives(train, options))
        sums = loss_sums(label_errors(prediction, labels, batch.graph), labels, batch.graph, options)
        value = loss(sums, label_counts(labels), options.final_loss_weights)
        torch.autograd.grad(value, parameters, allow_unused=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """A context in which torch uses so many CPU threads; None leaves its choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_threads(work: Callable[[], object], repeats: int = 3) -> int:
    """Returns 1 or the number of threads that torch would use, whichever does the work in less time.

    Small structures are often much faster with one thread: threads that wait for each other after every small
    operation, on cores that are shared with other programs or limited by a container, can cost a factor of ten.

    Args:
        work: Something short that is typical of what is to be done.
        repeats: How often it is done with either number, after once to warm up.
    """
    many = torch.get_num_threads()
    seconds = {count: _time_with(count, work, repeats) for count in sorted({1, many})}
    return many if seconds[many] < 0.9 * seconds[1] else 1


def fastest_training_threads(potential: Potential, train: Dataset, options: FitOptions) -> int:
    """Returns `fastest_threads` for steps of a training."""
    indices = minibatches([int(n) for n in train.num_atoms], options, 0)[0]
    return fastest_threads(lambda: _time_step(potential, train, indices, options))


def _time_with(count: int, work: Callable[[], object], repeats: int) -> float:
    with threads(count):
        work()
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        return time.perf_counter() - started
