"""What the report of a linear fit shows, from the files of its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from equipot.models.model_file import ModelHeader
from equipot.points import nearest_point
from equipot.run_record import read_json
from equipot.study.linear import LinearFit
from equipot.study.report import Headline
from equipot.study.style import duration, significant
from equipot.study.uncertainty import SetDeviations

_SOLVERS = {
    "normal_equations": "normal equations, Cholesky", "qr": "blocked QR", "lsqr": "LSQR",
    "ard": "automatic relevance determination",
}  # fmt: skip
_PRIORS = {"evidence": "largest evidence", "cross_validation": "least error of left-out structures"}
_UNITS = {"energy": ("meV/atom", 1000.0), "forces": ("meV/Å", 1000.0), "stress": ("meV/Å³", 1000.0)}


def fit_of(folder: Path, coupled: bool) -> LinearFit | None:
    """Returns the linear fit of a run; None where it was a training.

    Args:
        folder: Run folder.
        coupled: Whether groups of weights are orders of the expansion; else layers that are read out.
    """
    facts = read_json(folder / "linear.json")
    if not facts:
        return None
    search = facts.get("prior_search") or {}
    return LinearFit(
        facts=_facts(facts, coupled),
        contributions={_group(name, coupled): value for name, value in facts["contributions_eV"].items()},
        prior=str(facts["options"]["prior"]),
        trace=search.get("trace", []),
        strength=facts["prior_strength"],
    )


def uncertainty_of(folder: Path) -> dict[str, SetDeviations]:
    """Returns the deviations of each set of a run, in the order in which they were evaluated."""
    names = read_json(folder / "uncertainty.json")
    found = {unquote(path.stem): path for path in (folder / "uncertainty").glob("*.npz")}
    return {name: SetDeviations.load(found[name]) for name in names if name in found}


def fit_headline(folder: Path) -> list[Headline]:
    """Returns how long the fit took, in short; nothing for a training."""
    facts = read_json(folder / "linear.json")
    if not facts:
        return []
    solver = _SOLVERS[facts["options"]["solver"]]
    note = f"{significant(facts['weights'])} weights, {significant(facts['rows'])} rows; {solver}"
    return [Headline("Linear fit", *duration(sum(facts["seconds"].values())), note)]


def in_header(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the provenance of a model says about a linear fit, label to text; nothing for a training."""
    facts = provenance.get("linear")
    if not isinstance(facts, Mapping):
        return {}
    kept = facts["options"].get("keep_weights")
    solver = _SOLVERS[facts["options"]["solver"]]
    found = "as they were trained" if kept else f"{solver}, prior {facts['prior_strength']:.3g}"
    text = _uncertainty(facts.get("uncertainty") or {})
    which = "last weights" if "start" in provenance else "weights"
    return {which: f"{significant(facts['weights'])}, {found}", "uncertainty": text or "none"}


def baseline_of(header: ModelHeader) -> str | None:
    """Returns the potentials that a model corrects, in words; None where it corrects none."""
    file = header.provenance.get("baseline", {}).get("model")
    parts = [f"{nearest_point(p.design)}, {p.design.layers} × {p.design.r_max:g} Å" for p in header.parts[1:]]
    listed = ", on top of ".join(parts)
    return listed + (f" ({file})" if file else "") if parts else None


def start_label(provenance: Mapping[str, Any]) -> str:
    """Returns what a model is to the one that its training or fit started from."""
    if provenance.get("kind") != "linear fit":
        return "fine-tuned from"
    return "uncertainty added to" if provenance["linear"]["options"].get("keep_weights") else "refitted from"


def _group(name: str, coupled: bool) -> str:
    return f"ν = {name}" if coupled else f"readout {name}"


def _facts(facts: Mapping[str, Any], coupled: bool) -> list[tuple[str, str]]:
    options, uncertainty = facts["options"], facts.get("uncertainty") or {}
    prior = options["prior"]
    how = _PRIORS.get(prior, "given") if isinstance(prior, str) else "given"
    without = sum(facts["weights_without_data"].values())
    named = [
        ("solver", _SOLVERS[options["solver"]]),
        ("weights", significant(facts["weights"]) + _by_group(facts, coupled)),
        ("weights without data", f"{significant(without)} (left at 0)" if without else None),
        ("weights that were kept as they were", "all" if options.get("keep_weights") else None),
        ("rows", ", ".join(f"{significant(n)} {kind}" for kind, n in facts["rows_by_kind"].items() if n)),
        ("weights of labels", f"convention {options['convention']}"),
        ("strength of the prior", f"{facts['prior_strength']:.3g} ({how})"),
        ("effective degrees of freedom", _number(facts["effective_parameters"])),
        ("condition number", _number(facts["condition_number"])),
        ("noise σ of a row of weight 1", _number(facts["noise"])),
        *((f"training error, {kind}", _error(kind, e)) for kind, e in facts["training"].items()),
        (
            "uncertainty",
            _uncertainty(uncertainty) or ("none: nothing was learnt" if facts.get("learnt_nothing") else None),
        ),
        ("seconds", ", ".join(f"{name} {significant(value)}" for name, value in facts["seconds"].items())),
        ("peak memory", f"{significant(facts['peak_memory_GB'])} GB"),
    ]
    return [(label, text) for label, text in named if text]


def _by_group(facts: Mapping[str, Any], coupled: bool) -> str:
    groups = facts["weights_by_order"]
    listed = ", ".join(f"{_group(name, coupled)}: {significant(number)}" for name, number in groups.items())
    return f" ({listed})" if len(groups) > 1 else ""


def _error(kind: str, found: Mapping[str, Any]) -> str:
    unit, factor = _UNITS[kind]
    return f"RMSE {significant(factor * found['rmse'])} {unit}; weighted residuals {significant(found['noise'])} σ"


def _uncertainty(facts: Mapping[str, Any]) -> str | None:
    if not facts:
        return None
    how = "exact covariance" if facts["exact"] else f"committee of {facts['members']}"
    ratios = ", ".join(f"{kind} {significant(ratio)}" for kind, ratio in facts["error_over_deviation"].items())
    number = max(facts.get("scaled_on", {}).values(), default=0)
    of = f" of {number} structures" if number else ""
    scaled = (
        f", scaled by {significant(facts['scale'])} to validation errors{of}" if ratios else ", not scaled to errors"
    )
    return how + scaled + (f" (error / deviation: {ratios})" if ratios else "")


def _number(value: float | None) -> str | None:
    return None if value is None else significant(value)
