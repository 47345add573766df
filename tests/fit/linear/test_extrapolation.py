"""The grade of extrapolation: at most 1 on the training atoms, above and growing away from them."""

from functools import cache

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from equipot import EquipotCalculator
from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.fit.linear.extrapolation import extrapolation
from equipot.models.extrapolation import MOST_DIRECTIONS
from equipot.models.linear import linear_features
from equipot.models.model_file import converted, load_potential, save_potential
from equipot.models.potential import Potential
from equipot.models.uncertainty import Uncertainty
from equipot.points import ace_linear
from tests.physics.small import R_MAX, STATISTICS, point

POINTS = {
    "ace": ace_linear(r_max=R_MAX, degrees=(6, 8, 8)),
    "ace of many functions": ace_linear(r_max=R_MAX, degrees=(8, 10, 12)),
    "mace": point("mace"),
}
SPECIES = STATISTICS.species


def ethanol(seed: int) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.positions += np.random.default_rng(seed).normal(scale=0.03, size=atoms.positions.shape)
    return atoms


@cache
def fitted(name: str, dtype=torch.float64) -> tuple[Potential, Dataset]:
    """A potential of random weights, and the molecules that its grades are measured from."""
    potential = Potential(POINTS[name], STATISTICS, dtype=dtype, seed=1)
    data = Dataset([Frame(atoms=ethanol(seed)) for seed in range(40)], R_MAX)
    features = linear_features(converted(potential, torch.float64))
    L = torch.eye(features.num_columns, 2, dtype=torch.float64)
    potential.uncertainty = Uncertainty(L, extrapolation(features, data, SPECIES))
    return potential, data


def grades(potential: Potential, atoms: Atoms) -> np.ndarray:
    return EquipotCalculator(potential).get_property("extrapolation", atoms)


def scaled(atoms: Atoms, factor: float) -> Atoms:
    atoms = atoms.copy()
    if atoms.pbc.any():
        atoms.set_cell(factor * atoms.cell.array, scale_atoms=True)
    else:
        atoms.positions *= factor
    return atoms


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", POINTS)
def test_training_atoms_are_inside_and_one_of_each_element_is_at_the_border(name, dtype):
    potential, data = fitted(name, dtype)
    graph, features = data.batch(range(len(data))).graph, linear_features(converted(potential, torch.float64))
    measure = potential.uncertainty.extrapolation
    found = measure(features.node_rows(graph), potential.species(graph.atomic_numbers)).view(len(data), -1).numpy()
    assert found.max() <= 1.0
    for z in SPECIES:
        assert found[:, data.frames[0].atoms.numbers == z].max() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", POINTS)
def test_others_like_them_are_near(name):
    """Of molecules drawn from the same distribution most atoms are inside, and none is far."""
    found = np.array([grades(fitted(name)[0], ethanol(seed)) for seed in range(100, 120)])
    assert (found < 1.0).mean() > 0.8 and found.max() < 3.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", POINTS)
def test_grades_grow_as_a_molecule_is_torn_or_squeezed(name, dtype):
    potential, data = fitted(name, dtype)
    atoms = data.frames[3].atoms
    torn = [grades(potential, scaled(atoms, s)) for s in (1.0, 1.1, 1.2, 1.35, 1.5)]
    squeezed = [grades(potential, scaled(atoms, s)) for s in (1.0, 0.9, 0.8)]
    for series in (torn, squeezed):
        largest = [found.max() for found in series]
        assert largest == sorted(largest) and largest[2] > 3.0
        assert name == "mace" or series[-1].min() > 1.0


@pytest.mark.parametrize("name", POINTS)
def test_an_atom_alone_is_outside(name):
    for symbol in ("H", "C", "O"):
        assert grades(fitted(name)[0], Atoms(symbol, [[0, 0, 0]])).min() > 1.0


def test_a_neighbour_of_an_element_that_no_such_atom_had_is_far():
    """Oxygen is a neighbour of oxygen in no molecule of the data."""
    assert grades(fitted("ace")[0], Atoms("OO", [[0, 0, 0], [0, 0, 1.4]])).min() > 100.0


@pytest.mark.parametrize("name", POINTS)
def test_grades_do_not_depend_on_orientation_and_follow_the_atoms(name):
    potential, _ = fitted(name)
    atoms = scaled(ethanol(77), 1.05)
    before, order = grades(potential, atoms), np.random.default_rng(0).permutation(len(atoms))
    turned = atoms[order]
    turned.rotate(70, (1, 2, 3))
    turned.positions *= -1.0
    assert grades(potential, turned) == pytest.approx(before[order], rel=1e-6)


def test_elements_without_training_atoms_are_infinitely_far():
    potential, _ = fitted("ace")
    features = linear_features(potential)
    carbon = Dataset([Frame(atoms=Atoms("C2", [[0, 0, 0], [0, 0, r]])) for r in (1.2, 1.3, 1.4)], R_MAX)
    measure = extrapolation(features, carbon, SPECIES)
    rows = torch.zeros(2, features.num_columns, dtype=torch.float64)
    found = measure(rows, torch.tensor([0, 1]))
    assert found[0].isinf() and found[1].isfinite() and found[1] > 1.0


def test_a_crystal_that_is_stretched_or_compressed_is_outside():
    potential = fitted("ace")[0]
    features = linear_features(potential)
    diamond = bulk("C", "diamond", a=3.567, cubic=True)
    rng = np.random.default_rng(2)
    crystals = [scaled(diamond, s) for s in np.linspace(0.98, 1.02, 20)]
    for atoms in crystals:
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    data = Dataset([Frame(atoms=atoms) for atoms in crystals], R_MAX)
    measure = extrapolation(features, data, SPECIES)

    def largest(s):
        graph = Dataset([Frame(atoms=scaled(crystals[10], s))], R_MAX).graphs[0]
        return float(measure(features.node_rows(graph), potential.species(graph.atomic_numbers)).max())

    assert largest(1.0) <= 1.0 < 2.0 < largest(1.1) < largest(1.2) and 10.0 < largest(0.9) < largest(0.8)


def test_it_stays_small_and_is_in_the_model_file(tmp_path):
    """However many features and atoms there are; and it is the same from the same seed."""
    potential, data = fitted("ace of many functions")
    measure = potential.uncertainty.extrapolation
    features = linear_features(potential)
    assert measure.metric.shape[1] == 40 * 6 // 8 + 1 < MOST_DIRECTIONS and features.num_columns > 400
    path = save_potential(tmp_path / "m.equipot", potential)
    again = load_potential(path, check=True)
    atoms = scaled(ethanol(5), 1.1)
    assert np.array_equal(grades(again, atoms), grades(potential, atoms))
    same = extrapolation(features, data, SPECIES)
    graph = Dataset([Frame(atoms=atoms)], R_MAX).graphs[0]
    rows, z = features.node_rows(graph), potential.species(graph.atomic_numbers)
    assert torch.equal(same.draws, measure.draws)
    torch.testing.assert_close(same(rows, z), measure(rows, z), rtol=1e-3, atol=0)
