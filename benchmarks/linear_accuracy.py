"""Errors of linear ACE on reference data, each by one `equipot fit` in a process of its own: time, memory, sizes.

    python benchmarks/linear_accuracy.py --data DATA --out result.json      all cases, half an hour on two cores
    python benchmarks/linear_accuracy.py --data DATA --cases 3bpa,Si            some

benchmarks/README.md says what is measured and how.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from machine import describe

MOLECULES = {"design.r_max": 5.5, "linear.smoothness": 0, "linear.prior": 3e-5}


class Case(NamedTuple):
    """A fit: its training file, where errors count, options, and what the same kind of model has in print."""

    train: str
    judged: str
    options: dict[str, Any]
    published: dict[str, float]


CASES = {
    "3bpa": Case(
        "3bpa/train_300K.xyz", "valid",
        {**MOLECULES, "data.atomic_energies": "3bpa/iso_atoms.xyz", "design.degrees": [16, 20, 20]},
        {"energy_rmse_meV": 7.1, "forces_rmse_meV_per_A": 27.1},
    ),
    "ethanol": Case(
        "rmd17/ethanol_train_01.xyz", "dev",
        {**MOLECULES, "data.tests.dev": "rmd17/ethanol_devtest.xyz", "data.valid": 0.05,
         "design.degrees": [16, 18, 20, 16]},
        {"energy_mae_meV": 1.2, "forces_mae_meV_per_A": 7.3},
    ),
    "aspirin": Case(
        "rmd17/aspirin_train_01.xyz", "dev",
        {**MOLECULES, "data.tests.dev": "rmd17/aspirin_devtest.xyz", "data.valid": 0.05,
         "design.degrees": [16, 18, 19]},
        {"energy_mae_meV": 6.1, "forces_mae_meV_per_A": 17.9},
    ),
    "Si": Case("mlearn/Si_train.xyz", "valid", {}, {}),
    "Cu": Case("mlearn/Cu_train.xyz", "valid", {}, {}),
    "nbmotaw": Case("nbmotaw/NbMoTaW_train.xyz", "valid", {"design.degrees": [16, 16, 14, 12]}, {}),
}  # fmt: skip
"""Published errors: linear ACE of Kovács et al., J. Chem. Theory Comput. 17, 7696 (2021), on the official tests."""
FILES = ("data.atomic_energies", "data.tests.dev")
COUNTED = ("energy_rmse_meV", "energy_rmse_meV_per_atom", "energy_mae_meV", "forces_rmse_meV_per_A",
           "forces_mae_meV_per_A", "stress_rmse_meV_per_A3")  # fmt: skip


def run(name: str, data: Path, threads: int, folder: Path) -> dict[str, Any]:
    """Fits one case and returns errors, sizes, wall time and the largest memory."""
    case, out = CASES[name], folder / name
    options = {k: str(data / v) if k in FILES else v for k, v in case.options.items()} | {"md": False}
    command = [sys.executable, "-m", "equipot", "fit", str(data / case.train), "--out", str(out)]
    command += ["--threads", str(threads)]
    for key, value in options.items():
        command += ["--set", f"{key}={json.dumps(value) if not isinstance(value, str) else value}"]
    load, begin = os.getloadavg(), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{name}: equipot fit ended with {os.waitstatus_to_exitcode(status)}\n{log[-2000:]}")
    errors, fit = (json.loads((out / f"{part}.json").read_text(encoding="utf-8")) for part in ("errors", "linear"))
    kept = ("weights", "rows", "prior_strength", "effective_parameters", "condition_number", "seconds", "matrices_GB")
    return {
        "options": case.options, "judged": case.judged, "published": case.published, "threads": threads,
        "load_average": load, "wall_s": time.monotonic() - begin,
        "peak_GB": usage.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6),
        "fit": {key: fit[key] for key in kept if key in fit},
        "errors": {where: {k: t["total"].get(k) for k in COUNTED} | {"structures": t["structures"]}
                   for where, t in errors.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with 3bpa, rmd17, mlearn and nbmotaw")
    parser.add_argument("--cases", default=",".join(CASES), help="which")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the JSON document to this file")
    a = parser.parse_args()
    names = a.cases.split(",")
    if unknown := set(names) - set(CASES):
        parser.error(f"--cases: {', '.join(unknown)} unknown; choose from {', '.join(CASES)}")
    document: dict[str, Any] = {"machine": describe(), "fits": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            found = document["fits"][name] = run(name, a.data, a.threads, Path(folder))
            judged = found["errors"][found["judged"]]
            print(f"{name}: {found['wall_s']:.0f} s, {found['peak_GB']:.1f} GB, {found['fit']['weights']} weights; "
                  f"{found['judged']}: " + ", ".join(f"{k} {v:.3g}" for k, v in judged.items() if v is not None)
                  + f"; published {found['published']}", flush=True)  # fmt: skip
            if a.out:
                a.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
