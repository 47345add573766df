"""Data of a hidden linear ACE give its weights back."""

import numpy as np
import pytest
import torch
from ase import Atoms

from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.fit.linear import LinearFitOptions, fit_linear
from equipot.geometry import evaluate, graph_from_atoms
from equipot.models import Potential
from equipot.models.linear import linear_features
from equipot.points import ace_linear
from equipot.statistics import Statistics

R_MAX = 4.0
STATISTICS = Statistics(
    species=(6, 8),
    atomic_energies=(-3.0, -5.0),
    mean_neighbours=10.0,
    mean_neighbours_per_species=(10.0, 10.0),
    energy_mean_per_species=(0.0, 0.0),
    species_fractions=(0.6, 0.4),
)


def structures(count: int) -> list[Atoms]:
    """Clusters of 8 atoms and crystals of 4, no atoms closer than 1 Å."""
    rng = np.random.default_rng(4)
    found = []
    while len(found) < count:
        periodic = len(found) % 3 == 2
        cell = 3.2 * np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3))
        n, width = (4, 3.2) if periodic else (8, 3.6)
        atoms = Atoms(
            rng.choice([6, 8], n), rng.uniform(0, width, (n, 3)), cell=cell if periodic else None, pbc=periodic
        )
        if atoms.get_all_distances(mic=periodic)[np.triu_indices(n, 1)].min() > 1.0:
            found.append(atoms)
    return found


def labelled(potential: Potential, count: int) -> Dataset:
    """Structures with the potential's energies, forces and stresses."""
    frames = []
    for atoms in structures(count):
        p = evaluate(potential, graph_from_atoms(atoms, R_MAX))
        stress = p.stress[0].numpy() if atoms.pbc.all() else None
        frames.append(Frame(atoms=atoms, energy=float(p.energy), forces=p.forces.numpy(), stress=stress))
    return Dataset(frames, R_MAX)


@pytest.mark.parametrize(
    ("solver", "more"), [("qr", {}), ("normal_equations", {"refinements": 5})], ids=["qr", "normal equations"]
)
def test_a_hidden_linear_ace_is_recovered(solver, more):
    """To 1e-8, all orders up to five bodies; and so are its predictions of structures that were not fitted."""
    design = ace_linear(r_max=R_MAX, degrees=(4, 8, 9, 10))
    hidden = Potential(design, STATISTICS, dtype=torch.float64, seed=11)
    features = linear_features(Potential(design, STATISTICS, dtype=torch.float64, seed=12))
    assert set(features.orders.tolist()) == {1, 2, 3, 4}
    data = labelled(hidden, 40)
    options = LinearFitOptions(solver=solver, prior=0.0, uncertainty=False, **more)
    fit_linear(features, data, None, options)
    found, expected = features.weights(), linear_features(hidden).weights()
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-8
    for batch in (data.batch([0, 1, 2]), labelled(hidden, 43).batch([40, 41, 42])):
        torch.testing.assert_close(features.prediction(batch.graph).forces, batch.labels.forces, rtol=0, atol=1e-8)
