"""E0s and statistics against data whose constants are known."""

import numpy as np
import pytest
from ase.build import bulk

from equipot.data import DataOptions, Dataset, Frame, Keys, find_atomic_energies, interaction_energies, load, measure
from equipot.data.atomic_energies import least_squares
from equipot.data.read import read_frames


def frame(atoms, per_element=None, energy=0.0, **labels):
    E = energy + sum((per_element or {}).get(s, 0.0) for s in atoms.get_chemical_symbols())
    return Frame(atoms=atoms, energy=E, **labels)


def alloy(seed, symbols, size=2):
    atoms = bulk("Cu", cubic=True).repeat((size, 1, 1))
    atoms.symbols[:] = np.random.default_rng(seed).choice(symbols, len(atoms))
    return atoms


def test_least_squares_recovers_the_energies_of_the_elements():
    truth = {"Cu": -1640.25, "Ni": -1510.5, "Au": -3300.125}
    frames = [frame(alloy(i, list(truth)), truth) for i in range(12)]
    found = find_atomic_energies(frames, "auto", {})
    assert found.source == "least_squares"
    assert found.energies == pytest.approx({28: -1510.5, 29: -1640.25, 79: -3300.125}, abs=1e-9)
    assert "fitted by least squares" in found.warnings[0]


def test_least_squares_does_not_depend_on_the_size_of_cells():
    truth = {"Cu": -1640.0, "Ni": -1510.0}
    small, large = (
        [frame(alloy(i, list(truth), size), truth, energy=0.1 * 4 * size) for i in range(6)] for size in (1, 3)
    )
    energies = find_atomic_energies(small + large, "least_squares", {}).energies
    assert energies == pytest.approx({28: -1509.9, 29: -1639.9}, abs=1e-9)


@pytest.mark.parametrize(
    ("symbols", "warning"), [("Cu4", "E0 of Cu is the mean energy"), ("CuNiCu2", "least squares is singular")]
)
def test_one_composition_uses_the_mean_shift_and_says_so(symbols, warning):
    frames = []
    for i in range(4):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols = symbols
        frames.append(frame(atoms, energy=-40.0 - i))
    found = find_atomic_energies(frames, "auto", {})
    assert found.source == "mean_shift"
    assert set(found.energies.values()) == {-10.375}
    assert warning in found.warnings[0]


def test_compositions_that_leave_a_freedom_are_still_fitted():
    """Ni and Au always come in pairs: their sum is determined, their difference shared evenly about the mean."""
    truth = {"Cu": -10.0, "Ni": -20.0, "Au": -30.0}
    frames = []
    for pairs in (0, 1, 2):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[:] = ["Ni", "Au"] * pairs + ["Cu"] * (4 - 2 * pairs)
        frames.append(frame(atoms, truth))
    found = find_atomic_energies(frames, "auto", {})
    assert found.source == "least_squares"
    assert found.energies == pytest.approx({28: -25.0, 29: -10.0, 79: -25.0})
    assert "determine only 2 of 3" in found.warnings[0]
    np.testing.assert_allclose(interaction_energies(frames, found.energies), 0.0, atol=1e-9)


def oxides(num_structures, num_elements, seed=0):
    """Compositions of three elements each, and energies per atom of −5 ± 2 per element and ± 0.5 for the bonds."""
    generator = np.random.default_rng(seed)
    counts = np.zeros((num_structures, num_elements))
    for row in counts:
        row[generator.choice(num_elements, 3, replace=False)] = generator.integers(1, 5, 3)
    per_element = -5 + 2 * generator.standard_normal(num_elements)
    x = counts / counts.sum(axis=1, keepdims=True)
    return counts, x @ per_element + 0.5 * generator.standard_normal(num_structures)


