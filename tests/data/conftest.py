"""Small structures with exact labels, written to files."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

E0 = {"H": -13.6, "C": -1029.0, "N": -1484.0, "O": -2041.0}


def morse_frame(seed, symbols="CO2", scale=0.05):
    """A cluster with energies and forces of a Morse pair potential, above the E0s."""
    generator = np.random.default_rng(seed)
    atoms = Atoms(symbols)
    grid = 1.3 * np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)])[: len(atoms)]
    atoms.positions = grid + scale * generator.standard_normal(grid.shape)
    energy, forces = 0.0, np.zeros((len(atoms), 3))
    for i in range(len(atoms)):
        for j in range(i):
            r = atoms.positions[i] - atoms.positions[j]
            d = np.linalg.norm(r)
            x = np.exp(-2.0 * (d - 1.3))
            energy += 3.0 * (x * x - 2 * x)
            force = 12.0 * (x * x - x) * r / d
            forces[i] += force
            forces[j] -= force
    atoms.info["REF_energy"] = energy + sum(E0[s] for s in atoms.get_chemical_symbols())
    atoms.arrays["REF_forces"] = forces
    return atoms


def emt_crystal(seed, strain=0.03):
    """A strained and rattled copper cell with EMT's energy, forces and stress in its calculator."""
    generator = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) * (1 + strain * generator.uniform(-1, 1))), scale_atoms=True)
    atoms.rattle(0.05, rng=generator)
    atoms.calc = EMT()
    atoms.get_stress()
    return atoms


def isolated(symbol, energy=None):
    atoms = Atoms(symbol, info={"config_type": "IsolatedAtom"})
    atoms.info["REF_energy"] = E0[symbol] if energy is None else energy
    return atoms


@pytest.fixture
def cluster():
    return morse_frame


@pytest.fixture
def crystal():
    return emt_crystal


@pytest.fixture
def atom():
    return isolated


@pytest.fixture
def write(tmp_path):
    """Writes structures to a file in a temporary folder; returns its path as a string."""

    def _write(name, frames, **options):
        path = tmp_path / name
        ase.io.write(path, frames, **options)
        return str(path)

    return _write


@pytest.fixture
def clusters(write):
    """A file of twelve clusters and their isolated atoms."""
    return write("train.xyz", [*(morse_frame(i) for i in range(12)), isolated("C"), isolated("O")])
