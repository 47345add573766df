"""Fits of what a baseline leaves: hidden weights come back, and two-body functions alone are a pair potential."""

import pytest
import torch

from equipot.fit.linear import LinearFitOptions, fit_linear
from equipot.geometry import evaluate, graph_from_atoms
from equipot.models import Potential
from equipot.models.last_layer import voigt
from equipot.models.linear import linear_features
from equipot.points import ace_linear
from tests.fit.linear.test_linear_ace_recovered import R_MAX, STATISTICS, labelled, structures
from tests.physics.small import point

HIDDEN = ace_linear(r_max=R_MAX, degrees=(4, 8, 8))
BELOW = {
    "pair potential": ace_linear(r_max=R_MAX, degrees=(7,)),
    "shorter mace": point("mace"),
    "nequip": point("nequip", r_max=R_MAX),
}


@pytest.fixture(params=BELOW)
def below(request) -> Potential:
    return Potential(BELOW[request.param], STATISTICS, dtype=torch.float64, seed=8)


def test_a_hidden_linear_ace_on_top_of_a_baseline_is_recovered(below):
    """To 1e-8, and so are predictions of structures that were not fitted."""
    hidden = Potential(HIDDEN, STATISTICS, dtype=torch.float64, seed=11, baseline=below)
    features = linear_features(Potential(HIDDEN, STATISTICS, dtype=torch.float64, seed=12, baseline=below))
    data = labelled(hidden, 30)
    fit_linear(features, data, None, LinearFitOptions(solver="qr", prior=0.0, uncertainty=False))
    found, expected = features.weights(), linear_features(hidden).weights()
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-8
    for batch in (data.batch([0, 2]), labelled(hidden, 33).batch([31, 32])):
        torch.testing.assert_close(features.prediction(batch.graph).forces, batch.labels.forces, rtol=0, atol=1e-8)


def test_rows_are_those_of_the_correction_and_the_offset_is_the_baseline(below):
    """Also with the edges of a longer baseline, whose neighbours the correction does not see."""
    design = HIDDEN.replace(r_max=0.8 * R_MAX)
    potential = Potential(design, STATISTICS, dtype=torch.float64, seed=3, baseline=below)
    features, alone = linear_features(potential), linear_features(Potential(design, STATISTICS, dtype=torch.float64))
    graph = graph_from_atoms(structures(3)[2], potential.r_max)
    near = graph_from_atoms(structures(3)[2], 0.8 * R_MAX)
    rows, expected = features.rows(graph), alone.rows(near)
    for a, b in zip(rows, expected, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    assert torch.allclose(features.node_rows(graph), alone.node_rows(near), rtol=0, atol=1e-12)
    whole, offset, w = evaluate(potential, graph), features.offset(graph), features.weights()
    assert torch.allclose(offset.energy, evaluate(below, graph).energy, rtol=1e-13)
    assert torch.allclose(offset.energy + rows.energy @ w, whole.energy, rtol=1e-12)
    assert torch.allclose(offset.forces.flatten() + rows.forces @ w, whole.forces.flatten(), atol=1e-11)
    assert torch.allclose(voigt(offset.stress).flatten() + rows.stress @ w, voigt(whole.stress).flatten(), atol=1e-12)


def test_two_body_functions_alone_are_a_pair_potential():
    """It is recovered, and its energy of three atoms is the sum over their pairs."""
    hidden = Potential(BELOW["pair potential"], STATISTICS, dtype=torch.float64, seed=1)
    features = linear_features(Potential(BELOW["pair potential"], STATISTICS, dtype=torch.float64, seed=2))
    assert features.num_columns == 3 * 7
    fit_linear(features, labelled(hidden, 15), None, LinearFitOptions(solver="qr", prior=0.0, uncertainty=False))
    assert torch.allclose(features.weights(), linear_features(hidden).weights(), rtol=0, atol=1e-8)
    atoms = structures(1)[0][:3]

    def bound(kept: list[int]) -> float:
        graph = graph_from_atoms(atoms[kept], R_MAX)
        return float((evaluate(hidden, graph).node_energy - hidden.E0[hidden.species(graph.atomic_numbers)]).sum())

    assert bound([0, 1, 2]) == pytest.approx(bound([0, 1]) + bound([0, 2]) + bound([1, 2]), abs=1e-12)
