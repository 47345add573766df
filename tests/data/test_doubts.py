"""Suspicious data are reported, and sound data are not."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from equipot.data import DataOptions, Dataset, Frame, doubts, load, read_frames
from equipot.data.doubts import bond_response, correlated, leakage, stress_response

doubts_module = sys.modules["equipot.data.doubts"]


@pytest.fixture
def molecules(write, cluster):
    return read_frames(write("a.xyz", [cluster(i) for i in range(40)])).frames


@pytest.fixture
def crystals(write, crystal):
    return read_frames(write("a.traj", [crystal(i) for i in range(20)])).frames


def said(frames, r_max=3.0):
    return " ".join(doubts(Dataset(frames, r_max)))


def test_sound_data_are_not_doubted(molecules, crystals):
    assert doubts(Dataset(molecules, 3.0)) == []
    assert doubts(Dataset(crystals, 3.0)) == []


def test_gradients_in_place_of_forces(molecules):
    assert bond_response(Dataset(molecules, 3.0))[0] < -0.9
    flipped = [replace(frame, forces=-frame.forces) for frame in molecules]
    assert bond_response(Dataset(flipped, 3.0))[0] > 0.9
    assert "forces look like gradients" in said(flipped)


def test_stiffness_of_a_bond(molecules):
    """Each end of a Morse bond of D = 3 eV, a = 2/Å has f = −2 D a² (d − d0) near its length."""
    _, slope, count = bond_response(Dataset(molecules, 1.4))
    assert count > 50
    assert slope == pytest.approx(-2 * 2 * 3.0 * 4.0, rel=0.25)


def test_forces_in_kcal_per_mol(molecules):
    large = [replace(frame, forces=frame.forces / 0.0433641043) for frame in molecules]
    assert "look too large by their unit" in said(large)


@pytest.fixture
def hydroxyls(molecules):
    """The clusters, of elements whose bonds are stiff."""
    return [replace(frame, atoms=relabelled(frame.atoms)) for frame in molecules]


def relabelled(atoms):
    copy = atoms.copy()
    copy.numbers[:] = 6
    return copy


def test_forces_in_hartree_per_bohr(hydroxyls):
    assert "too small" not in said(hydroxyls, 1.8)
    small = [replace(frame, forces=frame.forces / 51.4221) for frame in hydroxyls]
    assert "look too small by their unit: bonds among H, C, N and O" in said(small, 1.8)


def test_positions_in_bohr(molecules):
    def scaled(frame):
        atoms = frame.atoms.copy()
        atoms.positions /= 0.529177
        return replace(frame, atoms=atoms)

    assert "far apart" not in said(molecules, 5.0)
    assert "about 1.9 if the unit is bohr" in said([scaled(frame) for frame in molecules], 5.0)


def test_distances_of_noble_gases_are_no_bond_lengths(molecules):
    def argon(frame):
        atoms = frame.atoms.copy()
        atoms.positions *= 3.0
        atoms.numbers[:] = 18
        return replace(frame, atoms=atoms)

    assert "far apart" not in said([argon(frame) for frame in molecules], 8.0)


def test_force_outliers(molecules):
    wild = molecules[7].forces + np.array([[80.0, 0, 0], [-80.0, 0, 0], [0, 0, 0]])
    text = said([*molecules[:7], replace(molecules[7], forces=wild), *molecules[8:]])
    assert "1 structure(s) have force components beyond" in text
    assert molecules[7].name in text


def test_net_force(molecules):
    text = said([replace(molecules[0], forces=molecules[0].forces + 0.5), *molecules[1:]])
    assert "1 of 40 structures have a net force" in text


def test_stress_of_the_opposite_sign(crystals):
    correlation, count = stress_response(crystals)
    assert correlation > 0.9
    assert count == 20
    assert "opposite sign" in said([replace(frame, stress=-frame.stress) for frame in crystals])


def test_stress_in_gpa(crystals):
    assert "is the unit GPa or kbar" in said([replace(frame, stress=160.2 * frame.stress) for frame in crystals])


def test_stress_that_is_a_placeholder(crystals):
    assert "every stress is zero" in said([replace(frame, stress=np.zeros((3, 3))) for frame in crystals])


def test_forces_that_are_a_placeholder(write, cluster):
    frames = [cluster(i) for i in range(4)]
    for frame in frames:
        frame.arrays["REF_forces"][:] = 0.0
    data = load(DataOptions(train=write("a.xyz", frames)), 3.0)
    assert any("all forces are zero: are they a placeholder" in warning for warning in data.warnings)


def test_structures_that_occur_twice(molecules):
    assert "1 structure(s) occur twice" in said([*molecules, replace(molecules[3], index=99)])


def test_close_atoms():
    frame = Frame(Atoms("CO", positions=[[0, 0, 0], [0, 0, 0.6]]), energy=0.0, source="a.xyz", index=4)
    assert "1 structure(s) have atoms nearer than half a bond length: a.xyz#4 (C–O 0.60 Å)" in said([frame])


def test_energies_in_single_precision(molecules):
    rounded = [replace(frame, energy=float(np.float32(frame.energy))) for frame in molecules]
    assert "single precision, in steps of 0.49 meV" in said(rounded)


def test_isolated_atom_in_a_box_without_its_type():
    frame = Frame(Atoms("Cu", cell=[12, 12, 12], pbc=True), energy=0.0)
    assert "write config_type=IsolatedAtom" in said([frame], r_max=13.0)


def test_trajectory_is_recognised(molecules):
    generator = np.random.default_rng(0)
    walk = np.cumsum(0.02 * generator.standard_normal((60, 3, 3)), axis=0)
    steps = []
    for shift in walk:
        atoms = molecules[0].atoms.copy()
        atoms.positions += shift
        steps.append(Frame(atoms, energy=0.0))
    assert "consecutive structures resemble each other" in correlated(steps)[0]
    assert correlated([steps[i] for i in generator.permutation(60)]) == []
    assert correlated(molecules) == []


def test_trajectory_in_a_periodic_cell_is_recognised_when_atoms_are_wrapped(crystals):
    generator = np.random.default_rng(0)
    steps = []
    for shift in np.cumsum(0.02 * generator.standard_normal((60, 4, 3)), axis=0):
        atoms = crystals[0].atoms.copy()
        atoms.positions += shift
        atoms.wrap()
        steps.append(Frame(atoms, energy=0.0))
    assert "consecutive structures resemble each other" in correlated(steps)[0]
    for step in steps[::2]:
        step.atoms.numbers[:] = [29, 28, 29, 28]
    assert correlated(steps) == []


def test_sample_is_limited(molecules, monkeypatch):
    dataset = Dataset(molecules, 3.0)
    for limit, number in ((1000, 40), (61, 20), (119, 20), (1, 1)):
        monkeypatch.setattr(doubts_module, "SAMPLE", limit)
        assert len(doubts_module._sample(dataset)) == number


def test_validation_structures_in_the_training_set(molecules, write, cluster):
    other = [replace(molecules[3], source="valid.xyz", index=0), *read_frames(write("v.xyz", cluster(99))).frames]
    (text,) = leakage(molecules, other, "valid")
    assert "1 of 2 structures of the valid set are in the training set too: " in text
    assert leakage(molecules[:3], other, "valid") == []


def test_sets_of_another_method(clusters, write, cluster):
    frames = [cluster(i + 50) for i in range(4)]
    for frame in frames:
        frame.info["REF_energy"] += 15.0
    data = load(DataOptions(train=clusters, tests={"other": write("t.xyz", frames)}), 3.0)
    (text,) = (warning for warning in data.warnings if "energies of the other set lie" in warning)
    assert float(text.split("lie ")[1].split()[0]) == pytest.approx(5.0, abs=0.05)


def test_more_energy_than_isolated_atoms(clusters):
    data = load(DataOptions(train=clusters, atomic_energies={"C": -1040.0, "O": -2041.0}), 3.0)
    assert any("most structures have more energy than their isolated atoms" in warning for warning in data.warnings)


def test_isolated_atoms_of_another_set_that_differ(clusters, write, cluster, atom):
    path = write("t.xyz", [cluster(90), atom("C", -1028.0)])
    data = load(DataOptions(train=clusters, tests={"t": path}), 3.0)
    assert any(
        "the isolated atom C has -1028.0 eV, the E0 in use is -1029.0 eV" in warning for warning in data.warnings
    )
