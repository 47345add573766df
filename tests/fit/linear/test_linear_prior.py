"""The strength of the prior, and what the posterior says, against synthetic data of which all is known."""

import math

import numpy as np
import pytest
import torch
from toy_features import PairFeatures, hidden, made_by

from equipot.errors import EquipotError
from equipot.fit.linear import LinearFitOptions, calibration, fit_linear
from equipot.fit.linear.assemble import Assembly, KeptRows
from equipot.fit.linear.fit import fold_indices
from equipot.fit.linear.problem import NormalEquations, TriangularProblem
from equipot.fit.linear.search import by_cross_validation, by_evidence, log_evidence
from equipot.fit.linear.solve import solve_direct
from equipot.fit.linear.weighting import Weighting


def drawn(rows: int, columns: int, strength: float, noise: float, seed: int = 0):
    """Rows [X | y] with weights from the prior N(0, σ²/λ), and those weights; columns of very different sizes."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, columns)) * np.geomspace(1, 1e-3, columns)
    v = rng.normal(size=columns) * noise / math.sqrt(strength)
    return np.column_stack([X, X @ v + noise * rng.normal(size=rows)]), v


def summed(kind, block):
    problem = kind(block.shape[1] - 1)
    for start in range(0, len(block), 37):
        problem.add(np.ascontiguousarray(block[start : start + 37]))
    return problem


def nothing(*_):
    return None


@pytest.mark.parametrize("kind", [NormalEquations, TriangularProblem])
def test_log_evidence_is_that_of_the_normal_distribution_of_the_targets(kind):
    """ln N(y; 0, σ² (1 + X Xᵀ/λ)) with σ² where it is largest, from the whole covariance matrix of the rows."""
    block, _ = drawn(60, 8, 0.5, 0.3)
    X, y = block[:, :-1], block[:, -1]
    λ = np.linspace(0.1, 2.0, 8)
    C = np.eye(60) + (X / λ) @ X.T
    variance = y @ np.linalg.solve(C, y) / 60
    expected = -0.5 * (60 * math.log(2 * math.pi * variance) + 60 + np.linalg.slogdet(C)[1])
    assert log_evidence(60, summed(kind, block).factorise(λ)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kind", [NormalEquations, TriangularProblem])
def test_evidence_finds_noise_and_strength(kind):
    strengths = []
    for seed in range(5):
        block, _ = drawn(1000, 100, strength=4.0, noise=0.2, seed=seed)
        problem = summed(kind, block)
        tried = []
        search = by_evidence(problem, tried.append)
        assert 5 <= len(tried) <= 14 and not search.at_end
        strengths.append(search.strength)
        solution = solve_direct(problem, LinearFitOptions(), nothing)
        assert solution.noise == pytest.approx(0.2, rel=0.08)
        assert 20 < solution.effective_parameters < 100
    assert np.log(strengths).mean() == pytest.approx(math.log(4.0), abs=0.3)

    def score(strength):
        return -log_evidence(1000, problem.factorise(np.full(100, strength)))

    best = score(search.strength)
    assert best < min(score(search.strength / 1.3), score(search.strength * 1.3))
    assert dict(search.trace) == pytest.approx({λ: score(λ) for λ, _ in search.trace})
    assert dict(search.trace)[search.strength] == min(dict(search.trace).values())
    assert search.resolved


def test_at_the_largest_evidence_the_two_estimates_of_noise_are_one():
    """S/n = ‖r‖²/(n − γ): MacKay's condition for the largest evidence."""
    block, _ = drawn(500, 60, strength=2.0, noise=0.1)
    problem = summed(NormalEquations, block)
    solution = solve_direct(problem, LinearFitOptions(), nothing)
    assert solution.factor.objective / 500 == pytest.approx(solution.noise**2, rel=5e-3)


