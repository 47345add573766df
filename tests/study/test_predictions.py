"""Predictions: the same errors as the metrics, exact files, scans in order."""

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.deploy.ase_calculator import EquipotCalculator
from equipot.errors import EquipotError
from equipot.fit.metrics import error_table
from equipot.models.potential import Potential
from equipot.points import mace
from equipot.statistics import Statistics
from equipot.study.evaluate import Evaluated, write_predictions
from equipot.study.predictions import Predictions, ScanPath, check_scan, predict, scan_paths

E0 = {1: 3.2, 8: 4.6, 29: 3.5}


def frame(atoms: Atoms, index: int, **missing) -> Frame:
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(index).normal(scale=0.05, size=atoms.positions.shape)
    calculated = atoms.copy()
    calculated.calc = EMT()
    periodic = bool(atoms.pbc.all())
    labels = {
        "energy": float(calculated.get_potential_energy()),
        "forces": calculated.get_forces(),
        "stress": calculated.get_stress(voigt=False) if periodic else None,
        "config_type": "crystal" if periodic else "molecule",
    }
    return Frame(atoms, **{**labels, **missing}, index=index)


@pytest.fixture(scope="module")
def potential():
    statistics = Statistics(
        species=tuple(E0),
        atomic_energies=tuple(E0.values()),
        mean_neighbours=8.0,
        mean_neighbours_per_species=(8.0,) * 3,
        energy_mean_per_species=(0.0,) * 3,
    )
    design = mace(r_max=3.5, channels=2, max_ell=1, max_L=0, correlation=2, layers=1, radial_mlp=(4,))
    return Potential(design, statistics, dtype=torch.float64)


@pytest.fixture(scope="module")
def dataset():
    water, copper = molecule("H2O"), bulk("Cu", "fcc", a=3.6)
    frames = [
        frame(water, 0),
        frame(copper, 1),
        frame(water, 2, forces=None),
        frame(copper, 3, energy=None, stress=None),
    ]
    return Dataset(frames, 3.5)


@pytest.fixture(scope="module")
def predicted(potential, dataset):
    return predict(potential, dataset, batch_size=3)


def test_errors_are_those_of_the_metrics(potential, dataset, predicted):
    expected = error_table(potential, dataset)
    table = predicted[1]
    assert table.total == pytest.approx(expected.total, rel=1e-12)
    assert table.config_types.keys() == expected.config_types.keys()
    assert table.elements["Cu"] == pytest.approx(expected.elements["Cu"], rel=1e-12)


@pytest.mark.parametrize(
    ("quantity", "name", "count"),
    [
        ("energies", "energy_rmse_meV_per_atom", 3),
        ("forces", "forces_rmse_meV_per_A", 3 * (3 + 1 + 1)),
        ("stresses", "stress_rmse_meV_per_A3", 9),
    ],
)
def test_pairs_are_what_has_a_label(predicted, quantity, name, count):
    reference, found = predicted[0].pairs(quantity)
    assert len(reference) == count
    rmse = 1000 * np.sqrt(np.mean((found - reference) ** 2))
    assert rmse == pytest.approx(predicted[1].total[name], rel=1e-10)


def test_energies_are_relative_to_isolated_atoms_and_per_atom(dataset, predicted):
    reference, _ = predicted[0].pairs("energies")
    water = (dataset.frames[0].energy - 2 * E0[1] - E0[8]) / 3
    assert reference[0] == pytest.approx(water, abs=1e-12)


def test_files_of_predictions_keep_energies_exactly(predicted, tmp_path):
    predicted[0].save(tmp_path / "new" / "p.npz")
    loaded = Predictions.load(tmp_path / "new" / "p.npz")
    np.testing.assert_array_equal(loaded.energy_predicted, predicted[0].energy_predicted)
    np.testing.assert_allclose(loaded.forces_predicted, predicted[0].forces_predicted, rtol=1e-6)
    (tmp_path / "bad.npz").write_bytes(b"not an archive")
    with pytest.raises(EquipotError, match=r"bad\.npz does not hold predictions"):
        Predictions.load(tmp_path / "bad.npz")


