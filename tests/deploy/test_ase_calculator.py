"""The ASE calculator: right numbers, right signs, right orders, and errors for what has no meaning."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError

from equipot.deploy.ase_calculator import EquipotCalculator
from equipot.errors import EquipotError
from equipot.geometry import evaluate, graph_from_atoms
from equipot.models.extrapolation import Extrapolation
from equipot.models.linear import linear_features
from equipot.models.model_file import converted, save_potential
from equipot.models.potential import Potential
from equipot.models.uncertainty import Uncertainty
from equipot.points import ace_linear
from tests.physics.small import STATISTICS, cluster


def test_results_are_the_potentials(potential, triclinic):
    triclinic.calc = EquipotCalculator(potential)
    prediction = evaluate(potential, graph_from_atoms(triclinic, potential.r_max))
    stress = prediction.stress[0].numpy()
    voigt = [stress[0, 0], stress[1, 1], stress[2, 2], stress[1, 2], stress[0, 2], stress[0, 1]]
    np.testing.assert_allclose(triclinic.get_potential_energy(), float(prediction.energy), rtol=1e-14)
    np.testing.assert_allclose(triclinic.get_forces(), prediction.forces, atol=1e-12)
    np.testing.assert_allclose(triclinic.get_stress(), voigt, atol=1e-14)
    energies = triclinic.get_potential_energies()
    np.testing.assert_allclose(energies, prediction.node_energy, rtol=1e-14)
    np.testing.assert_allclose(energies.sum(), triclinic.get_potential_energy(), rtol=1e-14)
    assert triclinic.get_potential_energy(force_consistent=True) == triclinic.get_potential_energy()


def test_forces_are_minus_the_slope_of_the_energy(potential, triclinic):
    triclinic.calc = EquipotCalculator(potential)
    forces = triclinic.get_forces()
    h = 1e-4
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        moved = triclinic.copy()
        moved.calc = triclinic.calc
        moved.positions[atom, axis] += h
        up = moved.get_potential_energy()
        moved.positions[atom, axis] -= 2 * h
        slope = (up - moved.get_potential_energy()) / (2 * h)
        assert abs(forces[atom, axis] + slope) < 1e-7 * (1 + np.abs(forces).max())


def test_stress_is_the_slope_of_the_energy_with_strain(potential, triclinic):
    """σ = (1/V) ∂E/∂ε for each of the six strains of Voigt's order; the sign follows from it."""
    triclinic.calc = EquipotCalculator(potential)
    stress, volume, h = triclinic.get_stress(), triclinic.get_volume(), 1e-5
    for voigt, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += 0.5 * sign * h
            strain[b, a] += 0.5 * sign * h
            strained = triclinic.copy()
            strained.set_cell(triclinic.cell @ strain, scale_atoms=True)
            strained.calc = triclinic.calc
            energies.append(strained.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * h) / volume
        assert abs(stress[voigt] - slope) < 1e-7 * (1 + np.abs(stress).max())


def test_stress_is_positive_under_tension(pair):
    """A stretched crystal pulls its cell together: tension, positive; a squeezed one pushes."""
    for a, sign in ((3.8, 1), (3.0, -1)):
        atoms = bulk("Ar", "fcc", a=a)
        atoms.calc = EquipotCalculator(pair)
        stress = atoms.get_stress()
        assert (np.sign(stress[:3]) == sign).all()
        np.testing.assert_allclose(stress[3:], 0, atol=1e-12)


@pytest.mark.parametrize("pbc", [False, (True, True, False)])
def test_no_stress_without_three_periodic_directions(potential, triclinic, pbc):
    triclinic.pbc = pbc
    triclinic.calc = EquipotCalculator(potential)
    triclinic.get_forces()
    with pytest.raises(PropertyNotImplementedError, match="three periodic directions; these atoms have pbc="):
        triclinic.get_stress()
    assert "stress" not in triclinic.calc.results
    assert np.isfinite(triclinic.get_forces()).all()


def test_unknown_element(potential):
    atoms = Atoms("ArXe", positions=[[0, 0, 0], [3, 0, 0]])
    atoms.calc = EquipotCalculator(potential)
    with pytest.raises(EquipotError, match=r"ArXe has Xe, which the potential does not know: .* on C, O, Ar"):
        atoms.get_potential_energy()


def test_trajectory_with_skin_equals_one_without(potential, triclinic):
    rng = np.random.default_rng(0)
    lazy, eager = EquipotCalculator(potential, skin=0.5), EquipotCalculator(potential, skin=0.0)
    for _ in range(25):
        triclinic.positions += rng.normal(0, 0.03, (5, 3))
        results = []
        for calculator in (lazy, eager):
            triclinic.calc = calculator
            results.append((triclinic.get_potential_energy(), triclinic.get_forces(), triclinic.get_stress()))
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other)
    assert lazy.neighbours.searches < eager.neighbours.searches == 25