def test_a_matrix_of_several_panels_is_factorised_as_by_numpy():
    """More columns than one block of any of the algorithms; blocks of a few rows."""
    block, _ = drawn(1400, 1100, strength=1.0, noise=0.1)
    X, y = block[:, :-1], block[:, -1]
    K = X.T @ X + np.eye(1100)
    for kind in (NormalEquations, TriangularProblem):
        factor = summed(kind, block).factorise(np.ones(1100))
        np.testing.assert_allclose(factor.weights, np.linalg.solve(K, X.T @ y), atol=1e-9)
        np.testing.assert_allclose(factor.inverse_diagonal(), np.linalg.inv(K).diagonal(), rtol=1e-9)
        np.testing.assert_allclose(factor.solve(y[:1100]), np.linalg.solve(K, y[:1100]), atol=1e-9)
        assert factor.log_determinant == pytest.approx(np.linalg.slogdet(K)[1])


def test_a_problem_is_solved_again_and_again_in_one_matrix():
    """Each factorisation leaves the sums as they were, with rows left out too."""
    block, _ = drawn(300, 600, strength=1.0, noise=0.1)
    whole, part = summed(NormalEquations, block), summed(NormalEquations, block[:100])
    rest = summed(NormalEquations, block[100:])
    λ = np.ones(600)
    first = whole.factorise(λ).weights
    without = whole.factorise(λ, without=part).weights
    np.testing.assert_allclose(without, rest.factorise(λ).weights, atol=1e-9)
    whole.factorise(100 * λ)
    np.testing.assert_array_equal(whole.factorise(λ).weights, first)
    X, y = block[:, :-1], block[:, -1]
    assert whole.residual_sum(first) == pytest.approx(np.sum((X @ first - y) ** 2), rel=1e-9)


def test_cross_validation_is_the_error_of_what_is_left_out():
    """By hand for the strength it takes; and no other strength is better."""
    block, _ = drawn(300, 80, strength=20.0, noise=0.5)
    parts = [block[i::4] for i in range(4)]
    folds = [summed(NormalEquations, part) for part in parts]
    whole = summed(NormalEquations, block)
    search = by_cross_validation(whole, folds, nothing)

    def by_hand(λ):
        total = 0.0
        for i, part in enumerate(parts):
            rest = np.concatenate([p for j, p in enumerate(parts) if j != i])
            X, y = rest[:, :-1], rest[:, -1]
            v = np.linalg.solve(X.T @ X + λ * np.eye(80), X.T @ y)
            total += np.sum((part[:, :-1] @ v - part[:, -1]) ** 2)
        return math.log(total / 300)

    assert dict(search.trace) == pytest.approx({λ: by_hand(λ) for λ, _ in search.trace}, abs=1e-9)
    grid = [by_hand(λ) for λ in np.geomspace(search.strength / 1e3, search.strength * 1e3, 13)]
    assert by_hand(search.strength) <= min(grid) + 1e-5
    assert 1.0 < search.strength < 400.0


def test_cross_validation_of_a_fit_leaves_structures_out():
    """Four structures for 48 weights: its strength is not far from the best for structures that no fit has seen."""
    true = hidden(PairFeatures(16))
    data, test = made_by(true, 4, noise=(0.05, 0.3, 0.5)), made_by(true, 20, seed=7)

    def tested(prior):
        options = LinearFitOptions(prior=prior, folds=4, energy_weight=36.0, stress_weight=0.36)
        result = fit_linear(PairFeatures(16), data, None, options)
        return forces_rmse(PairFeatures(16), result.weights, test)

    best, weak, strong = tested("cross_validation"), tested(1e-6), tested(1e3)
    assert best < 0.1 * weak and best < 0.1 * strong and best < 1.3 * tested(1.0)
    folds = fold_indices(10, 3, seed=1)
    assert sorted(index for fold in folds for index in fold) == list(range(10)) and {len(fold) for fold in folds} == {
        3,
        4,
    }
    with pytest.raises(EquipotError, match="folds"):
        fit_linear(PairFeatures(3), made_by(true, 2), None, LinearFitOptions(prior="cross_validation"))


def forces_rmse(features, weights, data):
    features.set_weights(weights)
    batch = data.batch(range(len(data)))
    return float((features.prediction(batch.graph).forces - batch.labels.forces).square().mean().sqrt())


