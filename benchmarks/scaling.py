"""Time and memory of energy, forces and stress against the number of atoms: bulk copper, atoms sorted in space."""

import statistics
from typing import Any, TextIO

from cases import MODELS
from measure import Bench
from processes import WorkerError

GIGABYTE = 1024.0
PATIENCE_S = 90.0
"""A code is not asked for a larger cell when a call has taken longer than this."""


def measure_growth(
    bench: Bench, models: list[str], sizes: list[int], limit: float, out: TextIO
) -> list[dict[str, Any]]:
    """Measures every code at every size, in a process each, until one fails, takes too long or meets the limit.

    Args:
        bench: Tasks and settings.
        models: Names of models.
        sizes: Numbers of atoms, multiples of 4.
        limit: Memory that a process may use, GB.
        out: Where lines are printed.
    """
    print(f"{'model':12s} {'code':11s} {'atoms':>7s} {'ms':>10s} {'µs/atom':>9s} {'kB/atom':>9s}", file=out, flush=True)
    results = []
    for name in models:
        peer = MODELS[name].peer
        codes = {"ours": ("equipot", False)}
        if bench.python(peer):
            codes |= {"peer": (peer, False), "peer tuned": (peer, True)}
        for label, (code, tuned) in codes.items():
            for atoms in sizes:
                found = _one(bench, name, (label, code, tuned), atoms, limit)
                results.append(found)
                print(_line(found), file=out, flush=True)
                if found["failure"] or found["wall_ms"] > 1e3 * PATIENCE_S:
                    break
            results[-1]["fits_in_20_GB"] = fits(results, name, label)
    return results


def _one(bench: Bench, name: str, code: tuple[str, str, bool], atoms: int, limit: float) -> dict[str, Any]:
    found: dict[str, Any] = {"model": name, "code": code[0], "atoms": atoms, "failure": None}
    task = bench.tasks.task(MODELS[name], "point", f"cu-{atoms}", "float32", bench.settings.threads)
    entrant = None
    try:
        entrant = bench.start(*code[:2], {**task, "memory_limit_GB": limit}, code[2])
        first = entrant.worker.time(1)
        repeats = bench.settings.repeats if first["wall_ms"] < 2e4 else 1
        samples = [entrant.worker.time(1) for _ in range(repeats)]
        facts = entrant.worker.facts()
    except WorkerError as error:
        return {**found, "failure": str(error)[-300:]}
    finally:
        if entrant is not None:
            entrant.worker.close()
    above = facts["peak_MB"] - (facts["baseline_MB"] or 0.0)
    return {
        **found, "samples": samples, "wall_ms": statistics.median(s["wall_ms"] for s in samples),
        "cpu_ms": statistics.median(s["cpu_ms"] for s in samples), "above_baseline_MB": above,
        "peak_MB": facts["peak_MB"],
    }  # fmt: skip


def fits(results: list[dict[str, Any]], name: str, label: str, limit: float = 20.0) -> int | None:
    """Atoms that fit in 20 GB, by the memory per atom between the two largest cells: an extrapolation."""
    done = [r for r in results if r["model"] == name and r["code"] == label and not r["failure"]]
    if len(done) < 2:
        return None
    a, b = done[-2:]
    slope = (b["peak_MB"] - a["peak_MB"]) / (b["atoms"] - a["atoms"])
    return int(b["atoms"] + (limit * GIGABYTE - b["peak_MB"]) / slope) if slope > 0 else None


def _line(found: dict[str, Any]) -> str:
    start = f"{found['model']:12s} {found['code']:11s} {found['atoms']:7d}"
    if found["failure"]:
        return f"{start} failed: {found['failure'].splitlines()[-1][:90]}"
    per_atom = 1e3 * found["cpu_ms"] / found["atoms"], 1024 * found["above_baseline_MB"] / found["atoms"]
    return f"{start} {found['cpu_ms']:10.1f} {per_atom[0]:9.1f} {per_atom[1]:9.1f}"
