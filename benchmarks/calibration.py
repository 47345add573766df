"""Whether uncertainty grows with the error away from the training data: linear ACE, and last layers of trained models.

    python benchmarks/calibration.py --quick                  the 3BPA of the examples, a few structures
    python benchmarks/calibration.py --data FOLDER            all cases
    python benchmarks/calibration.py --cases ethanol --data FOLDER --plots figures --out FILE

benchmarks/README.md says what the cases are and what is given.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

import ase.io
import torch
from ase import Atoms
from calibration_numbers import numbers, separation
from calibration_picture import picture
from calibration_sets import CASES, NEED_DATA, Case
from machine import describe

import equipot
from equipot import Config, linear_fit, load_potential
from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.memory import keep_freed_memory
from equipot.study.evaluate import evaluate_set
from equipot.study.uncertainty import SetDeviations, deviations, pooled

POINTS: dict[str, dict[str, Any]] = {
    "mace": {"name": "mace", "channels": 16, "max_ell": 2, "max_L": 1, "correlation": 2, "r_max": 4.0},
    "nequip": {"name": "nequip_current", "layers": 3, "channels": 16, "max_ell": 1, "max_L": 1, "r_max": 4.0},
}
"""Trained points whose last layer says how uncertain it is."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON document (tables go to standard error)")
    add("--out", type=Path, help="write the JSON document to this file too")
    add("--plots", type=Path, help="folder for the figures (SVG)")
    add("--quick", action="store_true", help="few structures and epochs, to see that everything works")
    add("--data", type=Path, help="folder with rmd17/ethanol_*.xyz and nbmotaw/NbMoTaW_train.xyz")
    add("--cases", default=",".join(CASES), help="some of " + ", ".join(CASES))
    add("--models", default="", help="only these: ace_linear, mace, nequip")
    add("--epochs", type=int, default=100, help="of the trained points")
    add("--committee", type=int, default=32, help="draws from the posterior of more than 1024 weights")
    add("--threads", type=int, default=1)
    found = parser.parse_args()
    unknown = set(found.cases.split(",")) - set(CASES)
    if unknown:
        parser.error(f"--cases: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return found


def main() -> None:
    a = arguments()
    out: TextIO = sys.stderr if a.json else sys.stdout
    torch.set_num_threads(a.threads)
    keep_freed_memory()
    versions = {"equipot": equipot.__version__, "torch": torch.__version__}
    document: dict[str, Any] = {"machine": describe(), "versions": versions, "fits": []}
    for name in a.cases.split(","):
        if name in NEED_DATA and a.data is None:
            print(f"{name}: left out, it needs --data", file=sys.stderr)
            continue
        began = time.perf_counter()
        case = CASES[name](a.data, a.quick)
        seconds = time.perf_counter() - began
        print(f"\n{case.name}: {case.description}", file=out)
        for model in case.models:
            if model in (a.models or model).split(","):
                document["fits"].append({**_one(case, model, a, out), "seconds_of_data": seconds})
    document["machine"]["load_average_at_the_end"] = os.getloadavg()
    text = json.dumps(document, indent=1)
    if a.json:
        print(text)
    if a.out:
        a.out.write_text(text + "\n", encoding="utf-8")


def _one(case: Case, model: str, a: argparse.Namespace, out: TextIO) -> dict[str, Any]:
    """Fits one model to one case and compares."""
    with tempfile.TemporaryDirectory() as folder:
        fit, path = _fitted(case, model, a, Path(folder))
        potential = load_potential(path, dtype="float64", backend="auto").requires_grad_(False)
    sets = {}
    for name, frames in case.tests.items():
        evaluated = evaluate_set(potential, Dataset(frames, potential.r_max))
        sets[name] = deviations(potential, evaluated.dataset, evaluated.predictions, most_atoms=float("inf"))
    whole = numbers(pooled(list(sets.values())))
    inside, *shifted = sets
    result = {
        "case": case.name, "description": case.description, "model": model, **fit,
        "structures": {"train": len(case.train), "valid": len(case.valid)},
        "sets": {name: numbers(found) for name, found in sets.items()}, "all_sets": whole,
        "auc": {
            **{name: separation(sets[inside], sets[name]) for name in shifted},
            "all shifted": separation(sets[inside], pooled([sets[name] for name in shifted])),
        },
    }  # fmt: skip
    _print(result, out)
    if a.plots:
        _plot(a.plots, result, sets)
    return result


def _fitted(case: Case, model: str, a: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], Path]:
    """Fits or trains by the project's own commands; returns what is known of the fit, and the model file."""
    files = {"train": case.train, "valid": case.valid}
    for name, frames in files.items():
        ase.io.write(folder / f"{name}.extxyz", [_written(frame) for frame in frames], format="extxyz")
    data = {name: str(folder / f"{name}.extxyz") for name in files} | {"atomic_energies": case.atomic_energies}
    common: dict[str, Any] = {"data": data, "md": False, "run": {"threads": a.threads}}
    linear = {"committee": a.committee}
    document, seconds = {**common, "design": {"name": "ace_linear", **case.axes}, "linear": linear}, {}
    if model != "ace_linear":
        fit = {"max_epochs": 20 if a.quick else a.epochs}
        began = time.perf_counter()
        trained = equipot.train(Config.from_dict({**common, "design": POINTS[model], "fit": fit}), folder / "trained")
        seconds = {"training": time.perf_counter() - began}
        del data["atomic_energies"]
        start = {"model": str(trained.model)}
        document = {**common, "start": start, "linear": {**linear, "keep_weights": True}}
    began = time.perf_counter()
    found = linear_fit(Config.from_dict(document), folder / "fitted")
    if found.problems:
        raise SystemExit(f"{case.name}, {model}: {'; '.join(found.problems)}")
    known = found.facts
    return {
        "design": POINTS[model] if model in POINTS else case.axes, "weights": known["weights"],
        "prior_strength": known["uncertainty"]["prior_strength"], "uncertainty": known["uncertainty"],
        "seconds": {**seconds, "fit": sum(known["seconds"].values()), "run": time.perf_counter() - began},
        "validation": found.errors["valid"],
    }, found.model  # fmt: skip


