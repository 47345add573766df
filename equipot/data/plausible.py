"""Energies that cannot be right: too far from the energies of their atoms."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from equipot.data.atomic_energies import AtomicEnergies, compositions, interaction_energies
from equipot.data.check import first_few
from equipot.data.frame import Frame
from equipot.errors import EquipotError

BOUND = (-30.0, 10.0)
"""eV/atom; the median of (E − Σ E0)/N lies between. The strongest bound solids have −12 with spin-paired atoms."""

FARTHEST = 100.0
"""eV/atom; no structure lies farther than this from Σ E0 (from the median, where E0 are fitted)."""

UNITS = {
    "hartree": 27.211386246,
    "rydberg": 13.605693123,
    "kcal/mol": 0.0433641043,
    "kJ/mol": 0.0103642697,
}
"""eV per unit."""


def check_energies(frames: Sequence[Frame], atomic_energies: AtomicEnergies) -> None:
    """Raises if energies and E0s cannot belong together.

    Args:
        frames: Structures; those without energy are passed over.
        atomic_energies: E0 of their elements.

    Raises:
        EquipotError: (E − Σ E0)/N of a structure, or of most of them, is out of any plausible range; says which
            mistake would explain it.
    """
    known = [frame for frame in frames if frame.energy is not None]
    if not known:
        return
    per_atom = interaction_energies(known, atomic_energies.energies)
    absolute = atomic_energies.source in ("isolated_atoms", "given")
    median = float(np.median(per_atom))
    if absolute and not BOUND[0] <= median <= BOUND[1]:
        raise EquipotError(_all_wrong(known, per_atom, atomic_energies.energies))
    distance = np.abs(per_atom - (0.0 if absolute else median))
    worst = int(distance.argmax())
    if distance[worst] > FARTHEST:
        raise EquipotError(_some_wrong(known, per_atom, median, distance, atomic_energies.energies))


def unbound(frames: Sequence[Frame], atomic_energies: AtomicEnergies) -> list[str]:
    """Returns a sentence if most structures have more energy than their isolated atoms."""
    known = [frame for frame in frames if frame.energy is not None]
    if atomic_energies.source not in ("isolated_atoms", "given") or not known:
        return []
    median = float(np.median(interaction_energies(known, atomic_energies.energies)))
    if median <= 0:
        return []
    return [
        f"most structures have more energy than their isolated atoms: the median of (E − ΣE0)/N is {median:+.3g} "
        "eV/atom. Do energies and E0s have one unit, eV, and one method?"
    ]


def _all_wrong(frames: Sequence[Frame], per_atom: np.ndarray, energies: Mapping[int, float]) -> str:
    first = frames[0]
    sum_of_E0 = first.energy - per_atom[0] * len(first.atoms) if first.energy is not None else 0.0
    table = ", ".join(f"{chemical_symbols[z]}: {e:.6g}" for z, e in sorted(energies.items()))
    return (
        f"{first.where}: E = {first.energy:.6g} eV and ΣE0 = {sum_of_E0:.6g} eV differ by {per_atom[0]:.4g} eV/atom "
        f"(median over {len(frames)} frames {np.median(per_atom):.4g}); plausible are {BOUND[0]:g} to {BOUND[1]:g}. "
        f"E0s in use: {table}. {_explanation(frames, energies)}"
    )


def _explanation(frames: Sequence[Frame], energies: Mapping[int, float]) -> str:
    """Returns the mistakes that would make the energies plausible."""
    species = sorted(energies)
    counts = compositions(frames, species)
    N = counts.sum(axis=1)
    E = np.array([frame.energy for frame in frames], dtype=float)
    sum_of_E0 = counts @ np.array([energies[z] for z in species])
    found = []
    for unit, factor in UNITS.items():
        for what, x, y in (("energies", factor * E, sum_of_E0), ("E0s", E, factor * sum_of_E0)):
            if BOUND[0] <= np.median((x - y) / N) <= 0:
                found.append(f"the {what} look like {unit}, and must be in eV: multiply them by {factor:.10g}")
    if BOUND[0] <= np.median(E / N) <= BOUND[1]:
        zeros = ", ".join(f"{chemical_symbols[z]}: 0" for z in species)
        found.append(
            "the energies look like interaction energies, with the E0s already subtracted, or come from another method "
            f"than the E0s: write data.atomic_energies: {{{zeros}}}, or least_squares"
        )
    return "What would explain it: " + "; or ".join(found or [_ONE_METHOD]) + "."


_ONE_METHOD = (
    "energies and E0s come from two methods (functional, basis, pseudopotentials, spin): give matching E0s in "
    "data.atomic_energies, or write least_squares"
)


def _some_wrong(
    frames: Sequence[Frame], per_atom: np.ndarray, median: float, distance: np.ndarray, energies: Mapping[int, float]
) -> str:
    """Returns a sentence about the frames that are too far away: the worst one, their places, what explains them."""
    far = np.flatnonzero(distance > FARTHEST).tolist()
    worst = frames[int(distance.argmax())]
    counted = f"{len(far)} of {len(frames)} frames lie more than {FARTHEST:g} eV/atom away"
    if len(far) > 1:
        counted += f" ({first_few(f'{Path(frames[i].source).name} frame {frames[i].index}' for i in far)})"
    reason = "Such a frame did not converge, has another unit than eV or comes from another method"
    unit = _unit_of([frames[i] for i in far], median, energies)
    if unit is not None:
        reason = f"They look like {unit}, and must be in eV: multiply them by {UNITS[unit]:.10g}; or such a frame did "
        reason += "not converge or comes from another method"
    return (
        f"{worst.where}: (E − ΣE0)/N = {per_atom[int(distance.argmax())]:.4g} eV/atom with E = {worst.energy:.6g} eV, "
        f"where the median is {median:.4g}; {counted}. {reason}: correct or remove it."
    )


def _unit_of(frames: Sequence[Frame], median: float, energies: Mapping[int, float]) -> str | None:
    """Returns the unit in which the energies of all these frames would lie as near the median as bonds allow."""
    interaction = interaction_energies(frames, energies)
    totals = np.array([frame.energy / len(frame.atoms) for frame in frames if frame.energy is not None])
    for unit, factor in UNITS.items():
        if (np.abs(factor * totals - (totals - interaction) - median) < BOUND[1] - BOUND[0]).all():
            return unit
    return None
