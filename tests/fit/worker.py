"""Run by the tests as processes of their own: ``worker.py train FOLDER`` and ``worker.py together FOLDER``."""

import json
import sys
import time
from pathlib import Path

import small

from equipot.fit import distributed
from equipot.fit.metrics import error_table
from equipot.fit.options import FitOptions
from equipot.fit.reporter import NullReporter
from equipot.fit.train import fit

TOGETHER = {
    "uneven": (small.options(batch_size=3), {}),
    "empty-shares": (small.options(batch_size=1, max_epochs=2, schedule="constant", weight_decay=0.1), {}),
    "dead-parameters": (
        small.options(batch_size=4, max_epochs=2, optimiser="adamw"),
        {"max_L": 1, "last_layer": "all"},
    ),
}
"""Runs that several processes must do as one does: 7 training structures, 5 for validation."""


def together(folder: Path) -> None:
    with distributed.started("cpu") as device:
        assert str(device) == "cpu"
        processes = distributed.current()
        for name, (options, axes) in TOGETHER.items():
            model = small.potential(seed=processes.rank, **axes)
            fit(model, small.dataset(7), small.dataset(5, seed=1), options, folder / name)
            table = error_table(model, small.dataset(5, seed=1), 2, processes)
            tables = processes.gather({"total": table.total, "weights": small.total_weight(model)})
            if processes.rank == 0:
                (folder / f"{name}.json").write_text(json.dumps(tables))


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
