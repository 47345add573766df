"""Forces, virial and stress against finite differences, and the derivatives that training takes of them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from equipot.geometry import Graph, batch_graphs, evaluate
from equipot.models import Potential
from equipot.models.model_file import converted

from .small import STRUCTURES, Structure, cluster, every_plain_point, every_point, potential, relative

SYSTEMS = list(STRUCTURES.values())
LEARNED = {
    "triclinic": [STRUCTURES["crystal"]],
    "slab": [STRUCTURES["slab"]],
    "batch": [STRUCTURES["crystal"], STRUCTURES["slab"], cluster(3)],
}
"""What derivatives of higher order are checked on, alone and together."""
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


def checked(case: str, name: str, outputs: Sequence[str]):
    """What `evaluate` gives as a function of positions, cell and strain; where to check it, and how well."""
    model, graph = potential(case), batch_graphs([s.graph() for s in LEARNED[name]])
    one = torch.eye(3, dtype=torch.float64)

    def predict(positions, cell, strain):
        stretch = one + strain
        stretched = (stretch.index_select(0, graph.system) @ positions.unsqueeze(-1)).squeeze(-1)
        moved = replace(graph, positions=stretched, cell=cell @ stretch.mT)
        prediction = evaluate(model, moved, create_graph=True)
        return tuple(getattr(prediction, output) for output in outputs)

    strain = torch.zeros(graph.num_systems, 3, 3, dtype=torch.float64)
    inputs = tuple(x.clone().requires_grad_(True) for x in (graph.positions, graph.cell, strain))
    scale = float(evaluate(model, graph).forces.abs().max())
    return predict, inputs, {"fast_mode": True, "atol": 1e-5 * max(scale, 1.0), "rtol": 1e-4}


@pytest.mark.parametrize("name", LEARNED)
@every_point
def test_first_derivatives_of_energy_forces_virial_and_stress(case, name):
    """With positions, cell and strain: up to the second derivatives of the energy."""
    outputs = ["energy", "forces", "virial", *(["stress"] if name == "triclinic" else [])]
    predict, inputs, options = checked(case, name, outputs)
    assert gradcheck(predict, inputs, **options)


@every_plain_point
def test_second_derivatives_of_energy_forces_and_virial_of_a_batch(case):
    predict, inputs, options = checked(case, "batch", ["energy", "forces", "virial"])
    assert gradgradcheck(predict, inputs, **options)


def training_terms(model: Potential, graph: Graph) -> torch.Tensor:
    """Sums of squared errors of energy, forces and virial, attached to the weights; the labels are zero."""
    prediction = evaluate(model, graph, create_graph=True)
    return torch.stack([x.square().sum() for x in (prediction.energy, prediction.forces, prediction.virial)])


def gradients(term: torch.Tensor, model: Potential) -> list[torch.Tensor]:
    weights = list(model.parameters())
    return list(torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("name", LEARNED)
@every_point
def test_gradients_of_the_terms_of_the_loss_with_all_weights(case, name):
    """What a step of training takes, along a direction in which every weight moves, against finite differences."""
    model, graph = potential(case), batch_graphs([s.graph() for s in LEARNED[name]])
    weights = list(model.parameters())
    before, generator = [p.detach().clone() for p in weights], torch.Generator().manual_seed(5)
    along = [p.square().mean().sqrt() * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in before]

    @torch.no_grad()
    def terms(step: float) -> torch.Tensor:
        for p, start, d in zip(weights, before, along, strict=True):
            p.copy_(start + step * d)
        try:
            return training_terms(model, graph).detach()
        finally:
            for p, start in zip(weights, before, strict=True):
                p.copy_(start)

    expected = slope(terms)
    for term, known in zip(training_terms(model, graph), expected, strict=True):
        work = torch.stack([(g * d).sum() for g, d in zip(gradients(term, model), along, strict=True)])
        assert work.abs().max() > 1e-6
        assert abs(work.sum() - known) < TOLERANCE * work.abs().sum()


@every_point
def test_single_precision_agrees_with_double(case):
    """Energies, forces, stress, and the gradients that training takes of each."""
    exact, graph = potential(case), batch_graphs([s.graph() for s in SYSTEMS])
    single = converted(exact, "float32")
    one, two = evaluate(single, graph), evaluate(exact, graph)
    crystal = two.stress.isfinite()
    assert torch.equal(one.stress.isfinite(), crystal) and int(crystal.sum()) == 9
    assert relative(one.energy, two.energy) < 1e-6
    assert relative(one.forces, two.forces) < 1e-5
    assert relative(one.stress[crystal], two.stress[crystal]) < 1e-5
    for term, known in zip(training_terms(single, graph), training_terms(exact, graph), strict=True):
        flat = [torch.cat([g.double().flatten() for g in gradients(*x)]) for x in ((term, single), (known, exact))]
        assert relative(*flat) < 1e-4


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


@every_point
def test_weights_may_be_given_from_outside(case):
    """torch.func.functional_call gives the gradients of the weights in place, for ensembles and sensitivities."""
    model, graph = potential(case), cluster().graph()
    inside = dict(model.named_parameters())
    expected = torch.autograd.grad(model(graph, graph.vectors()).sum(), inside.values(), allow_unused=True)
    outside = {name: p.detach().clone().requires_grad_() for name, p in inside.items()}
    energy = torch.func.functional_call(model, outside, (graph, graph.vectors())).sum()
    found = torch.autograd.grad(energy, outside.values(), allow_unused=True)
    for theirs, ours in zip(expected, found, strict=True):
        assert (theirs is None) == (ours is None)
        assert theirs is None or torch.equal(theirs, ours)


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


@pytest.mark.parametrize("case", ["ace", "nequip", "mace"])
def test_energies_alone_are_the_same_without_the_derivative(case):
    """And so are their gradients with the weights; what was not asked for is NaN."""
    model, graph = potential(case), batch_graphs([s.graph() for s in SYSTEMS])
    whole = evaluate(model, graph, create_graph=True)
    with torch.no_grad():
        alone = evaluate(model, graph, create_graph=True, derivatives=False)
    assert torch.equal(alone.energy, whole.energy) and torch.equal(alone.node_energy, whole.node_energy)
    for given, known in zip(alone[2:], whole[2:], strict=True):
        assert given.shape == known.shape and given.isnan().all()
    for one, two in zip(*(gradients(p.energy.square().sum(), model) for p in (alone, whole)), strict=True):
        assert torch.allclose(one, two, rtol=1e-12, atol=1e-12)
    assert not any(value.requires_grad for value in evaluate(model, graph, derivatives=False))


def test_forces_come_out_where_the_positions_carry_gradients_but_no_higher_derivative_is_wanted():
    model, graph = potential("botnet"), STRUCTURES["crystal"].graph()
    positions = graph.positions.clone().requires_grad_(True)
    prediction = evaluate(model, replace(graph, positions=positions))
    assert torch.equal(prediction.forces, evaluate(model, graph).forces)
    assert positions.grad is None
