"""Energies E0 of the isolated atoms: from frames, from a table, by least squares, or a mean shift."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from equipot.data.check import symbols_of
from equipot.data.frame import Frame
from equipot.data.options import ENERGY_MODES, Keys
from equipot.data.read import E0_TOLERANCE, read_frames
from equipot.errors import EquipotError

Source = Literal["isolated_atoms", "given", "least_squares", "mean_shift"]


class AtomicEnergies(NamedTuple):
    """E0 of each element.

    Attributes:
        energies: By atomic number, eV.
        source: Where they come from.
        warnings: What to know about them.
    """

    energies: dict[int, float]
    source: Source
    warnings: tuple[str, ...] = ()


def find_atomic_energies(
    frames: Sequence[Frame],
    wanted: str | Mapping[str, float],
    isolated: Mapping[int, float],
    keys: Keys | None = None,
) -> AtomicEnergies:
    """Returns the E0 of every element in the structures.

    Args:
        frames: The training structures.
        wanted: Table {symbol: eV}, file of isolated atoms, or a mode; see `DataOptions.atomic_energies`.
        isolated: Energies of isolated atoms in the training files, by atomic number, eV.
        keys: Names of the labels in a file of isolated atoms; default: recognised.

    Raises:
        EquipotError: The E0 of an element is missing, or the mode is unknown.
    """
    species = sorted({int(z) for frame in frames for z in frame.atoms.numbers})
    if not isinstance(wanted, str):
        table = {atomic_numbers[symbol]: float(energy) for symbol, energy in wanted.items()}
        return _complete(table, species, "given", "data.atomic_energies", _contradictions(table, isolated))
    if wanted not in ENERGY_MODES:
        return _complete(_from_file(wanted, keys), species, "isolated_atoms", wanted)
    if wanted == "isolated_atoms" and not isolated:
        raise EquipotError(
            "data.atomic_energies is isolated_atoms, but the training files have no isolated atoms. Add a frame with "
            f"one atom and config_type=IsolatedAtom for each of {symbols_of(species)}, give a file or table, or use "
            "least_squares."
        )
    if wanted == "isolated_atoms" or (wanted == "auto" and isolated):
        return _complete(dict(isolated), species, "isolated_atoms", "the training files")
    if wanted == "mean_shift":
        return _mean_shift(frames, species, ())
    return _least_squares(frames, species)


def _complete(
    table: Mapping[int, float], species: Sequence[int], source: Source, where: str, warnings: tuple[str, ...] = ()
) -> AtomicEnergies:
    missing = [z for z in species if z not in table]
    if missing:
        raise EquipotError(
            f"{where}: no isolated-atom energy E0 for {symbols_of(missing)}, which the training structures contain "
            f"(given: {symbols_of(table)}). Add a frame with one {chemical_symbols[missing[0]]} atom and "
            f"config_type=IsolatedAtom, complete the table data.atomic_energies, or set it to least_squares."
        )
    unused = [z for z in table if z not in species]
    if unused:
        warnings = (*warnings, f"{where}: E0 of {symbols_of(unused)} is not used; no training structure has it.")
    return AtomicEnergies({z: table[z] for z in species}, source, warnings)


def _contradictions(table: Mapping[int, float], isolated: Mapping[int, float]) -> tuple[str, ...]:
    return tuple(
        f"data.atomic_energies gives {table[z]} eV for {chemical_symbols[z]}, the isolated atom in the training files "
        f"{energy} eV; the table is used."
        for z, energy in isolated.items()
        if z in table and abs(table[z] - energy) > E0_TOLERANCE
    )


def _from_file(path: str, keys: Keys | None) -> dict[int, float]:
    if not Path(path).exists() and "." not in Path(path).name:
        near = difflib.get_close_matches(path, ENERGY_MODES, n=1, cutoff=0.4)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise EquipotError(
            f"data.atomic_energies = '{path}' is neither a file nor one of {', '.join(ENERGY_MODES)}.{hint} A table is "
            "written {H: -13.587, O: -2041.98} (eV)."
        )
    energies = read_frames(path, keys).isolated_atoms
    if not energies:
        raise EquipotError(
            f"{path} (data.atomic_energies) has no isolated atoms. Each is a frame with one atom, no periodic "
            "direction or config_type=IsolatedAtom, and an energy."
        )
    return energies


def compositions(frames: Sequence[Frame], species: Sequence[int]) -> np.ndarray:
    """Returns the number of atoms of each element in each structure, [structure species]."""
    counts = np.zeros((len(frames), len(species)))
    for row, frame in zip(counts, frames, strict=True):
        numbers, n = np.unique(frame.atoms.numbers, return_counts=True)
        row[np.searchsorted(species, numbers)] = n
    return counts


def interaction_energies(frames: Sequence[Frame], energies: Mapping[int, float]) -> np.ndarray:
    """Returns (E − Σ E0)/N of each structure, eV/atom; NaN without energy."""
    species = sorted(energies)
    counts = compositions(frames, species)
    E = np.array([np.nan if frame.energy is None else frame.energy for frame in frames])
    return (E - counts @ np.array([energies[z] for z in species])) / counts.sum(axis=1)


class Fit(NamedTuple):
    """Energies of elements fitted to energies per atom.

    Attributes:
        energies: ε, [species].
        rank: How many combinations of elements the compositions determine.
        regularised: Whether there were too few for plain least squares.
    """

    energies: np.ndarray
    rank: int
    regularised: bool


ENOUGH = 3
"""Structures per element, from which on least squares is not regularised."""

RIDGES = np.logspace(-8, 1, 19)
"""Strengths of the regularisation to choose from, in units of the mean of x²; the least stands for none."""


def least_squares(counts: np.ndarray, per_atom: np.ndarray) -> Fit:
    r"""Returns energies ε of the elements that fit energies per atom t.

        min_ε Σ_s (t_s − Σ_z x_sz ε_z)² + λ Σ_z (ε_z − mean t)²,   x_sz = n_sz / N_s

    with λ = 0 where the compositions x determine every element and there are `ENOUGH` structures. Otherwise plain
    least squares may reproduce every energy with meaningless ε; λ is then the greatest of `RIDGES` whose leave-one-out
    error, of each structure predicted from the others, is within one standard error of the least (Hastie, Tibshirani
    and Friedman, The Elements of Statistical Learning, 2009, section 7.10). Energies that are exactly sums over
    elements are therefore fitted exactly as soon as the other structures predict each one. λ does not grow with the
    number of structures, so elements that many structures determine keep their energies.

    Args:
        counts: n, [structure species].
        per_atom: t, eV/atom.
    """
    x = counts / counts.sum(axis=1, keepdims=True)
    mean = float(per_atom.mean())
    t = per_atom - mean
    deviation, _, rank, _ = np.linalg.lstsq(x, t, rcond=1e-10)
    enough = rank == x.shape[1] and len(x) >= ENOUGH * x.shape[1]
    if not enough:
        deviation = _ridge(x, t)
    return Fit(mean + deviation, int(rank), not enough)


def _ridge(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Returns the ridge solution of the strength that the one-standard-error rule of `least_squares` chooses."""
    if len(t) < 2:
        return np.zeros(x.shape[1])
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    strengths = RIDGES[:, None] * np.mean(x**2)
    shrink = s**2 / (s**2 + strengths)
    squared = ((t - (shrink * (u.T @ t)) @ u.T) / (1 - shrink @ u.T**2)) ** 2
    errors = squared.mean(axis=1)
    best = int(errors.argmin())
    limit = errors[best] + squared[best].std(ddof=1) / np.sqrt(len(t))
    chosen = int(np.flatnonzero(errors <= limit)[-1])
    if chosen == 0:
        return np.linalg.lstsq(x, t, rcond=1e-10)[0]
    return vt.T @ (shrink[chosen] / np.where(s > 0, s, 1.0) * (u.T @ t))


