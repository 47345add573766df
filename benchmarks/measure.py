"""Runs a row: starts a process for each code, lets them take turns, and makes numbers of the samples."""

import os
import statistics
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cases import Model, Row
from counts import count
from processes import KEEP_MEMORY, Worker, WorkerError, busy_core
from tasks import Tasks

Samples = dict[str, list[dict[str, float]]]
Facts = dict[str, dict[str, Any]]
SCRIPTS = {"mace": "work_mace.py", "nequip": "work_nequip.py", "botnet": "work_botnet.py"}
WARM_UP_S = 4.0
ENVIRONMENTS = {"mace": "peers-mace", "nequip": "peers-nequip", "botnet": "peers-mace"}


@dataclass(frozen=True)
class Settings:
    """How it is measured.

    Attributes:
        peers: Folder with the environments peers-mace and peers-nequip, and botnet's source; None: without peers.
        compiled: Measure nequip compiled too: `compile_mode="compile"` in training, AOTInductor in dynamics.
        threads: Of each code, in rows that are not about threads.
        repeats: Turns of each code.
        seconds: A turn takes as many steps as fit in this, and one at least.
    """

    peers: Path | None = None
    compiled: bool = False
    threads: int = 1
    repeats: int = 5
    seconds: float = 1.0


@dataclass
class Entrant:
    """One code in one setting, in its process.

    Attributes:
        label: "ours", "peer", "peer tuned", "peer compiled"; in rows of threads with their number.
        worker: The process.
        steps: Steps of a turn.
    """

    label: str
    worker: Worker
    steps: int = 1
    samples: list[dict[str, float]] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """What the worker knows, with its versions."""
        started = self.worker.started
        return {**self.worker.facts(), "versions": started["versions"], "seconds_to_start": started["ready"]}

    def calibrate(self, seconds: float, least: int) -> None:
        """Warms up, and finds how many steps fit in a turn.

        The first steps compile (TorchScript in the peers, kernels in ours): five are taken, or as many as fit in
        `WARM_UP_S`, but never the first alone, except where that took five seconds and is a peer's.
        """
        once = self.worker.time(1)["wall_ms"] / 1e3
        if once > 5.0 and not self.label.startswith("ours"):
            return
        spent = 0.0
        for _ in range(4):
            once = self.worker.time(1)["wall_ms"] / 1e3
            spent += once
            if spent > WARM_UP_S:
                break
        self.steps = max(least, min(50, round(seconds / max(once, 1e-6))))


class Bench:
    """The rows' common settings, files and results."""

    def __init__(self, tasks: Tasks, settings: Settings) -> None:
        self.tasks, self.settings = tasks, settings
        self.versions: dict[str, Any] = {}
        self.training: dict[str, dict[str, Any]] = {}

    def python(self, peer: str) -> str | None:
        """The interpreter of a peer's environment, if it is there."""
        if self.settings.peers is None:
            return None
        path = self.settings.peers / ENVIRONMENTS[peer] / "bin" / "python"
        there = path.exists() and (peer != "botnet" or (self.settings.peers / "botnet").exists())
        return str(path) if there else None

    def start(self, label: str, code: str, task: dict[str, Any], tuned: bool = False) -> Entrant:
        """Starts one code."""
        if code == "equipot":
            worker = Worker(sys.executable, "work_equipot.py", task)
        else:
            assert self.settings.peers is not None
            variables = {**(KEEP_MEMORY if tuned else {}), "BOTNET_SOURCE": str(self.settings.peers / "botnet")}
            worker = Worker(str(self.python(code)), SCRIPTS[code], task, variables)
        self.versions[code] = worker.started["versions"]
        return Entrant(label, worker)

    def entrants(self, model: Model, task: dict[str, Any], suffix: str, known: list[Entrant]) -> list[Entrant]:
        """Starts the peer in its settings, then ours with the peer's weights; a peer that fails is left out."""
        weights = self.tasks.folder / f"{model.name}-{task['dtype']}-{task['structures'].rsplit('/', 1)[-1]}.pt"
        if self.python(model.peer):
            settings: dict[str, tuple[dict[str, Any], bool]] = {
                "peer": ({"write_weights": str(weights)}, False), "peer tuned": ({}, True),
            }  # fmt: skip
            if self.settings.compiled and model.peer == "nequip" and not suffix:
                settings["peer compiled"] = ({"compiled": True}, True)
            if suffix:
                settings.pop("peer tuned")
            for label, (extra, tuned) in settings.items():
                try:
                    known.append(self.start(label + suffix, model.peer, {**task, **extra}, tuned))
                except WorkerError as error:
                    print(f"{model.name}, {label}: {error}", file=sys.stderr)
        own = {**task, "read_weights": str(weights)} if weights.exists() else task
        known.append(self.start("ours" + suffix, "equipot", own))
        return known

    def turns(self, entrants: list[Entrant], repeats: int, busy: bool) -> None:
        """Lets all take their turns."""
        for entrant in entrants:
            least = 10 if entrant.label.startswith("ours") and self.settings.seconds >= 1 else 1
            entrant.calibrate(self.settings.seconds, least)
        with busy_core() if busy else nullcontext():
            for _ in range(repeats):
                for entrant in entrants:
                    entrant.samples.append(entrant.worker.time(entrant.steps))

    def measure(self, row: Row, threads: tuple[int, ...]) -> tuple[Samples, Facts]:
        """All samples of a row, and what the workers know, by label."""
        entrants: list[Entrant] = []
        try:
            for number in threads:
                suffix = f", {number} threads" if len(threads) > 1 else ""
                task = self.tasks.task(row.described, row.does, row.system, row.dtype, number)
                self.entrants(row.described, task, suffix, entrants)
            repeats = min(5, self.settings.repeats) if row.slow else self.settings.repeats
            self.turns(entrants, repeats, row.busy)
            return {e.label: e.samples for e in entrants}, {e.label: e.facts() for e in entrants}
        finally:
            for entrant in entrants:
                entrant.worker.close()

    def run(self, row: Row, rates: dict[str, float]) -> dict[str, Any]:
        """One row as a JSON object."""
        load = os.getloadavg()
        threads = (1, 2) if row.kind == "threads" else (self.settings.threads,)
        key = f"{row.model} {row.system} {row.dtype}"
        if row.kind == "memory" and key in self.training:
            found = self.training[key]
        else:
            samples, facts = self.measure(row, threads)
            found = {"samples": samples, "facts": facts}
        if row.does == "train" and len(threads) == 1:
            self.training[key] = found
        result = {
            "row": row.name, "model": row.model, "kind": row.kind, "system": row.system, "dtype": row.dtype,
            "threads": list(threads), "target": row.target, "tuned_target": row.tuned_target, "goal": row.goal,
            "load_average": load, **self.tasks.size(row.described, row.system),
            "force_difference": _difference(found["facts"]),
            "memory": {label: _memory(known) for label, known in found["facts"].items()},
            "versions": {label: known["versions"] for label, known in found["facts"].items()},
            "seconds_to_start": {label: known["seconds_to_start"] for label, known in found["facts"].items()},
            "parameters": {label: known.get("parameters") for label, known in found["facts"].items()},
            "samples": found["samples"], "median": medians(found["samples"]),
        }  # fmt: skip
        return {**result, **_ratios(row, result), "counted": _counted(row, result, rates)}