def test_few_structures_predict_others():
    """Better than plain least squares and than the mean in 18 of 20 sets of as many structures as elements."""
    errors = []
    for seed in range(20):
        counts, per_atom = oxides(330, 30, seed + 2000)
        x = counts / counts.sum(axis=1, keepdims=True)
        fit = least_squares(counts[:30], per_atom[:30])
        assert fit.regularised
        plain = np.linalg.lstsq(x[:30], per_atom[:30] - per_atom[:30].mean(), rcond=1e-10)[0] + per_atom[:30].mean()
        mean = np.full(30, per_atom[:30].mean())
        errors.append([np.sqrt(np.mean((per_atom[30:] - x[30:] @ e0) ** 2)) for e0 in (fit.energies, plain, mean)])
    ours, plain, mean = np.array(errors).T
    assert (ours < plain).sum() >= 18
    assert (ours < mean).sum() >= 18


def test_two_structures_of_two_elements_are_fitted():
    fit = least_squares(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([-3.0, -4.0]))
    assert np.all(np.isfinite(fit.energies))
    assert -4.0 <= fit.energies.mean() <= -3.0


def test_many_structures_give_plain_least_squares():
    counts, per_atom = oxides(400, 30)
    fit = least_squares(counts, per_atom)
    plain = np.linalg.lstsq(counts / counts.sum(axis=1, keepdims=True), per_atom, rcond=None)[0]
    assert not fit.regularised
    np.testing.assert_allclose(fit.energies, plain, atol=1e-6)


def test_few_structures_are_said_to_be_few():
    truth = {"Cu": -10.0, "Ni": -20.0, "Au": -30.0}
    frames = [frame(alloy(i, list(truth)), truth, energy=0.5 * i) for i in range(5)]
    (warning,) = find_atomic_energies(frames, "auto", {}).warnings
    assert "has a spread of" in warning
    assert "fewer than 3 structures per element" in warning
    assert "validation structures may be off" in warning


def test_energies_without_spread_are_reported():
    frames = [frame(alloy(i, ["Cu", "Ni"]), {"Cu": -3.0, "Ni": -5.0}) for i in range(4)]
    measured = measure(Dataset(frames, 3.0), find_atomic_energies(frames, {"Cu": -3.0, "Ni": -5.0}, {}))
    assert measured.statistics.energy_std == 1.0
    assert any("is the same for all 4 structures" in warning for warning in measured.warnings)


def test_order_of_sources_for_E0(clusters, write, atom):
    def source(**options):
        return load(DataOptions(train=clusters, **options), 3.0).statistics

    assert source().atomic_energies_source == "isolated_atoms"
    assert source().atomic_energies == (-1029.0, -2041.0)
    given = source(atomic_energies={"C": -1030.0, "O": -2042.0, "H": -13.0})
    assert (given.atomic_energies_source, given.atomic_energies) == ("given", (-1030.0, -2042.0))
    path = write("iso.xyz", [atom("O", -2040.0), atom("C", -1028.0)])
    from_file = source(atomic_energies=path)
    assert (from_file.atomic_energies_source, from_file.atomic_energies) == ("isolated_atoms", (-1028.0, -2040.0))
    assert source(atomic_energies="mean_shift").atomic_energies_source == "mean_shift"
    assert source(atomic_energies="least_squares").atomic_energies_source == "mean_shift"


def test_a_table_settles_isolated_atoms_that_contradict_each_other(write, cluster, atom):
    """What their error message says to do."""
    path = write("a.xyz", [*(cluster(i) for i in range(4)), atom("C"), atom("O"), atom("C", -1028.5)])
    data = load(DataOptions(train=path, atomic_energies={"C": -1029.0, "O": -2041.0}), 3.0)
    assert data.statistics.atomic_energies == (-1029.0, -2041.0)
    assert load(DataOptions(train=path, atomic_energies="mean_shift"), 3.0).statistics.energy_mean == pytest.approx(0)


def test_table_that_contradicts_isolated_atoms_is_reported(clusters):
    data = load(DataOptions(train=clusters, atomic_energies={"C": -1030.0, "O": -2041.0, "H": -13.0}), 3.0)
    assert any("-1030.0 eV for C, the isolated atom in the training files -1029.0 eV" in w for w in data.warnings)
    assert any("E0 of H is not used" in w for w in data.warnings)


