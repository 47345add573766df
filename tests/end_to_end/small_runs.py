"""A few molecules with effective-medium labels, and settings for a run of a second."""

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT

SMALL = [
    "design.channels=4", "design.max_ell=1", "design.max_L=1", "design.radial_mlp=[8]", "design.r_max=3.5",
    "fit.max_epochs=2", "fit.batch_size=4", "md.steps=20", "md.timestep=0.05",
    "md.temperature=10", "run.threads=1",
]  # fmt: skip
"""Settings that make a run of a second or two; so short a training needs gentle dynamics."""


def labelled(atoms: Atoms, **info) -> Atoms:
    labelled = atoms.copy()
    labelled.calc = EMT()
    energy, forces = labelled.get_potential_energy(), labelled.get_forces()
    labelled.calc = None
    labelled.info = {"REF_energy": float(energy), **info}
    labelled.arrays["REF_forces"] = forces
    return labelled


def molecules(count: int, seed: int, size: float = 0.05) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        atoms = molecule(("H2O", "CH4")[i % 2])
        atoms.positions += rng.normal(scale=size, size=atoms.positions.shape)
        found.append(labelled(atoms, config_type=("water", "methane")[i % 2]))
    return found


def bends() -> list[Atoms]:
    """Water with its angle scanned, for two lengths of a bond."""
    found = []
    for stretch in (0.95, 1.05):
        for angle in (95.0, 100.0, 105.0, 110.0):
            atoms = molecule("H2O")
            atoms.set_distance(0, 1, stretch, fix=0)
            atoms.set_angle(1, 0, 2, angle)
            found.append(labelled(atoms, angle=angle, stretch=stretch))
    return found