def test_written_structures_have_what_the_calculator_gives(potential, dataset, predicted, tmp_path):
    found, table, node_energies = predicted
    path = tmp_path / "p.extxyz"
    assert write_predictions(path, [Evaluated(dataset, found, table, node_energies)]) == 4
    written = ase.io.read(path, ":")
    for atoms, frame_ in zip(written, dataset.frames, strict=True):
        calculator = EquipotCalculator(potential)
        again = frame_.atoms.copy()
        again.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), again.get_forces(), atol=1e-7)
        np.testing.assert_allclose(atoms.calc.results["energies"], again.get_potential_energies(), atol=1e-7)
        assert ("REF_forces" in atoms.arrays) == (frame_.forces is not None)
        assert atoms.info["config_type"] == frame_.config_type
    copper = dataset.frames[1].atoms.copy()
    copper.calc = EquipotCalculator(potential)
    np.testing.assert_allclose(written[1].get_stress(), copper.get_stress(), atol=1e-9)


def energies(reference, predicted):
    n = len(reference)
    nothing = np.zeros((n, 3, 3))
    forces = np.zeros((n, 3))
    return Predictions(
        np.ones(n), np.zeros(n), np.array(reference), np.array(predicted), forces, forces, nothing, nothing
    )


INFOS = [
    {"plane": 1, "gamma": 20.0, "beta": 5.0, "mass": 1.0},
    {"plane": 0, "gamma": 10.0, "beta": 4.0, "mass": 1.0},
    {"plane": 1, "gamma": 0.0, "beta": 5.0, "mass": 1.0},
    {"plane": 0, "gamma": 30.0, "beta": 4.0, "mass": 1.0},
]


def test_a_scan_is_sorted_grouped_and_named_after_what_tells_the_paths_apart():
    paths = scan_paths(INFOS, energies([4.0, 1.0, 3.0, 2.0], [4.1, 1.1, 3.1, 2.1]), "gamma", "plane")
    assert [path.name for path in paths] == ["plane 1 (beta 5)", "plane 0 (beta 4)"]
    assert paths[0].x.tolist() == [0.0, 20.0]
    assert paths[0].energy_reference.tolist() == [3.0, 4.0]
    (whole,) = scan_paths(INFOS, energies([4.0, 1.0, 3.0, 2.0], [4.0, 1.0, 3.0, 2.0]), "gamma", None)
    assert whole.x.tolist() == [0.0, 10.0, 20.0, 30.0]


def test_an_offset_is_an_error_of_the_energies_but_not_of_the_shape():
    path = ScanPath("p", np.arange(3.0), np.array([0.0, 1.0, 0.5]), np.array([0.2, 1.2, 0.7]))
    assert path.rmse == pytest.approx(200.0)
    assert path.shape_rmse == pytest.approx(0.0, abs=1e-9)
    assert path.barriers == pytest.approx((1000.0, 1000.0))
    again = ScanPath.from_dict(path.as_dict())
    assert again.as_dict() == path.as_dict()


@pytest.mark.parametrize(
    ("infos", "x", "group", "message"),
    [
        ([{"gamma": 1.0}], "gama", None, "frame 0 has no 'gama'; it has gamma"),
        ([{"gamma": 1.0}], "gamma", "plane", "frame 0 has no 'plane'"),
        ([{}], "gamma", None, "it has no keys"),
        ([{"gamma": "cis"}], "gamma", None, "'gamma' of frame 0 is 'cis'"),
    ],
)
def test_a_scan_without_its_keys_is_refused(infos, x, group, message):
    with pytest.raises(EquipotError, match=message):
        check_scan(infos, x, group)


def test_a_point_of_a_scan_needs_an_energy():
    with pytest.raises(EquipotError, match="frame 1 has no energy"):
        scan_paths(INFOS[:2], energies([1.0, np.nan], [1.0, 1.0]), "gamma", None)
