"""The pictures of a linear fit and of uncertainty: calibration, contributions of the orders, strength of the prior."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator, SymmetricalLogLocator

from equipot.study.style import (
    BLUE,
    INK,
    VERMILION,
    Panel,
    canvas,
    plain_log_axis,
    significant,
    styled,
    tick,
    tints,
)
from equipot.units import MEV

_DENSE = 1500
"""Above so many points their density is shown."""
_BINS = 12
"""Most bins of a calibration plot."""
_IN_BIN = 8
"""Fewest values in one of its bins."""


def calibration(
    kind: str, name: str, colour: str, error: np.ndarray, deviation: np.ndarray, rank: float | None
) -> Panel:
    """Returns errors against predicted deviations, each value and by bins of equal numbers, with the diagonal.

    Args:
        kind: "energies", per atom in eV/atom, or "forces", components in eV/Å.
        name: Of the data set.
        colour: Of the data set.
        error: Absolute errors.
        deviation: Standard deviations, as predicted.
        rank: Their rank correlation.
    """
    unit = {"energies": "meV/atom", "forces": "meV/Å"}[kind]
    positive = (deviation > 0) & (error > 0)
    x, y = deviation[positive] * MEV, error[positive] * MEV
    note = "" if rank is None else f"rank correlation {rank:.2f}"
    with styled():
        figure, (axes,) = canvas(width=3.7, height=3.5)
        if len(x):
            low, high = _limits(x, y)
            narrow = (max(low, x.min() / 2.0), min(high, x.max() * 2.0))
            axes.set(xscale="log", yscale="log", xlim=narrow, ylim=(low, high))
            axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
            _cloud(axes, x, y, colour, (*narrow, low, high))
            if len(x) >= _IN_BIN:
                means = binned(x, y)
                axes.plot(*means, color=INK, marker="o", markersize=4, linewidth=1.2, label="rms of a bin", zorder=4)
                axes.legend(loc="upper left")
            plain_log_axis(axes, "x")
            plain_log_axis(axes, "y")
        axes.set(xlabel=f"predicted deviation ({unit})", ylabel=f"absolute error ({unit})")
    alt = f"Absolute errors of {kind} against predicted deviations of {name}: {len(error)} values, {note}"
    return Panel(f"calibration-{kind}-{name}", name, alt, figure, note)


def binned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns root mean squares of x and y in bins of x with equal numbers of values."""
    bins = int(np.clip(len(x) // _IN_BIN, 1, _BINS))
    parts = np.array_split(np.argsort(x, kind="stable"), bins)
    rms = [[float(np.sqrt(np.mean(np.square(v[part])))) for part in parts] for v in (x, y)]
    return np.array(rms[0]), np.array(rms[1])


def _limits(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns common limits: all deviations and the larger errors; tiny errors are of no interest."""
    low = min(x.min(), np.quantile(y, 0.05))
    return float(low / 1.3), float(max(x.max(), y.max()) * 1.3)


def _cloud(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, limits: tuple[float, float, float, float]) -> None:
    if len(x) > _DENSE:
        left, right, low, high = (float(np.log10(limit)) for limit in limits)
        axes.hexbin(
            x, y, gridsize=45, bins="log", mincnt=1, xscale="log", yscale="log", extent=(left, right, low, high),
            cmap=tints(colour), linewidths=0.1, rasterized=True,
        )  # fmt: skip
        return
    axes.scatter(x, y, s=9, color=colour, alpha=float(np.clip(6.0 / len(x) ** 0.4, 0.25, 0.9)), linewidths=0)


def contributions(parts: Mapping[str, float]) -> Panel:
    """Returns what the weights of each group add to the energy of an atom.

    Args:
        parts: Root mean squares over the training atoms, eV.
    """
    with styled():
        figure, (axes,) = canvas(height=0.9 + 0.34 * len(parts))
        rows = np.arange(len(parts))[::-1]
        values = np.array(list(parts.values()))
        scale, unit = (1.0, "eV") if values.max() >= 2.0 else (MEV, "meV")
        values = scale * values
        axes.barh(rows, values, color=BLUE, height=0.62)
        for row, value in zip(rows, values, strict=True):
            axes.annotate(
                significant(value), (value, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.set_yticks(rows, list(parts))
        axes.set(xlabel=f"rms over training atoms ({unit}/atom)", xlim=(0, 1.2 * values.max() or 1.0))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    alt = "Contributions to the energy of an atom: " + ", ".join(f"{n} {v:.3g} eV" for n, v in parts.items())
    return Panel("contributions", "What each part adds to an atom's energy", alt, figure)


def prior_search(how: str, trace: Sequence[Sequence[float]], chosen: float) -> Panel:
    """Returns the scores of the strengths of the prior that were tried.

    Args:
        how: "evidence" or "cross_validation".
        trace: Strengths, and scores of which less is better.
        chosen: The strength that was taken.
    """
    strength, score = (np.array(column) for column in zip(*trace, strict=True))
    label = {"evidence": "−ln evidence, above its least", "cross_validation": "ln of left-out error², above its least"}
    with styled():
        figure, (axes,) = canvas(height=2.6)
        above = score - score.min()
        axes.axvline(chosen, color=VERMILION, linewidth=1.0, label=f"taken: {chosen:.3g}")
        axes.plot(strength, above, color=BLUE, marker="o", markersize=4)
        axes.set(xscale="log", xlabel="strength of the prior", ylabel=label.get(how, "score, above its least"))
        threshold = 1.0 if how == "evidence" else 0.01
        axes.set_yscale("symlog", linthresh=threshold)
        axes.set_ylim(bottom=-0.4 * threshold)
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10.0, linthresh=threshold))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend()
    alt = f"Score of {len(trace)} strengths of the prior; {chosen:.3g} was taken"
    return Panel("prior", "How the strength of the prior was found", alt, figure)
