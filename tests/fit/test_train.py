import itertools
import json
import logging
import math
import sys
import types

import numpy as np
import pytest
import small
import torch
from ase import Atoms
from rich.console import Console
from torch.optim.optimizer import register_optimizer_step_pre_hook

from equipot.data.dataset import Dataset
from equipot.errors import EquipotError
from equipot.fit.metrics import errors, evaluate_set
from equipot.fit.non_finite import NonFiniteError
from equipot.fit.options import FitOptions
from equipot.fit.reporter import ProgressReporter, logging_to
from equipot.fit.train import fit
from equipot.models.model_file import load_potential


@pytest.fixture(scope="module")
def data():
    return small.dataset(8), small.dataset(5, seed=1)


def test_four_structures_are_over_fitted(tmp_path):
    four = small.dataset(4)
    model = small.potential(channels=16, max_ell=2)
    before = errors(model, four)
    options = FitOptions(
        max_epochs=300,
        batch_size=4,
        lr=0.03,
        energy_weight=10.0,
        stress_weight=1000.0,
        ema_decay=0.9,
        validate_every=50,
        checkpoint_seconds=1e9,
    )
    fit(model, four, four, options, tmp_path)
    after = errors(model, four)
    assert after["energy_rmse_meV_per_atom"] < 3 < before["energy_rmse_meV_per_atom"] / 100
    assert after["forces_rmse_meV_per_A"] < 40 < before["forces_rmse_meV_per_A"] / 10
    assert after["stress_rmse_meV_per_A3"] < 1 < before["stress_rmse_meV_per_A3"] / 10


def test_one_line_of_metrics_per_validation(data, tmp_path):
    model = small.potential()
    result = fit(model, *data, small.options(validate_every=2, max_epochs=5, schedule="constant"), tmp_path)
    lines = small.records(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 3, 4]
    assert [line["step"] for line in lines] == [6, 12, 15]
    best = min(lines, key=lambda line: line["valid_loss"])
    assert result.best_loss == best["valid_loss"] and result.best_epoch == best["epoch"]
    assert {k: best[f"valid_{k}"] for k in result.errors} == result.errors
    assert errors(model, data[1]) == pytest.approx(result.errors, rel=1e-9)
    assert all(math.isfinite(line[k]) for line in lines for k in ("lr", "train_loss", "gradient_norm", "time_s"))
    assert set(lines[0]["valid_elements"]) == {"H", "C", "O", "Cu"}
    assert set(lines[0]["valid_config_types"]) == {"crystal", "molecule"}


def test_weights_of_the_start_are_kept_where_nothing_is_better(data, tmp_path):
    start = small.bits(small.potential())
    model = small.potential()
    options = small.options(max_epochs=2, lr=3.0, schedule="constant", ema_decay=None, keep_start=True)
    result = fit(model, *data, options, tmp_path / "kept")
    assert result.best_epoch == -1
    assert small.bits(model) == small.bits(load_potential(result.model)) == start
    assert result.errors == pytest.approx(errors(small.potential(), data[1]), rel=1e-9)
    assert small.bits(load_potential(tmp_path / "kept" / "last.equipot")) != start
    assert all(not line["best"] for line in small.records(tmp_path / "kept"))
    lost = fit(small.potential(), *data, options.model_copy(update={"keep_start": False}), tmp_path / "lost")
    assert lost.best_loss > result.best_loss


def test_a_better_epoch_replaces_the_weights_of_the_start(data, tmp_path):
    plain, kept = (
        fit(small.potential(), *data, small.options(keep_start=value), tmp_path / str(value)) for value in (False, True)
    )
    assert kept.best_epoch == plain.best_epoch >= 0
    assert small.bits(load_potential(kept.model)) == small.bits(load_potential(plain.model))


def test_train_loss_is_the_mean_over_the_epoch(data, tmp_path):
    """At a vanishing learning rate it equals the loss of the model on the training set."""
    options = small.options(max_epochs=1, lr=1e-14, schedule="constant", ema_decay=None)
    fit(small.potential(), data[0], data[0], options, tmp_path)
    (line,) = small.records(tmp_path)
    assert line["train_loss"] == pytest.approx(line["valid_loss"], rel=1e-9)
    for name in ("energy_rmse_meV_per_atom", "forces_mae_meV_per_A", "stress_rmse_meV_per_A3"):
        assert line[f"train_{name}"] == pytest.approx(line[f"valid_{name}"], rel=1e-9)


