import numpy as np
import pytest
import small
import torch

from equipot.data.dataset import Dataset
from equipot.fit.loss import formula, label_counts, label_errors, loss, loss_sums
from equipot.fit.options import FitOptions
from equipot.geometry.derivatives import evaluate


def rho(x: np.ndarray, form: str, delta: float) -> np.ndarray:
    if form == "mse":
        return x**2
    if form == "mae":
        return np.abs(x)
    return np.where(np.abs(x) < delta, 0.5 * x**2, delta * (np.abs(x) - 0.5 * delta))


@pytest.fixture(scope="module")
def mixed() -> list:
    """Four frames: weights, a frame without energy, one without forces, one with half of its forces."""
    water, methane, copper, water2 = small.frames(4)
    half = water2.forces.copy()
    half[1:, :] = np.nan
    return [
        small.labelled(water.atoms, 0, weight=2.0, energy_weight=3.0),
        small.labelled(methane.atoms, 1, energy=None, forces_weight=0.5),
        small.labelled(copper.atoms, 2, stress_weight=4.0, forces=None),
        small.labelled(water2.atoms, 3, forces=half),
    ]


@pytest.mark.parametrize("form", ["mse", "mae", "huber"])
def test_loss_is_the_formula(mixed, form):
    """Against NumPy, frame by frame, with λ, masks and counts written out."""
    options = FitOptions(loss=form, huber_delta=0.3, energy_weight=1.5, forces_weight=7.0, stress_weight=40.0)
    model, batch = small.potential(), Dataset(mixed, small.R_MAX).batch(range(4))
    prediction = evaluate(model, batch.graph)
    value = loss(
        loss_sums(label_errors(prediction, batch.labels, batch.graph), batch.labels, batch.graph, options),
        label_counts(batch.labels),
        options.loss_weights(0),
    )

    energy, forces, stress, n = 0.0, 0.0, 0.0, [0, 0, 0]
    for frame in mixed:
        alone = evaluate(model, Dataset([frame], small.R_MAX).batch([0]).graph)
        if frame.energy is not None:
            error = (alone.energy.item() - frame.energy) / len(frame.atoms)
            energy += frame.weight * frame.energy_weight * rho(np.array(error), form, 0.3)
            n[0] += 1
        if frame.forces is not None:
            known = np.isfinite(frame.forces)
            error = (alone.forces.numpy() - frame.forces)[known]
            forces += frame.weight * frame.forces_weight * rho(error, form, 0.3).sum()
            n[1] += known.sum()
        if frame.stress is not None:
            error = alone.stress[0].numpy() - frame.stress
            stress += frame.weight * frame.stress_weight * rho(error, form, 0.3).sum()
            n[2] += 9
    assert n == [3, 9 + 15 + 3, 9]
    assert label_counts(batch.labels).tolist() == n
    expected = 1.5 * energy / n[0] + 7.0 * forces / n[1] + 40.0 * stress / n[2]
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_missing_labels_leave_the_gradient_finite(mixed):
    """Molecules have no volume; a stress label in another frame of the batch must not poison theirs."""
    model, batch = small.potential(), Dataset(mixed, small.R_MAX).batch(range(4))
    prediction = evaluate(model, batch.graph, create_graph=True)
    options = FitOptions()
    value = loss(
        loss_sums(label_errors(prediction, batch.labels, batch.graph), batch.labels, batch.graph, options),
        label_counts(batch.labels),
        options.loss_weights(0),
    )
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)
    assert any(g.abs().max() > 0 for g in gradients if g is not None)


def test_the_formula_has_the_terms_that_have_labels():
    options = FitOptions(loss="mae", stages=[{"from_epoch": 5, "energy_weight": 2.0}])
    whole = "loss = 100→2 · E/N [eV/atom] + 10→10 · F [eV/Å] + 100→100 · σ [eV/Å³], mean absolute errors"
    assert formula(options, {"energy": 3, "forces": 2, "stress": 1}) == whole
    without = "loss = 100 · E/N [eV/atom] + 10 · F [eV/Å], mean squared errors (no labels: stress)"
    assert formula(FitOptions(), {"energy": 3, "forces": 2, "stress": 0}) == without
    alone = "loss = 100 · E/N [eV/atom], mean squared errors (no labels: forces, stress)"
    assert formula(FitOptions(), {"energy": 3, "forces": 0, "stress": 0}) == alone


def test_loss_without_any_label_is_zero(mixed):
    frames = [small.labelled(mixed[0].atoms, 0, energy=None, forces=None)]
    batch = Dataset(frames, small.R_MAX).batch([0])
    prediction = evaluate(small.potential(), batch.graph)
    sums = loss_sums(label_errors(prediction, batch.labels, batch.graph), batch.labels, batch.graph, FitOptions())
    assert loss(sums, label_counts(batch.labels), FitOptions().loss_weights(0)).item() == 0.0
