"""The cost estimate counts what training will do; the survey says what is in files."""

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.emt import EMT

from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.data.options import DataOptions
from equipot.errors import EquipotError
from equipot.fit.options import FitOptions
from equipot.models.potential import Potential
from equipot.points import ace
from equipot.statistics import Statistics
from equipot.study import cost as cost_module
from equipot.study.cost import estimate, fastest_threads, threads
from equipot.study.survey import survey


def water(seed):
    atoms = molecule("H2O")
    atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=(3, 3))
    atoms.calc = EMT()
    atoms.get_forces()
    return atoms


@pytest.fixture(scope="module")
def dataset():
    made = [water(seed) for seed in range(7)]
    frames = [Frame(a.copy(), energy=a.get_potential_energy(), forces=a.get_forces()) for a in made]
    return Dataset(frames, 3.0)


@pytest.fixture(scope="module")
def potential():
    ones = (1.0, 1.0)
    statistics = Statistics(
        species=(1, 8), atomic_energies=ones, mean_neighbours=2.0, mean_neighbours_per_species=ones,
        energy_mean_per_species=ones,
    )  # fmt: skip
    return Potential(ace(r_max=3.0, channels=2, max_ell=1, correlation=2), statistics)


def test_cost_counts_steps_and_keeps_the_weights(potential, dataset):
    before = {name: tensor.clone() for name, tensor in potential.state_dict().items()}
    cost = estimate(potential, dataset, dataset, FitOptions(batch_size=2, max_epochs=10))
    assert (cost.structures, cost.steps_per_epoch, cost.epochs) == (7, 4, 10)
    assert cost.atoms_per_step == pytest.approx(21 / 4)
    assert cost.edges_per_step == pytest.approx(7 * 6 / 4)
    assert cost.seconds_per_epoch >= 4 * cost.seconds_per_step > 0
    assert cost.minutes == pytest.approx(10 * cost.seconds_per_epoch / 60)
    assert all(torch.equal(before[name], tensor) for name, tensor in potential.state_dict().items())


def test_cost_ends_where_the_time_does(potential, dataset):
    options = FitOptions(batch_size=None, batch_atoms=6, max_epochs=10**6, max_minutes=0.5)
    cost = estimate(potential, dataset, dataset, options, repeats=1)
    assert cost.minutes <= 0.5
    assert cost.epochs < 10**6


def test_survey_measures(tmp_path):
    structures = [water(seed) for seed in range(3)]
    ase.io.write(tmp_path / "w.extxyz", structures)
    found = survey(DataOptions(train=tmp_path / "w.extxyz"), 3.0)
    sizes = [np.linalg.norm(a.get_forces(), axis=1) for a in structures]
    assert found["measured"]["largest force (eV/Å)"] == pytest.approx(np.max(sizes), rel=1e-6)
    assert found["measured"]["mean neighbours within 3 Å"] == 2.0
    assert any("same composition" in text for text in found["warnings"])
    assert found["elements"][0]["atoms"] == 6


def test_survey_refuses_what_training_would(tmp_path):
    atoms = molecule("H2O")
    atoms.info["energi"] = -1.0
    ase.io.write(tmp_path / "w.extxyz", atoms)
    with pytest.raises(EquipotError, match="energi"):
        survey(DataOptions(train=tmp_path / "w.extxyz"), 3.0)


def test_threads_are_those_asked_for_and_restored_after():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("one", "many", "chosen"), [(1.0, 0.5, 4), (1.0, 0.95, 1), (1.0, 10.0, 1)])
def test_more_threads_are_used_only_where_they_are_clearly_faster(monkeypatch, one, many, chosen):
    clock, seconds = [0.0], {1: one, 4: many}
    used = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(cost_module.time, "perf_counter", lambda: clock[0])

    def work():
        clock[0] += seconds[used[-1]]

    assert fastest_threads(work) == chosen
    assert used[-1] == 4
