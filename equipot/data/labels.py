"""From what a file says about one structure to a frame: values checked, stress and virial made one."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np

from equipot.data.check import check_structure, energy_of, first_few, forces_of, tensor_of, weight_of
from equipot.data.frame import DEFAULT_CONFIG_TYPE, Frame, is_isolated_type
from equipot.data.keys import Choice, Key
from equipot.errors import EquipotError

WEIGHT_KEYS = {
    "config_weight": "weight",
    "config_energy_weight": "energy_weight",
    "config_forces_weight": "forces_weight",
    "config_stress_weight": "stress_weight",
}

CONSISTENT = 0.02
"""A stress and a virial of one structure agree if they differ by less than this fraction."""


@dataclass(frozen=True)
class Stress:
    """What a file says about the stress of a structure.

    Attributes:
        stress: σ, eV/Å³, or None.
        virial: −∂E/∂ε, eV, or None.
        masked: Why a given stress is not used, or "".
        contradiction: How given stress and virial differ, or "".
    """

    stress: np.ndarray | None = None
    virial: np.ndarray | None = None
    masked: str = ""
    contradiction: str = ""


def make_frame(
    atoms: ase.Atoms, entries: dict[Key, Any], choices: Mapping[str, Choice], source: str, index: int
) -> tuple[Frame, Stress]:
    """Returns a frame, and how its stress came about.

    Args:
        atoms: The structure as read.
        entries: Everything in it that may be a label, by key.
        choices: Where each label comes from.
        source: File.
        index: Number of the structure in the file.

    Raises:
        EquipotError: The structure or a label of it cannot be used.
    """
    where = f"{source}, frame {index}"
    check_structure(atoms, where)
    bare = ase.Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    taken = {label: choice.take(entries) for label, choice in choices.items()}
    energy, forces = taken["energy"], taken["forces"]
    stress = _stress(bare, taken["stress"], taken["virial"], where)
    frame = Frame(
        atoms=bare,
        energy=None if energy is None else energy_of(energy[1], energy[0].name, where),
        forces=None if forces is None else forces_of(forces[1], len(bare), forces[0].name, where),
        stress=stress.stress,
        virial=stress.virial,
        config_type=_config_type(atoms, where),
        source=source,
        index=index,
        **_weights(atoms.info, where),
    )
    return frame, stress


def _config_type(atoms: ase.Atoms, where: str) -> str:
    config_type = str(atoms.info.get("config_type", DEFAULT_CONFIG_TYPE))
    if is_isolated_type(config_type) and len(atoms) != 1:
        raise EquipotError(
            f"{where}: config_type is '{config_type}', but the frame has {len(atoms)} atoms; the energy of an isolated "
            "atom comes from a frame with one atom. Correct the config_type or the frame."
        )
    return config_type


def _weights(info: Mapping[str, Any], where: str) -> dict[str, float]:
    for key in info:
        if key.startswith("config_") and key.endswith("t") and key not in WEIGHT_KEYS:
            near = difflib.get_close_matches(key, WEIGHT_KEYS, n=1, cutoff=0.85)
            if near:
                raise EquipotError(
                    f"{where}: '{key}' is not a weight; did you mean '{near[0]}'? Weights: {', '.join(WEIGHT_KEYS)}."
                )
    return {name: weight_of(info[key], key, where) for key, name in WEIGHT_KEYS.items() if key in info}


def _stress(atoms: ase.Atoms, stress: tuple[Key, Any] | None, virial: tuple[Key, Any] | None, where: str) -> Stress:
    """Makes one stress of a given stress, a given virial, or both.

        virial = −V σ

    With fewer than three periodic directions there is no volume: a given stress is masked, a given virial kept.
    """
    σ = None if stress is None else tensor_of(stress[1], stress[0].name, where)
    W = None if virial is None else tensor_of(virial[1], virial[0].name, where)
    if not atoms.pbc.all():
        return Stress(None, W, masked="" if stress is None else _masked(atoms, σ, stress[0].name, where))
    V = abs(float(np.linalg.det(atoms.cell.array)))
    if σ is None:
        return Stress(None if W is None else -W / V, W)
    return Stress(σ, -V * σ, contradiction="" if W is None else _contradiction(σ, -W / V, where))


def _masked(atoms: ase.Atoms, σ: np.ndarray | None, key: str, where: str) -> str:
    if σ is not None and not atoms.pbc.any() and np.abs(σ).max() > 0:
        raise EquipotError(
            f"{where}: has a stress ('{key}') but no periodic direction, so no volume that it could refer to. Write "
            'pbc="T T T" if it is a crystal; remove the key, or set data.stress_key: none, if it is a molecule.'
        )
    return "no periodic direction" if not atoms.pbc.any() else "not periodic in all three directions"


def _contradiction(σ: np.ndarray, from_virial: np.ndarray, where: str) -> str:
    scale = np.abs(σ).max() + np.abs(from_virial).max() + 1e-4
    if np.abs(σ - from_virial).max() < CONSISTENT * scale:
        return ""
    if np.abs(σ + from_virial).max() < CONSISTENT * scale:
        return f"{where}: stress and virial have the same sign, but virial = −V stress"
    return f"{where}: stress and −virial/V differ by {np.abs(σ - from_virial).max():.3g} eV/Å³"


def unlabelled(frame: Frame, entries: Mapping[Key, Any]) -> str:
    """Returns the message for a frame without any label."""
    keys = sorted({key.name for key in entries})
    found = f"Keys found: {first_few(keys, 12)}" if keys else "It has no further keys"
    return (
        f"{frame.where}: has no energy, forces, stress or virial. {found}. Remove the frame, or name the keys "
        "that hold its labels with data.energy_key, data.forces_key, data.stress_key."
    )
