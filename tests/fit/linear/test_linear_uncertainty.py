"""From a fit to an uncertainty: the covariance of its posterior, prediction rigidity, limits and contributions."""

import numpy as np
import pytest
import torch
from ase import Atoms
from test_linear_prior import posterior_of
from toy_features import made_by

from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.fit.linear import LinearFitOptions, calibration, fit_linear
from equipot.fit.linear.rigidity import rigidity
from equipot.fit.linear.uncertainty import known

NOISE = (0.02, 0.1, 0.2)
OPTIONS = LinearFitOptions(energy_weight=25.0, stress_weight=0.25, seed=4)


def fitted(options=OPTIONS, trained=False):
    true, features, data, _ = posterior_of(count=16)
    valid = made_by(true, 10, seed=900, noise=NOISE)
    result = fit_linear(features, data, valid, options)
    return features, data, valid, result, known(result, features, (data, valid), (1, 8), options, trained=trained)


def test_the_factor_is_that_of_the_posterior_scaled_to_the_errors():
    features, data, _, result, found = fitted()
    graph = data.batch([0, 1]).graph
    scale = found.facts["scale"]
    expected = result.posterior.calibrated(scale).deviations(features, graph)
    species = (graph.atomic_numbers == 8).long()
    deviations = found.uncertainty(features, graph, species, forces=True)
    assert torch.allclose(deviations.energy, expected.energy, rtol=1e-8)
    assert torch.allclose(deviations.forces, expected.forces, rtol=1e-8)
    ratios = found.facts["error_over_deviation"]
    assert ratios["energy"] ** 2 + ratios["forces"] ** 2 == pytest.approx(2.0)
    assert found.facts["exact"]


def test_training_atoms_do_not_extrapolate_and_one_of_each_element_is_at_the_limit():
    features, data, _, _, found = fitted()
    graph = data.batch(range(len(data))).graph
    species = (graph.atomic_numbers == 8).long()
    extrapolation = found.uncertainty(features, graph, species).extrapolation
    for z in (0, 1):
        assert float(extrapolation[species == z].max()) == pytest.approx(1.0, rel=1e-9)


def test_contributions_are_those_of_the_weights():
    features, data, _, _, found = fitted()
    energies = torch.cat([features.node_rows(data.batch([i]).graph) @ features.w for i in range(len(data))])
    assert found.contributions == pytest.approx({1: float(energies.square().mean().sqrt())})


def test_rigidity_is_its_formula_and_validation_errors_scale_it():
    r"""σ² = α² f (FᵀF + ς²)⁻¹ fᵀ, and mean error²/σ² of energies and forces is 1 between them."""
    features, _, valid, result, found = fitted(trained=True)
    rigid = rigidity(result.posterior, features, valid)
    U = torch.from_numpy(result.posterior.factor.matrix).triu()[:-1, :-1]
    FF = U.T @ U - torch.diag(torch.from_numpy(result.posterior.factor.precisions))
    inverse = torch.linalg.inv(FF + rigid.strength * torch.eye(len(FF), dtype=torch.float64))
    f = features.rows(valid.batch([0]).graph, forces=False, stress=False).energy / result.posterior.penalties
    assert float((f @ rigid.factor).square().sum()) == pytest.approx(
        rigid.scale**2 * float((f @ inverse @ f.T).squeeze()), rel=1e-6
    )
    assert torch.equal(found.uncertainty.factor, rigid.factor)
    assert rigid.ratios["energy"] ** 2 + rigid.ratios["forces"] ** 2 == pytest.approx(2.0, rel=1e-6)
    assert rigid.ratios["forces"] == pytest.approx(1.0, abs=0.4)


def test_rigidity_prefers_its_own_strength():
    """Ten times more or less of ς² makes the validation errors less likely, or does not matter."""
    features, _, valid, result, _ = fitted(trained=True)
    rigid = rigidity(result.posterior, features, valid)
    U = torch.from_numpy(result.posterior.factor.matrix).triu()[:-1, :-1]
    FF = U.T @ U - torch.diag(torch.from_numpy(result.posterior.factor.precisions))
    parts = []
    for i in range(len(valid)):
        batch = valid.batch([i])
        rows, prediction = features.rows(batch.graph, forces=True, stress=False), features.prediction(batch.graph)
        parts.append((rows.energy, batch.labels.energy - prediction.energy))
        parts.append((rows.forces, (batch.labels.forces - prediction.forces).flatten()))

    def surprise(strength):
        inverse = torch.linalg.inv(FF + strength * torch.eye(len(FF), dtype=torch.float64))
        kinds = []
        for kind in (0, 1):
            X = torch.cat([x for x, _ in parts[kind::2]]) / result.posterior.penalties
            e = torch.cat([e for _, e in parts[kind::2]])
            kinds.append((torch.einsum("ip,pq,iq->i", X, inverse, X), e.square()))
        α2 = sum((e / v).mean() for v, e in kinds) / 2
        return float(sum((α2 * v).log().mean() for v, _ in kinds))

    least = surprise(rigid.strength)
    assert all(surprise(factor * rigid.strength) >= least - 1e-6 for factor in (0.1, 10.0))


def test_forces_that_symmetry_makes_zero_scale_nothing():
    """A perfect crystal has forces without deviation; the tiny ones in its labels are no surprise of infinite size."""
    features, _, valid, result, _ = fitted(trained=True)
    grid = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), -1).reshape(-1, 3) * 1.5
    atoms = Atoms("H8", positions=grid, cell=[3.0] * 3, pbc=True)
    perfect = Frame(atoms, forces=np.full((8, 3), 1e-5))
    graph = Dataset([perfect], valid.r_max).graphs[0]
    rows = features.rows(graph, forces=True, stress=False).forces
    assert float(result.posterior.variances(rows).max()) < 1e-20
    more = Dataset([*valid.frames, perfect], valid.r_max)
    without, with_it = (calibration(result.posterior, features, data).forces for data in (valid, more))
    assert with_it == pytest.approx(without)
    assert rigidity(result.posterior, features, more).scale == pytest.approx(
        rigidity(result.posterior, features, valid).scale, rel=1e-3
    )


def test_without_validation_labels_or_uncertainty_there_is_no_scale():
    features, data, *_ = fitted()
    bare = LinearFitOptions(energy_weight=25.0, calibrate=False)
    facts = known(fit_linear(features, data, None, bare), features, (data, data), (1, 8), bare, trained=False).facts
    assert (facts["scale"], facts["error_over_deviation"]) == (1.0, {})
    none = LinearFitOptions(uncertainty=False)
    found = known(fit_linear(features, data, None, none), features, (data, data), (1, 8), none, trained=False)
    assert found.uncertainty is None
    assert found.contributions
