"""Forces, virial and stress against finite differences, and the derivatives that training takes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from equipot.geometry import batch_graphs, evaluate

from .small import STRUCTURES, Structure, cluster, every_point, potential, relative

SYSTEMS = list(STRUCTURES.values())
STEP = 1e-4
TOLERANCE = 1e-8


def energies(model, structures: list[Structure]) -> torch.Tensor:
    return evaluate(model, batch_graphs([s.graph() for s in structures])).energy


def slope(energy) -> torch.Tensor:
    """dE/ds at s = 0, central differences of fourth order."""
    return (8 * (energy(STEP) - energy(-STEP)) - (energy(2 * STEP) - energy(-2 * STEP))) / (12 * STEP)


@every_point
def test_forces_are_minus_the_slope_of_the_energy_of_every_system_of_a_batch(case):
    model = potential(case)
    rng = np.random.default_rng(3)
    along = [rng.normal(size=s.positions.shape) for s in SYSTEMS]

    def energy(step: float) -> torch.Tensor:
        moved = [s._replace(positions=s.positions + step * d) for s, d in zip(SYSTEMS, along, strict=True)]
        return energies(model, moved)

    graph = batch_graphs([s.graph() for s in SYSTEMS])
    forces = evaluate(model, graph).forces
    work = (forces * torch.from_numpy(np.concatenate(along))).sum(dim=1)
    expected = torch.zeros(len(SYSTEMS), dtype=torch.float64).index_add(0, graph.system, work)
    assert relative(-slope(energy), expected) < TOLERANCE


@every_point
def test_virial_and_stress_are_the_slope_of_the_energy_with_strain(case):
    model = potential(case)
    prediction = evaluate(model, batch_graphs([s.graph() for s in SYSTEMS]))
    strain = np.random.default_rng(4).normal(size=(3, 3))
    strain = strain + strain.T

    def energy(step: float) -> torch.Tensor:
        return energies(model, [s.mapped(np.eye(3) + step * strain) for s in SYSTEMS])

    along_strain = (prediction.virial * torch.from_numpy(strain)).sum(dim=(1, 2))
    assert relative(-slope(energy), along_strain) < TOLERANCE
    volume = abs(np.linalg.det(SYSTEMS[0].cell))
    assert relative(-prediction.virial[0] / volume, prediction.stress[0]) < 1e-14
    assert torch.equal(prediction.stress.isnan().all(dim=(1, 2)), torch.tensor([False, True, True, True]))


def test_every_force_component_and_every_strain_component_of_a_triclinic_cell():
    model, s = potential("mace"), STRUCTURES["crystal"]
    prediction = evaluate(model, s.graph())
    for atom, axis in np.ndindex(2, 3):
        unit = np.zeros((2, 3))
        unit[atom, axis] = 1.0
        dE = slope(lambda step, d=unit: energies(model, [s._replace(positions=s.positions + step * d)]))
        assert abs(-dE - prediction.forces[atom, axis]) < TOLERANCE
    for a, b in np.ndindex(3, 3):
        unit = np.zeros((3, 3))
        unit[a, b] = 1.0
        dE = slope(lambda step, d=unit: energies(model, [s.mapped(np.eye(3) + step * d)]))
        assert abs(-dE - prediction.virial[0, a, b]) < TOLERANCE


@every_point
def test_gradcheck_and_gradgradcheck_on_positions_and_cell(case):
    """First derivatives of energy, forces and virial, second derivatives of the energy."""
    model = potential(case)
    graph = batch_graphs([STRUCTURES["crystal"].graph(), cluster(3).graph()])

    def predict(positions, cell):
        return evaluate(model, replace(graph, positions=positions, cell=cell), create_graph=True)

    inputs = tuple(x.clone().requires_grad_(True) for x in (graph.positions, graph.cell))
    scale = float(predict(*inputs).forces.detach().abs().max())
    options = {"fast_mode": True, "atol": 1e-5 * max(scale, 1.0), "rtol": 1e-4}
    assert gradcheck(lambda r, c: predict(r, c)[0], inputs, **options)
    assert gradcheck(lambda r, c: predict(r, c)[2:4], inputs, **options)
    assert gradgradcheck(lambda r, c: predict(r, c)[0], inputs, **options)


@pytest.mark.parametrize("case", ["nequip", "mace", "ace"])
def test_forces_have_gradients_for_every_weight_that_they_depend_on(case):
    """What a force loss needs: the derivative of the force along a weight, against a finite difference."""
    model, graph = potential(case), cluster(4).graph()
    weight = model.layers[0].mix.weights["0e"]

    def force(step: float) -> torch.Tensor:
        with torch.no_grad():
            weight[0, 0] += step
        try:
            return evaluate(model, graph).forces[0, 0]
        finally:
            with torch.no_grad():
                weight[0, 0] -= step

    (g,) = torch.autograd.grad(evaluate(model, graph, create_graph=True).forces[0, 0], weight)
    assert g[0, 0].abs() > 1e-8
    assert abs(slope(force) - g[0, 0]) < TOLERANCE * g.abs().max()


def test_evaluate_works_under_no_grad_and_leaves_nothing_attached():
    model, graph = potential("botnet"), STRUCTURES["crystal"].graph()
    expected = evaluate(model, graph)
    with torch.no_grad():
        prediction = evaluate(model, graph)
        assert not torch.is_grad_enabled()
    for value, known in zip(prediction, expected, strict=True):
        assert not value.requires_grad
        assert torch.equal(value, known)
    assert not graph.positions.requires_grad


def test_forces_come_out_where_the_positions_carry_gradients_but_no_higher_derivative_is_wanted():
    model, graph = potential("botnet"), STRUCTURES["crystal"].graph()
    positions = graph.positions.clone().requires_grad_(True)
    prediction = evaluate(model, replace(graph, positions=positions))
    assert torch.equal(prediction.forces, evaluate(model, graph).forces)
    assert positions.grad is None