def test_from_a_file_in_either_precision(potential, triclinic, tmp_path):
    path = save_potential(tmp_path / "model.equipot", potential)
    forces = {}
    for dtype in ("float64", "float32", None):
        calculator = EquipotCalculator(path, dtype=dtype)
        triclinic.calc = calculator
        forces[dtype] = triclinic.get_forces()
        assert forces[dtype].dtype == np.float64
    np.testing.assert_array_equal(forces["float64"], forces[None])
    assert 0 < np.abs(forces["float32"] - forces["float64"]).max() < 1e-3
    assert torch.get_default_dtype() == torch.float32


def test_conversion_leaves_the_given_potential_alone(potential, molecule):
    calculator = EquipotCalculator(potential, dtype="float32")
    assert calculator.potential.dtype == torch.float32
    assert potential.dtype == torch.float64
    assert all(parameter.dtype == torch.float64 for parameter in potential.parameters())


def test_one_calculator_for_changing_structures(potential, triclinic, molecule):
    """Nothing of one structure is left when the next one comes."""
    shared = EquipotCalculator(potential)
    for atoms in (triclinic, molecule, triclinic):
        atoms.calc = shared
        energy = atoms.get_potential_energy()
        atoms.calc = EquipotCalculator(potential)
        assert energy == atoms.get_potential_energy()


def test_closest_pair_is_known(pair, molecule):
    molecule.calc = EquipotCalculator(pair)
    molecule.get_forces()
    distances = molecule.get_all_distances() + 9 * np.eye(4)
    assert molecule.calc.shortest_distance == pytest.approx(distances.min())
    assert distances[molecule.calc.shortest_pair] == distances.min()
    lone = Atoms("Ar")
    lone.calc = molecule.calc
    assert lone.get_potential_energy() == -3.0
    np.testing.assert_array_equal(lone.get_forces(), np.zeros((1, 3)))
    assert lone.calc.shortest_distance == np.inf


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_fitted_potential_says_how_uncertain_it_is(dtype):
    """σ² = ‖x L‖² with x the derivatives by the weights: of the energy, of each atom's, and of the forces."""
    potential = Potential(ace_linear(r_max=3.0, degrees=(3, 6, 7)), STATISTICS, dtype=dtype, seed=2)
    features = linear_features(converted(potential, torch.float64))
    generator = torch.Generator().manual_seed(0)
    L = torch.randn(features.num_columns, 5, generator=generator, dtype=torch.float64)
    columns = features.num_columns
    draws, scale = torch.randint(2**31, (columns, 8), generator=generator), torch.rand(3, columns, generator=generator)
    W, limits = torch.rand(3, 9, 9, generator=generator), torch.tensor([0.5, 1.0, 2.0])
    potential.uncertainty = Uncertainty(L, Extrapolation(draws, scale, torch.full((3,), 8), W, limits))
    cluster_of_five = cluster(5)
    atoms = Atoms(cluster_of_five.numbers, cluster_of_five.positions)
    calculator = EquipotCalculator(potential)
    atoms.calc = calculator
    plain = atoms.get_potential_energy()
    assert "energy_std" not in calculator.results
    graph = cluster_of_five.graph(3.0)
    x, by_force = features.node_rows(graph), features.rows(graph, forces=True, stress=False).forces
    assert calculator.get_property("energy_std", atoms) == pytest.approx(float((x.sum(dim=0) @ L).norm()), rel=1e-6)
    assert calculator.get_property("energies_std", atoms) == pytest.approx((x @ L).norm(dim=1).numpy(), rel=1e-6)
    expected = (by_force @ L).norm(dim=1).view(5, 3).numpy()
    assert calculator.get_property("forces_std", atoms) == pytest.approx(expected, rel=1e-6)
    grades = potential.uncertainty.extrapolation(x, potential.species(graph.atomic_numbers))
    assert calculator.get_property("extrapolation", atoms) == pytest.approx(grades.numpy(), rel=1e-6)
    always = EquipotCalculator(potential, uncertainty=True)
    atoms.calc = always
    assert atoms.get_potential_energy() == plain
    assert {"energy_std", "energies_std", "extrapolation"} <= set(always.results)
    assert all(w.requires_grad for w in potential.parameters()), "the caller may train it further"


def test_a_potential_without_uncertainty_says_how_to_get_it():
    potential = Potential(ace_linear(r_max=3.0, degrees=(3, 6)), STATISTICS)
    with pytest.raises(EquipotError, match="--keep-weights"):
        EquipotCalculator(potential, uncertainty=True)
    with pytest.raises(PropertyNotImplementedError):
        EquipotCalculator(potential).get_property("energy_std", Atoms("CO", [[0, 0, 0], [0, 0, 1.2]]))
