"""What a report shows of a linear fit and of uncertainty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from equipot.study import figures_linear
from equipot.study.style import Panel, significant
from equipot.study.uncertainty import KINDS, UNITS_OF, Kind, SetDeviations, pooled
from equipot.units import MEV


@dataclass(frozen=True)
class LinearFit:
    """A linear fit.

    Attributes:
        facts: Label to text.
        contributions: Rms of what each group of weights adds to the energies of training atoms, eV.
        prior: How the strength of the prior was found.
        trace: Strengths that were tried, and their scores.
        strength: The one that was taken.
    """

    facts: Sequence[tuple[str, str]]
    contributions: Mapping[str, float] = field(default_factory=dict)
    prior: str = ""
    trace: Sequence[Sequence[float]] = ()
    strength: float = 0.0


def fit_panels(fit: LinearFit | None) -> list[Panel]:
    """Returns contributions of the orders, and the search for the prior."""
    if fit is None:
        return []
    panels = [figures_linear.contributions(fit.contributions)] if len(fit.contributions) > 1 else []
    return panels + ([figures_linear.prior_search(fit.prior, fit.trace, fit.strength)] if len(fit.trace) > 2 else [])


def calibration_panels(sets: Mapping[str, SetDeviations], colours: Mapping[str, str], kind: Kind) -> list[Panel]:
    """Returns a calibration plot for each set that has labels of a kind."""
    panels = []
    for name, found in sets.items():
        compared = found.calibrated(kind)
        if compared is not None and compared.number > 1:
            error, deviation = found.pairs(kind)
            panels.append(
                figures_linear.calibration(kind, name, colours[name], error, deviation, compared.rank_correlation)
            )
    return panels


CALIBRATION_COLUMNS = (
    "set",
    "quantity",
    "rms error",
    "rms deviation",
    "error / deviation",
    "rank correlation",
    "atoms beyond",
)


def calibration_rows(sets: Mapping[str, SetDeviations]) -> list[list[str]]:
    """Returns the rows of a table with `CALIBRATION_COLUMNS`; what is of a whole set stands in its first row."""
    rows: list[list[str]] = []
    together = {"all of them": pooled(list(sets.values()))} if len(sets) > 1 else {}
    for name, found in {**sets, **together}.items():
        for kind in KINDS:
            c = found.calibrated(kind)
            if c is not None:
                numbers = (c.ratio, c.rank_correlation)
                beyond = f"{found.num_extrapolating} of {len(found.extrapolation)}"
                unit = f" m{UNITS_OF[kind]}"
                rows.append(
                    [
                        name, kind, significant(MEV * c.rms_error) + unit, significant(MEV * c.rms_deviation) + unit,
                        *("–" if n is None else f"{n:.2f}" for n in numbers),
                        "" if rows and rows[-1][0] == name else beyond,
                    ]
                )  # fmt: skip
    return rows


def in_words(sets: Mapping[str, SetDeviations]) -> str:
    """Returns what the comparison means for a reader."""
    ratios = {
        (name, kind): c.ratio for name, found in sets.items() for kind in KINDS
        if (c := found.calibrated(kind)) is not None and c.ratio is not None
    }  # fmt: skip
    if not ratios:
        return ""
    (name, kind), worst = max(ratios.items(), key=lambda item: max(item[1], 1.0 / max(item[1], 1e-300)))
    if 1 / 1.5 <= worst <= 1.5:
        return f"On every set the errors are as large as predicted, within a factor of 1.5 (from {_numbers(sets)})."
    how = f"{worst:.1f} times as large as" if worst > 1 else f"only {worst:.2f} times as large as"
    return f"Farthest from what was predicted are the {kind} of {name}: their rms error is {how} the rms deviation."


def _numbers(sets: Mapping[str, SetDeviations]) -> str:
    """Returns of how many values the comparison is, in all sets."""
    found = pooled(list(sets.values()))
    what = {"energies": ("energy", "energies"), "forces": ("force component", "force components")}
    numbers = [(c.number, what[kind]) for kind in KINDS if (c := found.calibrated(kind)) is not None]
    return " and ".join(f"{significant(number)} {words[number != 1]}" for number, words in numbers)