def _labelled(frames: Sequence[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.energy is not None]


def energy_per_atom(frame: Frame) -> float:
    """Returns E/N of a structure, eV/atom; NaN without energy."""
    return np.nan if frame.energy is None else frame.energy / len(frame.atoms)


def _least_squares(frames: Sequence[Frame], species: list[int]) -> AtomicEnergies:
    known = _labelled(frames)
    counts = compositions(known, species)
    if len(species) == 1:
        note = f"E0 of {symbols_of(species)} is the mean energy per atom; energies of atomisation mean nothing."
        return _mean_shift(frames, species, (note,))
    if len(np.unique(counts / counts.sum(axis=1, keepdims=True), axis=0)) <= 1:
        reason = (
            "all structures have the same composition, so the E0s of single elements cannot be told apart "
            "(least squares is singular): the mean energy per atom is used for every element"
        )
        return _mean_shift(frames, species, (f"{reason}. {_ADVICE}",))
    fit = least_squares(counts, np.array([energy_per_atom(frame) for frame in known]))
    E0 = dict(zip(species, fit.energies.tolist(), strict=True))
    elements = symbols_of(species) if len(species) < 9 else f"{len(species)} elements"
    spread = float(interaction_energies(known, E0).std())
    text = f"E0s of {elements} are fitted by least squares to {len(known)} structures"
    if fit.rank < len(species):
        text += f", whose compositions determine only {fit.rank} of {len(species)} (the rest is shared evenly)"
    text += f"; (E − ΣE0)/N then has a spread of {spread:.3g} eV/atom"
    if len(known) < ENOUGH * len(species):
        text += (
            f". These are fewer than {ENOUGH} structures per element: the fit is drawn towards the mean energy per "
            "atom, and energies of validation structures may be off by more than that"
        )
    return AtomicEnergies(E0, "least_squares", (f"{text}. {_ADVICE}",))


_ADVICE = (
    "Energies of dissociation mean nothing then; add one frame per element with one atom and config_type=IsolatedAtom, "
    "or give data.atomic_energies."
)


def _mean_shift(frames: Sequence[Frame], species: Sequence[int], warnings: tuple[str, ...]) -> AtomicEnergies:
    known = _labelled(frames)
    if not known:
        warnings = ("no structure has an energy: the energies of the model have an arbitrary zero.",)
    mean = float(np.mean([energy_per_atom(frame) for frame in known])) if known else 0.0
    return AtomicEnergies(dict.fromkeys(species, mean), "mean_shift", warnings)
