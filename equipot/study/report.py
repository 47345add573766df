"""The report of a run or of an evaluation: one HTML file with its pictures inside, and no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from equipot.study import figures
from equipot.study.linear import (
    CALIBRATION_COLUMNS,
    LinearFit,
    calibration_panels,
    calibration_rows,
    fit_panels,
    in_words,
)
from equipot.study.predictions import Predictions, Quantity, ScanPath
from equipot.study.style import Panel, significant
from equipot.study.uncertainty import SetDeviations

ERROR_COLUMNS = (
    ("energy_rmse_meV_per_atom", "E RMSE", "meV/atom"),
    ("energy_mae_meV_per_atom", "E MAE", "meV/atom"),
    ("energy_rmse_meV", "E RMSE", "meV"),
    ("forces_rmse_meV_per_A", "F RMSE", "meV/Å"),
    ("forces_mae_meV_per_A", "F MAE", "meV/Å"),
    ("stress_rmse_meV_per_A3", "σ RMSE", "meV/Å³"),
    ("stress_mae_meV_per_A3", "σ MAE", "meV/Å³"),
)
"""The columns of error tables: key of `equipot.fit.metrics`, heading, unit."""


@dataclass(frozen=True)
class Headline:
    """A number at the top of the report.

    Attributes:
        label: What it is.
        value: The number, as text.
        unit: Its unit.
        note: A few words below it.
    """

    label: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class SetErrors:
    """Errors of one data set.

    Attributes:
        structures: How many.
        total: Errors over all of them, by the names of `equipot.fit.metrics`.
        config_types: The same for each config_type.
        elements: Errors of the forces for each element.
    """

    structures: int
    total: Mapping[str, Any]
    config_types: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    elements: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Dynamics:
    """A molecular dynamics run.

    Attributes:
        thermo: Columns of thermo.csv.
        num_atoms: Number of atoms.
        target: Temperature of the thermostat, K.
        status: "finished", "exploded" or "interrupted".
        message: One sentence.
        facts: What else to say, label to text.
    """

    thermo: Mapping[str, np.ndarray]
    num_atoms: int
    target: float | None
    status: str
    message: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table: a caption, headings, and rows of text or numbers."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Content:
    """Everything that a report can show; what is empty is left out.

    Attributes:
        title: Heading.
        subtitle: Line below it.
        headlines: Numbers at the top.
        warnings: What the reader should know before using the numbers.
        records: Lines of metrics.jsonl.
        fit: The linear fit, if it was one.
        uncertainty: Deviations on each data set.
        errors: Errors of each data set, in the order to be shown.
        predictions: Predictions for each data set.
        scan: Paths with reference energies.
        scan_label: What is scanned.
        dynamics: A molecular dynamics run.
        data: Tables about the structures.
        model: Tables about the design and its parameters.
        axes: All axes of the design.
        config: The resolved configuration, YAML.
        provenance: Where the model comes from: versions, hashes, times.
        papers: What to cite; see `equipot.study.citations`.
    """

    title: str
    subtitle: str = ""
    headlines: Sequence[Headline] = ()
    warnings: Sequence[str] = ()
    records: Sequence[Mapping[str, Any]] = ()
    fit: LinearFit | None = None
    uncertainty: Mapping[str, SetDeviations] = field(default_factory=dict)
    errors: Mapping[str, SetErrors] = field(default_factory=dict)
    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    scan: Sequence[ScanPath] = ()
    scan_label: str = ""
    dynamics: Dynamics | None = None
    data: Sequence[Table] = ()
    model: Sequence[Table] = ()
    axes: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    papers: Sequence[str] = ()


def write_report(path: Path, content: Content) -> Path:
    """Writes a report; the file needs nothing beside it.

    Args:
        path: The HTML file.
        content: What to show.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(content), encoding="utf-8")
    return path


def render(content: Content) -> str:
    """Returns the HTML of a report."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("equipot", "study"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = significant
    template = environment.get_template("report.html.j2")
    return template.render(
        content=content, panels=panels(content), columns=error_columns(content.errors), colours=_colours(content),
        calibration=_calibration(content.uncertainty), calibrated=in_words(content.uncertainty),
    )  # fmt: skip


def panels(content: Content) -> dict[str, list[Panel]]:
    """Returns the pictures of a report by section; sections without pictures are empty."""
    colours = _colours(content)
    totals = {name: errors.total for name, errors in content.errors.items()}
    elements = {name: errors.elements for name, errors in content.errors.items() if errors.elements}
    return {
        "errors": figures.errors_by_set(totals) + figures.force_errors_by_element(elements),
        "curves": figures.learning_curves(content.records) if len(content.records) else [],
        "fit": fit_panels(content.fit),
        "energies": _parity(content, colours, "energies"),
        "forces": _parity(content, colours, "forces"),
        "stresses": _parity(content, colours, "stresses"),
        "energy deviations": calibration_panels(content.uncertainty, colours, "energies"),
        "force deviations": calibration_panels(content.uncertainty, colours, "forces"),
        "scan": [
            figures.scan(p.name, content.scan_label, p.x, p.energy_reference, p.energy_predicted) for p in content.scan
        ],
        "dynamics": _dynamics(content.dynamics),
    }


def _colours(content: Content) -> dict[str, str]:
    return figures.palette(list(dict.fromkeys([*content.errors, *content.predictions, *content.uncertainty])))


def _calibration(sets: Mapping[str, SetDeviations]) -> Table | None:
    return Table("", CALIBRATION_COLUMNS, calibration_rows(sets)) if sets else None


def _parity(content: Content, colours: Mapping[str, str], quantity: Quantity) -> list[Panel]:
    found = []
    for name, predictions in content.predictions.items():
        reference, predicted = predictions.pairs(quantity)
        if len(reference):
            found.append(figures.parity(quantity, name, colours[name], reference, predicted))
    return found


def _dynamics(run: Dynamics | None) -> list[Panel]:
    if run is None or len(run.thermo["time_fs"]) < 2:
        return []
    return figures.dynamics(run.thermo, run.num_atoms, run.target)


def error_columns(errors: Mapping[str, SetErrors]) -> list[tuple[str, str, str]]:
    """Returns the columns of `ERROR_COLUMNS` that have a number for some data set."""
    totals = [e.total for e in errors.values()]
    return [column for column in ERROR_COLUMNS if any(total.get(column[0]) is not None for total in totals)]
