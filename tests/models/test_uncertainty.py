"""Deviations of what is linear in fitted weights, and that a model keeps them in its file and in other precisions."""

import math

import pytest
import torch
from torch import nn

from equipot.errors import EquipotError
from equipot.geometry import batch_graphs
from equipot.models.extrapolation import Extrapolation
from equipot.models.last_layer import LastLayer
from equipot.models.linear import own_uncertainty
from equipot.models.model_file import converted, load_potential, save_potential
from equipot.models.potential import Potential
from equipot.models.uncertainty import Uncertainty
from equipot.points import mace
from tests.physics.small import SMALL, STATISTICS, cluster, crystal

DESIGN = mace(**{**SMALL, "max_L": 1, "correlation": 2})


def measure(columns: int) -> Extrapolation:
    """Some ellipsoids in two directions of the features."""
    generator = torch.Generator().manual_seed(4)
    species = len(STATISTICS.species)
    return Extrapolation(
        torch.randint(2**31, (columns, 8), generator=generator), torch.rand(species, columns, generator=generator),
        torch.full((species,), 2), torch.rand(species, 3, 3, generator=generator), torch.linspace(1.0, 2.0, species),
    )  # fmt: skip


def model(dtype=torch.float64) -> Potential:
    """A potential with some uncertainty of its last weights."""
    potential = Potential(DESIGN, STATISTICS, dtype=dtype, seed=3)
    columns = LastLayer(potential).num_columns
    factor = torch.randn(columns, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    potential.uncertainty = Uncertainty(factor, measure(columns))
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


def test_weights_are_drawn_from_the_covariance():
    uncertainty = model().uncertainty
    steps = uncertainty.draw(20000, seed=5)
    covariance = uncertainty.factor @ uncertainty.factor.T
    scale = covariance.diagonal().max()
    assert torch.allclose(steps.T @ steps / len(steps) / scale, covariance / scale, atol=0.05)
    assert torch.equal(uncertainty.draw(3, seed=5), uncertainty.draw(3, seed=5))
    assert not torch.equal(uncertainty.draw(3, seed=6), uncertainty.draw(3, seed=5))


def test_a_committee_estimates_them():
    potential = model()
    exact = deviations(potential).energy
    draws = torch.randn(potential.uncertainty.factor.shape[1], 400, generator=torch.Generator().manual_seed(2)).double()
    potential.uncertainty = Uncertainty(
        potential.uncertainty.factor @ draws / 20.0, potential.uncertainty.extrapolation
    )
    assert torch.allclose(deviations(potential).energy, exact, rtol=4.0 / math.sqrt(800))


def test_a_model_file_keeps_them(tmp_path):
    potential = model()
    save_potential(tmp_path / "m.equipot", potential)
    again = load_potential(tmp_path / "m.equipot", check=True)
    assert all(torch.equal(a, b) for a, b in zip(deviations(again), deviations(potential), strict=True))
    potential.uncertainty = None
    save_potential(tmp_path / "n.equipot", potential)
    assert load_potential(tmp_path / "n.equipot").uncertainty is None


def test_grades_of_an_earlier_kind_are_left_out_with_a_word(tmp_path, caplog):
    potential = model()
    earlier = nn.Module()
    earlier.register_buffer("factor", potential.uncertainty.factor)
    earlier.register_buffer("limits", torch.ones(3, dtype=torch.float64))
    potential.uncertainty = earlier
    save_potential(tmp_path / "m.equipot", potential)
    again = load_potential(tmp_path / "m.equipot", check=True)
    assert again.uncertainty is None and "--keep-weights" in caplog.text
    with pytest.raises(EquipotError, match="does not say how uncertain"):
        own_uncertainty(again, "m.equipot")


def test_grades_are_the_leverage_of_projected_features():
    """g² = ψ W Wᵀ ψᵀ / limit² with ψ = (1, s φ P) formed feature by feature; without training atoms infinite."""
    found = measure(5)
    rows = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ψ = torch.zeros(7, 3, dtype=torch.float64)
    ψ[:, 0] = 1.0
    for feature in range(5):
        for draw in found.draws[feature].tolist():
            sign = 1.0 if draw % 2 else -1.0
            ψ[:, 1 + (draw // 2) % 2] += sign * found.scale[1, feature] * rows[:, feature] / 8**0.5
    expected = (ψ @ found.metric[1].double()).norm(dim=1) / found.limits[1]
    assert torch.allclose(found(rows, torch.ones(7, dtype=torch.int64)), expected, rtol=1e-12)
    found.limits[1] = 0.0
    assert found(rows, torch.ones(7, dtype=torch.int64)).isinf().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_in_another_precision_has_them(dtype):
    potential = model()
    other = converted(potential, dtype)
    assert other.uncertainty.factor.dtype == torch.float64
    assert torch.allclose(deviations(other).energy, deviations(potential).energy, rtol=1e-4)
