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


def with_backend(potential, task):
    """The potential with its operations on the chosen backend; on the reference where there is no choice yet."""
    name = task["backend"]
    if name == "reference":
        return potential
    try:
        from equipot.kernels.backend import use_backend
    except ImportError:
        if name != "auto":
            raise
        task["backend"] = "reference"
        return potential
    chosen = use_backend(potential, name)
    return potential if chosen is None or not isinstance(chosen, torch.nn.Module) else chosen


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
    versions = {"equipot": equipot.__version__, "torch": torch.__version__}
    if task.get("model_file"):
        potential = with_backend(load_potential(task["model_file"], dtype=task["dtype"]), task)
        return loop.calculations(task, EquipotCalculator(potential)), versions
    potential = potential_of(task)
    if task["kind"] == "train":
        subject = OwnTraining(task, with_backend(potential, task))
    else:
        choices = accepted(EquipotCalculator, task, "radial")
        subject = loop.calculations(task, EquipotCalculator(with_backend(potential, task), **choices))
    return subject, {**versions, "backend": task["backend"], "radial": task["radial"]}


if __name__ == "__main__":
    loop.serve(make)
