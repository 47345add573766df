"""Below the shortest distances in training: atoms repel each other, whatever was fitted above."""

import numpy as np
import pytest
import torch

from equipot.geometry import evaluate
from equipot.models import Potential
from equipot.models.linear import linear_features
from equipot.points import ace_linear

from .small import R_MAX, SPECIES, STATISTICS, Structure, cluster, crystal, point

SHORTEST = {(1, 1): 1.5, (1, 6): 1.0, (1, 8): 0.9, (6, 6): 1.3, (6, 8): 1.2, (8, 8): 0.0}
"""Å; O and O were never neighbours, and begin at 0.7 · 1.32 Å."""
MEASURED = STATISTICS.model_copy(update={"pair_distances": tuple(SHORTEST.values())})
DESIGN = ace_linear(r_max=R_MAX, degrees=(6, 8, 8), degree_rarity=0)


def dimer(pair: tuple[int, int], r: float) -> Structure:
    along = np.array([0.6, 0.0, 0.8])
    return Structure(np.array([0 * along, r * along]), np.zeros((3, 3)), (False,) * 3, np.array(pair))


def radial_force(model: Potential, pair: tuple[int, int], r: float) -> float:
    """Force on the second atom away from the first, eV/Å."""
    return float(evaluate(model, dimer(pair, r).graph()).forces[1] @ torch.tensor([0.6, 0.0, 0.8]).double())


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("pair", SHORTEST)
def test_dimers_repel_each_other_below_the_data(pair, seed):
    """From 0.9 a to 0.3 a, with weights that nothing constrains, and harder the closer they are."""
    model = Potential(DESIGN, MEASURED, dtype=torch.float64, seed=seed)
    a = SHORTEST[pair] or 0.7 * 1.32
    forces = [radial_force(model, pair, x * a) for x in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)]
    assert forces[0] > 0
    assert (np.diff(forces) > 0).all()


def test_the_core_alone_has_its_formula_and_no_end():
    """V = K (a/r − 1)³, K = 500 eV, and nothing from a on."""
    model = Potential(DESIGN, MEASURED, dtype=torch.float64)
    features = linear_features(model)
    features.set_weights(torch.zeros(features.num_columns, dtype=torch.float64))
    for pair, a in {**SHORTEST, (8, 8): 0.7 * 1.32}.items():
        E0 = sum(dict(zip(SPECIES, STATISTICS.atomic_energies, strict=True))[z] for z in pair)
        for x in (0.1, 0.5, 0.9, 0.99):
            energy = float(evaluate(model, dimer(pair, x * a).graph()).energy) - E0
            assert energy == pytest.approx(500 * (1 / x - 1) ** 3, rel=1e-9)
        assert float(evaluate(model, dimer(pair, a * (1 + 1e-9)).graph()).energy) == E0


def test_where_there_are_data_nothing_changes():
    """Energies, forces, and every row of the design matrix."""
    for structure in (cluster(6), crystal()):
        graph = structure.graph()
        nearest = float(torch.linalg.vector_norm(graph.vectors(), dim=1).min())
        numbers = STATISTICS.model_copy(update={"pair_distances": (nearest,) * 6})
        with_wall, without = (
            Potential(DESIGN.replace(**axes), numbers, dtype=torch.float64, seed=2)
            for axes in ({}, {"distance_floor": False, "pair_repulsion": "none"})
        )
        for a, b in zip(evaluate(with_wall, graph), evaluate(without, graph), strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12, equal_nan=True)
        rows, expected = (linear_features(p).rows(graph) for p in (with_wall, without))
        assert torch.allclose(rows.forces, expected.forces, atol=1e-11)


def test_rows_and_offset_are_the_prediction_below_the_data_too():
    numbers = STATISTICS.model_copy(update={"pair_distances": (1.6,) * 6})
    potential, graph = Potential(DESIGN, numbers, dtype=torch.float64, seed=2), cluster(6).graph()
    features, expected = linear_features(potential), evaluate(potential, graph)
    rows, offset, w = features.rows(graph), features.offset(graph), features.weights()
    assert float(offset.energy) > 100
    assert torch.allclose(offset.energy + rows.energy @ w, expected.energy, rtol=1e-12)
    assert torch.allclose(offset.forces.flatten() + rows.forces @ w, expected.forces.flatten(), atol=1e-10)


def test_a_core_is_of_any_design():
    """Its distances are those of training for deep models too."""
    mace, walled = (Potential(point("mace", pair_repulsion=r), MEASURED, dtype=torch.float64) for r in ("none", "core"))
    r = 0.5 * SHORTEST[6, 8]
    energies = [float(evaluate(model, dimer((6, 8), r).graph()).energy) for model in (mace, walled)]
    assert energies[1] - energies[0] == pytest.approx(500)