def medians(samples: Samples) -> dict[str, dict[str, float]]:
    """The medians over the turns, and the spread: the largest over the smallest CPU time."""
    return {
        label: {
            "cpu_ms": statistics.median(s["cpu_ms"] for s in values),
            "wall_ms": statistics.median(s["wall_ms"] for s in values),
            "spread": max(s["cpu_ms"] for s in values) / min(s["cpu_ms"] for s in values),
        }
        for label, values in samples.items()
    }


def _memory(facts: dict[str, Any]) -> dict[str, float | None]:
    known = facts["baseline_MB"] is not None
    above = facts["peak_MB"] - facts["baseline_MB"] if known else None
    return {"peak_MB": facts["peak_MB"], "above_baseline_MB": above}


def _difference(facts: Facts) -> float | None:
    """Largest difference of the forces at the start, over the largest force; None without a peer."""
    labels = [label for label in facts if label.startswith(("ours", "peer"))]
    if not any(label.startswith("peer") for label in labels):
        return None
    first = {word: next(label for label in labels if label.startswith(word)) for word in ("ours", "peer")}
    ours, peer = (np.array(facts[label]["forces"]) for label in first.values())
    return float(np.abs(ours - peer).max() / np.abs(peer).max())


def _ratios(row: Row, result: dict[str, Any]) -> dict[str, Any]:
    """The ratio of the row's question, to the peer's default and to its best setting."""
    median, clock = result["median"], "cpu_ms" if result["threads"] == [1] else "wall_ms"
    if row.kind == "threads":
        return {
            "clock": "wall_ms",
            "ratio": median["ours, 1 threads"]["wall_ms"] / median["ours, 2 threads"]["wall_ms"],
            "peer_ratio": _over(median, "peer, 1 threads", "peer, 2 threads", "wall_ms"),
        }
    if row.kind == "memory":
        above = {label: {"MB": known["above_baseline_MB"]} for label, known in result["memory"].items()}
        return {"clock": "MB", "ratio": _over(above, "peer", "ours", "MB")}
    best = [_over(median, label, "ours", clock) for label in ("peer", "peer tuned", "peer compiled")]
    known = [ratio for ratio in best if ratio is not None]
    return {"clock": clock, "ratio": best[0], "best_ratio": min(known) if known else None}


def _over(table: dict[str, dict[str, Any]], above: str, below: str, key: str) -> float | None:
    if above not in table or below not in table or not table[below][key] or table[above][key] is None:
        return None
    return table[above][key] / table[below][key]


def _counted(row: Row, result: dict[str, Any], rates: dict[str, float]) -> dict[str, Any]:
    """FLOP and bytes that the row's work needs, and the fractions of the machine's rates that ours reaches."""
    design, item = row.described.design, 4 if row.dtype == "float32" else 8
    work = "train" if row.does == "train" else "forces"
    size = {key: result[key] for key in ("atoms", "edges", "species")}
    label = "ours" if "ours" in result["median"] else "ours, 1 threads"
    counted: dict[str, Any] = {"used": result["versions"][label]["radial"].split(":")[0]}
    seconds = result["median"][label]["wall_ms" if result["threads"] != [1] else "cpu_ms"] / 1e3
    for form in ("exact", "spline"):
        need = count(design, work, form, item=item, **size)
        counted[form] = {
            "flop": need.flop, "bytes": need.bytes, "multiply_adds": need.parts,
            "flop_per_atom": need.flop / size["atoms"],
            "floor_ms": 1e-6 * need.flop / rates[f"gemm_{row.dtype}_GFLOPs"],
            "fraction_of_gemm": 1e-9 * need.flop / seconds / rates[f"gemm_{row.dtype}_GFLOPs"],
            "fraction_of_copy": 1e-9 * need.bytes / seconds / rates["copy_GBs"],
        }  # fmt: skip
    return counted
