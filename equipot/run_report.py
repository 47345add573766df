"""The report of a run, from nothing but the files of its folder; it can be made again at any time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from ase.data import chemical_symbols

from equipot.deploy.md_files import THERMO, read_thermo
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.fit.run import METRICS
from equipot.linear_report import baseline_of, fit_headline, fit_of, in_header, start_label, uncertainty_of
from equipot.models import describe
from equipot.models.model_file import ModelHeader, read_model_header
from equipot.points import named_point, nearest_point
from equipot.run_record import in_words, read_json
from equipot.statistics import Statistics
from equipot.study.citations import LAST_LAYER, papers
from equipot.study.predictions import Predictions, ScanPath
from equipot.study.report import Content, Dynamics, Headline, SetErrors, Table, write_report
from equipot.study.style import duration, fixed, significant

Json = dict[str, Any]


def write_run_report(folder: Path, path: Path | None = None) -> Path:
    """Writes the report of a run.

    Args:
        folder: Run folder.
        path: The HTML file; default: ``report.html`` in the folder.

    Raises:
        EquipotError: The folder holds no finished run.
    """
    return write_report(path or folder / "report.html", run_content(folder))


def run_content(folder: Path) -> Content:
    """Returns what the files of a run have to show; what is missing is left out."""
    model = folder / "model.equipot"
    if not model.exists():
        raise EquipotError(f"{folder} holds no model.equipot: it is not the folder of a finished run.")
    header = read_model_header(model)
    run, data = read_json(folder / "run.json"), read_json(folder / "data.json")
    scan, errors = read_json(folder / "scan.json"), _errors(read_json(folder / "errors.json"))
    point, start = str(run.get("point") or ""), header.provenance.get("start") or {}
    statistics = Statistics(**data["statistics"]) if start and data else header.statistics
    described = describe(header.design, header.statistics.species, header.statistics)
    dynamics = _dynamics(folder / "md")
    if scan:
        errors["scan"] = _set_errors(scan["errors"])
    return Content(
        title=run.get("title") or folder.resolve().name,
        subtitle=_subtitle(point, data, statistics),
        headlines=_headlines(errors, described, run, dynamics, fit_headline(folder)),
        warnings=[*run.get("problems", []), *_doubts(run), *run.get("warnings", [])],
        records=_records(folder / METRICS),
        fit=fit_of(folder, header.design.channel_coupling == "coupled"),
        uncertainty=uncertainty_of(folder),
        errors=errors,
        predictions=_predictions(folder / "predictions", list(errors)),
        scan=[ScanPath.from_dict(path) for path in scan.get("paths", [])],
        scan_label=scan.get("label", ""),
        dynamics=dynamics,
        data=data_tables(data, statistics),
        model=[
            *start_tables(start, "fit" if header.provenance.get("kind") == "linear fit" else "training"),
            *baseline_tables(header.provenance.get("baseline")),
            *model_tables(described, point, header.design),
        ],
        axes=described["axes"],
        config=_text(folder / "config.yaml"),
        provenance=provenance(header, run),
        papers=cited(header),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _records(path: Path) -> list[Json]:
    return [json.loads(line) for line in _text(path).splitlines() if line.strip()]


def _errors(document: Json) -> dict[str, SetErrors]:
    return {name: _set_errors(values) for name, values in document.items()}


def _set_errors(values: Json) -> SetErrors:
    return SetErrors(values["structures"], values["total"], values["config_types"], values["elements"])


def _predictions(folder: Path, order: list[str]) -> dict[str, Predictions]:
    found = {unquote(path.stem): path for path in sorted(folder.glob("*.npz"))} if folder.is_dir() else {}
    names = [name for name in order if name in found] + [name for name in found if name not in order]
    return {name: Predictions.load(found[name]) for name in names}


def _subtitle(point: str, data: Json, statistics: Statistics) -> str:
    elements = ", ".join(chemical_symbols[z] for z in statistics.species)
    sets = data.get("sets", {})
    counts = [f"{sets[name]['structures']} {what} structures" for name, what in _USES if name in sets]
    return " · ".join(filter(None, [f"design {point}" if point else "", elements, *counts]))


_USES = (("train", "training"), ("valid", "validation"))


def _headlines(
    errors: Mapping[str, SetErrors], described: Json, run: Json, dynamics: Dynamics | None, linear: list[Headline]
) -> list[Headline]:
    found = []
    if "valid" in errors:
        total = errors["valid"].total
        for label, key, unit in (
            ("Energy, validation", "energy_rmse_meV_per_atom", "meV/atom"),
            ("Forces, validation", "forces_rmse_meV_per_A", "meV/Å"),
            ("Stress, validation", "stress_rmse_meV_per_A3", "meV/Å³"),
        ):
            if total.get(key) is not None:
                found.append(Headline(label, significant(total[key]), unit, "RMSE"))
    found.append(
        Headline(
            "Parameters",
            significant(described["parameters"]),
            "",
            f"{significant(described['active_parameters'])} active",
        )
    )
    if "fit" in run:
        fit = run["fit"]
        threads = _several(run["threads"], "thread")
        note = f"{fit['epochs']} epochs, {significant(fit['steps'])} steps; {run['device']}, {threads}"
        found.append(Headline("Training", *duration(fit["seconds"]), note))
    found += linear
    if dynamics is not None and len(dynamics.thermo["time_fs"]):
        length = float(dynamics.thermo["time_fs"][-1]) / 1000.0
        note = "stable" if dynamics.status == "finished" else dynamics.status
        target = "" if dynamics.target is None else f" at {dynamics.target:g} K"
        found.append(Headline("Molecular dynamics", significant(length), "ps", note + target))
    return found


def _doubts(run: Json) -> list[str]:
    """What the course of the training says against the model."""
    fit = run.get("fit")
    if not fit:
        return []
    found = []
    if fit["status"] == "interrupted":
        found.append("The training was interrupted; equipot train --resume goes on with it.")
    if fit["status"] in ("time", "finished") and fit["best_epoch"] >= max(0, fit["epochs"] - 2) and fit["epochs"] < 10:
        found.append("The training stopped after few epochs while the validation loss was still falling; train longer.")
    return found


def _dynamics(folder: Path) -> Dynamics | None:
    summary = read_json(folder / "summary.json")
    if not summary or not (folder / THERMO).exists():
        return None
    options = summary["options"]
    facts = {
        "structure": f"{summary['formula']}, {summary['atoms']} atoms",
        "ensemble": f"{options['ensemble']}, {options['temperature']:g} K, time step {options['timestep']:g} fs",
        "mean temperature": f"{significant(summary['mean_temperature_K'])} K",
        "speed": f"{significant(1000 * summary['seconds_per_step'])} ms per step",
    }
    drift = summary["drift_meV_per_atom_per_ns"]
    if drift is not None and np.isfinite(drift):
        facts["drift of the conserved energy"] = f"{significant(drift)} meV/atom/ns"
    target = None if options["ensemble"] == "nve" else options["temperature"]
    return Dynamics(read_thermo(folder), summary["atoms"], target, summary["status"], summary["message"], facts)


def data_tables(data: Json, statistics: Statistics) -> list[Table]:
    """Returns the files of each set, the energies of isolated atoms, and the measured constants."""
    tables = []
    rows = [(use, row) for use, files in data.get("files", {}).items() for row in files]
    if rows:
        columns = [key for key in rows[0][1] if key not in ("file", "format")]
        columns = [key for key in columns if any(row[key] not in ("–", 0, "") for _, row in rows)]
        cells = [[use, Path(row["file"]).name, *(row[key] for key in columns)] for use, row in rows]
        tables.append(Table("Files: what was found and used (number of frames)", ["set", "file", *columns], cells))
    elements = zip(
        statistics.species, statistics.atomic_energies, statistics.energy_mean_per_species,
        statistics.mean_neighbours_per_species, strict=True,
    )  # fmt: skip
    source = statistics.atomic_energies_source.replace("_", " ")
    tables.append(
        Table(
            f"Elements (E0: {source})",
            ["element", "E0 (eV)", "mean interaction energy (eV)", "mean neighbours"],
            [[chemical_symbols[z], fixed(e0, 5), fixed(mean, 4), fixed(n, 2)] for z, e0, mean, n in elements],
        )
    )
    constants = [
        ["mean of (E − ΣE0)/N", f"{fixed(statistics.energy_mean, 5)} eV/atom"],
        ["its standard deviation", f"{statistics.energy_std:.5f} eV/atom"],
        ["rms force component", f"{statistics.force_rms:.4f} eV/Å"],
        ["mean number of neighbours", f"{statistics.mean_neighbours:.2f}"],
        ["shortest distance", f"{statistics.min_distance:.3f} Å"],
    ]
    return [*tables, Table("Measured on the training set", ["quantity", "value"], constants)]


def start_tables(start: Json, work: str) -> list[Table]:
    """Returns what a training or fit started from, where it was a model: file, E0s, and errors before it."""
    if not start:
        return []
    rows = [["model", start["model"]], ["its SHA-256", start["sha256"]]]
    if "train_data" in start["provenance"]:
        rows += [["its training data (SHA-256)", start["provenance"]["train_data"]]]
    rows += [["energy reference", _REFERENCES[start["reference"]]], *_energies_left(start)]
    rows += [[f"errors of {name} before the {work}", in_words(errors)] for name, errors in start["errors"].items()]
    return [Table(f"What the {work} started from", ["quantity", "value"], rows)]


def baseline_tables(baseline: Json | None) -> list[Table]:
    """Returns the model that a fit corrected: file, E0s of the sum, and its errors alone."""
    if not baseline:
        return []
    rows = [
        ["model", baseline["model"]],
        ["its SHA-256", baseline["sha256"]],
        ["its design", f"near the point {baseline['point']}"],
        ["its cutoff", f"{baseline['r_max']:g} Å"],
        ["its parameters", significant(baseline["parameters"])],
        ["energy reference", _REFERENCES[baseline["reference"]]],
        *_energies_left(baseline),
        *([f"its errors of {name}, alone", in_words(errors)] for name, errors in baseline["errors"].items()),
    ]
    return [Table("The baseline: the fit is to what it leaves, and the model is the sum", ["quantity", "value"], rows)]


def _energies_left(facts: Json) -> list[list[str]]:
    """What a model leaves of the energies with each choice of E0s, and the E0s chosen."""
    left, E0 = facts["energy_left_meV_per_atom"], facts["E0_eV"]
    rows = [[f"rms of (E − Ê)/N, {name}", f"{significant(value)} meV/atom"] for name, value in left.items()]
    return rows + [[f"E0 of {symbol}", f"{own:.5f} → {new:.5f} eV"] for symbol, (own, new) in E0.items()]


_REFERENCES = {
    "keep": "the E0s of the model", "data": "E0s of the data", "refit": "E0s fitted to what the model left",
}  # fmt: skip


def model_tables(described: Json, point: str, design: Design) -> list[Table]:
    """Returns what the design is: a summary, how it differs from its named point, its layers, its parameters."""
    summary = [
        ["parameters", significant(described["parameters"])],
        ["of them active", significant(described["active_parameters"])],
        ["receptive field", f"{described['receptive_field_A']:g} Å"],
        ["body order of the energy", _body_order(described["energy_body_order"], described["energy_exact"])],
        ["operations per edge", significant(described["operations_per_edge"])],
        ["operations per atom", significant(described["operations_per_atom"])],
    ]
    tables = [Table("In numbers", ["quantity", "value"], summary)]
    changed = design.differences(named_point(point)) if point else {}
    if changed:
        rows = [[axis, str(mine), str(published)] for axis, (mine, published) in changed.items()]
        tables.append(Table(f"Axes that differ from the point {point}", ["axis", "here", point], rows))
    layers = [
        [
            i + 1, layer["h_in"], layer["A"], layer["h_out"], layer["paths"],
            _body_order(layer["body_order"], layer["exact"]),
        ]
        for i, layer in enumerate(described["layers"])
    ]  # fmt: skip
    headings = ["layer", "features in", "one-particle basis A", "features out", "paths", "body order"]
    tables.append(Table("Layers", headings, layers))
    blocks = [[block, count] for block, count in described["blocks"].items()]
    return [*tables, Table("Parameters by block", ["block", "parameters"], blocks)]


def _body_order(order: int | None, exact: bool) -> str:
    return f"{order} (exact)" if exact else "unbounded"


def provenance(header: ModelHeader, run: Json) -> dict[str, str]:
    """Returns where a model comes from, label to text."""
    facts = {
        "finished": run.get("finished"),
        "training ended": _ENDINGS.get(run.get("fit", {}).get("status", ""), None),
        "device": ", ".join(
            [run["device"], run["dtype"], _several(run["threads"], "thread"), _several(run["processes"], "process")]
        )
        if run
        else None,
        "backend": ": ".join(run["backend"].values()) if run.get("backend") else None,
        start_label(header.provenance): fine_tuned_from(header),
        "baseline": baseline_of(header),
        **in_header(header.provenance),
        "converted from": converted_from(header.provenance),
        "training data (SHA-256)": header.provenance.get("train_data"),
        "versions": ", ".join(f"{name} {version}" for name, version in header.versions.items()),
        "model format": str(header.format_version),
    }
    return {label: str(text) for label, text in facts.items() if text}


def _several(count: int, noun: str) -> str:
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending}"


def converted_from(facts: Mapping[str, Any]) -> str | None:
    """Returns the published model that a provenance says a model was converted from, in words; None without."""
    origin = facts.get("converted_from")
    if not isinstance(origin, Mapping):
        return None
    head = f", head {origin['head']}" if origin.get("head") else ""
    code = f"{origin['code']} {origin['version']}".rstrip()
    return f"{origin['file']} of {code}{head} (SHA-256 {origin['sha256']})"


def fine_tuned_from(header: ModelHeader) -> str | None:
    """Returns the model that a training started from, and those before it, in words; None where there was none."""
    start = header.provenance.get("start")
    files = []
    while isinstance(start, Mapping):
        published = converted_from(start["provenance"])
        files.append(
            f"{start['model']} (SHA-256 {start['sha256']})" + (f", converted from {published}" if published else "")
        )
        start = start["provenance"].get("start")
    return ", which was fine-tuned from ".join(files) or None


def cited(header: ModelHeader) -> tuple[str, ...]:
    """Returns what to cite for a model: papers of what it and its baseline are, also where made from published ones."""
    found: list[str] = []
    facts: Any = header.provenance
    for part in header.parts:
        codes, rigid = _origins(facts)
        found += papers(nearest_point(part.design), codes, header.versions.get("equipot", ""))
        found += [LAST_LAYER] if rigid else []
        facts = (facts.get("baseline") or {}).get("provenance") or {}
    return tuple(dict.fromkeys(found))


def _origins(facts: Any) -> tuple[list[str], bool]:
    """The codes that a model, or those that its training started from, came from; whether last layers were refitted."""
    codes: list[str] = []
    rigid = False
    while isinstance(facts, Mapping):
        origin, start = facts.get("converted_from"), facts.get("start")
        codes += [str(origin["code"])] if isinstance(origin, Mapping) else []
        rigid = rigid or (facts.get("kind") == "linear fit" and "start" in facts)
        facts = start["provenance"] if isinstance(start, Mapping) else None
    return codes, rigid


_ENDINGS = {
    "finished": "all epochs done", "patience": "no better validation for fit.patience validations",
    "min_lr": "the learning rate fell below fit.min_lr", "time": "the time of fit.max_minutes was used up",
    "interrupted": "interrupted",
}  # fmt: skip

__all__ = ["cited", "data_tables", "model_tables", "provenance", "run_content", "write_run_report"]
