"""equipot: the step of its own training loop, and its own ASE calculator."""

import atexit
import inspect
import shutil
import tempfile
from pathlib import Path

import loop
import torch

import equipot
from equipot.convert import convert_model
from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.deploy import EquipotCalculator
from equipot.deploy.compiled import compile_potential
from equipot.design import Design
from equipot.fit import FitOptions
from equipot.fit.distributed import current
from equipot.fit.interrupt import StopRequest
from equipot.fit.optimise import build_average, build_optimiser
from equipot.fit.reporter import NullReporter
from equipot.fit.run import Run
from equipot.fit.train import take_step
from equipot.geometry import evaluate, graph_from_atoms
from equipot.kernels.backend import use_backend
from equipot.memory import keep_freed_memory
from equipot.models import Potential
from equipot.models.model_file import load_potential
from equipot.statistics import Statistics


def accepted(where, **choices):
    """Those choices of a run that a class takes itself; the others have been made on the potential."""
    known = set(inspect.signature(where).parameters) | set(getattr(where, "model_fields", ()))
    return {name: value for name, value in choices.items() if name in known and value is not None}


def potential_of(task):
    dtype = getattr(torch, task["dtype"])
    if task.get("read_weights"):
        return convert_model(task["read_weights"], dtype=dtype).potential
    if task.get("statistics"):
        return Potential(Design(**task["design"]), Statistics(**task["statistics"]), dtype=dtype, seed=task["seed"])
    n = len(task["species"])
    statistics = Statistics(
        species=tuple(task["species"]), atomic_energies=tuple(task["E0"]), mean_neighbours=task["neighbours"],
        mean_neighbours_per_species=(task["neighbours"],) * n, force_rms=task["scale"],
        energy_mean_per_species=(0.0,) * n,
    )  # fmt: skip
    return Potential(Design(**task["design"]), statistics, dtype=dtype, seed=task["seed"])


def soften(potential, atoms, size):
    """Gives a linear ACE of random weights, which has no scale, forces of this size (rms, eV/Å)."""
    forces = evaluate(potential, graph_from_atoms(atoms, potential.r_max)).forces
    with torch.no_grad():
        for w in potential.layers[0].parameters():
            w.mul_(size / float(forces.square().mean().sqrt()))


class OwnTraining:
    """The steps of `equipot.fit`, with the loss of `loop`."""

    def __init__(self, task, potential, radial):
        frames = [
            Frame(a, energy=float(a.info[loop.ENERGY]), forces=a.arrays[loop.FORCES])
            for a in loop.read(task["structures"])
        ]
        options = FitOptions(
            energy_weight=loop.ENERGY_WEIGHT, forces_weight=loop.FORCES_WEIGHT, optimiser="adam", ema_decay=None,
            lr=loop.LEARNING_RATE, clip=loop.CLIP, batch_size=len(frames), warmup_steps=0, schedule="constant",
            max_epochs=10**6, **accepted(FitOptions, radial=radial, backend=task["backend"]),
        )  # fmt: skip
        dataset = Dataset(frames, potential.r_max)
        optimiser = build_optimiser(potential, options)
        self.folder = tempfile.TemporaryDirectory()
        self.run_ = Run(
            potential, dataset, dataset, options, Path(self.folder.name), current(), optimiser,
            build_average(potential, optimiser, options), NullReporter(), lambda *_: None, StopRequest(),
        )  # fmt: skip
        self.indices = list(range(len(frames)))
        self.batch = dataset.batch(self.indices).to(next(potential.parameters()).device)
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


def compiled(potential):
    """The path of the potential as `equipot compile` writes it; the folder goes when the worker ends."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return compile_potential(potential, Path(folder, "model.pt2")).path


def make(task):
    given, training = task.get("model_file"), task["kind"] == "train"
    if task.get("device", "cpu") == "cpu":
        keep_freed_memory()  # as `equipot train` and `equipot md` do
    potential = load_potential(given, dtype=task["dtype"]) if given else potential_of(task)
    radial = None if task["radial"] == "default" else task["radial"]
    if radial is not None:
        potential.choose_radial(radial)
    potential.to(task.get("device", "cpu"))
    choice = use_backend(potential, task["backend"], training=training)
    if training:
        subject = OwnTraining(task, potential, radial)
    else:
        potential.eval().requires_grad_(False)
        if task.get("soft"):
            soften(potential, loop.read(task["structures"])[0], task["soft"])
        calculator = EquipotCalculator(compiled(potential) if task.get("compile") else potential)
        potential = calculator.potential
        subject = loop.calculations(task, calculator)
    versions = {"equipot": equipot.__version__, "torch": torch.__version__}
    form = f"{choice}, compiled" if task.get("compile") and not training else str(choice)
    return subject, {**versions, "backend": form, "radial": potential.radial}


if __name__ == "__main__":
    loop.serve(make)
