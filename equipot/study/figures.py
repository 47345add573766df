"""The pictures of a report: learning curves, parity plots, errors by data set, scans, dynamics.

Every function takes plain arrays and returns panels; energies in eV, forces in eV/Å, errors in meV.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from equipot.study.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    VERMILION,
    Panel,
    canvas,
    plain_log_axis,
    set_colours,
    significant,
    styled,
    tints,
)
from equipot.units import MEV

Records = Sequence[Mapping[str, Any]]

_DENSE = 4000
"""Above so many points a parity plot shows their density."""
_MOST_ELEMENTS = 16
"""Of more elements the names would overlap."""


def learning_curves(records: Records) -> list[Panel]:
    """Returns losses, errors and learning rate against epochs.

    Args:
        records: Lines of metrics.jsonl, one for each validation.
    """
    pairs = [
        ("loss", "Loss", "loss", "train_loss", "valid_loss"),
        ("energy", "Energy error", "energy RMSE (meV/atom)", *_train_valid("energy_rmse_meV_per_atom")),
        ("forces", "Force error", "force RMSE (meV/Å)", *_train_valid("forces_rmse_meV_per_A")),
        ("stress", "Stress error", "stress RMSE (meV/Å³)", *_train_valid("stress_rmse_meV_per_A3")),
    ]
    with styled():
        panels = [_curve(records, *pair) for pair in pairs]
        return [panel for panel in panels if panel is not None] + [_learning_rate(records)]


def _train_valid(name: str) -> tuple[str, str]:
    return f"train_{name}", f"valid_{name}"


def _curve(records: Records, name: str, title: str, label: str, train: str, valid: str) -> Panel | None:
    epochs = _column(records, "epoch") + 1
    columns = {"training": _column(records, train), "validation": _column(records, valid)}
    columns = {who: values for who, values in columns.items() if np.isfinite(values).any()}
    if not columns:
        return None
    figure, (axes,) = canvas()
    for who, values in columns.items():
        axes.plot(
            epochs, values, color=BLUE if who == "training" else ORANGE, label=who,
            marker="o" if len(epochs) < 40 else "", markersize=3,
        )  # fmt: skip
    _mark_best(axes, records, epochs, columns.get("validation"))
    axes.set(xlabel="epoch", ylabel=label, xlim=(0, 1.02 * epochs[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _log_if_positive(axes, list(columns.values()))
    axes.legend()
    last = {who: values[np.isfinite(values)][-1] for who, values in columns.items()}
    alt = f"{title} against epochs; last " + ", ".join(f"{who} {value:.4g}" for who, value in last.items())
    return Panel(f"curve-{name}", title, alt, figure)


def _mark_best(axes: Axes, records: Records, epochs: np.ndarray, values: np.ndarray | None) -> None:
    best = [i for i, record in enumerate(records) if record.get("best")]
    if best and values is not None and np.isfinite(values[best[-1]]):
        axes.plot(
            epochs[best[-1]], values[best[-1]], marker="o", markersize=7, markerfacecolor="none",
            markeredgecolor=INK, linestyle="", label="best model",
        )  # fmt: skip


def _learning_rate(records: Records) -> Panel:
    figure, (axes,) = canvas()
    lr = _column(records, "lr")
    axes.plot(_column(records, "epoch") + 1, lr, color=GREY)
    axes.set(xlabel="epoch", ylabel="learning rate")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _log_if_positive(axes, [lr])
    alt = f"Learning rate against epochs, from {lr[0]:.2g} to {lr[-1]:.2g}" if len(lr) else "Learning rate"
    return Panel("curve-lr", "Learning rate", alt, figure)


def _column(records: Records, name: str) -> np.ndarray:
    values = [record.get(name) for record in records]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _log_if_positive(axes: Axes, columns: Sequence[np.ndarray]) -> None:
    values = np.concatenate([c[np.isfinite(c)] for c in columns])
    if len(values) and values.min() > 0:
        axes.set_yscale("log")
        plain_log_axis(axes)


def parity(quantity: str, name: str, colour: str, reference: np.ndarray, predicted: np.ndarray) -> Panel:
    """Returns predicted against reference values of a data set, and their differences.

    Args:
        quantity: "energies" of structures, (E − Σ E0)/N in eV/atom; "forces" in eV/Å or "stresses" in eV/Å³, single
            components.
        name: Of the data set.
        colour: Of the data set.
        reference: Values, flat.
        predicted: The same, as predicted.
    """
    symbol, unit = _PARITY[quantity]
    difference = (predicted - reference) * MEV
    rmse = f"RMSE {significant(_rmse(difference))} m{unit}"
    with styled():
        figure, (upper, lower) = canvas(rows=(3.0, 1.1), width=3.7, height=4.1)
        low, high = min(reference.min(), predicted.min()), max(reference.max(), predicted.max())
        margin = 0.04 * (high - low) or 1.0
        low, high = low - margin, high + margin
        bound = 1.05 * float(np.abs(difference).max()) or 1.0
        upper.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        _points(upper, reference, predicted, colour, (low, high, low, high))
        lower.axhline(0.0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        _points(lower, reference, difference, colour, (low, high, -bound, bound))
        upper.set(xlim=(low, high), ylim=(low, high), ylabel=f"predicted ({unit})")
        lower.set(ylim=(-bound, bound), xlabel=f"reference {symbol} ({unit})", ylabel=f"Δ (m{unit})")
        upper.xaxis.set_major_locator(MaxNLocator(5))
        upper.yaxis.set_major_locator(MaxNLocator(5))
        lower.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))
        figure.align_ylabels()
    alt = f"Predicted against reference {quantity} of {name}: {len(reference)} values, {rmse}"
    return Panel(f"{quantity}-{name}", name, alt, figure, rmse)


_PARITY = {
    "energies": ("(E − ΣE0)/N", "eV/atom"), "forces": ("force component", "eV/Å"),
    "stresses": ("stress component", "eV/Å³"),
}  # fmt: skip


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, extent: tuple[float, float, float, float]) -> None:
    """Draws points, or their density where they are many, as pixels so that the file stays small."""
    if len(x) > _DENSE:
        height = 60 if extent[3] > 0 and extent[2] == extent[0] else 18
        axes.hexbin(
            x, y, gridsize=(60, height), bins="log", mincnt=1, extent=extent, cmap=tints(colour),
            linewidths=0.1, rasterized=True,
        )  # fmt: skip
        return
    alpha = float(np.clip(8.0 / max(len(x), 1) ** 0.4, 0.25, 0.9))
    axes.scatter(x, y, s=11, color=colour, alpha=alpha, linewidths=0, rasterized=len(x) > 300)


def _rmse(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference)))) if len(difference) else float("nan")


def errors_by_set(errors: Mapping[str, Mapping[str, Any]]) -> list[Panel]:
    """Returns energy and force RMSE of each data set, below each other.

    Args:
        errors: Errors of each data set, by the names of `equipot.fit.metrics`.
    """
    quantities = [
        ("energy", "Energy RMSE by data set", "energy RMSE (meV/atom)", "energy_rmse_meV_per_atom"),
        ("forces", "Force RMSE by data set", "force RMSE (meV/Å)", "forces_rmse_meV_per_A"),
    ]
    colours = set_colours(list(errors))
    panels = []
    for key, title, label, column in quantities:
        found = {n: e[column] for n, e in errors.items() if e.get(column) is not None}
        if found:
            panels.append(_bars(f"by-set-{key}", title, label, found, colours))
    return panels


def _bars(key: str, title: str, label: str, found: Mapping[str, float], colours: Mapping[str, str]) -> Panel:
    with styled():
        figure, (axes,) = canvas(height=0.9 + 0.34 * len(found))
        rows = np.arange(len(found))[::-1]
        values = np.array(list(found.values()))
        axes.barh(rows, values, color=[colours[n] for n in found], height=0.62)
        for row, value in zip(rows, values, strict=True):
            axes.annotate(
                significant(value), (value, row), xytext=(4, 0), textcoords="offset points", va="center",
                fontsize=8,
            )  # fmt: skip
        axes.set_yticks(rows, list(found))
        axes.set(xlabel=label, xlim=(0, 1.15 * values.max() or 1.0))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        alt = f"{title}: " + ", ".join(f"{n} {v:.3g}" for n, v in found.items())
        return Panel(key, title, alt, figure)


def scan(name: str, x_name: str, x: np.ndarray, reference: np.ndarray, predicted: np.ndarray) -> Panel:
    """Returns the energy along a path, reference and predicted, and their difference.

    Both curves have the same zero, the lowest reference energy of this path, so an offset stays visible; one that
    is larger than the whole range of the path is taken away, and named.

    Args:
        name: Of the path.
        x_name: What is scanned, with its unit.
        x: Values of it.
        reference: Total energies, eV.
        predicted: Total energies, eV.
    """
    order = np.argsort(x, kind="stable")
    x, reference, predicted = x[order], reference[order], predicted[order]
    zero, offset = reference.min(), float(np.mean(predicted - reference))
    if abs(offset) <= np.ptp(reference):
        offset = 0.0
    shifted = f" {'−' if offset > 0 else '+'} {significant(abs(offset) * MEV)} meV" if offset else ""
    difference = (predicted - offset - reference) * MEV
    with styled():
        figure, (upper, lower) = canvas(rows=(2.6, 1.0), height=3.5)
        upper.plot(x, (reference - zero) * MEV, color=INK, marker="o", markersize=3.2, linestyle="", label="reference")
        upper.plot(x, (predicted - offset - zero) * MEV, color=VERMILION, label=f"predicted{shifted}")
        lower.axhline(0.0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        lower.plot(x, difference, color=VERMILION, linewidth=1.2)
        lower.fill_between(x, 0.0, difference, color=VERMILION, alpha=0.2, linewidth=0)
        upper.set(ylabel="E − min E_ref (meV)")
        lower.set(xlabel=x_name, ylabel="Δ (meV)")
        lower.yaxis.set_major_locator(MaxNLocator(3))
        if x.min() >= 0 and 300 < x.max() <= 360:
            lower.set_xticks(np.arange(0, 361, 60))
        _legend_above(upper, 2)
        figure.align_ylabels()
    rmse = significant(_rmse(predicted - reference) * MEV)
    alt = f"Energy along {name}: RMSE {rmse} meV, range {significant(float(np.ptp(reference) * MEV))} meV"
    return Panel(f"scan-{name}", name, alt, figure, f"RMSE {rmse} meV")


def dynamics(thermo: Mapping[str, np.ndarray], num_atoms: int, target: float | None) -> list[Panel]:
    """Returns temperature and energies of a molecular dynamics run against time.

    Args:
        thermo: Columns of thermo.csv.
        num_atoms: Number of atoms, to print energies per atom.
        target: Temperature of the thermostat, K, if there is one.
    """
    time = np.asarray(thermo["time_fs"]) / 1000.0
    with styled():
        return [_temperature(time, thermo["temperature_K"], target), _md_energies(time, thermo, num_atoms)]


def _temperature(time: np.ndarray, temperature: np.ndarray, target: float | None) -> Panel:
    figure, (axes,) = canvas()
    axes.plot(time, temperature, color=BLUE, linewidth=0.9, alpha=0.85, label="instantaneous")
    mean = np.cumsum(temperature) / np.arange(1, len(temperature) + 1)
    axes.plot(time, mean, color=ORANGE, label="running mean")
    if target is not None:
        axes.axhline(target, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label=f"target {target:g} K")
    axes.set(xlabel="time (ps)", ylabel="temperature (K)")
    axes.margins(x=0.01)
    _legend_above(axes, 3)
    alt = f"Temperature against time: mean {np.mean(temperature):.4g} K over {time[-1] if len(time) else 0:.3g} ps"
    return Panel("md-temperature", "Temperature", alt, figure)


def _md_energies(time: np.ndarray, thermo: Mapping[str, np.ndarray], num_atoms: int) -> Panel:
    figure, (axes,) = canvas()
    for label, style in (
        ("potential", {"color": GREEN}),
        ("total", {"color": BLUE}),
        ("conserved", {"color": INK, "linestyle": (0, (2, 1))}),
    ):
        values = np.asarray(thermo[f"{label}_energy_eV"])
        finite = values[np.isfinite(values)]
        if len(finite):
            axes.plot(time, (values - finite[0]) / num_atoms * MEV, label=label, linewidth=1.1, **style)
    axes.set(xlabel="time (ps)", ylabel="change of energy (meV/atom)")
    axes.margins(x=0.01)
    _legend_above(axes, 3)
    return Panel("md-energy", "Energy", "Potential, total and conserved energy against time, from their start", figure)


def _legend_above(axes: Axes, columns: int) -> None:
    axes.legend(
        ncols=columns, loc="lower left", bbox_to_anchor=(-0.02, 1.0), columnspacing=1.0, handlelength=1.4,
        borderaxespad=0.1,
    )  # fmt: skip


def force_errors_by_element(elements: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Panel]:
    """Returns force RMSE by element, a group of bars for each data set; of many elements those with the largest.

    Args:
        elements: For each data set, the errors of the forces on the atoms of each element.
    """
    symbols = sorted({symbol for table in elements.values() for symbol in table})
    if len(symbols) < 2 or not elements:
        return []
    colours = set_colours(list(elements))
    found = len(symbols)
    if found > _MOST_ELEMENTS:
        symbols = sorted(sorted(symbols, key=lambda symbol: _largest(elements, symbol))[-_MOST_ELEMENTS:])
    title = "Force RMSE by element" + (f", the {_MOST_ELEMENTS} largest of {found}" if found > len(symbols) else "")
    with styled():
        figure, (axes,) = canvas(height=2.9)
        width = 0.8 / len(elements)
        for i, (name, table) in enumerate(elements.items()):
            values = [table.get(symbol, {}).get("forces_rmse_meV_per_A") or np.nan for symbol in symbols]
            at = np.arange(len(symbols)) + (i - 0.5 * (len(elements) - 1)) * width
            axes.bar(at, values, width=0.92 * width, color=colours[name], label=name)
        axes.set_xticks(range(len(symbols)), symbols)
        axes.set(ylabel="force RMSE (meV/Å)", xlabel="element")
        axes.grid(visible=False, axis="x")
        _legend_above(axes, min(len(elements), 3))
    return [Panel("by-element", title, f"Force RMSE for {', '.join(symbols)} in each data set", figure)]


def _largest(elements: Mapping[str, Mapping[str, Mapping[str, Any]]], symbol: str) -> float:
    return max(table.get(symbol, {}).get("forces_rmse_meV_per_A") or 0.0 for table in elements.values())


def palette(names: Sequence[str]) -> dict[str, str]:
    """Returns the colours of the data sets, for the page around the pictures."""
    return set_colours(names)
