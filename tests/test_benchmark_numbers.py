"""What the benchmark of calibration computes from errors and deviations, and how it makes shifted structures."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from equipot.study.uncertainty import SetDeviations, pooled


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "benchmarks"), *sys.path])
    return importlib.import_module


def drawn(structures: int, width: float, seed: int, too_sure: float = 1.0) -> SetDeviations:
    """Errors from normal distributions of many widths, and deviations that are these widths, or less."""
    rng = np.random.default_rng(seed)
    atoms = np.full(structures, 5)
    energy = width * rng.uniform(0.5, 5.0, structures)
    forces = width * np.repeat(rng.uniform(0.5, 5.0, structures), 5)[:, None] * np.ones(3)
    return SetDeviations(
        atoms, energy / too_sure, np.ones(5 * structures), forces / too_sure,
        width * rng.uniform(0.1, 1.0, 5 * structures), energy * rng.normal(size=structures),
        forces * rng.normal(size=forces.shape),
    )  # fmt: skip


def test_right_deviations_cover_as_a_normal_distribution_does(benchmark):
    numbers = benchmark("calibration_numbers").numbers
    found = numbers(drawn(2000, 1.0, 0))
    for kind in ("energy_per_atom_of_structures", "force_vectors_of_atoms"):
        assert found[kind]["within_1"] == pytest.approx(0.683, abs=0.03)
        assert found[kind]["within_2"] == pytest.approx(0.954, abs=0.02)
        assert found[kind]["error_over_deviation"] == pytest.approx(1.0, abs=0.06)
        assert found[kind]["rank_correlation"] > 0.3
    assert numbers(drawn(2000, 1.0, 0, too_sure=3.0))["force_vectors_of_atoms"]["within_1"] < 0.35


def test_forces_that_symmetry_makes_zero_are_left_out(benchmark):
    """Else they would be the best-ranked of all."""
    numbers = benchmark("calibration_numbers").numbers
    found = drawn(300, 1.0, 4)
    perfect = replace(found, forces=1e-16 * found.forces, forces_error=1e-16 * found.forces_error)
    both, alone = numbers(pooled([found, perfect])), numbers(found)
    assert both["structures_without_forces"] == 300
    for kind in ("force_vectors_of_atoms", "forces_of_structures"):
        assert both[kind] == pytest.approx(alone[kind])


def test_sets_of_other_widths_are_told_apart(benchmark):
    separation = benchmark("calibration_numbers").separation
    near, far = drawn(200, 1.0, 1), drawn(300, 100.0, 2)
    assert separation(near, far)["forces_deviation"] == 1.0
    assert separation(far, near)["extrapolation"] < 0.01
    alike = separation(near, drawn(300, 1.0, 3))
    assert all(0.38 < value < 0.62 for value in alike.values())


def test_a_stretched_bond_is_the_only_one_that_changes(benchmark):
    stretched = benchmark("calibration_sets")._stretched
    atoms = molecule("CH3CH2OH")
    before = atoms.get_all_distances()
    for seed in range(10):
        after = stretched(atoms, np.random.default_rng(seed)).get_all_distances()
        bonds = np.triu(before < 1.6) & ~np.eye(9, dtype=bool)
        bonds &= before > 1.0 - 0.1 * (atoms.numbers[:, None] + atoms.numbers == 9)
        heavy_or_bonded = bonds & ~((atoms.numbers[:, None] == 1) & (atoms.numbers == 1))
        ratio = (after / np.where(before > 0, before, 1.0))[heavy_or_bonded]
        assert (ratio > 1.0 + 1e-9).sum() == 1
        assert 1.1 <= ratio.max() <= 1.5
        assert np.sum(~np.isclose(ratio, 1.0)) == 1


def test_degrees_are_found_for_a_number_of_functions(benchmark):
    designs, tasks = benchmark("linear_designs"), benchmark("tasks")
    structures = [tasks.silicon(64)]
    statistics = designs.statistics_of(structures, 5.0)
    for target in (300, 1000):
        design = designs.sized(target, statistics)
        assert 0.7 * target < designs.size_of(design, statistics)["functions_per_centre"] < 1.3 * target