def test_ard_drops_what_the_data_do_not_need():
    """Twelve weights of sixty are not zero; they are found, and most others are dropped."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, 60))
    v = np.zeros(60)
    v[::5] = rng.normal(size=12) + 2.0
    problem = summed(NormalEquations, np.column_stack([X, X @ v + 0.1 * rng.normal(size=800)]))
    solution = solve_direct(problem, LinearFitOptions(solver="ard"), nothing)
    kept = set(solution.columns.tolist())
    assert set(range(0, 60, 5)) <= kept and len(kept) < 40
    np.testing.assert_allclose(solution.weights, v, atol=0.03)
    assert not solution.weights[sorted(set(range(60)) - kept)].any()
    ridge = solve_direct(problem, LinearFitOptions(), nothing)
    assert solution.noise == pytest.approx(0.1, rel=0.07) and solution.iterations <= 30
    assert solution.log_evidence > ridge.log_evidence + 30
    assert np.sum((solution.weights - v) ** 2) < 0.7 * np.sum((ridge.weights - v) ** 2)


def test_ard_of_a_fit_has_a_posterior_of_what_is_kept():
    true = PairFeatures(8)
    w = torch.zeros(24, dtype=torch.float64)
    w[[0, 9, 17]] = torch.tensor([3.0, -2.0, 4.0], dtype=torch.float64)
    true.set_weights(w)
    data = made_by(true, 12, noise=(0.01, 0.02, 0.1))
    result = fit_linear(PairFeatures(8), data, data, LinearFitOptions(solver="ard"))
    zero = (result.weights == 0).nonzero().flatten()
    assert 3 < len(zero) == result.facts()["weights_at_zero"] and {0, 9, 17}.isdisjoint(zero.tolist())
    assert not result.posterior.draw(3, 0)[:, zero].any() and not result.posterior.weight_deviations()[zero].any()


def posterior_of(functions=4, count=12, noise=(0.02, 0.1, 0.2), seed=0, **options):
    true = hidden(PairFeatures(functions))
    features = PairFeatures(functions)
    data = made_by(true, count, seed=seed, noise=noise)
    result = fit_linear(features, data, None, LinearFitOptions(energy_weight=25.0, stress_weight=0.25, **options))
    return true, features, data, result


def test_the_posterior_covers_the_truth():
    """With weights that match the noise, errors of noiseless predictions over their deviations have unit variance."""
    squares = []
    for seed in range(25):
        true, features, _, result = posterior_of(seed=seed)
        assert result.posterior.noise == pytest.approx(0.1, rel=0.25)
        test = made_by(true, 2, seed=seed + 500)
        graph = test.batch([0, 1]).graph
        deviations = result.posterior.deviations(features, graph)
        a, b = features.prediction(graph), true.prediction(graph)
        squares.append(((a.energy - b.energy) / deviations.energy).square().mean())
        squares.append(((a.forces - b.forces) / deviations.forces).square().mean())
        assert deviations.stress[0].isnan().all() and deviations.stress[1].isfinite().all()
    assert 0.7 < float(torch.stack(squares).mean()) < 1.4


def test_variances_are_those_of_the_inverse_matrix():
    penalties = 1.0 + torch.arange(12) % 4
    features = PairFeatures(4, penalties=penalties)
    data = made_by(hidden(PairFeatures(4)), 10, noise=(0.02, 0.1, 0.2))
    result = fit_linear(features, data, None, LinearFitOptions(prior=0.5, smoothness=1.0))
    posterior = result.posterior
    kept = KeptRows(result.survey.rows, 12, None)
    Assembly(features, Weighting(LinearFitOptions(smoothness=1.0), data), result.plan).stream(kept)
    X = kept.array[:, :-1] * penalties.numpy()
    K = X.T @ X + 0.5 * np.diag(penalties.numpy().astype(float) ** 2)
    covariance = posterior.noise**2 * np.linalg.inv(K)
    rows = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = rows.numpy() @ covariance @ rows.numpy().T
    np.testing.assert_allclose(posterior.variances(rows).numpy(), np.diag(expected), rtol=1e-8)
    np.testing.assert_allclose(posterior.weight_deviations().numpy(), np.sqrt(np.diag(covariance)), rtol=1e-8)
    twice = posterior.calibrated(2.0)
    torch.testing.assert_close(twice.variances(rows), 4 * posterior.variances(rows))


def test_a_committee_has_the_covariance_of_the_posterior():
    _, features, data, result = posterior_of(seed=2)
    rows = features.rows(data.batch([1]).graph, forces=True, stress=False)
    committee = result.posterior.draw(2000, seed=0)
    energies = committee @ rows.energy[0]
    forces = committee @ rows.forces.T
    deviations = result.posterior.deviations(features, data.batch([1]).graph)
    assert float(energies.std()) == pytest.approx(float(deviations.energy[0]), rel=0.08)
    torch.testing.assert_close(forces.std(dim=0), deviations.forces.flatten(), rtol=0.12, atol=1e-6)
    torch.testing.assert_close(committee.mean(dim=0), result.weights, rtol=0, atol=5 * 2000**-0.5)
    again = result.posterior.draw(2000, seed=0)
    assert torch.equal(again, committee) and not torch.equal(again, result.posterior.draw(2000, seed=1))


def test_calibration_measures_what_the_posterior_lacks():
    """Deviations divided by three are found to be three times too small; noise in the labels adds to errors."""
    true, features, _, result = posterior_of()
    test = made_by(true, 60, seed=100)
    right = calibration(result.posterior, features, test)
    third = calibration(result.posterior.calibrated(1 / 3), features, test)
    assert 0.4 < right.forces < 2.0 and 0.4 < right.energy < 2.0 and 0.3 < right.stress < 3.0
    for kind in ("energy", "forces", "stress"):
        assert getattr(third, kind) == pytest.approx(3 * getattr(right, kind))
    noisy = calibration(result.posterior, features, made_by(true, 60, seed=100, noise=(0.1, 0.5, 1.0)))
    assert noisy.forces > 2 * right.forces
    valid = fit_linear(PairFeatures(4), made_by(true, 12, noise=(0.02, 0.1, 0.2)), test, LinearFitOptions())
    assert valid.calibration is not None and valid.facts()["calibration"]["forces"] > 0


def test_priors_that_rounding_errors_hide_are_told_of_and_found_by_qr(caplog):
    """A hundred functions for few data without noise: the best prior is weaker than normal equations can resolve."""
    data = made_by(hidden(PairFeatures(18)), 30)
    with caplog.at_level("INFO", logger="equipot.fit"):
        normal = fit_linear(PairFeatures(30), data, None, LinearFitOptions())
    assert not normal.solution.search.resolved and "solver: qr resolves them" in caplog.text
    qr = fit_linear(PairFeatures(30), data, None, LinearFitOptions(solver="qr"))
    assert qr.solution.strength < normal.solution.strength / 100
    assert qr.errors["forces"].rmse < normal.errors["forces"].rmse


def test_smoothness_is_a_power_of_the_penalties():
    """Half the power of squared penalties is the penalties themselves; the posterior knows."""
    data = made_by(hidden(PairFeatures(4)), 10, noise=(0.02, 0.1, 0.2))
    penalties = 1.0 + torch.arange(12) % 4
    results = [
        fit_linear(PairFeatures(4, penalties=γ), data, None, LinearFitOptions(prior=3.0, smoothness=power))
        for γ, power in ((penalties, 1.0), (penalties**2, 0.5), (penalties, 0.0))
    ]
    one, same, flat = results
    torch.testing.assert_close(same.weights, one.weights, rtol=0, atol=1e-10)
    torch.testing.assert_close(same.posterior.weight_deviations(), one.posterior.weight_deviations())
    assert float((flat.weights - one.weights).abs().max()) > 1e-4
    plain = fit_linear(PairFeatures(4), data, None, LinearFitOptions(prior=3.0))
    torch.testing.assert_close(flat.weights, plain.weights, rtol=0, atol=1e-10)
