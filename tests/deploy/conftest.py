"""Potentials for these tests: small real ones, and a pair potential whose every number is known."""

import numpy as np
import pytest
import torch
from ase import Atoms

from equipot.models.potential import Potential
from equipot.points import named_point
from equipot.statistics import Statistics

R_MAX = 5.0
EPSILON, SIGMA = 0.1, 2.2


class PairPotential(Potential):
    """E_i = E0 + ½ Σ_j φ(r_ij), φ(r) = 4 ε ((σ/r)¹² − (σ/r)⁶) (1 − (r/r_max)²)⁴: smooth at the cutoff."""

    def layer_energies(self, graph, vectors):
        self.species(graph.atomic_numbers)
        r = torch.linalg.vector_norm(vectors, dim=1)
        attraction = (SIGMA / r) ** 6
        phi = 4 * EPSILON * (attraction**2 - attraction) * (1 - (r / self.r_max) ** 2) ** 4
        node = torch.zeros(graph.num_owned, dtype=torch.float64).index_add(0, graph.receivers, 0.5 * phi)
        return torch.stack([torch.full_like(node, -3.0), node])


def statistics(min_distance=1.8):
    n = 3
    return Statistics(
        species=(6, 8, 18),
        atomic_energies=(-3.0,) * n,
        mean_neighbours=10.0,
        mean_neighbours_per_species=(10.0,) * n,
        force_rms=1.3,
        energy_mean=-0.5,
        energy_mean_per_species=(-0.5,) * n,
        min_distance=min_distance,
    )


def pair_potential(min_distance):
    design = named_point("ace", channels=1, r_max=R_MAX, max_ell=0)
    return PairPotential(design, statistics(min_distance), dtype=torch.float64)


@pytest.fixture(scope="session")
def pair():
    """The pair potential, float64."""
    return pair_potential(1.8)


@pytest.fixture(scope="session")
def careful_pair():
    """The same function, whose training saw nothing closer than 2.15 Å."""
    return pair_potential(2.15)


@pytest.fixture(scope="session")
def potential():
    """A small MACE with random weights, float64."""
    axes = {"channels": 4, "r_max": 4.0, "max_ell": 2, "max_L": 1, "radial_mlp": (8,)}
    return Potential(named_point("mace", **axes), statistics(), dtype=torch.float64, seed=1)


@pytest.fixture
def molecule():
    """A bent chain of four atoms near the pair potential's minimum, in a box that means nothing."""
    positions = np.array([[0, 0, 0], [2.4, 0.1, 0], [3.5, 2.2, 0.2], [3.3, 3.4, 2.2]], dtype=float)
    return Atoms("CO2C", positions=positions)


@pytest.fixture
def crystal():
    """32 atoms of an fcc crystal, a little out of their places."""
    from ase.build import bulk

    atoms = bulk("Ar", "fcc", a=3.45, cubic=True).repeat(2)
    atoms.rattle(0.03, seed=2)
    return atoms


@pytest.fixture
def triclinic():
    """Five atoms in a slanted cell that is smaller than the cutoff, one of them outside it."""
    cell = np.array([[4.1, 0.3, 0.0], [-0.8, 3.9, 0.4], [0.6, 1.1, 4.6]])
    scaled = np.array([[0.1, 0.2, 0.1], [0.55, 0.6, 0.1], [0.1, 0.7, 0.55], [0.6, 1.15, 0.6], [0.35, 0.4, 0.85]])
    return Atoms("COArCO", scaled_positions=scaled, cell=cell, pbc=True)
