"""Errors and times of splined radial functions against the exact ones.

    python benchmarks/radial_spline.py MODEL.equipot [STRUCTURES.xyz] [--knots 64,128,256] [--count 20]

Prints for each degree and number of knots the relative errors of R, R' and R'' (root mean square and largest, the worst
layer, 0.5 Å to the cutoff), in float64 and with float32 tables, and with structures how much energies (meV/atom) and
forces (meV/Å, root mean square) change in float64, beside what float32 itself changes.
"""

import argparse

import numpy as np
import torch
from ase.io import read

from equipot import load_potential
from equipot.geometry import evaluate, graph_from_atoms
from equipot.kernels.spline import UniformSpline, spline
from equipot.models.model_file import converted
from equipot.models.potential import Potential
from equipot.models.radial_error import exact_derivatives, radial_spline_error


def cubic(potential: Potential, knots: int) -> list[float]:
    """Root mean square errors of a cubic spline with as many knots, the worst layer."""
    double = converted(potential, torch.float64)
    r = torch.linspace(0.5, double.r_max, 2000, dtype=torch.float64)
    places = torch.arange(1, knots + 1, dtype=torch.float64) * (double.r_max / knots)
    solution = torch.from_numpy(UniformSpline(knots, 3).solution)
    solution = torch.cat([solution, torch.zeros(4, knots, dtype=torch.float64)])
    worst = [0.0] * 3
    for layer in range(len(double.layers)):
        table = solution @ exact_derivatives(double, layer, places)[0]
        for k, exact in enumerate(exact_derivatives(double, layer, r)):
            y = spline(table, r * (knots / double.r_max), k, 3) * (knots / double.r_max) ** k
            worst[k] = max(worst[k], float((y - exact).square().mean().sqrt() / exact.square().mean().sqrt()))
    return worst


def changes(a: Potential, b: Potential, graphs: list) -> tuple[float, float]:
    """Root mean square differences of energies, meV/atom, and forces, meV/Å."""
    energy, forces = [], []
    for graph in graphs:
        p, q = evaluate(a, graph), evaluate(b, graph)
        energy.append(float((p.energy - q.energy)[0]) / graph.num_nodes)
        forces.append((p.forces - q.forces).flatten())
    return 1000 * float(np.sqrt(np.mean(np.square(energy)))), 1000 * float(torch.cat(forces).square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("structures", nargs="?")
    parser.add_argument("--knots", default="64,128,256")
    parser.add_argument("--count", type=int, default=20)
    args = parser.parse_args()
    given = load_potential(args.model, radial="exact")
    numbers = [int(n) for n in args.knots.split(",")]
    for n in numbers:
        print(f"cubic,   {n:4d} knots: rms", *(f"{x:.0e}" for x in cubic(given, n)))
    for n in numbers:
        for dtype in ("float64", "float32"):
            layers = radial_spline_error(converted(given, dtype), n)
            rms, largest = ([max(getattr(e, kind)[k] for e in layers) for k in range(3)] for kind in ("rms", "largest"))
            print(f"quintic, {n:4d} knots, {dtype}: rms", *(f"{x:.0e}" for x in rms), " largest",
                  *(f"{x:.0e}" for x in largest))  # fmt: skip
    if args.structures is None:
        return
    frames = read(args.structures, f"-{args.count}:")
    graphs = [graph_from_atoms(atoms, given.r_max) for atoms in frames]
    double, single = converted(given, "float64").eval(), converted(given, "float32").eval()
    size = 1000 * float(torch.cat([evaluate(double, g).forces for g in graphs]).square().mean().sqrt())
    print(f"{len(graphs)} structures, forces {size:.0f} meV/Å rms; differences from float64, exact (meV/atom, meV/Å):")
    print("float32, exact: {:.1e} {:.1e}".format(*changes(double, single, graphs)))
    for n in numbers:
        for name, model in (("float64", double), ("float32", single)):
            splined = converted(model, name).eval().choose_radial(f"spline:{n}")
            print("{}, {} knots: {:.1e} {:.1e}".format(name, n, *changes(double, splined, graphs)))


if __name__ == "__main__":
    main()
