"""Weights that generated the data are found again, by every solver, in pieces and at once; and what is said of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_features import R_MAX, PairFeatures, hidden, made_by

from equipot.data.dataset import Dataset
from equipot.errors import EquipotError
from equipot.fit.linear import LinearFitOptions, SingularError, TypeWeights, fit_linear
from equipot.fit.linear.assemble import KeptRows
from equipot.fit.linear.weighting import Weighting
from equipot.fit.loss import label_counts, label_errors, loss, loss_sums
from equipot.fit.options import FitOptions, LossWeights
from equipot.models.linear_features import LinearFeatures

EXACT = LinearFitOptions(prior=0.0, uncertainty=False)


def fit(features, data, options, **kwargs):
    return fit_linear(features, data, None, options, **kwargs)


@pytest.mark.parametrize(
    "changes",
    [{}, {"solver": "qr"}, {"solver": "lsqr", "lsqr_tolerance": 1e-14}, {"refinements": 2}, {"convention": "training"}],
    ids=str,
)
def test_hidden_weights_are_found_again(changes):
    true = hidden(PairFeatures(4))
    features = PairFeatures(4)
    assert isinstance(features, LinearFeatures)
    result = fit(features, made_by(true, 8), EXACT.model_copy(update=changes))
    torch.testing.assert_close(result.weights, true.w, rtol=0, atol=1e-8)
    assert torch.equal(features.w, result.weights)
    assert result.errors["forces"].rmse < 1e-8 and result.errors["stress"].rmse < 1e-8


def test_hidden_weights_are_found_again_with_a_prior_that_the_data_choose():
    """The evidence of data without noise is for a prior that shifts nothing."""
    true = hidden(PairFeatures(4))
    qr = fit(PairFeatures(4), made_by(true, 8), LinearFitOptions(solver="qr"))
    torch.testing.assert_close(qr.weights, true.w, rtol=0, atol=1e-8)


def test_badly_conditioned_weights_need_qr_or_refinement():
    """κ = 5·10⁶: normal equations leave four digits of the weights; QR ten, and so do three refinements."""
    true = hidden(PairFeatures(14))
    data = made_by(true, 30)
    error = {}
    for name, changes in {"plain": {}, "refined": {"refinements": 3}, "qr": {"solver": "qr"}}.items():
        result = fit(PairFeatures(14), data, EXACT.model_copy(update=changes))
        error[name] = float((result.weights - true.w).abs().max())
        assert result.solution.condition_number > 1e6
    assert error["refined"] < 1e-8 and error["qr"] < 1e-8 and error["plain"] > 1e-6


def test_solvers_agree_on_noisy_data():
    """They minimise the same sum with the same prior, smoothness weighted."""
    true = hidden(PairFeatures(5))
    data = made_by(true, 10, noise=(0.01, 0.05, 0.1))
    penalties = 1.0 + torch.arange(true.num_columns) % 5
    options = LinearFitOptions(prior=0.3, lsqr_tolerance=1e-14)
    results = [
        fit(PairFeatures(5, penalties=penalties), data, options.model_copy(update={"solver": solver}))
        for solver in ("normal_equations", "qr", "lsqr")
    ]
    for other in results[1:]:
        torch.testing.assert_close(other.weights, results[0].weights, rtol=0, atol=1e-9)
        assert other.solution.residual_sum == pytest.approx(results[0].solution.residual_sum, rel=1e-9)
    a, b = (result.solution for result in results[:2])
    assert a.effective_parameters == pytest.approx(b.effective_parameters, rel=1e-9)
    assert a.condition_number == pytest.approx(b.condition_number, rel=1e-6)
    assert a.log_evidence == pytest.approx(b.log_evidence, rel=1e-9)
    assert results[2].posterior is None and results[1].posterior is not None


def dense(features, data, options):
    """X and y of all labels, unscaled by Γ, formed at once with numpy."""
    weighting = Weighting(options, data)
    batch = data.batch(range(len(data)))
    rows = features.rows(batch.graph, forces=True, stress=True)
    parts = list(weighting.weighted(range(len(data)), batch, rows, features.offset(batch.graph)))
    X = torch.cat([part.rows * part.factor[:, None] for part in parts]).numpy()
    return X, torch.cat([part.target * part.factor for part in parts]).numpy()


@pytest.mark.parametrize("solver", ["normal_equations", "qr"])
def test_streamed_in_small_blocks_as_by_hand_in_one_piece(solver):
    """Against numpy on the whole matrix: weights, residuals, condition number, effective parameters."""
    true = hidden(PairFeatures(5))
    data = made_by(true, 12, noise=(0.01, 0.05, 0.1))
    penalties = 1.0 + torch.arange(true.num_columns) % 5
    features = PairFeatures(5, penalties=penalties)
    λ = 0.7
    X, y = dense(PairFeatures(5), data, LinearFitOptions())
    Γ = np.diag(penalties.numpy())
    w = np.linalg.solve(X.T @ X + λ * Γ @ Γ, X.T @ y)
    result = fit(features, data, LinearFitOptions(solver=solver, prior=λ, smoothness=1.0, max_memory_GB=2.2e-5))
    assert result.plan.block_rows < len(y) / 3 and max(features.asked) < len(y) / 3
    np.testing.assert_allclose(result.weights.numpy(), w, atol=1e-10)
    s = result.solution
    assert s.residual_sum == pytest.approx(np.sum((X @ w - y) ** 2), rel=1e-7)
    singular = np.linalg.svd(X / np.diag(Γ), compute_uv=False)
    assert s.effective_parameters == pytest.approx(np.sum(singular**2 / (singular**2 + λ)), rel=1e-10)
    spread = np.sqrt(singular**2 + λ)
    assert s.condition_number == pytest.approx(spread.max() / spread.min(), rel=0.03)


def test_the_training_convention_minimises_the_loss_of_training():
    """The gradient of the mean squared loss vanishes at the weights, and grows to first order around them."""
    true = hidden(PairFeatures(3))
    data = made_by(true, 8, noise=(0.05, 0.1, 0.5))
    data = Dataset([replace(f, weight=1.0 + i % 3, forces_weight=0.5) for i, f in enumerate(data.frames)], R_MAX)
    features = PairFeatures(3)
    weights = LossWeights(energy=40.0, forces=7.0, stress=30.0)
    given = {f"{kind}_weight": value for kind, value in weights.model_dump().items()}
    result = fit(features, data, LinearFitOptions(prior=0.0, convention="training", **given))
    batch, options = data.batch(range(len(data))), FitOptions(**given)

    def value(w):
        features.set_weights(w)
        errors = label_errors(features.prediction(batch.graph), batch.labels, batch.graph)
        return loss(loss_sums(errors, batch.labels, batch.graph, options), label_counts(batch.labels), weights)

    gradient = numerical(value, result.weights)
    assert float(gradient.abs().max()) < 1e-6
    moved = numerical(value, result.weights + 0.01)
    assert float(moved.abs().max()) > 1e-3
    assert result.solution.residual_sum == pytest.approx(float(value(result.weights)), rel=1e-9)


def numerical(value, w, step=1e-4):
    eye = step * torch.eye(len(w), dtype=torch.float64)
    return torch.stack([(value(w + e) - value(w - e)) / (2 * step) for e in eye])


@pytest.mark.parametrize(("convention", "power"), [("ace", 1), ("per_atom", 2), ("total", 0)])
def test_conventions_weigh_energies_by_size(convention, power):
    data = made_by(hidden(PairFeatures(2)), 2)
    options = LinearFitOptions(convention=convention, energy_weight=9.0, forces_weight=4.0)
    factors = Weighting(options, data).factors([0, 1], data.batch([0, 1]))
    sizes = torch.tensor([6.0, 8.0], dtype=torch.float64)
    torch.testing.assert_close(factors.energy, 3.0 * sizes ** (-power / 2))
    assert set(factors.forces.tolist()) == {2.0}


def test_weights_of_config_types_and_structures():
    """A weight of 4 is as good as four copies; a weight of 0 as no label at all."""
    true = hidden(PairFeatures(3))
    data = made_by(true, 6, noise=(0.05, 0.1, 0.5))
    four = TypeWeights(energy=4.0, forces=4.0, stress=4.0)
    by_option = fit(PairFeatures(3), data, EXACT.model_copy(update={"config_type_weights": {"crystal": four}}))
    copies = [f for f in data.frames for _ in range(4 if f.config_type == "crystal" else 1)]
    by_copies = fit(PairFeatures(3), Dataset(copies, R_MAX), EXACT)
    by_frame = Dataset([replace(f, weight=4.0 if f.config_type == "crystal" else 1.0) for f in data.frames], R_MAX)
    for other in (by_copies, fit(PairFeatures(3), by_frame, EXACT)):
        torch.testing.assert_close(by_option.weights, other.weights, rtol=0, atol=1e-10)
    none = EXACT.model_copy(update={"config_type_weights": {"crystal": TypeWeights(energy=0, forces=0, stress=0)}})
    clusters = Dataset([f for f in data.frames if f.config_type == "cluster"], R_MAX)
    without = fit(PairFeatures(3), data, none)
    torch.testing.assert_close(without.weights, fit(PairFeatures(3), clusters, EXACT).weights, rtol=0, atol=1e-10)
    assert without.survey.counted["stress"] == 0 and without.survey.labels["stress"] > 0


def test_missing_labels_count_for_nothing():
    true = hidden(PairFeatures(3))
    data = made_by(true, 8)
    spoilt = [replace(f, energy=None, forces=f.forces.copy(), stress=None) for f in data.frames[:3]]
    for frame in spoilt:
        frame.forces[0] = np.nan
    features = PairFeatures(3)
    result = fit(features, Dataset([*spoilt, *data.frames[3:]], R_MAX), EXACT)
    torch.testing.assert_close(result.weights, true.w, rtol=0, atol=1e-8)
    assert result.survey.counted["energy"] == 5
    energies = Dataset([replace(f, forces=None, stress=None) for f in data.frames], R_MAX)
    only = fit(PairFeatures(2), energies, EXACT)
    assert list(only.errors) == ["energy"] and only.survey.rows == 8


def test_columns_without_data_are_named_and_stay_at_zero():
    """An element that no structure has: its weights are 0, with the prior's variance; other weights do not notice."""
    true = hidden(PairFeatures(3))
    data = made_by(true, 8, noise=(0.01, 0.05, 0.1))
    alone = fit(PairFeatures(3), data, LinearFitOptions(prior=0.1))
    features = PairFeatures(3, elements=(1, 8, 29), E0=(-3.0, -7.0, 0.0))
    new = [column for column in range(18) if 29 in features.pairs[column // 3]]
    for solver in ("normal_equations", "qr"):
        for prior in (0.1, 0.0):
            result = fit(features, data, LinearFitOptions(prior=prior, solver=solver))
            assert result.solution.absent.tolist() == new
            assert result.facts()["weights_without_data"] == {"1": 9}
            assert not result.weights[new].any()
        assert result.solution.effective_parameters == pytest.approx(9)
    result = fit(features, data, LinearFitOptions(prior=0.1))
    kept = [column for column in range(18) if column not in new]
    torch.testing.assert_close(result.weights[kept], alone.weights, rtol=0, atol=1e-10)
    deviations = result.posterior.weight_deviations()[new]
    torch.testing.assert_close(deviations, torch.full_like(deviations, result.solution.noise / 0.1**0.5))


def test_rows_in_a_file_as_in_memory(tmp_path):
    data = made_by(hidden(PairFeatures(3)), 40, noise=(0.01, 0.05, 0.1))
    options = LinearFitOptions(solver="lsqr", prior=0.1, scratch=str(tmp_path), lsqr_tolerance=1e-13)
    files = []
    on_disk = fit(
        PairFeatures(3),
        data,
        options.model_copy(update={"max_memory_GB": 5e-5}),
        progress=lambda what, done, total: files.extend(tmp_path.rglob("rows.f64")),
    )
    in_memory = fit(PairFeatures(3), data, options)
    assert files and not list(tmp_path.iterdir())
    assert in_memory.plan.kept_in_memory and not on_disk.plan.kept_in_memory
    torch.testing.assert_close(on_disk.weights, in_memory.weights, rtol=0, atol=1e-9)


def test_progress_and_facts():
    told = []
    data = made_by(hidden(PairFeatures(3)), 6, noise=(0.01, 0.05, 0.1))
    result = fit(PairFeatures(3), data, LinearFitOptions(), progress=lambda *what: told.append(what))
    assert ("rows", 6, 6) in told and any(what == "evidence" for what, _, _ in told)
    facts = result.facts()
    assert facts["rows"] == sum(facts["rows_by_kind"].values()) == 6 + 3 * (3 * 6 + 3 * 8) + 3 * 6
    assert facts["training"]["forces"]["rmse"] == pytest.approx(0.05, rel=0.2)
    assert facts["training"]["energy"]["rows"] == 6


def test_errors_name_what_to_do():
    data = made_by(hidden(PairFeatures(3)), 2)
    bare = Dataset([replace(f, energy=None, forces=None, stress=None) for f in data.frames], R_MAX)
    with pytest.raises(EquipotError, match="nothing to fit"):
        fit(PairFeatures(3), bare, EXACT)
    with pytest.raises(EquipotError, match=r"Did you mean 'crystal'.* name one of these"):
        fit(PairFeatures(3), data, EXACT.model_copy(update={"config_type_weights": {"cristal": TypeWeights()}}))
    with pytest.raises(EquipotError, match="rows do not determine 90 weights without a prior"):
        fit(PairFeatures(30), data, EXACT)
    with pytest.raises(EquipotError, match=r"folds = 3, but only 2 training structures .* at most 2"):
        fit(PairFeatures(3), data, LinearFitOptions(prior="cross_validation", folds=3))
    with pytest.raises(EquipotError, match="GB"):
        fit(PairFeatures(3), data, LinearFitOptions(max_memory_GB=1e-6))
    with pytest.raises(EquipotError, match="penalties"):
        fit(PairFeatures(3, penalties=torch.zeros(9)), data, EXACT)
    for solver in ("normal_equations", "qr"):
        with pytest.raises(SingularError, match="not determined"):
            fit(Twice(3), data, EXACT.model_copy(update={"solver": solver}))
    with pytest.raises(EquipotError, match="lsqr has not converged"):
        fit(PairFeatures(3), data, LinearFitOptions(solver="lsqr", prior=0.0, lsqr_iterations=2))
    with pytest.raises(EquipotError, match="larger r_max"):
        far = Dataset([replace(f, atoms=spread(f.atoms)) for f in data.frames[:1]], R_MAX)
        fit(PairFeatures(3), far, LinearFitOptions())
    for wrong in ({"solver": "lsqr"}, {"prior": -1.0}, {"solver": "qr", "prior": "cross_validation"}):
        with pytest.raises(ValueError, match="prior"):
            LinearFitOptions(**wrong)
    with pytest.raises(ValueError, match="all weights are zero"):
        LinearFitOptions(energy_weight=0, forces_weight=0, stress_weight=0)


def spread(atoms):
    atoms = atoms.copy()
    atoms.positions *= 10
    return atoms


class Twice(PairFeatures):
    """Every function twice: the data cannot tell them apart."""

    def _edges(self, graph):
        vectors, r, columns, f, df = super()._edges(graph)
        f[:, 1], df[:, 1] = f[:, 0], df[:, 0]
        return vectors, r, columns, f, df


def test_two_functions_alike_share_their_weight_under_a_prior():
    data = made_by(hidden(PairFeatures(3)), 6, noise=(0.01, 0.05, 0.1))
    result = fit(Twice(3), data, LinearFitOptions(prior="evidence"))
    w = result.weights.view(3, 3)
    torch.testing.assert_close(w[:, 0], w[:, 1], rtol=0, atol=1e-5)
    assert result.solution.effective_parameters == pytest.approx(6, abs=0.3)


class NotFinite(PairFeatures):
    """What is not fitted, or the features, are not finite for the third structure."""

    def __init__(self, functions, where, value):
        super().__init__(functions)
        self.where, self.value = where, value

    def _spoilt(self, values, where):
        if self.where == where:
            values[2] = self.value
        return values

    def offset(self, graph):
        found = super().offset(graph)
        return found._replace(energy=self._spoilt(found.energy, "offset"))

    def rows(self, graph, *, forces, stress):
        found = super().rows(graph, forces=forces, stress=stress)
        return found._replace(energy=self._spoilt(found.energy, "rows"))


@pytest.mark.parametrize("solver", ["normal_equations", "lsqr"])
@pytest.mark.parametrize(("where", "said"), [("offset", "beside its weights"), ("rows", "features")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_labels_do_not_vanish_where_the_model_is_not_finite(solver, where, said, value):
    """They are said, with the one structure that is at fault."""
    data = made_by(hidden(PairFeatures(4)), 6)
    with pytest.raises(EquipotError, match=rf"{said}.* not finite for {data.batch([2]).names[0]};"):
        fit(NotFinite(4, where, value), data, EXACT.model_copy(update={"solver": solver}))


def test_rows_that_were_not_filled_are_no_data():
    kept = KeptRows(5, 2, None)
    kept.add(np.ones((4, 3)))
    with pytest.raises(RuntimeError, match="4 rows were kept, but there should be 5"):
        kept.check()
