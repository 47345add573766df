"""equipot: the step of its own training loop, and its own ASE calculator."""

import inspect
import tempfile
from pathlib import Path

import loop
import torch

import equipot
from equipot.convert import convert_model
from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.deploy import EquipotCalculator
from equipot.design import Design
from equipot.fit import FitOptions
from equipot.fit.distributed import current
from equipot.fit.interrupt import StopRequest
from equipot.fit.optimise import build_average, build_optimiser
from equipot.fit.reporter import NullReporter
from equipot.fit.run import Run
from equipot.fit.train import take_step
from equipot.geometry import evaluate
from equipot.kernels.backend import use_backend
from equipot.models import Potential
from equipot.models.model_file import load_potential
from equipot.statistics import Statistics


def accepted(where, task, *names):
    """Those choices of the run that a class takes; asking for what it does not take is an error."""
    known = set(inspect.signature(where).parameters) | set(getattr(where, "model_fields", ()))
    chosen = {name: task[name] for name in names if task.get(name) not in (None, "default")}
    unknown = [f"{name}={value}" for name, value in chosen.items() if name not in known]
    if unknown:
        raise SystemExit(f"{where.__name__} of this version has no choice {', '.join(unknown)}")
    return chosen


def radial_form(where, task):
    """What the radial functions of this run are: as asked, or the default of the class that takes the choice."""
    if task["radial"] != "default":
        return task["radial"]
    field = getattr(where, "model_fields", {}).get("radial")
    default = field.default if field else inspect.signature(where).parameters.get("radial")
    default = default.default if isinstance(default, inspect.Parameter) else default
    return default if default in ("exact", "spline") else "exact"


def potential_of(task):
    dtype = getattr(torch, task["dtype"])
    if task.get("read_weights"):
        return convert_model(task["read_weights"], dtype=dtype).potential
    n = len(task["species"])
    statistics = Statistics(
        species=tuple(task["species"]), atomic_energies=tuple(task["E0"]), mean_neighbours=task["neighbours"],
        mean_neighbours_per_species=(task["neighbours"],) * n, force_rms=task["scale"],
        energy_mean_per_species=(0.0,) * n,
    )  # fmt: skip
    return Potential(Design(**task["design"]), statistics, dtype=dtype, seed=task["seed"])


class OwnTraining:
    """The steps of `equipot.fit`, with the loss of `loop`."""

    def __init__(self, task, potential):
        frames = [
            Frame(a, energy=float(a.info[loop.ENERGY]), forces=a.arrays[loop.FORCES])
            for a in loop.read(task["structures"])
        ]
        options = FitOptions(
            energy_weight=loop.ENERGY_WEIGHT, forces_weight=loop.FORCES_WEIGHT, optimiser="adam", ema_decay=None,
            lr=loop.LEARNING_RATE, clip=loop.CLIP, batch_size=len(frames), warmup_steps=0, schedule="constant",
            max_epochs=10**6, **accepted(FitOptions, task, "radial"),
        )  # fmt: skip
        dataset = Dataset(frames, potential.r_max)
        optimiser = build_optimiser(potential, options)
        self.folder = tempfile.TemporaryDirectory()
        self.run_ = Run(
            potential, dataset, dataset, options, Path(self.folder.name), current(), optimiser,
            build_average(potential, optimiser, options), NullReporter(), lambda *_: None, StopRequest(),
        )  # fmt: skip
        self.indices = list(range(len(frames)))
        self.batch = dataset.batch(self.indices)
        self.forces = None

    def run(self, steps):
        if self.forces is None:
            self.forces = evaluate(self.run_.model, self.batch.graph).forces
        for _ in range(steps):
            take_step(self.run_, self.indices, self.batch)

    def facts(self):
        parameters = sum(p.numel() for p in self.run_.model.parameters())
        return {
            "forces": self.forces.tolist(), "parameters": parameters,
            "atoms": self.batch.graph.num_nodes, "edges": self.batch.graph.num_edges,
        }  # fmt: skip


def make(task):
    given = task.get("model_file")
    potential = load_potential(given, dtype=task["dtype"]) if given else potential_of(task)
    choice = use_backend(potential, task["backend"], training=task["kind"] == "train")
    if task["kind"] == "train":
        subject = OwnTraining(task, potential)
    else:
        choices = accepted(EquipotCalculator, task, "radial")
        if "backend" in inspect.signature(EquipotCalculator).parameters:
            choices["backend"] = task["backend"]
        subject = loop.calculations(task, EquipotCalculator(potential, **choices))
    versions = {"equipot": equipot.__version__, "torch": torch.__version__}
    radial = radial_form(FitOptions if task["kind"] == "train" else EquipotCalculator, task)
    return subject, {**versions, "backend": str(choice), "radial": radial}


if __name__ == "__main__":
    loop.serve(make)