def test_frozen_parameters_stay(data, tmp_path):
    model = small.potential()
    model.embedding.requires_grad_(False)
    before = small.bits(model)
    fit(model, *data, small.options(max_epochs=1), tmp_path)
    after = small.bits(model)
    assert {name for name in before if before[name] == after[name]} >= {
        name for name in before if name.startswith("embedding")
    }
    assert before != after


def one_step(data, folder, clip):
    """The gradient that the optimiser sees in the only step of a run, and the norm that the metrics tell."""
    seen = []

    def look(optimiser, args, kwargs):
        seen.append(torch.cat([p.grad.flatten() for group in optimiser.param_groups for p in group["params"]]))

    hook = register_optimizer_step_pre_hook(look)
    try:
        fit(small.potential(), *data, small.options(max_epochs=1, batch_size=8, clip=clip), folder)
    finally:
        hook.remove()
    ((gradient,), (line,)) = seen, small.records(folder)
    return gradient, line["gradient_norm"]


def test_a_gradient_longer_than_clip_is_shortened_to_it(data, tmp_path):
    """g · min(1, clip/‖g‖): its direction stays, and the metrics tell ‖g‖ before clipping."""
    free, norm = one_step(data, tmp_path / "free", None)
    assert norm == pytest.approx(free.norm().item(), rel=1e-12)
    clipped, told = one_step(data, tmp_path / "clipped", norm / 4)
    assert told == norm
    assert clipped.norm().item() == pytest.approx(norm / 4, rel=1e-6)
    assert torch.allclose(clipped, free / 4, rtol=1e-6, atol=0)
    untouched, _ = one_step(data, tmp_path / "untouched", 4 * norm)
    assert torch.equal(untouched, free)


