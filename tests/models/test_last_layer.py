"""Any potential is linear in its last weights, and the rows of the design matrix are its derivatives."""

import pytest
import torch

from equipot.geometry import Graph, batch_graphs, evaluate, voigt
from equipot.models.last_layer import LastLayer
from equipot.models.potential import Potential
from equipot.points import botnet, mace, mace_nonlinear, nequip, nequix
from tests.physics.small import SMALL, STATISTICS, cluster, crystal

DESIGNS = {
    "mace": mace(**{**SMALL, "max_L": 1, "correlation": 2}),
    "botnet": botnet(**{**SMALL, "max_L": 1, "layers": 3, "scale_shift_per_species": True, "scale": "force_rms"}),
    "nequip": nequip(**{**SMALL, "max_L": 1, "layers": 2}),
    "nequix": nequix(**{**SMALL, "max_L": 1, "channels": (3, 2), "layers": 2}),
    "mace_nonlinear": mace_nonlinear(**{**SMALL, "max_L": 1, "correlation": 2}, pair_repulsion="zbl"),
}


def batch() -> Graph:
    """A periodic and an open structure."""
    return batch_graphs([crystal().graph(), cluster().graph()])


@pytest.mark.parametrize("name", DESIGNS)
def test_prediction_is_offset_and_rows_times_weights(name):
    potential = Potential(DESIGNS[name], STATISTICS, dtype=torch.float64, seed=3)
    features, graph = LastLayer(potential), batch()
    rows, offset, w = features.rows(graph), features.offset(graph), features.weights()
    expected = evaluate(potential, graph)
    assert torch.allclose(offset.energy + rows.energy @ w, expected.energy, rtol=1e-12)
    assert torch.allclose(offset.forces.flatten() + rows.forces @ w, expected.forces.flatten(), atol=1e-12)
    stress = voigt(offset.stress).flatten() + rows.stress @ w
    assert torch.allclose(stress, voigt(expected.stress).flatten(), atol=1e-13, equal_nan=True)
    assert torch.allclose(features.node_rows(graph).sum(dim=0), rows.energy.sum(dim=0), atol=1e-12)
    assert rows.energy.abs().amax(dim=0).min() > 0, "every weight matters"


@pytest.mark.parametrize("name", DESIGNS)
def test_new_weights_give_what_the_rows_say(name):
    potential = Potential(DESIGNS[name], STATISTICS, dtype=torch.float64, seed=3)
    features, graph = LastLayer(potential), batch()
    w = torch.randn(features.num_columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features.set_weights(w)
    assert torch.equal(features.weights(), w)
    expected = features.offset(graph).energy + features.rows(graph, forces=False, stress=False).energy @ w
    assert torch.allclose(potential(graph, graph.vectors()).sum(), expected.sum(), rtol=1e-12)


def test_rows_are_the_same_without_gradients_around_and_without_trainable_weights():
    features, graph = LastLayer(Potential(DESIGNS["mace"], STATISTICS, dtype=torch.float64, seed=3)), batch()
    expected = features.rows(graph)
    features.potential.requires_grad_(False)
    with torch.no_grad():
        rows = features.rows(graph)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(rows, expected, strict=True))
    assert not any(part.requires_grad for part in rows)


def test_the_prediction_is_the_potentials():
    features, graph = LastLayer(Potential(DESIGNS["mace"], STATISTICS, dtype=torch.float64, seed=3)), batch()
    assert torch.equal(features.prediction(graph).forces, evaluate(features.potential, graph).forces)


def test_what_is_not_wanted_has_no_rows():
    features, graph = LastLayer(Potential(DESIGNS["mace"], STATISTICS, dtype=torch.float64)), batch()
    rows = features.rows(graph, forces=False, stress=False)
    assert len(rows.forces) == len(rows.stress) == 0
    assert len(features.rows(graph, stress=False).stress) == 0
