"""Times an MD step with a published model: its own code's ASE calculator against the converted model's.

    python benchmarks/converted_md.py PEER/bin/python MACE.model converted.equipot structure.xyz
    python benchmarks/converted_md.py PEER/bin/python best.ckpt converted.equipot structure.xyz --code nequip

Two processes, one with each code, take turns of some steps of velocity Verlet (1 fs, forces and stress as each
calculator gives them by default), one thread each; the median over the turns is printed, with the largest difference
of the forces.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from measure import SCRIPTS
from processes import Worker


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
    parser.add_argument("--backend", default="auto")
    a = parser.parse_args()
    task: dict[str, Any] = {
        "kind": "md", "structures": str(Path(a.structure).resolve()), "dtype": a.dtype, "threads": 1,
        "backend": a.backend, "radial": "default",
    }  # fmt: skip
    workers = {
        "published": Worker(a.peer, SCRIPTS[a.code], {**task, "model_file": str(Path(a.published).resolve())}),
        "converted": Worker(
            sys.executable, "work_equipot.py", {**task, "model_file": str(Path(a.converted).resolve())}
        ),
    }
    times: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for worker in workers.values():
        worker.time(5)
    for _ in range(a.turns):
        for name, worker in workers.items():
            times[name].append(worker.time(a.steps))
    forces = {name: worker.facts()["forces"] for name, worker in workers.items()}
    pairs = zip(forces["published"], forces["converted"], strict=True)
    difference = max(abs(x - y) for rows in pairs for x, y in zip(*rows, strict=True))
    print(f"{len(forces['published'])} atoms, {a.dtype}, largest difference of forces {difference:.1e} eV/Å")
    cpu = {}
    for name, samples in times.items():
        cpu[name], wall = (statistics.median(s[clock] for s in samples) for clock in ("cpu_ms", "wall_ms"))
        print(f"{name}: {cpu[name]:.1f} ms CPU, {wall:.1f} ms wall per step")
    print(f"ratio {cpu['published'] / cpu['converted']:.2f} (CPU)")
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