def test_a_gradient_may_lie_in_memory_as_it_likes(data, tmp_path, monkeypatch):
    """torch's fused Adam ignores strides; the gradient of a transposed weight is transposed."""
    changed = []
    for strided in (False, True):
        model = small.potential(backend="reference")
        if strided:
            product = model.layers[0].product
            monkeypatch.setattr(type(product), "forward", _transposing(type(product).forward))
        fit(model, *data, small.options(max_epochs=1), tmp_path / str(strided))
        changed.append(model.layers[0].product.weights["0e_nu2"].detach().clone())
    assert torch.allclose(*changed, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(changed[0], small.potential().layers[0].product.weights["0e_nu2"], atol=1e-3)


def _transposing(forward):
    """A forward pass whose gradient of one weight comes back with other strides."""

    def transposed(self, A, groups):
        weight = self.weights["0e_nu2"]
        weight.register_hook(lambda g: g.transpose(0, 1).contiguous().transpose(0, 1))
        return forward(self, A, groups)

    return transposed


def test_patience_stops_in_the_last_stage_only(data, tmp_path):
    options = small.options(
        max_epochs=40, lr=1e-30, schedule="constant", patience=3, stages=[{"from_epoch": 6, "energy_weight": 2.0}]
    )
    result = fit(small.potential(torch.float32), *data, options, tmp_path)
    assert (result.status, result.epochs) == ("patience", 9)


def test_plateau_stops_at_its_smallest_rate(data, tmp_path):
    options = small.options(
        max_epochs=40, lr=1e-20, min_lr=4e-21, schedule="plateau", plateau_patience=1, plateau_factor=0.5
    )
    result = fit(small.potential(torch.float32), *data, options, tmp_path)
    assert (result.status, result.epochs) == ("min_lr", 5)
    assert [line["lr"] for line in small.records(tmp_path)] == [1e-20, 1e-20, 5e-21, 5e-21, 2.5e-21]


def test_the_clock_ends_a_run_and_drives_the_schedule(data, tmp_path, monkeypatch):
    """With a clock that ticks 10 ms at each look, so that a busy machine changes nothing."""
    ticks = itertools.count()
    monkeypatch.setattr("equipot.fit.run.time", types.SimpleNamespace(monotonic=lambda: 0.01 * next(ticks)))
    options = small.options(max_epochs=10**6, max_minutes=0.5 / 60, final_lr_fraction=0.01)
    result = fit(small.potential(), *data, options, tmp_path)
    assert result.status == "time"
    assert 0.5 <= result.seconds < 0.6
    rates = [line["lr"] for line in small.records(tmp_path)]
    assert rates[0] > 0.009 and rates[-1] < 0.001
    longer = options.model_copy(update={"max_minutes": 0.7 / 60})
    resumed = fit(small.potential(), *data, longer, tmp_path, resume=True)
    assert resumed.status == "time" and resumed.steps > result.steps and 0.7 <= resumed.seconds < 0.8


def exploding(index: int):
    """A frame whose force label is beyond what its square can hold."""
    frame = small.frames(2)[1]
    return small.labelled(frame.atoms, index, forces=np.full((len(frame.atoms), 3), 1e200))


def test_a_non_finite_loss_names_the_structure_and_keeps_the_model(data, tmp_path):
    frames = [*small.frames(6), exploding(77)]
    options = small.options(batch_size=4, schedule="constant")
    with pytest.raises(NonFiniteError) as caught:
        fit(small.potential(), Dataset(frames, small.R_MAX), data[1], options, tmp_path)
    assert "the loss is inf in step" in str(caught.value)
    assert "Structures that give this alone: small.xyz#77." in str(caught.value)
    assert str(tmp_path / "best.equipot") in str(caught.value)
    kept = load_potential(tmp_path / "best.equipot")
    assert all(p.isfinite().all() for p in kept.parameters())


def test_a_non_finite_gradient_stops_before_the_weights_change(data, tmp_path):
    model = small.potential()
    parameter = next(p for n, p in model.named_parameters() if n.startswith("readouts"))
    parameter.register_hook(lambda gradient: gradient * torch.nan)
    before = small.bits(model)
    with pytest.raises(NonFiniteError, match=r"norm of the gradient is nan in step 0 \(epoch 0\)"):
        fit(model, *data, small.options(), tmp_path)
    assert small.bits(model) == before


def test_a_non_finite_validation_names_the_structure(data, tmp_path):
    valid = Dataset([*small.frames(3), exploding(55)], small.R_MAX)
    with pytest.raises(NonFiniteError, match=r"validation loss is not finite in epoch 0.*small\.xyz#55"):
        fit(small.potential(), data[0], valid, small.options(), tmp_path)


def test_nothing_to_learn_from(data, tmp_path):
    with pytest.raises(EquipotError, match="there are no validation structures"):
        fit(small.potential(), data[0], data[1].select([]), small.options(), tmp_path)
    bare = Dataset([small.labelled(f.atoms, 0, forces=None, stress=None) for f in small.frames(3)], small.R_MAX)
    with pytest.raises(EquipotError, match=r"no training structure has a label .* energy 0 \(3 labels\)"):
        fit(small.potential(), bare, data[1], small.options(energy_weight=0.0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_energies_alone_are_learned_with_a_warning(data, tmp_path, caplog):
    caplog.set_level(logging.INFO, "equipot")
    bare = Dataset([small.labelled(f.atoms, 0, forces=None, stress=None) for f in small.frames(6)], small.R_MAX)
    result = fit(small.potential(), bare, bare, small.options(max_epochs=10, lr=0.05), tmp_path)
    assert "no training structure has forces" in caplog.text
    assert "loss = 100 · E/N [eV/atom], mean squared errors (no labels: forces, stress)" in caplog.text
    assert result.errors["forces_rmse_meV_per_A"] is None
    lines = small.records(tmp_path)
    assert lines[-1]["valid_energy_rmse_meV_per_atom"] < lines[0]["valid_energy_rmse_meV_per_atom"]


def differentiated(model) -> list[bool]:
    """Grows by whether forces can be had, each time that the model is called."""
    seen: list[bool] = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[1].requires_grad))
    return seen


def stripped(count: int, seed: int = 0, **changes) -> Dataset:
    return Dataset([small.labelled(f.atoms, f.index, **changes) for f in small.frames(count, seed)], small.R_MAX)


LATER_FORCES = {"forces_weight": 0.0, "stress_weight": 0.0, "stages": [{"from_epoch": 1, "forces_weight": 1.0}]}


@pytest.mark.parametrize(
    ("changes", "weights", "in_steps", "in_validation"),
    [
        ({}, {}, True, True),
        ({}, {"forces_weight": 0.0, "stress_weight": 0.0}, False, True),
        ({"forces": None, "stress": None}, {}, False, False),
        ({"forces": None}, {}, True, True),
        ({"forces": None}, {"stress_weight": 0.0}, False, True),
        ({}, LATER_FORCES, True, True),
    ],
    ids=["all", "no weights", "no labels", "stress alone", "stress without weight", "forces later"],
)
def test_forces_are_computed_where_something_asks_for_them(tmp_path, changes, weights, in_steps, in_validation):
    """In a step where labels have a weight in some stage, in a validation where there are labels to compare with."""
    model = small.potential()
    seen = differentiated(model)
    train, valid = stripped(6, **changes), stripped(3, seed=1, **changes)
    fit(model, train, valid, small.options(max_epochs=1, **weights), tmp_path)
    assert seen[:3] == [in_steps, in_steps, in_validation]
    (line,) = small.records(tmp_path)
    assert (line["train_forces_rmse_meV_per_A"] is not None) == (in_steps and "forces" not in changes)
    assert (line["valid_forces_rmse_meV_per_A"] is not None) == ("forces" not in changes)


@pytest.mark.parametrize("resumed", [False, True])
def test_leaving_out_forces_without_weight_changes_nothing_else(data, tmp_path, monkeypatch, resumed):
    options = small.options(forces_weight=0.0, stress_weight=0.0)
    lean, full = small.potential(), small.potential()
    if resumed:
        fit(small.potential(), *data, options, tmp_path / "lean", reporter=small.Interrupter(4))
    fit(lean, *data, options, tmp_path / "lean", resume=resumed)
    monkeypatch.setattr("equipot.fit.run.learns_derivatives", lambda dataset, options: True)
    fit(full, *data, options, tmp_path / "full")
    for one, two in zip(lean.parameters(), full.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)
    for one, two in zip(small.records(tmp_path / "lean"), small.records(tmp_path / "full"), strict=True):
        names = [k for k in two if "valid_" in k or k in ("train_loss", "gradient_norm", "lr")]
        names += [k for k in two if k.startswith("train_energy")]
        assert {k: one[k] for k in names if not isinstance(two[k], dict)} == pytest.approx(
            {k: two[k] for k in names if not isinstance(two[k], dict)}, rel=1e-9
        )


def test_a_non_finite_energy_is_named_where_forces_are_left_out(tmp_path):
    frames = [*small.frames(4), small.labelled(small.frames(1)[0].atoms, 77, energy=1e200)]
    options = small.options(forces_weight=0.0, stress_weight=0.0)
    with pytest.raises(NonFiniteError, match=r"give this alone: small\.xyz#77\."):
        fit(small.potential(), Dataset(frames, small.R_MAX), small.dataset(2), options, tmp_path)


def test_a_minibatch_of_one_isolated_atom(data, tmp_path):
    """No edges, no forces, nothing that the weights could change: the step must do no harm."""
    atom = small.labelled(Atoms("H"), 0, energy=3.2, forces=np.zeros((1, 3)))
    train = Dataset([atom, *small.frames(2)], small.R_MAX)
    assert fit(small.potential(), train, data[1], small.options(batch_size=1), tmp_path).status == "finished"


def test_tensorboard_that_is_not_installed(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(EquipotError, match=r"pip install equipot\[tensorboard\]"):
        fit(small.potential(), *data, small.options(tensorboard=True), tmp_path)


def test_evaluation_by_atoms_changes_nothing(data, tmp_path):
    by_atoms = small.options(batch_size=None, batch_atoms=9)
    model = small.potential()
    one, two = (evaluate_set(model, data[1], o).table.total for o in (small.options(), by_atoms))
    assert two == pytest.approx(one, rel=1e-12)


def test_the_log_has_a_line_per_validation(data, tmp_path, capsys):
    with logging_to(tmp_path / "log.txt"):
        fit(small.potential(), *data, small.options(), tmp_path / "run")
    log = (tmp_path / "log.txt").read_text()
    assert "loss = 100 · E/N [eV/atom] + 10 · F [eV/Å] + 100 · σ [eV/Å³], mean squared errors" in log
    assert "training: 8 structures, labels: 8 energy, 8 forces, 2 stress" in log
    assert log.count("meV/atom") == 3 and "finished after 3 epochs, 9 steps" in log
    assert capsys.readouterr().err.count("meV/atom") == 3
    assert not logging.getLogger("equipot").handlers


def test_the_bar_shows_losses_errors_and_time_left(data, tmp_path):
    console = Console(force_terminal=True, width=160, record=True, file=(tmp_path / "screen").open("w"))
    fit(small.potential(), *data, small.options(), tmp_path / "run", reporter=ProgressReporter(console, 0.0))
    console.file.close()
    shown = (tmp_path / "screen").read_text()
    assert "train loss" in shown and "meV/Å" in shown and "left" in shown and "valid E" in shown

    quiet = Console(force_terminal=False, file=(tmp_path / "pipe").open("w"))
    fit(small.potential(), *data, small.options(), tmp_path / "run2", reporter=ProgressReporter(quiet))
    quiet.file.close()
    assert (tmp_path / "pipe").read_text() == ""


def test_metrics_are_json_without_nan(data, tmp_path):
    molecules = Dataset([f for f in small.frames(6) if f.stress is None], small.R_MAX)
    fit(small.potential(), molecules, molecules, small.options(), tmp_path)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text.splitlines()[0])["valid_stress_rmse_meV_per_A3"] is None
