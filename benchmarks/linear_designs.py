"""What the benchmarks of linear ACE compare: designs of given numbers of functions, and other points of the space."""

from typing import Any

from ase import Atoms
from tasks import ENERGY, FORCES, GENTLE

from equipot.data.atomic_energies import AtomicEnergies
from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.data.measure import measure
from equipot.design import Design
from equipot.interactions.coupled import plan_coupled
from equipot.points import ACE_DEGREES, ace, ace_linear, botnet_ssh, invariant, mace, nequip, nequip_current
from equipot.statistics import Statistics

MOLECULE = {"r_max": 5.5, "product_r_max": 4.4}
"""Cutoffs of linear ACE in molecules, Å; in crystals they are those of the named point."""
LADDER = (300, 1000, 3000, 8000)
"""Functions of each centre."""
OTHERS: dict[str, Design] = {
    "ace": ace(),
    "invariant": invariant(),
    "nequip_current": nequip_current(),
    "nequip": nequip(),
    "botnet_ssh": botnet_ssh(),
    "mace-32": mace(channels=32),
    "mace": mace(),
}
"""Other points, with the sizes that they have by default but where the name says another."""
QUICK = ("ace", "mace-32")
COMPILED = ("ace_linear", "mace-32")
"""Compiled as well."""


def sized(target: int, statistics: Statistics, each_centre: bool = True, **axes: Any) -> Design:
    """Linear ACE whose degrees are the default's times one factor, with about as many weights as are wanted.

    Args:
        target: Functions of each centre (mean over the elements), or weights in all.
        statistics: Elements and their fractions.
        each_centre: Which of both.
        **axes: Further axes.
    """

    def design(factor: float) -> Design:
        return ace_linear(degrees=(ACE_DEGREES[0], *(round(factor * D, 2) for D in ACE_DEGREES[1:])), **axes)

    def size(factor: float) -> float:
        return size_of(design(factor), statistics)["functions_per_centre" if each_centre else "weights"]

    low, high = 0.3, 3.0
    for _ in range(14):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if size(middle) < target else (low, middle)
    return design(min((low, high), key=lambda factor: abs(size(factor) - target)))


def size_of(design: Design, statistics: Statistics) -> dict[str, float]:
    """Functions of each centre beyond those of pairs, mean over the elements, and all weights."""
    n = len(statistics.species)
    plan = plan_coupled(design, statistics)
    functions = int(plan.product.active.sum())
    return {"functions_per_centre": functions / n, "weights": functions + plan.num_pair * n * (n + 1) // 2}


def statistics_of(structures: list[Atoms], r_max: float) -> Statistics:
    """Statistics of structures, but without E0, and with the scale of gentle forces."""
    frames = [Frame(a, energy=float(a.info[ENERGY]), forces=a.arrays[FORCES]) for a in structures]
    dataset = Dataset(frames, r_max)
    found = measure(dataset, AtomicEnergies(dict.fromkeys(dataset.species, 0.0), "given")).statistics
    nothing = dict.fromkeys(("energy_mean", "total_energy_mean"), 0.0)
    per_species = {"energy_mean_per_species": (0.0,) * len(found.species)}
    return found.model_copy(update={"force_rms": GENTLE, **nothing, **per_species})