def test_statistics_of_a_crystal():
    """A fcc crystal: 12 nearest neighbours at a/√2, 6 more at a."""
    a = 3.6
    atoms = bulk("Cu", a=a, cubic=True)
    forces = np.array([[1.0, 0, 0], [-1.0, 0, 0], [0, 2.0, 0], [0, -2.0, 0]])
    frames = [frame(atoms, energy=4 * e, forces=forces) for e in (-3.0, -4.0)]
    for r_max, neighbours in ((2.8, 12), (3.7, 18)):
        statistics = measure(Dataset(frames, r_max), find_atomic_energies(frames, {"Cu": -1.0}, {})).statistics
        assert statistics.mean_neighbours == neighbours
        assert statistics.mean_neighbours_per_species == (neighbours,)
    assert statistics.min_distance == pytest.approx(a / np.sqrt(2))
    assert statistics.pair_distances == pytest.approx((a / np.sqrt(2),))
    assert statistics.mean_bonds == (12,)
    assert statistics.force_rms == pytest.approx(np.sqrt((2 * 1 + 2 * 4) / 12))
    assert statistics.energy_mean == pytest.approx(-2.5)
    assert statistics.energy_std == pytest.approx(0.5)
    assert statistics.total_energy_mean == pytest.approx(-3.5)
    assert statistics.energy_mean_per_species == pytest.approx((-2.5,))


def test_neighbours_of_each_element(cluster):
    frames = [frame(cluster(0, "CO2", scale=0.0))]
    statistics = measure(Dataset(frames, 1.4), find_atomic_energies(frames, "mean_shift", {})).statistics
    positions, (carbon, oxygen, _) = frames[0].atoms.positions, np.argsort(frames[0].atoms.numbers)
    assert statistics.pair_distances == pytest.approx((0, np.linalg.norm(positions[carbon] - positions[oxygen]), 0))
    assert statistics.species_fractions == pytest.approx((1 / 3, 2 / 3))
    assert statistics.mean_neighbours_per_species == (2.0, 1.0)
    assert statistics.mean_neighbours == pytest.approx(4 / 3)
    assert statistics.mean_bonds == (2.0, 1.0)


def test_energies_of_elements_over_E0():
    truth = {"Cu": -3.0, "Ni": -4.5}
    frames = [frame(alloy(i, list(truth)), {"Cu": -103.0, "Ni": -204.5}) for i in range(8)]
    E0 = find_atomic_energies(frames, {"Cu": -100.0, "Ni": -200.0}, {})
    statistics = measure(Dataset(frames, 3.0), E0).statistics
    assert statistics.energy_mean_per_species == pytest.approx((-4.5, -3.0))


def test_forces_alone_have_no_zero_of_energy(write, cluster):
    frames = [cluster(i) for i in range(4)]
    for each in frames:
        del each.info["REF_energy"]
    data = load(DataOptions(train=write("a.xyz", frames), energy_key="none"), 3.0)
    assert data.statistics.atomic_energies == (0.0, 0.0)
    assert any("arbitrary zero" in warning for warning in data.warnings)
    assert any("energy: not read" in note for note in data.notes)


def test_energies_alone_have_no_scale_of_forces(write, cluster):
    data = load(DataOptions(train=write("a.xyz", [cluster(i) for i in range(4)]), forces_key="none"), 3.0)
    assert data.statistics.force_rms == 1.0
    assert any("scale of the forces is set to 1" in warning for warning in data.warnings)


def test_interaction_energy_is_exact_in_spite_of_large_totals(write, cluster):
    frames = [cluster(i) for i in range(3)]
    read = read_frames(write("a.xyz", frames), Keys()).frames
    E0 = {6: -1029.0, 8: -2041.0}
    expected = [(f.info["REF_energy"] + 1029.0 + 2 * 2041.0) / 3 for f in frames]
    np.testing.assert_allclose(interaction_energies(read, E0), expected, atol=1e-9)
