"""Committed files against a fresh calculation: checksums, labels, derivatives by finite differences."""

import json
from pathlib import Path

import numpy as np
from ase import Atoms

from .files import read_frames, sha256
from .labels import LABEL_ACCURACY, calculator, isolated_atoms, label

TOLERANCES = {"energy": 1e-5, "forces": 5e-5, "stress": 1e-6}
"""Largest accepted differences: eV, eV/Å, eV/Å³."""
FINITE_DIFFERENCE_TOLERANCES = {"forces": 1e-3, "stress": 2e-4}
"""Wider: the periodic energy has steps of some 1e-5 eV where an image of an atom crosses a cut-off of tblite."""
STEP = 1e-3
"""Displacement (Å) and strain of the finite differences."""


def verify(folder: Path, method: str, count: int, seed: int) -> list[str]:
    """Label the isolated atoms and random frames of a folder anew.

    Args:
        folder: Folder with `*.xyz.gz` and `provenance.json`.
        method: "GFN1-xTB" or "GFN2-xTB".
        count: Number of frames to label anew; the first of them is differentiated numerically, too.
        seed: Seed of the choice of frames.

    Returns:
        A sentence per disagreement; empty when everything agrees.
    """
    provenance = json.loads((folder / "provenance.json").read_text())
    complaints, frames = [], []
    for name, expected in provenance["sha256_of_uncompressed_files"].items():
        if sha256(folder / name) != expected:
            complaints.append(f"{name}: its checksum is not that of provenance.json")
        if name != "isolated_atoms.xyz.gz":
            frames += [(f"{name}#{i}", frame) for i, frame in enumerate(read_frames(folder / name))]
    complaints += _verify_isolated_atoms(read_frames(folder / "isolated_atoms.xyz.gz"), method)
    chosen = np.random.default_rng(seed).permutation(len(frames))[:count]
    for position, index in enumerate(chosen):
        name, frame = frames[index]
        differences = _differences(frame, method)
        complaints += _judge(name, differences, TOLERANCES)
        if position == 0:
            numerical = _finite_differences(frame, method)
            complaints += _judge(f"{name}, finite differences", numerical, FINITE_DIFFERENCE_TOLERANCES)
    return complaints


def _verify_isolated_atoms(frames: list[Atoms], method: str) -> list[str]:
    """Compare the energies of the isolated atoms with new ones."""
    fresh = isolated_atoms([str(frame.symbols) for frame in frames], method)
    complaints = []
    for old, new in zip(frames, fresh, strict=True):
        difference = abs(old.info["REF_energy"] - new.info["REF_energy"])
        complaints += _judge(f"isolated {old.symbols}", {"energy": difference}, TOLERANCES)
    return complaints


def _judge(name: str, differences: dict[str, float], tolerances: dict[str, float]) -> list[str]:
    """Print the differences of one frame; sentences for those beyond the tolerances."""
    print(name, " ".join(f"|Δ{key}| = {value:.1e}" for key, value in differences.items()))
    return [
        f"{name}: {key} differs by {value:.2e}; allowed is {tolerances[key]:.0e}"
        for key, value in differences.items()
        if not value <= tolerances[key]
    ]


def _differences(frame: Atoms, method: str) -> dict[str, float]:
    """Largest differences between the labels of a frame and new ones."""
    fresh = label(frame, method)
    differences = {
        "energy": abs(fresh.info["REF_energy"] - frame.info["REF_energy"]),
        "forces": np.abs(fresh.arrays["REF_forces"] - frame.arrays["REF_forces"]).max(),
    }
    if frame.pbc.all():
        old = np.asarray(frame.info["REF_stress"]).reshape(9)
        differences["stress"] = np.abs(fresh.info["REF_stress"] - old).max()
    return differences


def _finite_differences(frame: Atoms, method: str) -> dict[str, float]:
    """Largest differences between labels and central differences: forces on atom 0, and the stress."""
    forces = np.zeros(3)
    for axis in range(3):
        shift = np.zeros_like(frame.positions)
        shift[0, axis] = STEP
        higher, lower = (_moved(frame, sign * shift, np.eye(3), method) for sign in (1, -1))
        forces[axis] = -(higher - lower) / (2.0 * STEP)
    differences = {"forces": np.abs(forces - frame.arrays["REF_forces"][0]).max()}
    if frame.pbc.all():
        stress = np.asarray(frame.info["REF_stress"]).reshape(3, 3)
        differences["stress"] = np.abs(_numerical_stress(frame, method) - stress).max()
    return differences


def _numerical_stress(frame: Atoms, method: str) -> np.ndarray:
    """σ = (1/V) ∂E/∂ε by central differences in the symmetric strain."""
    stress = np.zeros((3, 3))
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[i, j] += STEP / 2.0
        strain[j, i] += STEP / 2.0
        higher, lower = (_moved(frame, 0.0, np.eye(3) + sign * strain, method) for sign in (1, -1))
        stress[i, j] = stress[j, i] = (higher - lower) / (2.0 * STEP * frame.get_volume())
    return stress


def _moved(frame: Atoms, shift: np.ndarray | float, deformation: np.ndarray, method: str) -> float:
    """Energy (eV) after a shift of the atoms and a deformation of space."""
    moved = Atoms(frame.numbers, positions=(frame.positions + shift) @ deformation, pbc=frame.pbc)
    if frame.pbc.all():
        moved.cell = frame.cell.array @ deformation
    moved.calc = calculator(method, LABEL_ACCURACY, reuse=False)
    return moved.get_potential_energy()
