"""A potential on top of another one: the sum of both, with every constant once, however their cutoffs lie."""

import numpy as np
import pytest
import torch

from equipot.design import Design
from equipot.geometry import Graph, Prediction, batch_graphs, evaluate
from equipot.models import Potential
from equipot.points import ace_linear
from tests.physics.small import R_MAX, STATISTICS, STRUCTURES, cluster, crystal, every_point, point, potential, relative
from tests.physics.test_ghosts import with_ghosts

DEGREES = (3, 5, 5)
BELOW = ["mace", "nequip", "botnet", "nequip_shifted", "mace_nonlinear", "ace_linear", "zbl"]
LATER = STATISTICS.model_copy(update={"atomic_energies": (-10.0, -20.0, -30.0)})
"""E0s that are not those of the baselines."""


def correction(r_max: float = R_MAX, **axes) -> Design:
    return ace_linear(r_max=r_max, degrees=DEGREES, **axes)


def weak(**axes) -> Design:
    """Without a core."""
    return correction(**{"pair_repulsion": "none", **axes})


def both(below: Potential, design: Design) -> tuple[Potential, Potential]:
    """The correction on top of a baseline, and alone, with the same weights."""
    upon = Potential(design, LATER, dtype=torch.float64, seed=2, baseline=below).eval()
    return upon, Potential(design, LATER, dtype=torch.float64, seed=2).eval()


def batch(r_max: float) -> Graph:
    return batch_graphs([crystal().graph(r_max), cluster(6).graph(r_max)])


def added(x: Prediction, y: Prediction, less: torch.Tensor, graph: Graph) -> Prediction:
    """The sum of two predictions, without some energy of each atom."""
    by_system = torch.zeros_like(x.energy).index_add(0, graph.system, less)
    sums = [a + b for a, b in zip(x, y, strict=True)]
    return Prediction(sums[0] - by_system, sums[1] - less, *sums[2:])


@every_point
def test_beyond_its_cutoff_a_potential_sees_nothing(case):
    """So that it may be given the edges of a larger one."""
    near, far = (evaluate(potential(case), batch(r_max)) for r_max in (R_MAX, 1.7 * R_MAX))
    for a, b in zip(near, far, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("case", ["mace", "nequix", "ace_linear"])
def test_nor_do_its_splines(case):
    splined = Potential(point(case), STATISTICS, dtype=torch.float64, radial="spline:32").eval()
    near, far = (evaluate(splined, batch(r_max)) for r_max in (R_MAX, 1.7 * R_MAX))
    assert torch.allclose(near.forces, far.forces, rtol=0, atol=1e-12)


@pytest.mark.parametrize("r_max", [0.8 * R_MAX, R_MAX, 1.4 * R_MAX], ids=["shorter", "equal", "longer"])
@pytest.mark.parametrize("case", BELOW)
def test_it_is_the_sum_with_its_own_E0s(case, r_max):
    below = potential(case).eval()
    upon, alone = both(below, correction(r_max))
    assert upon.r_max == max(R_MAX, r_max)
    graph = batch(upon.r_max)
    theirs = below.E0[below.species(graph.atomic_numbers)].detach()
    expected = added(evaluate(below, batch(R_MAX)), evaluate(alone, batch(r_max)), theirs, graph)
    for name, a, b in zip(Prediction._fields, evaluate(upon, graph), expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-11, equal_nan=True), name


def test_an_isolated_atom_has_E0_and_what_an_atom_of_the_baseline_has_beside_it():
    below = potential("nequip_shifted")
    upon, _ = both(below, correction())
    atom = cluster(1).graph()
    energy = evaluate(below, atom).energy - below.E0[0]
    assert torch.allclose(evaluate(upon, atom).energy, LATER.atomic_energies[0] + energy, rtol=1e-13)


def test_repulsion_is_of_either_but_of_one():
    plain, repulsive = (Potential(weak(pair_repulsion=r), STATISTICS, dtype=torch.float64) for r in ("none", "zbl"))
    graph = batch(R_MAX)
    one = Potential(weak(), LATER, dtype=torch.float64, baseline=repulsive)
    other = Potential(weak(pair_repulsion="zbl"), LATER, dtype=torch.float64, baseline=plain)
    assert torch.allclose(evaluate(one, graph).forces, evaluate(other, graph).forces, atol=1e-12)
    assert relative(evaluate(one, graph).forces, evaluate(both(plain, weak())[0], graph).forces) > 1e-3


@pytest.mark.parametrize("case", ["mace", "ace_linear"])
def test_forces_and_stress_are_slopes_of_the_energy(case):
    upon, _ = both(potential(case).eval(), correction(1.3 * R_MAX))
    structure, rng, h = crystal(), np.random.default_rng(5), 1e-4
    along, strain = rng.normal(size=structure.positions.shape), rng.normal(size=(3, 3))
    strain = strain + strain.T

    def energy(step: float, *, strained: bool) -> float:
        moved = structure.mapped(np.eye(3) + step * strain) if strained else structure
        moved = moved if strained else moved._replace(positions=moved.positions + step * along)
        return float(evaluate(upon, moved.graph(upon.r_max)).energy)

    found = evaluate(upon, structure.graph(upon.r_max))
    work = float((found.forces * torch.from_numpy(along)).sum())
    volume = abs(np.linalg.det(structure.cell))
    stretching = volume * float((found.stress[0] * torch.from_numpy(strain)).sum())
    for strained, expected in ((False, -work), (True, stretching)):
        slope = (
            8 * (energy(h, strained=strained) - energy(-h, strained=strained))
            - (energy(2 * h, strained=strained) - energy(-2 * h, strained=strained))
        ) / (12 * h)
        assert slope == pytest.approx(expected, rel=1e-7)


def test_a_correction_of_a_correction():
    first, _ = both(potential("nequip").eval(), correction())
    second, alone = both(first, correction(1.2 * R_MAX))
    graph = batch(second.r_max)
    E0 = first.E0[first.species(graph.atomic_numbers)].detach()
    expected = added(evaluate(first, batch(R_MAX)), evaluate(alone, graph), E0, graph)
    assert torch.allclose(evaluate(second, graph).node_energy, expected.node_energy, rtol=1e-12)
    assert torch.allclose(evaluate(second, graph).forces, expected.forces, atol=1e-12)
    assert [part.design.layers for part in second.parts()] == [1, 1, first.baseline.design.layers]


def test_ghosts_complete_the_features_of_the_baseline():
    upon, _ = both(potential("botnet").eval(), correction(1.2 * R_MAX))
    for structure in (STRUCTURES["crystal"], STRUCTURES["slab"]):
        graph = structure.graph(upon.r_max)
        ghosts, owner = with_ghosts(graph)
        expected = evaluate(upon, graph)
        upon.exchange = lambda h, owner=owner: h.index_select(0, owner)
        found = evaluate(upon, ghosts)
        del upon.exchange
        forces = torch.zeros_like(expected.forces).index_add(0, owner, found.forces)
        assert relative(found.node_energy, expected.node_energy) < 1e-12
        assert relative(forces, expected.forces) < 1e-10
