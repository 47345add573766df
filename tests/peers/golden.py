"""The golden results of the published codes: how they are read, and how a potential is compared with one."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch

from equipot.convert.source import Source
from equipot.geometry import Prediction, batch_graphs, evaluate, graph_from_atoms
from equipot.models import Potential

FOLDER = Path(__file__).parent / "goldens"
FILES = sorted(FOLDER.glob("*.npz"))
RELATIVE_ENERGY, FORCE, STRESS = 1e-10, 1e-9, 1e-9
"""Limits in float64: of the interaction energy, eV/Å, eV/Å³."""
DIFFERENCES = 1e-6
"""Limit of forces, relative to the largest, where the published code's energies were differentiated numerically."""
SINGLE = 1e-5
"""Limit in float32, relative to the largest value."""


@dataclass(frozen=True)
class Golden:
    """One configuration: its hyper-parameters, weights and results."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def source(self) -> Source:
        options = dict(self.meta["options"])
        code, version = options.pop("code"), options.pop("version")
        weights = {k.removeprefix("weights/"): torch.from_numpy(v) for k, v in self.arrays.items() if "weights/" in k}
        return Source(code, version, options, weights, self.meta.get("name", "training"))

    def result(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name]).double()


def read_golden(path: Path) -> Golden:
    with np.load(path, allow_pickle=False) as file:
        return Golden(json.loads(str(file["meta"])), {key: file[key] for key in file.files if key != "meta"})


@cache
def structures() -> tuple[ase.Atoms, ...]:
    listed = json.loads((FOLDER / "structures.json").read_text())
    return tuple(ase.Atoms(s["numbers"], positions=s["positions"], cell=s["cell"], pbc=s["pbc"]) for s in listed)


def graph_of(potential: Potential) -> Any:
    return batch_graphs([graph_from_atoms(atoms, potential.r_max) for atoms in structures()])


def predict(potential: Potential) -> Prediction:
    return evaluate(potential, graph_of(potential))


def force_limit(golden: Golden) -> float:
    """Largest allowed deviation of a force, eV/Å, in float64."""
    if "forces_from" in golden.meta:
        return DIFFERENCES * max(1.0, float(golden.result("forces").abs().max()))
    return FORCE


def errors(prediction: Prediction, golden: Golden) -> dict[str, float]:
    """Largest deviations: energy relative to the interaction energy, forces eV/Å, stress eV/Å³."""
    interaction = golden.result("interaction").abs()
    periodic = ~golden.result("stress").isnan()
    dE = (prediction.energy - golden.result("energy")).abs()
    # atoms without neighbours have no interaction energy: round-off of E0 itself is allowed there
    floor = 1e-15 * golden.result("energy").abs() / RELATIVE_ENERGY
    dS = (prediction.stress - golden.result("stress"))[periodic].abs()
    return {
        "energy": float((dE / torch.maximum(interaction, floor.clamp(min=1e-6))).max()),
        "forces": float((prediction.forces - golden.result("forces")).abs().max()),
        "stress": float(dS.max()) if dS.numel() else 0.0,
    }
