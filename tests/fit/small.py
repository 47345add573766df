"""Small structures, data sets and models that the tests of training share."""

import json
import signal
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.fit.checkpoint import load_checkpoint
from equipot.fit.options import FitOptions
from equipot.fit.reporter import NullReporter, StepReport
from equipot.kernels.backend import use_backend
from equipot.models.model_file import load_potential
from equipot.models.potential import Potential
from equipot.points import mace
from equipot.statistics import Statistics

R_MAX = 3.5


def labelled(atoms: Atoms, index: int, **changes) -> Frame:
    """A frame with effective-medium labels; stress where all directions are periodic."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    values = {
        "energy": float(atoms.get_potential_energy()),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(voigt=False) if atoms.pbc.all() else None,
        "virial": None,
        "weight": 1.0,
        "energy_weight": 1.0,
        "forces_weight": 1.0,
        "stress_weight": 1.0,
        "config_type": "crystal" if atoms.pbc.all() else "molecule",
        "source": "small.xyz",
        "index": index,
    }
    atoms.calc = None
    return Frame(atoms=atoms, **{**values, **changes})


def frames(count: int, seed: int = 0) -> list[Frame]:
    """Rattled water, methane and two-atom cells of copper, in turn."""
    rng = np.random.default_rng(seed)
    kinds = [molecule("H2O"), molecule("CH4"), bulk("Cu", "fcc", a=3.7).repeat((2, 1, 1))]
    made = []
    for index in range(count):
        atoms = kinds[index % len(kinds)].copy()
        atoms.positions += rng.normal(scale=0.06, size=atoms.positions.shape)
        made.append(labelled(atoms, index))
    return made


def dataset(count: int, seed: int = 0) -> Dataset:
    return Dataset(frames(count, seed), R_MAX)


def statistics() -> Statistics:
    return Statistics(
        species=(1, 6, 8, 29),
        atomic_energies=(3.2, 3.5, 4.6, 3.5),
        mean_neighbours=6.0,
        mean_neighbours_per_species=(3.0, 4.0, 2.0, 15.0),
        force_rms=1.5,
        energy_mean_per_species=(0.0, 0.0, 0.0, 0.0),
    )


def potential(dtype: torch.dtype = torch.float64, seed: int = 0, backend: str = "auto", **axes) -> Potential:
    """A small model on the backend that users get."""
    values = {"r_max": R_MAX, "channels": 4, "max_ell": 1, "max_L": 0, "correlation": 2, "layers": 1}
    design = mace(**{**values, "radial_mlp": (8,), "readout_hidden": 4, "num_radial": 4, **axes})
    model = Potential(design, statistics(), dtype=dtype, seed=seed)
    use_backend(model, backend)
    return model


def options(**changes) -> FitOptions:
    values = {"max_epochs": 3, "batch_size": 3, "checkpoint_seconds": 1e9, "seed": 7}
    return FitOptions(**{**values, **changes})


def bits(model: torch.nn.Module) -> dict[str, bytes]:
    """The weights, to the last bit."""
    return {name: value.detach().numpy().tobytes() for name, value in model.state_dict().items()}


class Interrupter(NullReporter):
    """Sends a signal to this process after some step, as Ctrl-C or `kill` would."""

    def __init__(self, after_step: int, number: int = signal.SIGINT) -> None:
        self.after_step, self.number = after_step, number

    def step(self, report: StepReport) -> None:
        if report.step == self.after_step:
            signal.raise_signal(self.number)


def same(a: object, b: object, ignore: tuple[str, ...] = ("seconds", "time_s")) -> bool:
    """Whether two nested values are equal to the last bit, but for clocks."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k not in ignore)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(a: Path, b: Path) -> None:
    """Asserts that two runs left the same bits: checkpoint, models, metrics."""
    assert same(records(a), records(b))
    first, second = load_checkpoint(a / "last.ckpt"), load_checkpoint(b / "last.ckpt")
    for key in first:
        assert same(first[key], second[key]), key
    for name in ("best.equipot", "last.equipot"):
        assert bits(load_potential(a / name)) == bits(load_potential(b / name)), name


def total_weight(model: torch.nn.Module) -> float:
    """The sum of all weights: one number to compare models in different processes by."""
    return float(sum(p.detach().sum() for p in model.parameters()))
