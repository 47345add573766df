"""Times an MD step with a published model: its own code's ASE calculator against the converted model's.

    python benchmarks/converted_md.py PEER/bin/python MACE.model converted.equipot structure.xyz
    python benchmarks/converted_md.py PEER/bin/python best.ckpt converted.equipot structure.xyz --code nequip

Two processes, one with each code, take turns of some steps of velocity Verlet (1 fs, forces and stress as each
calculator gives them by default), one thread each; the median over the turns is printed, with the largest difference
of the forces.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = """
import json, os, sys, time, warnings
warnings.simplefilter("ignore")
code, model, structure, dtype = sys.argv[1:5]
if code == "mace":
    from mace.calculators import MACECalculator
    calculator = MACECalculator(model_paths=model, device="cpu", default_dtype=dtype)
elif code == "nequip":
    from nequip.integrations.ase import NequIPCalculator
    calculator = NequIPCalculator._from_saved_model(model, device="cpu")
else:
    from equipot.deploy import EquipotCalculator
    calculator = EquipotCalculator(model, device="cpu", dtype=dtype)
import torch
torch.set_num_threads(1)
import ase.io
from ase import units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
import numpy as np
atoms = ase.io.read(structure)
atoms.calc = calculator
print("READY" + json.dumps(atoms.get_forces().tolist()), flush=True)
MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
for line in sys.stdin:
    steps = int(line)
    cpu, wall = time.process_time(), time.perf_counter()
    dynamics.run(steps)
    spent = [time.process_time() - cpu, time.perf_counter() - wall]
    print("TIME" + json.dumps([1e3 * seconds / steps for seconds in spent]), flush=True)
"""


class Worker:
    """One code in a process of its own."""

    def __init__(self, python: str, code: str, model: str, structure: str, dtype: str) -> None:
        self.process = subprocess.Popen(
            [python, "-c", WORKER, code, model, structure, dtype],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1,
        )  # fmt: skip
        self.forces = self.answer("READY")

    def answer(self, word: str) -> Any:
        """The next line of the worker that begins with a word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return json.loads(line.removeprefix(word))
        raise RuntimeError("a worker ended early; run its command by hand to see why")

    def time(self, steps: int) -> list[float]:
        """CPU and wall time of a step, ms."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        return self.answer("TIME")


def main() -> None:
    """Prints one line for each code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer")
    parser.add_argument("published")
    parser.add_argument("converted")
    parser.add_argument("structure")
    parser.add_argument("--code", choices=["mace", "nequip"], default="mace")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--dtype", default="float32")
    a = parser.parse_args()
    structure = str(Path(a.structure).resolve())
    workers = {
        "published": Worker(a.peer, a.code, a.published, structure, a.dtype),
        "converted": Worker(sys.executable, "equipot", a.converted, structure, a.dtype),
    }
    times: dict[str, list[list[float]]] = {name: [] for name in workers}
    for worker in workers.values():
        worker.time(2)
    for _ in range(a.turns):
        for name, worker in workers.items():
            times[name].append(worker.time(a.steps))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    pairs = zip(workers["published"].forces, workers["converted"].forces, strict=True)
    difference = max(abs(x - y) for rows in pairs for x, y in zip(*rows, strict=True))
    print(f"{len(workers['published'].forces)} atoms, {a.dtype}, largest difference of forces {difference:.1e} eV/Å")
    for name, (cpu, wall) in medians.items():
        print(f"{name}: {cpu:.1f} ms CPU, {wall:.1f} ms wall per step")
    print(f"ratio {medians['published'][0] / medians['converted'][0]:.2f} (CPU)")


if __name__ == "__main__":
    main()
