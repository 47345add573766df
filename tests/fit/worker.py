"""Run by the tests as processes of their own: ``worker.py train FOLDER`` and ``worker.py together FOLDER``."""

import itertools
import json
import signal
import sys
import time
from pathlib import Path

import small
import torch

from equipot.fit import distributed
from equipot.fit.metrics import error_table
from equipot.fit.options import FitOptions
from equipot.fit.reporter import NullReporter
from equipot.fit.train import fit

TOGETHER = {
    "uneven": (small.options(batch_size=3), {}),
    "plain-torch": (small.options(batch_size=3, max_epochs=2), {"backend": "reference"}),
    "empty-shares": (small.options(batch_size=1, max_epochs=2, schedule="constant", weight_decay=0.1), {}),
    "dead-parameters": (
        small.options(batch_size=4, max_epochs=2, optimiser="adamw"),
        {"max_L": 1, "last_layer": "all"},
    ),
}
"""Runs that several processes must do as one does: 7 training structures, 5 for validation."""


STOPPED = small.options(batch_size=3, valid_batch_size=1)
"""A run whose second validation is interrupted: of 5 structures one process has 3, the other 2."""


def together(folder: Path) -> None:
    with distributed.started("cpu") as device:
        assert str(device) == "cpu"
        processes = distributed.current()
        stopped(folder, processes)
        for name, (options, axes) in TOGETHER.items():
            model = small.potential(seed=processes.rank, **axes)
            fit(model, small.dataset(7), small.dataset(5, seed=1), options, folder / name)
            table = error_table(model, small.dataset(5, seed=1), 2, processes)
            tables = processes.gather({"total": table.total, "weights": small.total_weight(model)})
            if processes.rank == 0:
                (folder / f"{name}.json").write_text(json.dumps(tables))


def stopped(folder: Path, processes: distributed.Processes) -> None:
    """Runs straight, and interrupted by a signal to one process while it evaluates its last validation structure."""
    data = small.dataset(7), small.dataset(5, seed=1)
    fit(small.potential(), *data, STOPPED, folder / "straight")
    for who in (0, 1):
        model = small.potential()
        if processes.rank == who:
            interrupt_call(model, number=2 * (3 + (3, 2)[who]))
        result = fit(model, *data, STOPPED, folder / f"stopped-{who}")
        ends = processes.gather([result.status, result.epochs, result.steps])
        if processes.rank == 0:
            lines = len(small.records(folder / f"stopped-{who}"))
            (folder / f"stopped-{who}.json").write_text(json.dumps({"ends": ends, "lines": lines}))
        fit(small.potential(seed=9), *data, STOPPED, folder / f"stopped-{who}", resume=True)


def interrupt_call(model: torch.nn.Module, number: int) -> None:
    """Sends SIGTERM to this process when the model is called for the n-th time."""
    calls = itertools.count(1)

    def hook(*given) -> None:
        if next(calls) == number:
            signal.raise_signal(signal.SIGTERM)

    model.register_forward_hook(hook)


class Slow(NullReporter):
    """Takes its time, so that a signal arrives in the middle."""

    def step(self, report) -> None:
        time.sleep(0.02)


def slow_options() -> FitOptions:
    return small.options(max_epochs=20)


def train(folder: Path) -> None:
    result = fit(small.potential(), small.dataset(8), small.dataset(5, seed=1), slow_options(), folder, reporter=Slow())
    print(result.status, result.steps)


if __name__ == "__main__":
    {"together": together, "train": train}[sys.argv[1]](Path(sys.argv[2]))
