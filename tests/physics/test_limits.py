"""Limits: the cutoff, isolated atoms, larger cells, several systems at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from equipot.geometry import batch_graphs, evaluate
from equipot.models import Potential
from equipot.points import NAMED_POINTS, mace, nequip_nosc_e0

from .small import (
    FUSED,
    R_MAX,
    SMALL,
    STATISTICS,
    STRUCTURES,
    Structure,
    cluster,
    every_point,
    point,
    potential,
    relative,
)

E0 = dict(zip(STATISTICS.species, STATISTICS.atomic_energies, strict=True))
OPEN = (False, False, False)


def leaving(distance: float) -> Structure:
    """A pair, and a third atom at a distance from the first alone, along a line."""
    along = np.array([0.6, 0.0, 0.8])
    return Structure(np.array([0 * along, -1.1 * along, distance * along]), np.zeros((3, 3)), OPEN, np.array([6, 8, 1]))


def curve(model, distance: float) -> torch.Tensor:
    """E, E′ and E″ of an atom that leaves a pair, E less its limit, by differentiating twice."""
    graph = leaving(2.0).graph()
    along = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    d = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
    positions = torch.stack([0 * along, -1.1 * along, d * along])
    E = evaluate(model, replace(graph, positions=positions), create_graph=True).energy.squeeze()
    (first,) = torch.autograd.grad(E, d, create_graph=True)
    (second,) = torch.autograd.grad(first, d)
    apart = evaluate(model, leaving(2 * R_MAX).graph()).energy.squeeze()
    return torch.stack([E.detach() - apart, first.detach(), second])


@every_point
def test_energy_force_and_curvature_go_to_zero_together_at_the_cutoff(case):
    """With E ~ δ^n, n ≥ 3, at r_max − δ: E, E′, E″ fall at least as δ³, δ² and δ."""
    model = potential(case)
    delta = 0.02
    near, nearer = curve(model, R_MAX - delta), curve(model, R_MAX - delta / 2)
    assert (nearer.abs() > 1e-14).all()
    fall = torch.log2((near / nearer).abs())
    assert (fall > torch.tensor([2.7, 1.7, 0.7])).all(), fall
    beyond = 1e-13 if case in FUSED else 0.0  # fused sums over edges are in another order with edges that add nothing
    assert curve(model, R_MAX + 1e-9).abs().max() <= beyond


@every_point
def test_pairs_beyond_the_cutoff_in_the_list_change_nothing(case):
    """A neighbour list with a skin gives the same energies, forces and stress."""
    model = potential(case)
    for s in STRUCTURES.values():
        near, wide = s.graph(), s.graph(R_MAX + 1.0)
        assert wide.num_edges > near.num_edges or s is STRUCTURES["cluster"]
        for value, known in zip(evaluate(model, wide), evaluate(model, near), strict=True):
            assert relative(value.nan_to_num(), known.nan_to_num()) < 1e-12


def test_repulsion_ends_at_the_cutoff_where_the_atoms_are_larger_than_it():
    """The ZBL term reaches to the sum of covalent radii, 1.52 Å for C–C, but never beyond r_max."""
    design = point("ace", r_max=1.4, pair_repulsion="zbl")
    model = Potential(design, STATISTICS, dtype=torch.float64)
    pair = Structure(np.array([[0.0, 0, 0], [1.4 - 1e-6, 0, 0]]), np.zeros((3, 3)), OPEN, np.array([6, 6]))
    inside, outside = (evaluate(model, s.graph(1.4)) for s in (pair, pair._replace(positions=1.1 * pair.positions)))
    assert inside.forces.abs().max() < 1e-8
    assert abs(inside.energy - outside.energy) < 1e-12


@pytest.mark.parametrize("number", [1, 6, 8])
@pytest.mark.parametrize("name", NAMED_POINTS)
def test_an_isolated_atom_has_the_energy_that_its_reference_says(name, number):
    """E0 where no self-connection reaches the readout; E0 + shift with a shift; neither if the first layer has one."""
    exact = {"ace", "ace_linear", "botnet", "botnet_element", "nequip_current", "nequip_nosc_e0", "invariant"}
    shifted = {"botnet_ssh", "nequip_nosc_e0_ssh"}
    energy = float(evaluate(potential(name), alone(number).graph()).energy)
    if name in exact:
        assert energy == E0[number]
    elif name in shifted:
        assert energy == pytest.approx(E0[number] + STATISTICS.energy_mean, abs=1e-14)
    else:
        assert potential(name).design.self_connection_first
        assert min(abs(energy - E0[number]), abs(energy - E0[number] - STATISTICS.energy_mean)) > 1e-6


def alone(number: int) -> Structure:
    return Structure(np.zeros((1, 3)), np.zeros((3, 3)), OPEN, np.array([number]))


@pytest.mark.parametrize(
    ("design", "expected"),
    [
        (mace(**SMALL, residual_first=False, shift="none"), E0[8]),
        (mace(**SMALL, residual_first=False), E0[8] + STATISTICS.energy_mean),
        (
            mace(**SMALL, residual_first=False, scale_shift_per_species=True),
            E0[8] + STATISTICS.energy_mean_per_species[2],
        ),
        (point("nequip_nosc_e0", energy_reference="mean_shift"), STATISTICS.total_energy_mean),
        (point("botnet", pair_repulsion="zbl"), E0[8]),
        (point("botnet", neighbour_normalisation="density", feature_norm="rms"), E0[8]),
    ],
    ids=["mace non-residual", "shift", "shift per species", "mean shift", "zbl", "density and rms"],
)
def test_references_of_an_isolated_atom(design, expected):
    graph = alone(8).graph()
    prediction = evaluate(Potential(design, STATISTICS, dtype=torch.float64), graph)
    assert float(prediction.energy) == pytest.approx(expected, abs=1e-14)
    assert torch.equal(prediction.forces, torch.zeros(1, 3, dtype=torch.float64))


def test_scale_multiplies_the_interaction_energy_and_only_it():
    plain, scaled = (
        Potential(nequip_nosc_e0(**SMALL, max_L=1, layers=2, scale=scale), STATISTICS, dtype=torch.float64)
        for scale in ("none", "energy_std")
    )
    graph = cluster(4).graph()
    reference = sum(E0[z] for z in graph.atomic_numbers.tolist())
    interaction = evaluate(plain, graph).energy - reference
    assert relative(evaluate(scaled, graph).energy - reference, STATISTICS.energy_std * interaction) < 1e-12


@every_point
def test_a_supercell_has_as_many_times_the_energy(case):
    model = potential(case)
    for s, repeats in (
        (STRUCTURES["crystal"], (2, 1, 1)),
        (STRUCTURES["slab"], (1, 1, 2)),
        (STRUCTURES["wire"], (1, 1, 3)),
    ):
        n = int(np.prod(repeats))
        shifts = np.array(list(np.ndindex(repeats))) @ s.cell
        positions = (s.positions[None] + shifts[:, None]).reshape(-1, 3)
        big = Structure(positions, s.cell * np.array(repeats)[:, None], s.pbc, np.tile(s.numbers, n))
        one, many = evaluate(model, s.graph()), evaluate(model, big.graph())
        assert relative(many.energy, n * one.energy) < 1e-12
        assert relative(many.forces, one.forces.repeat(n, 1)) < 1e-10
        assert relative(many.virial, n * one.virial) < 1e-10


@every_point
def test_systems_of_a_batch_cannot_see_each_other(case):
    model = potential(case)
    structures = [*STRUCTURES.values(), alone(8), STRUCTURES["cluster"]._replace(numbers=np.array([8, 8, 1, 6, 6]))]
    graph = batch_graphs([s.graph() for s in structures])
    positions = graph.positions.clone().requires_grad_(True)
    together = evaluate(model, replace(graph, positions=positions), create_graph=True)
    for n, s in enumerate(structures):
        single, own = evaluate(model, s.graph()), graph.system == n
        assert relative(together.energy[n], single.energy[0]) < 1e-13
        assert relative(together.forces[own], single.forces) < 1e-11
        assert relative(together.virial[n], single.virial[0]) < 1e-11
        (g,) = torch.autograd.grad(together.energy[n], positions, retain_graph=True)
        assert g[~own].abs().max() == 0.0


@every_point
def test_two_clusters_out_of_reach_are_two_systems(case):
    model = potential(case)
    a, b = cluster(4, seed=1), cluster(3, seed=2)
    far = Structure(
        np.vstack([a.positions, b.positions + np.array([50.0, 0, 0])]),
        a.cell,
        OPEN,
        np.concatenate([a.numbers, b.numbers]),
    )
    apart = evaluate(model, batch_graphs([a.graph(), b.graph()]))
    together = evaluate(model, far.graph())
    assert relative(together.energy, apart.energy.sum()) < 1e-12
    assert relative(together.forces, apart.forces) < 1e-10
