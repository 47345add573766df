"""Fits of linear ACE to 3BPA: time and memory against the number of weights and of structures."""

import os
import statistics
import sys
from typing import Any, TextIO

from processes import Worker, WorkerError

POINTS = ((1000, 450), (2000, 450), (4000, 450), (8000, 450), (2000, 50), (2000, 150))
"""Weights and structures."""
QUICK = ((300, 20), (300, 40))


def fit_rows(data: str | None, threads: int, repeats: int, quick: bool, out: TextIO) -> list[dict[str, Any]]:
    """Fits every point in turns, each time in a process of its own, so that its largest memory is the fit's."""
    samples: dict[tuple[int, int], list[dict[str, Any]]] = {point: [] for point in (QUICK if quick else POINTS)}
    load = os.getloadavg()
    for _ in range(repeats):
        for point, found in samples.items():
            try:
                found.append(_one(data, threads, *point))
            except WorkerError as error:
                print(f"{point[0]} weights, {point[1]} structures: {error}", file=sys.stderr)
    rows = [_row(point, found, threads, load) for point, found in samples.items() if found]
    _print(rows, out)
    return rows


def _one(data: str | None, threads: int, weights: int, structures: int) -> dict[str, Any]:
    task = {"threads": threads, "data": data, "weights": weights, "structures": structures}
    worker = Worker(sys.executable, "work_fit.py", task)
    try:
        times = worker.time(1)
        return {**times, **worker.facts(), "seconds_to_start": worker.started["ready"]}
    finally:
        worker.close()


def _row(
    point: tuple[int, int], samples: list[dict[str, Any]], threads: int, load: tuple[float, ...]
) -> dict[str, Any]:
    first = samples[0]
    seconds = {part: statistics.median(s["seconds"][part] for s in samples) for part in first["seconds"]}
    per = 1e6 * seconds["rows"] / first["rows"]
    peak = max(s["peak_MB"] for s in samples)
    return {
        "asked": {"weights": point[0], "structures": point[1]}, "threads": threads, "load_average": load,
        **{key: first[key] for key in ("weights", "functions_per_centre", "degrees", "rows", "atoms", "structures")},
        "seconds": seconds, "total_s": statistics.median(s["wall_ms"] for s in samples) / 1e3,
        "total_cpu_s": statistics.median(s["cpu_ms"] for s in samples) / 1e3,
        "us_per_row": per, "us_per_row_and_function": per / first["functions_per_centre"],
        "ms_per_atom": 1e3 * seconds["rows"] / first["atoms"], "peak_MB": peak,
        "above_imports_MB": None if first["baseline_MB"] is None else peak - first["baseline_MB"],
        "largest_of_process_MB": max(s["largest_of_process_MB"] for s in samples),
        "matrices_GB": first["matrices_GB"], "validation": first["validation"], "samples": samples,
    }  # fmt: skip


def _print(rows: list[dict[str, Any]], out: TextIO) -> None:
    names = ("weights", "per centre", "structures", "rows", "rows s", "solver s", "total s", "µs/row/fn", "ms/atom",
             "peak MB", "F meV/Å")  # fmt: skip
    print("\nfits to 3BPA, wall time\n" + " ".join(f"{name:>10s}" for name in names), file=out)
    for r in rows:
        values = (
            f"{r['weights']:,}", f"{r['functions_per_centre']:,.0f}", str(r["structures"]), f"{r['rows']:,}",
            f"{r['seconds']['rows']:.2f}", f"{r['seconds']['solver']:.2f}", f"{r['total_s']:.2f}",
            f"{r['us_per_row_and_function']:.3f}", f"{r['ms_per_atom']:.2f}", f"{r['peak_MB']:,.0f}",
            f"{r['validation']['forces_rmse_meV_per_A']:.1f}",
        )  # fmt: skip
        print(" ".join(f"{value:>10s}" for value in values), file=out, flush=True)
