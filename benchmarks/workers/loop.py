"""What every worker does, whichever code it has: read a task, prepare, take steps when told, say what they took.

A worker is a process of its own with one code in it. Its first argument is the task, a JSON object (see
`processes.py`); each line of its standard input is a JSON command, each line of its output that begins with ``ANSWER``
the reply. This file needs torch, numpy and ASE only, so that it runs in every code's own environment.
"""

import json
import os
import platform
import resource
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import ase.io  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from ase import units  # noqa: E402
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution  # noqa: E402
from ase.md.verlet import VelocityVerlet  # noqa: E402

ENERGY, FORCES = "reference_energy", "reference_forces"
ENERGY_WEIGHT, FORCES_WEIGHT, CLIP, LEARNING_RATE = 1.0, 1.0, 10.0, 1e-5
STEPS_PER_TRAJECTORY = 100


def read(path):
    """The structures of a task, labels in `info` and `arrays`."""
    return ase.io.read(path, ":")


def loss_of(energy, forces, reference, atoms):
    """The loss of a training step, the same for every code: mean ((E − Ê)/N)² + mean (F − F̂)²."""
    E, F = reference
    return (
        ENERGY_WEIGHT * ((energy - E) / atoms).square().mean() + FORCES_WEIGHT * (forces - F).square().mean()
    )  # fmt: skip


def labels(structures, dtype):
    """Energies, forces and numbers of atoms as tensors, for `loss_of`."""
    E = torch.tensor([a.info[ENERGY] for a in structures], dtype=dtype)
    F = torch.tensor(np.concatenate([a.arrays[FORCES] for a in structures]), dtype=dtype)
    return (E, F), torch.tensor([len(a) for a in structures], dtype=dtype)


class Training:
    """Steps of a training on one minibatch: forward, forces, loss, backward, clip, Adam.

    Args:
        model: A module.
        predict: Returns energies and forces of the minibatch, with their graph.
        structures: The minibatch.
        dtype: Of the labels.
    """

    def __init__(self, model, predict, structures, dtype):
        self.model, self.predict = model, predict
        place = next(model.parameters()).device
        reference, atoms = labels(structures, dtype)
        self.reference, self.atoms = tuple(x.to(place) for x in reference), atoms.to(place)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self.parameters, lr=LEARNING_RATE)
        self.first_forces = None

    def run(self, steps):
        for _ in range(steps):
            self.optimiser.zero_grad(set_to_none=True)
            energy, forces = self.predict()
            loss = loss_of(energy, forces, self.reference, self.atoms)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.optimiser.step()
            if self.first_forces is None:
                self.first_forces = forces.detach().double()

    def facts(self):
        return {"forces": self.first_forces.tolist(), "parameters": sum(p.numel() for p in self.parameters)}


class Dynamics:
    """Steps of velocity Verlet, 1 fs, with a code's own ASE calculator; velocities as at 300 K.

    Weights are random, so atoms do not stay together: after a hundred steps they are put back.
    """

    def __init__(self, calculator, structures):
        self.atoms = structures[0].copy()
        self.atoms.calc = calculator
        self.start = self.atoms.positions.copy()
        self.first_forces = None
        self.done = STEPS_PER_TRAJECTORY

    def prepare(self, steps):
        """Puts the atoms back where it is time, outside of what is timed."""
        if self.first_forces is None:
            self.first_forces = self.atoms.get_forces()
        if self.done + steps <= STEPS_PER_TRAJECTORY:
            return
        self.atoms.positions = self.start
        MaxwellBoltzmannDistribution(self.atoms, temperature_K=300, rng=np.random.default_rng(0))
        self.dynamics = VelocityVerlet(self.atoms, 1.0 * units.fs)
        self.atoms.get_forces()
        self.done = 0

    def run(self, steps):
        self.dynamics.run(steps)
        self.done += steps
        if not np.isfinite(self.atoms.positions).all():
            raise RuntimeError("the trajectory has left the finite numbers")

    def facts(self):
        return {"forces": self.first_forces.tolist()}


class OnePoint:
    """One energy with forces (and stress, where the calculator gives it), after a small move of every atom."""

    def __init__(self, calculator, structures):
        self.atoms = structures[0].copy()
        self.atoms.calc = calculator
        self.random = np.random.default_rng(0)

    def run(self, steps):
        for _ in range(steps):
            self.atoms.positions = self.atoms.positions + self.random.normal(0.0, 0.005, (len(self.atoms), 3))
            self.atoms.get_forces()

    def facts(self):
        return {}


def memory(field):
    """A field of /proc/self/status in MB, such as VmRSS or VmHWM; None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return int(found[0]) / 1024.0 if found else None


def forget_peak():
    """Lets the kernel count the peak from now on; without Linux it stays the peak of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def peak_memory():
    """Largest resident memory since `forget_peak`, MB."""
    found = memory("VmHWM")
    if found is None:
        scale = 1024.0**2 if platform.system() == "Darwin" else 1024.0
        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    return found


def peak_on_gpu():
    """Largest memory of tensors on the GPU, MB; None where none was used."""
    return torch.cuda.max_memory_allocated() / 1024.0**2 if torch.cuda.is_initialized() else None


def wait_for_gpu():
    """Waits until everything that was asked of the GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def say(answer):
    print("ANSWER" + json.dumps(answer), flush=True)


def limit_memory(gigabytes):
    """Makes a process that wants more memory fail rather than the machine."""
    if gigabytes:
        bytes_ = int(gigabytes * 1024**3)
        resource.setrlimit(resource.RLIMIT_DATA, (bytes_, bytes_))


def serve(make):
    """Prepares by `make(task)`, which returns a subject with `run` and `facts`, and obeys until the input ends."""
    task = json.loads(sys.argv[1])
    torch.set_num_threads(task["threads"])
    limit_memory(task.get("memory_limit_GB"))
    baseline = memory("VmRSS")
    started = time.perf_counter()
    subject, versions = make(task)
    forget_peak()
    prepare = getattr(subject, "prepare", lambda steps: None)
    say({"ready": round(time.perf_counter() - started, 2), "versions": versions, "pid": os.getpid()})
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "facts":
            say({**subject.facts(), "baseline_MB": baseline, "peak_MB": peak_memory(), "peak_gpu_MB": peak_on_gpu()})
            continue
        steps = command["steps"]
        prepare(steps)
        wait_for_gpu()
        cpu, wall = time.process_time(), time.perf_counter()
        subject.run(steps)
        wait_for_gpu()
        spent = time.process_time() - cpu, time.perf_counter() - wall
        say({"cpu_ms": 1e3 * spent[0] / steps, "wall_ms": 1e3 * spent[1] / steps, "steps": steps})


def calculations(task, calculator):
    """The subject of a task that needs an ASE calculator."""
    kind = {"md": Dynamics, "point": OnePoint}[task["kind"]]
    return kind(calculator, read(task["structures"]))


def write_weights(task, export, *arguments):
    """Writes the plain weights of a living model, by equipot's exporter, where the task asks for it."""
    if task.get("write_weights"):
        options, tensors = export(*arguments)
        path = Path(task["write_weights"])
        torch.save(tensors, path)
        path.with_suffix(".json").write_text(json.dumps(options), encoding="utf-8")


def use_exporters():
    """Makes equipot's exporters, which stand alone, importable without equipot."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "equipot" / "convert" / "export"))