def _written(frame: Frame) -> Atoms:
    atoms = frame.atoms.copy()
    atoms.info = {"REF_energy": frame.energy, "config_type": frame.config_type}
    atoms.arrays["REF_forces"] = frame.forces
    return atoms


def _print(result: dict[str, Any], out: TextIO) -> None:
    print(f"{result['case']}, {result['model']}: {result['weights']} weights; E meV/atom, F meV/Å (vectors)", file=out)
    print(f"{'set':22s} {'n':>5s} {'E rmse':>8s} {'σ':>8s} {'rank':>6s} {'F rmse':>8s} {'σ':>8s} {'rank':>6s} "
          f"{'rank/str':>8s} {'in 1σ':>6s} {'in 2σ':>6s} {'g>1':>6s} {'AUC E':>6s} {'AUC F':>6s} {'AUC g':>6s}",
          file=out)  # fmt: skip
    for name, found in {**result["sets"], "all sets": result["all_sets"]}.items():
        E, F = found["energy_per_atom_of_structures"], found["force_vectors_of_atoms"]
        auc = result["auc"].get("all shifted" if name == "all sets" else name, {})
        cells = (
            f"{found['structures']:5d}", f"{E['rmse']:8.2f}", f"{E['mean_deviation']:8.2f}",
            _two(E["rank_correlation"]), f"{F['rmse']:8.1f}", f"{F['mean_deviation']:8.1f}",
            _two(F["rank_correlation"]),
            f"{_two(found['forces_of_structures']['rank_correlation']):>8s}", _two(F["within_1"]), _two(F["within_2"]),
            _two(found["extrapolation"]["atoms_beyond_1"]),
            *(_two(auc.get(score)) for score in ("energy_deviation", "forces_deviation", "extrapolation")),
        )  # fmt: skip
        print(f"{name:22s} " + " ".join(cells), file=out, flush=True)


def _two(value: float | None) -> str:
    return f"{'–' if value is None else f'{value:.2f}':>6s}"


def _plot(folder: Path, result: dict[str, Any], sets: dict[str, SetDeviations]) -> None:
    whole = result["all_sets"]
    ranks = {
        "energy": whole["energy_per_atom_of_structures"]["rank_correlation"],
        "forces": whole["forces_of_structures"]["rank_correlation"],
    }
    title = f"{result['case']}, {result['model']}: errors and deviations of test structures"
    picture(folder / f"calibration-{result['case']}-{result['model']}.svg", title, sets, ranks)


if __name__ == "__main__":
    main()
