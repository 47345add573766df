"""Splined radial functions: the same potential to a stated error, as smooth, with forces that are its slope."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from equipot.errors import EquipotError
from equipot.geometry import batch_graphs, evaluate
from equipot.interactions.radial_spline import radial_choice, tables_of
from equipot.models import Potential

from .small import CASES, R_MAX, STATISTICS, STRUCTURES, cluster, every_plain_point, point, relative
from .test_limits import leaving

f64 = torch.float64


def splined(case: str, knots: int = 128, dtype: torch.dtype = f64) -> tuple[Potential, Potential]:
    """The splined potential of a case, and the exact one with the same weights."""
    exact = Potential(CASES[case], STATISTICS, dtype=dtype, seed=7)
    with torch.no_grad():
        for name, parameter in exact.named_parameters():
            if name.endswith((".alpha", ".beta")):
                parameter.fill_(1.0)
    spline = Potential(CASES[case], STATISTICS, dtype=dtype, radial=f"spline:{knots}")
    spline.load_state_dict(exact.state_dict())
    return spline, exact


@every_plain_point
def test_splines_agree_with_the_exact_functions(case):
    """128 knots: forces to 1e-5 of their size; a fixed basis of few functions is much smoother than that."""
    spline, exact = splined(case)
    graph = batch_graphs([s.graph() for s in (STRUCTURES["crystal"], STRUCTURES["cluster"])])
    found, known = evaluate(spline, graph), evaluate(exact, graph)
    assert relative(found.energy, known.energy) < 1e-7
    assert relative(found.forces, known.forces) < 1e-5
    assert relative(found.virial, known.virial) < 1e-5


@pytest.mark.parametrize("case", ["mace", "agnesi", "nequip, message of mace_nonlinear"])
def test_the_error_of_forces_falls_with_a_high_power_of_the_spacing(case):
    graph = STRUCTURES["cluster"].graph()
    errors = []
    for knots in (24, 48):
        spline, exact = splined(case, knots)
        errors.append(relative(evaluate(spline, graph).forces, evaluate(exact, graph).forces))
    assert errors[1] < errors[0] / 12


@every_plain_point
def test_functions_are_the_products_that_tables_are_made_of(case):
    model = splined(case)[0]
    points = model.to_edges._points(model.radial_basis, range(1))
    for layer in model.layers:
        factors = layer.radial_factors(points)
        for value, (functions, W) in zip(layer.radial_functions(points), factors, strict=True):
            assert torch.allclose(value, functions if W is None else functions @ W, rtol=1e-12, atol=1e-13)


@every_plain_point
def test_energy_force_and_curvature_vanish_at_the_cutoff(case):
    """E, E′ and E″ of an atom that leaves go to zero as those of the exact potential do, and are zero beyond."""
    spline, exact = splined(case)
    for model in (spline, exact):
        E, first, second = zip(*(curve(model, R_MAX - delta) for delta in (0.02, 0.01)), strict=True)
        fall = [np.log2(abs(a / b)) for a, b in (E, first, second)]
        assert fall[0] > 2.6
        assert fall[1] > 1.6
        assert fall[2] > 0.6
    assert max(map(abs, curve(spline, R_MAX + 1e-9))) == 0.0


def curve(model: Potential, distance: float) -> tuple[float, float, float]:
    graph = leaving(2.0).graph()
    along = torch.tensor([0.6, 0.0, 0.8], dtype=f64)
    d = torch.tensor(distance, dtype=f64, requires_grad=True)
    positions = torch.stack([0 * along, -1.1 * along, d * along])
    E = evaluate(model, replace(graph, positions=positions), create_graph=True).energy.squeeze()
    (first,) = torch.autograd.grad(E, d, create_graph=True)
    (second,) = torch.autograd.grad(first, d)
    apart = evaluate(model, leaving(2 * R_MAX).graph()).energy.squeeze()
    return float(E.detach() - apart), float(first.detach()), float(second)


@pytest.mark.parametrize("case", ["mace", "botnet, density", "agnesi", "nequip"])
def test_forces_and_stress_are_the_slope_of_the_energy(case):
    """Central differences of the splined energy itself, of fourth order: equal to its forces and virial."""
    spline, _ = splined(case, 32)
    S = STRUCTURES["crystal"]
    known = evaluate(spline.eval(), S.graph())
    h = 1e-3
    for atom, axis in ((0, 0), (1, 2)):
        E = {}
        for step in (-2, -1, 1, 2):
            moved = S.positions.copy()
            moved[atom, axis] += step * h
            E[step] = float(evaluate(spline, S._replace(positions=moved).graph()).energy.detach())
        slope = (8 * (E[1] - E[-1]) - (E[2] - E[-2])) / (12 * h)
        assert abs(slope + float(known.forces[atom, axis])) < 1e-8 * float(known.forces.abs().max())


def test_hessian_is_symmetric_and_the_slope_of_the_forces():
    spline, _ = splined("mace", 32)
    graph = cluster(3).graph()
    positions = graph.positions.clone().requires_grad_(True)

    def forces(x: torch.Tensor) -> torch.Tensor:
        return evaluate(spline, replace(graph, positions=x), create_graph=True).forces

    hessian = torch.autograd.functional.jacobian(forces, positions).reshape(9, 9)
    assert relative(hessian, hessian.T) < 1e-11
    assert torch.autograd.gradcheck(forces, positions, eps=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["mace", "mace_nonlinear", "agnesi", "botnet_ssh", "gaussian"])
def test_gradients_of_a_force_loss_agree_with_the_exact_ones(case):
    """In training the tables are made of the weights at each step, and gradients flow back through them."""
    graph = STRUCTURES["cluster"].graph()
    gradients = []
    for model in splined(case, 256):
        prediction = evaluate(model, graph, create_graph=True)
        loss = prediction.energy.sum() + prediction.forces.square().sum()
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        gradients.append(torch.cat([g.flatten() for g in found if g is not None]))
    assert relative(*gradients) < 1e-6


@pytest.mark.parametrize("case", ["mace", "mace_nonlinear", "fixed"])
def test_kept_tables_give_the_same_bits_and_the_same_gradients(case):
    graph = STRUCTURES["cluster"].graph()
    results = []
    for training in (True, False, False):
        if training or not results[1:]:
            model = splined(case, 64)[0].train(training)
        prediction = evaluate(model, graph, create_graph=True)
        loss = prediction.energy.sum() + prediction.forces.square().sum()
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        results.append([prediction.energy, prediction.forces, *found])
    for other in results[1:]:
        for known, value in zip(results[0], other, strict=True):
            assert (known is None) == (value is None)
            assert known is None or torch.allclose(known, value, rtol=1e-12, atol=1e-14)
    assert torch.equal(results[0][1], results[2][1])


@pytest.mark.parametrize("change", ["step", "load", "train", "double"])
def test_kept_tables_follow_the_weights(change):
    graph = STRUCTURES["cluster"].graph()
    model = splined("mace", 64)[0].eval()
    other = Potential(CASES["mace"], STATISTICS, dtype=f64, seed=8)
    before = evaluate(model, graph).forces
    if change == "step":
        with torch.no_grad():
            for p in model.layers[0].radial.parameters():
                p.mul_(1.5)
    elif change == "load":
        model.load_state_dict(other.state_dict())
    else:
        model.train()
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.data = q.data.clone()
        model.train(change == "train")
    fresh = Potential(CASES["mace"], STATISTICS, dtype=f64, radial="spline:64")
    fresh.load_state_dict(model.state_dict())
    found = evaluate(model, graph).forces
    assert torch.equal(found, evaluate(fresh, graph).forces)
    assert relative(found, before) > 1e-3


def test_inference_mode_and_no_grad_are_served():
    graph = STRUCTURES["cluster"].graph()
    model, exact = splined("mace", 128)
    known = evaluate(exact, graph).energy
    for mode in (torch.no_grad, torch.inference_mode):
        for training in (True, False):
            with mode():
                E = model.train(training)(graph, graph.vectors()).sum()
            assert relative(E.reshape(1), known) < 1e-7
    with torch.inference_mode():
        inside = splined("mace", 128)[0].eval()
        assert relative(inside(graph, graph.vectors()).sum().reshape(1), known) < 1e-7


def test_only_the_pairs_that_are_present_have_a_table():
    """Agnesi distances depend on both elements: a structure of H and O needs at most four tables of nine."""
    made = []
    model, exact = splined("agnesi", 64)
    layer = model.layers[0]
    counted = layer.radial_factors
    layer.radial_factors = lambda points: made.append(points.sender_species.shape[0]) or counted(points)
    S = cluster(4)._replace(numbers=np.array([1, 8, 8, 8]))
    found = evaluate(model, S.graph())
    assert made == [3 * 64], "H with O, O with H, O with O"
    assert relative(found.forces, evaluate(exact, S.graph()).forces) < 1e-4


def test_what_the_tables_depend_on():
    found = {case: tables_of(CASES[case]) for case in ("mace", "nequip", "botnet", "agnesi", "soft", "mace_nonlinear")}
    assert found == {
        "mace": "nothing", "nequip": "nothing", "botnet": found["botnet"], "agnesi": "pair", "soft": "pair",
        "mace_nonlinear": "pair",
    }  # fmt: skip
    assert tables_of(point("mace").replace(radial_map="linear_species")) == "sender"


def test_atoms_without_neighbours_have_their_energy():
    model, exact = splined("agnesi")
    alone = cluster(1).graph()
    assert torch.equal(evaluate(model, alone).energy, evaluate(exact, alone).energy)


@pytest.mark.parametrize("text", ["", "splines", "spline:", "spline:8", "spline:99999", "exact:3", "Spline"])
def test_other_choices_are_refused(text):
    with pytest.raises(EquipotError, match="radial = "):
        radial_choice(text)


def test_choices_are_written_out():
    assert [radial_choice(t) for t in ("exact", "spline:64")] == ["exact", "spline:64"]
    assert radial_choice("spline").startswith("spline:")
    model = splined("mace", 64)[0]
    assert (model.radial, model.choose_radial("exact").radial) == ("spline:64", "exact")
