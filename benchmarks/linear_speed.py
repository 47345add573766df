"""Steps of dynamics of linear ACE beside other points: every point in a process of its own, in turns."""

import os
import sys
from typing import Any, TextIO

import torch
from linear_designs import LADDER, MOLECULE, OTHERS, QUICK, size_of, sized, statistics_of
from measure import Bench, Entrant, medians
from processes import WorkerError
from tasks import GENTLE

from equipot.design import Design
from equipot.interactions.radial_spline import default_radial
from equipot.points import ace_linear
from equipot.statistics import Statistics

OURS = "ace_linear"


def speed_rows(
    bench: Bench, systems: list[str], dtypes: list[str], compiled: tuple[str, ...], quick: bool, out: TextIO
) -> list[dict[str, Any]]:
    """One row for each system and precision, with every point in it; some of the points also compiled."""
    if quick:
        systems, dtypes, compiled = ["3bpa-1", "si-64"], dtypes[:1], ()
    rows = []
    for system in systems:
        designs = designs_of(bench, system, quick)
        for dtype in dtypes:
            rows.append(_row(bench, system, dtype, designs, compiled, out))
    return rows


def designs_of(bench: Bench, system: str, quick: bool) -> dict[str, Design]:
    """The points of a system by their names."""
    axes = MOLECULE if system.startswith("3bpa") else {}
    default = ace_linear(**axes)
    statistics = _statistics(bench, system, default)
    ladder = {
        f"{OURS}, {number} functions": sized(number, statistics, **axes) for number in (LADDER[:2] if quick else LADDER)
    }
    others = {name: design for name, design in OTHERS.items() if not quick or name in QUICK}
    return {OURS: default, **ladder, **others}


def _statistics(bench: Bench, system: str, design: Design) -> Statistics:
    """Of one system, for the cutoff of one point; molecules are alike, and twenty know their shortest distances."""
    structures = bench.tasks.structures("3bpa-20" if system.startswith("3bpa") else system)[1]
    return statistics_of(structures, design.r_max)


def _task(bench: Bench, system: str, dtype: str, design: Design) -> dict[str, Any]:
    path, _ = bench.tasks.structures(system)
    return {
        "kind": "md", "structures": str(path), "dtype": dtype, "threads": bench.settings.threads, "seed": 0,
        "design": design.model_dump(mode="json"),
        "statistics": _statistics(bench, system, design).model_dump(mode="json"), "backend": "auto",
        "radial": default_radial(design, getattr(torch, dtype)),
        "soft": GENTLE if design.channel_coupling == "coupled" else None,
    }  # fmt: skip


def _row(
    bench: Bench, system: str, dtype: str, designs: dict[str, Design], compiled: tuple[str, ...], out: TextIO
) -> dict[str, Any]:
    load = os.getloadavg()
    known: dict[str, dict[str, Any]] = {}
    entrants: list[Entrant] = []
    try:
        for name, design in designs.items():
            for suffix in ("", ", compiled")[: 2 if name in compiled else 1]:
                label, task = name + suffix, _task(bench, system, dtype, design)
                try:
                    entrants.append(bench.start(label, "equipot", {**task, "compile": bool(suffix)}))
                except WorkerError as error:
                    print(f"{label}: {error}", file=sys.stderr)
                    continue
                known[label] = _facts(bench, system, design, entrants[-1])
                print(f"{label}: ready in {known[label]['seconds_to_start']:.0f} s", file=sys.stderr, flush=True)
        bench.turns(entrants, bench.settings.repeats, False)
        samples = {e.label: e.samples for e in entrants}
    finally:
        for entrant in entrants:
            entrant.worker.close()
    atoms = len(bench.tasks.structures(system)[1][0])
    clock = "cpu_ms" if bench.settings.threads == 1 else "wall_ms"
    found = medians(samples)
    base = found[OURS][clock] if OURS in found else float("nan")
    points = {
        label: {
            **known[label], **found[label], "us_per_atom": 1e3 * found[label][clock] / atoms,
            "ratio": found[label][clock] / base, "samples": samples[label],
        }
        for label in found
    }  # fmt: skip
    row = {"system": system, "atoms": atoms, "dtype": dtype, "threads": bench.settings.threads, "clock": clock,
           "load_average": load, "points": points}  # fmt: skip
    _print(row, out)
    return row


def _facts(bench: Bench, system: str, design: Design, entrant: Entrant) -> dict[str, Any]:
    statistics = _statistics(bench, system, design)
    coupled = design.channel_coupling == "coupled"
    started = entrant.worker.started
    return {
        "r_max": design.r_max, "neighbours": statistics.mean_neighbours, "degrees": design.degrees,
        **(size_of(design, statistics) if coupled else {}),
        "versions": started["versions"], "seconds_to_start": started["ready"],
    }  # fmt: skip


def _print(row: dict[str, Any], out: TextIO) -> None:
    print(
        f"\n{row['system']} ({row['atoms']} atoms), {row['dtype']}, {row['threads']} thread(s): a step of dynamics, "
        f"{row['clock'].removesuffix('_ms')} time; load {row['load_average'][0]:.1f}", file=out,
    )  # fmt: skip
    print(f"{'point':34s} {'functions':>9s} {'neighbours':>10s} {'ms':>9s} {'µs/atom':>9s} {'ratio':>7s}", file=out)
    for label, point in row["points"].items():
        functions = point.get("functions_per_centre")
        print(
            f"{label:34s} {'–' if functions is None else f'{functions:,.0f}':>9s} {point['neighbours']:10.1f} "
            f"{point[row['clock']]:9.2f} {point['us_per_atom']:9.1f} {point['ratio']:7.2f}", file=out, flush=True,
        )  # fmt: skip
