"""From a fit to an uncertainty: the covariance of its posterior, prediction rigidity, limits and contributions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from test_linear_prior import posterior_of
from toy_features import PairFeatures, made_by

from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.fit.linear import LinearFitOptions, calibration, fit_linear
from equipot.fit.linear.rigidity import rigidity
from equipot.fit.linear.shares import shares
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
        rigidity(result.posterior, features, valid).scale, rel=0.05
    ), "but that forces of eleven structures count, in place of ten"


def test_without_validation_labels_or_uncertainty_there_is_no_scale():
    features, data, *_ = fitted()
    bare = LinearFitOptions(energy_weight=25.0, calibrate=False)
    facts = known(fit_linear(features, data, None, bare), features, (data, data), (1, 8), bare, trained=False).facts
    assert (facts["scale"], facts["error_over_deviation"]) == (1.0, {})
    none = LinearFitOptions(uncertainty=False)
    found = known(fit_linear(features, data, None, none), features, (data, data), (1, 8), none, trained=False)
    assert found.uncertainty is None
    assert found.contributions


@pytest.mark.parametrize("options", [OPTIONS, OPTIONS.model_copy(update={"prior": 1e12})], ids=["searched", "given"])
def test_a_fit_that_learns_nothing_says_so_and_nothing_about_its_uncertainty(options, caplog):
    """Labels are what the model has without weights, and noise."""
    features = PairFeatures(4)
    data, valid = made_by(features, 12, noise=NOISE), made_by(features, 10, seed=900, noise=NOISE)
    result = fit_linear(features, data, valid, options)
    assert result.learnt_nothing and result.facts()["learnt_nothing"]
    assert result.calibration is None
    assert "has learnt next to nothing" in caplog.text
    found = known(result, features, (data, valid), (1, 8), options, trained=False)
    assert found.uncertainty is None and found.facts == {}
    assert "says nothing about its uncertainty" in caplog.text


def test_last_weights_that_are_right_already_are_no_reason_to_say_nothing(caplog):
    """Their prior is found from validation errors, not from what the fit could change."""
    features = PairFeatures(4)
    data, valid = made_by(features, 12, noise=NOISE), made_by(features, 10, seed=900, noise=NOISE)
    options = OPTIONS.model_copy(update={"keep_weights": True})
    result = fit_linear(features, data, valid, options)
    assert result.learnt_nothing and not caplog.text
    assert known(result, features, (data, valid), (1, 8), options, trained=True).uncertainty is not None


@pytest.mark.parametrize(
    ("structures", "expected"),
    [
        ({"energy": 50, "forces": 50}, {"energy": 0.5, "forces": 0.5}),
        ({"energy": 90, "forces": 10}, {"energy": 0.9, "forces": 0.1}),
        ({"energy": 3, "forces": 3}, {"energy": 0.0, "forces": 1.0}),
        ({"energy": 3}, {"energy": 1.0}),
        ({"forces": 3}, {"forces": 1.0}),
        ({"energy": 0, "forces": 0}, {}),
        ({}, {}),
    ],
    ids=str,
)
def test_kinds_count_by_their_structures(structures, expected):
    assert shares(structures) == expected


@pytest.mark.parametrize("trained", [False, True])
def test_a_few_energies_do_not_decide_the_scale(trained, caplog):
    """Those of three structures are off by 50 eV."""
    true, features, data, _ = posterior_of(count=16)
    valid = made_by(true, 3, seed=900, noise=NOISE)
    off = Dataset([replace(frame, energy=frame.energy + 50.0) for frame in valid.frames], valid.r_max)
    scales = []
    for left_out in (valid, off):
        result = fit_linear(features, data, left_out, OPTIONS)
        found = known(result, features, (data, left_out), (1, 8), OPTIONS, trained=trained).facts
        assert found["scaled_on"] == {"energy": 3, "forces": 3}
        scales.append(found["scale"])
    assert scales[1] == pytest.approx(scales[0], rel=1e-6)
    assert "scaled on only 3 energies and 3 structures with forces" in caplog.text
