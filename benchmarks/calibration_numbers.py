"""How well deviations say where errors are: correlations of ranks, coverage, and telling sets apart."""

from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu, rankdata

from equipot.study.uncertainty import SetDeviations
from equipot.units import MEV

SCORES = ("energy_deviation", "forces_deviation", "extrapolation", "energy_error", "forces_error")
"""What may tell a shifted structure from one like training; the errors themselves for comparison."""

FREE = 1e-6
"""Deviations of forces below this, eV/Å, are those of forces that symmetry makes zero, which say nothing."""


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's; None where one of them does not vary."""
    x, y = (rankdata(v) - (len(v) + 1) / 2 for v in (a, b))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else None


def auc(inside: np.ndarray, outside: np.ndarray) -> float | None:
    """The probability that a value of `outside` is larger than one of `inside`, ties counting half; None of none."""
    if not len(inside) or not len(outside):
        return None
    return float(mannwhitneyu(outside, inside).statistic) / (len(inside) * len(outside))


def by_structure(found: SetDeviations) -> dict[str, np.ndarray]:
    """Errors and deviations of every structure: energies per atom, root mean squares of forces, largest grade."""
    cuts = np.cumsum(found.num_atoms)[:-1]

    def rms(values: np.ndarray) -> np.ndarray:
        return np.array([np.sqrt(np.square(part).mean()) for part in np.split(values, cuts)])

    return {
        "energy_error": np.abs(found.energy_error) / found.num_atoms,
        "energy_deviation": found.energy / found.num_atoms,
        "forces_error": rms(found.forces_error), "forces_deviation": rms(found.forces),
        "extrapolation": np.array([part.max() for part in np.split(found.extrapolation, cuts)]),
    }  # fmt: skip


def numbers(found: SetDeviations) -> dict[str, Any]:
    """What is said of one set; errors and deviations in meV/atom and meV/Å."""
    structures = by_structure(found)
    error, deviation = (np.linalg.norm(x, axis=1) for x in (found.forces_error, found.forces))
    energy = _kind(structures["energy_error"], structures["energy_deviation"])
    atoms, component, free = deviation > FREE, found.forces > FREE, structures["forces_deviation"] > FREE
    forces = _kind(error[atoms], deviation[atoms])
    largest, forces_error = structures["extrapolation"], structures["forces_error"]
    return {
        "structures": len(found.num_atoms), "atoms": int(found.num_atoms.sum()),
        "structures_without_forces": int(np.sum(~free)),
        "energy_per_atom_of_structures": {**energy, **_within(found.energy_error, found.energy)},
        "force_vectors_of_atoms": {**forces, **_within(found.forces_error[component], found.forces[component])},
        "forces_of_structures": _kind(forces_error[free], structures["forces_deviation"][free]),
        "extrapolation": {
            "atoms_beyond_1": float(np.mean(found.extrapolation > 1.0)),
            "median_of_largest_in_structure": float(np.median(largest)),
            "rank_correlation_with_force_vectors": rank_correlation(found.extrapolation[atoms], error[atoms]),
            "rank_correlation_with_forces_of_structures": rank_correlation(largest[free], forces_error[free]),
        },
    }  # fmt: skip


def separation(inside: SetDeviations, outside: SetDeviations) -> dict[str, float | None]:
    """How well each score tells structures of two sets apart: the area under the ROC curve, 0.5 by chance.

    Forces are those of structures that have any.
    """
    a, b = by_structure(inside), by_structure(outside)
    free = [values["forces_deviation"] > FREE for values in (a, b)]
    return {
        score: auc(a[score][free[0]], b[score][free[1]]) if score.startswith("forces") else auc(a[score], b[score])
        for score in SCORES
    }


def _kind(error: np.ndarray, deviation: np.ndarray) -> dict[str, Any]:
    rms_error, rms_deviation = (MEV * float(np.sqrt(np.square(x).mean())) for x in (error, deviation))
    return {
        "rmse": rms_error, "mean_deviation": MEV * float(deviation.mean()), "rms_deviation": rms_deviation,
        "error_over_deviation": rms_error / rms_deviation if rms_deviation > 0 else None,
        "rank_correlation": rank_correlation(error, deviation),
    }  # fmt: skip


def _within(error: np.ndarray, deviation: np.ndarray) -> dict[str, float]:
    """Fractions of errors within one and two deviations; of forces those of components. Normal: 0.683 and 0.954."""
    return {f"within_{k}": float(np.mean(np.abs(error) <= k * deviation)) for k in (1, 2)}
