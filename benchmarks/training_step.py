"""Times a training step and a prediction of every named point at one small size, and of some at usual sizes.

    python benchmarks/training_step.py [--json] [--threads 1] [--points mace,nequip] [--repeats 5]

Everything runs on the reference backend, in float32. Structures are five 3BPA molecules of the project's own data
(examples/xtb_3bpa). A step is forward, forces, loss, backward and AdamW. The points are interleaved, so that a busy
machine disturbs all of them alike; figures are medians of process CPU time (one thread) or wall time (more), in ms.
"""

import argparse
import json
import platform
import statistics as stats
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ase.io import read

from equipot.design import Design
from equipot.geometry import Graph, batch_graphs, evaluate, graph_from_atoms
from equipot.models import Potential
from equipot.points import NAMED_POINTS, ace, botnet, invariant, mace, named_point, nequip, nequip_current
from equipot.statistics import Statistics

DATA = Path(__file__).parents[1] / "examples" / "xtb_3bpa" / "train_300K.xyz.gz"
USUAL: dict[str, Design] = {
    "mace 32x0e+32x1o": mace(channels=32),
    "mace 128x0e+128x1o": mace(channels=128),
    "nequip 4 layers, l=2, 32": nequip_current(radial_mlp=(64, 64)),
    "nequip 2 layers, l=1, 128/64": nequip_current(
        layers=2, max_L=1, channels=(128, 64), parity="natural", embedding_channels=32
    ),
    "nequip paper form, 3 layers, l=1, 16": nequip(layers=3, max_ell=1, max_L=1, channels=16, r_max=5.0),
    "botnet 3 layers, l=2, 16, r 4": botnet(layers=3, max_ell=2, max_L=2, channels=16),
    "ace 64": ace(channels=64),
    "invariant 128": invariant(channels=128),
}
SMALL = {"r_max": 4.5, "channels": 16, "layers": 2, "max_ell": 2, "max_L": 1}
OWN_SIZE = {"ace": {"layers": 1, "max_L": 0}, "invariant": {"max_ell": 0, "max_L": 0}}
DESIGNS: dict[str, Design] = {
    **{f"{name}, small": named_point(name, **{**SMALL, **OWN_SIZE.get(name, {})}) for name in NAMED_POINTS},
    **USUAL,
}


def one_step(potential: Potential, graph: Graph, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    prediction = evaluate(potential, graph, create_graph=True)
    loss = (prediction.energy / 27.0).square().mean() + prediction.forces.square().mean()
    loss.backward()
    optimiser.step()


def prepare(design: Design) -> tuple[Potential, Graph, Graph, torch.optim.Optimizer]:
    frames = read(DATA, ":5")
    graphs = [graph_from_atoms(atoms, design.r_max) for atoms in frames]
    neighbours = float(np.mean([g.num_edges / g.num_nodes for g in graphs]))
    species = tuple(sorted(set(frames[0].numbers.tolist())))
    n = len(species)
    statistics = Statistics(
        species=species, atomic_energies=(0.0,) * n, mean_neighbours=neighbours,
        mean_neighbours_per_species=(neighbours,) * n, energy_mean_per_species=(0.0,) * n,
    )  # fmt: skip
    potential = Potential(design, statistics)
    return potential, batch_graphs(graphs), graphs[0], torch.optim.AdamW(potential.parameters(), lr=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--points", default="", help="only points whose name contains one of these, comma-separated")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    wanted = [w for w in arguments.points.split(",") if w]
    names = [name for name in DESIGNS if not wanted or any(w in name for w in wanted)]
    prepared = {name: prepare(DESIGNS[name]) for name in names}
    train: dict[str, list[float]] = {name: [] for name in names}
    predict: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(arguments.repeats + 1):
        for name, (potential, batch, single, optimiser) in prepared.items():
            start = clock()
            one_step(potential, batch, optimiser)
            middle = clock()
            evaluate(potential, single)
            if repeat > 0:
                train[name].append(1e3 * (middle - start))
                predict[name].append(1e3 * (clock() - middle))
    rows = [
        {
            "point": name, "train_5_molecules_ms": round(stats.median(train[name]), 1),
            "predict_1_molecule_ms": round(stats.median(predict[name]), 2),
            "parameters": prepared[name][0].parameter_counts().parameters, "edges": prepared[name][1].num_edges,
        }
        for name in names
    ]  # fmt: skip
    machine = {"processor": platform.processor() or platform.machine(), "threads": arguments.threads,
               "torch": torch.__version__, "repeats": arguments.repeats}  # fmt: skip
    if arguments.json:
        json.dump({"machine": machine, "rows": rows}, sys.stdout, indent=1)
        return
    print(f"{'point':38s} {'train, ms':>10s} {'predict, ms':>12s} {'parameters':>11s}")
    for row in rows:
        print(f"{row['point']:38s} {row['train_5_molecules_ms']:10.1f} {row['predict_1_molecule_ms']:12.2f} "
              f"{row['parameters']:11,d}")  # fmt: skip


if __name__ == "__main__":
    main()
