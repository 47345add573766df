"""Models whose energies are not in eV: E0, scale and shift are multiplied, once, when the model is converted."""

from ase import units

from equipot.errors import EquipotError
from equipot.models import Potential

ENERGY_UNITS = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
    "hartree": units.Hartree,
    "rydberg": units.Rydberg,
}
"""eV in each unit of energy that a published model may have; lengths are Å."""


def in_electronvolts(potential: Potential, unit: str, name: str) -> Potential:
    """Returns a potential in eV of one whose energies are in another unit.

    Args:
        potential: The potential as it was published; its numbers are in `unit`.
        unit: One of `ENERGY_UNITS`.
        name: Name of its file, for messages.

    Raises:
        EquipotError: The unit is unknown, or the model has a nuclear repulsion, whose constants are in eV.
    """
    if unit not in ENERGY_UNITS:
        raise EquipotError(f"energy unit {unit!r} is not known: choose one of {', '.join(ENERGY_UNITS)}.")
    factor = ENERGY_UNITS[unit]
    if factor == 1.0:
        return potential
    if potential.design.pair_repulsion != "none":
        raise EquipotError(
            f"{name} has a ZBL repulsion, whose constants are in eV: its energies cannot be in {unit}. "
            "Leave the unit out."
        )
    given, design = potential.statistics, potential.design
    scaled = {
        "atomic_energies": tuple(factor * e for e in given.atomic_energies),
        "energy_mean_per_species": tuple(factor * e for e in given.energy_mean_per_species),
        **{
            key: factor * getattr(given, key) for key in ("force_rms", "energy_mean", "energy_std", "total_energy_mean")
        },
    }
    if design.scale == "none":
        design, scaled["force_rms"] = design.replace(scale="force_rms"), factor
    state = potential.state_dict()
    state |= {key: factor * state[key] for key in ("E0", "scale", "shift")}
    result = Potential(design, given.model_copy(update=scaled), dtype=potential.dtype)
    result.load_state_dict(state)
    return result
