"""The picture of one fit in the calibration benchmark: errors against deviations of structures, by set."""

from pathlib import Path

import numpy as np
from calibration_numbers import FREE, by_structure
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equipot.study.figures_linear import binned
from equipot.study.style import INK, plain_log_axis, set_colours, styled
from equipot.study.uncertainty import SetDeviations, pooled
from equipot.units import MEV

KINDS = {"energy": "energy of a structure (meV/atom)", "forces": "forces of a structure, rms (meV/Å)"}


def picture(path: Path, title: str, sets: dict[str, SetDeviations], ranks: dict[str, float | None]) -> None:
    """Writes the figure; colours are sets, the line is the rms error in bins of the deviation over all of them.

    Args:
        path: File; its suffix says the format.
        title: Of the figure.
        sets: By name.
        ranks: Rank correlation over all sets, of "energy" and "forces".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with styled(), rc_context({"svg.hashsalt": path.stem}):
        figure = Figure(figsize=(7.4, 3.7), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, (kind, label) in zip(panels, KINDS.items(), strict=True):
            _panel(axes, kind, sets)
            rank = ranks[kind]
            note = "" if rank is None else f"rank correlation {rank:.2f}".replace("-", "−")
            axes.set_title(f"{label.split(' (')[0]}", fontsize=9)
            axes.text(0.97, 0.03, note, transform=axes.transAxes, ha="right", fontsize=8)
            unit = label[label.index("(") :]
            axes.set(xlabel=f"predicted deviation {unit}", ylabel=f"absolute error {unit}")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
        figure.savefig(path, facecolor="white", **({"metadata": {"Date": None}} if path.suffix == ".svg" else {}))


def _panel(axes: Axes, kind: str, sets: dict[str, SetDeviations]) -> None:
    colours = set_colours(list(sets))
    for name, found in sets.items():
        x, y = _values(found, kind)
        axes.scatter(x, y, s=7, color=colours[name], alpha=0.45, linewidths=0, label=name)
    x, y = _values(pooled(list(sets.values())), kind)
    low, high = float(x.min()), float(x.max())
    bottom = float(np.quantile(y[y > 0], 0.02))
    axes.set(xscale="log", yscale="log", xlim=(low / 1.2, high * 1.2))
    axes.set_ylim(min(bottom, low) / 1.2, float(y.max()) * 1.3)
    axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="error = deviation")
    axes.plot(*binned(x, y), color=INK, marker="o", markersize=4, linewidth=1.2, label="rms of a bin")
    plain_log_axis(axes, "x")
    plain_log_axis(axes, "y")


def _values(found: SetDeviations, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Deviations and errors of structures, in meV; without those whose forces symmetry makes zero."""
    values = by_structure(found)
    deviation, error = values[f"{kind}_deviation"], values[f"{kind}_error"]
    free = deviation > (FREE if kind == "forces" else 0.0)
    return MEV * deviation[free], MEV * error[free]
