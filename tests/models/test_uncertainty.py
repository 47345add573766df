"""Deviations of what is linear in fitted weights, and that a model keeps them in its file and in other precisions."""

import math

import pytest
import torch

from equipot.geometry import batch_graphs
from equipot.models.last_layer import LastLayer
from equipot.models.model_file import converted, load_potential, save_potential
from equipot.models.potential import Potential
from equipot.models.uncertainty import Uncertainty
from equipot.points import mace
from tests.physics.small import SMALL, STATISTICS, cluster, crystal

DESIGN = mace(**{**SMALL, "max_L": 1, "correlation": 2})


def model(dtype=torch.float64) -> Potential:
    """A potential with some uncertainty of its last weights."""
    potential = Potential(DESIGN, STATISTICS, dtype=dtype, seed=3)
    columns = LastLayer(potential).num_columns
    factor = torch.randn(columns, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    potential.uncertainty = Uncertainty(factor, torch.linspace(1.0, 2.0, len(STATISTICS.species)))
    return potential


def deviations(potential: Potential):
    graph = batch_graphs([crystal().graph(), cluster().graph()])
    return potential.uncertainty(LastLayer(potential), graph, potential.species(graph.atomic_numbers), forces=True)


def test_deviations_are_those_of_a_normal_distribution_of_weights():
    potential = model()
    graph = batch_graphs([crystal().graph(), cluster().graph()])
    covariance = potential.uncertainty.factor @ potential.uncertainty.factor.T
    rows, found = LastLayer(potential).rows(graph), deviations(potential)
    for X, deviation in ((rows.energy, found.energy), (rows.forces, found.forces.flatten())):
        expected = torch.einsum("ip,pq,iq->i", X, covariance, X).sqrt()
        assert torch.allclose(deviation, expected, rtol=1e-10)
    limits = potential.uncertainty.limits[potential.species(graph.atomic_numbers)]
    assert torch.allclose(found.extrapolation * limits, found.node_energy, rtol=1e-12)


def test_a_committee_estimates_them():
    potential = model()
    exact = deviations(potential).energy
    draws = torch.randn(potential.uncertainty.factor.shape[1], 400, generator=torch.Generator().manual_seed(2)).double()
    potential.uncertainty = Uncertainty(potential.uncertainty.factor @ draws / 20.0, potential.uncertainty.limits)
    assert torch.allclose(deviations(potential).energy, exact, rtol=4.0 / math.sqrt(800))


def test_a_model_file_keeps_them(tmp_path):
    potential = model()
    save_potential(tmp_path / "m.equipot", potential)
    again = load_potential(tmp_path / "m.equipot", check=True)
    assert all(torch.equal(a, b) for a, b in zip(deviations(again), deviations(potential), strict=True))
    potential.uncertainty = None
    save_potential(tmp_path / "n.equipot", potential)
    assert load_potential(tmp_path / "n.equipot").uncertainty is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_in_another_precision_has_them(dtype):
    potential = model()
    other = converted(potential, dtype)
    assert other.uncertainty.factor.dtype == torch.float64
    assert torch.allclose(deviations(other).energy, deviations(potential).energy, rtol=1e-4)
