"""The table that is printed."""

from typing import Any

_WIDTHS = {
    "row": 23, "peer": 9, "tuned": 9, "compiled": 9, "ours": 9, "ratio": 7, "to best": 8, "asked": 10,
    "GFLOP": 8, "MB moved": 9,    "%GEMM": 6, "%copy": 6, "ΔF": 8, "load": 5,
}  # fmt: skip


def _cells(values: dict[str, str]) -> str:
    first, *others = _WIDTHS
    return f"{values[first]:{_WIDTHS[first]}s}" + "".join(f" {values[name]:>{_WIDTHS[name]}s}" for name in others)


def columns() -> str:
    """The first line."""
    return _cells({name: name for name in _WIDTHS})


def heading(machine: dict[str, Any]) -> str:
    """The machine in two lines."""
    r = machine["rates"]
    return (
        f"{machine['date']}  {machine['processor']} (family/model {machine['cpu_family_model']}), {machine['cores']} "
        f"cores, commit {machine['commit'][:9]}{' with changes' if machine['uncommitted_changes'] else ''}\n"
        f"matrix products {r['gemm_float32_GFLOPs']:.0f} GFLOP/s (float32), {r['gemm_float64_GFLOPs']:.0f} (float64); "
        f"copies {r['copy_GBs']:.0f} GB/s; load {machine['load_average'][0]:.2f}"
    )


def _number(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" if value < 1000 else f"{value:,.0f}"


def _asked(result: dict[str, Any]) -> str:
    target, ratio, tuned = result["target"], result["ratio"], result["tuned_target"]
    if target is None:
        return "–"
    if ratio is None:
        return f"≥{target:.3g}"
    met = ratio >= target and (tuned is None or (result.get("best_ratio") or 0) >= tuned)
    return f"≥{target:.3g} {'yes' if met else 'no'}"


def line(result: dict[str, Any]) -> str:
    """One row; times in ms per step, memory in MB."""
    peer, tuned, compiled, ours = (_number(value) for value in _times(result))
    counted = result["counted"][result["counted"]["used"]]
    return _cells({
        "row": result["row"], "peer": peer, "tuned": tuned, "compiled": compiled, "ours": ours,
        "ratio": _number(result["ratio"], 2), "to best": _number(result.get("best_ratio"), 2), "asked": _asked(result),
        "GFLOP": _number(1e-9 * counted["flop"], 2), "MB moved": _number(1e-6 * counted["bytes"]),
        "%GEMM": f"{100 * counted['fraction_of_gemm']:.1f}", "%copy": f"{100 * counted['fraction_of_copy']:.1f}",
        "ΔF": "–" if result["force_difference"] is None else f"{result['force_difference']:.0e}",
        "load": f"{result['load_average'][0]:.1f}",
    })  # fmt: skip


_LABELS = ("peer", "peer tuned", "peer compiled", "ours")
_THREADS = ("peer, 1 threads", "peer, 2 threads", "ours, 1 threads", "ours, 2 threads")


def _times(result: dict[str, Any]) -> list[float | None]:
    """What stands in the columns of peer and ours."""
    if result["kind"] == "memory":
        return [result["memory"].get(label, {}).get("above_baseline_MB") for label in _LABELS]
    labels = _THREADS if result["kind"] == "threads" else _LABELS
    return [result["median"].get(label, {}).get(result["clock"]) for label in labels]


def footing(document: dict[str, Any]) -> str:
    """What the columns are, and the versions."""
    versions = "; ".join(f"{code}: {known}" for code, known in document["versions"].items())
    return versions if "scaling" in document else f"{_EXPLANATION}\n{versions}"


_EXPLANATION = """\
Medians of ms per step (CPU time with one thread, else wall time); memory: MB above the imports. tuned: with allocator
variables. In rows of threads the four columns are the peer with 1 and 2 threads and ours with 1 and 2. ratio: the
peer's default over ours (threads: 1 over 2 of ours); to best: the peer's fastest setting over ours. GFLOP and MB moved
are counted from the descriptions. ΔF: largest difference of the forces at the start over the largest force."""
