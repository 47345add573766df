import json
import signal
from pathlib import Path

import pytest
import small
import torch

from equipot.errors import EquipotError
from equipot.fit.checkpoint import load_checkpoint
from equipot.fit.interrupt import StopRequest
from equipot.fit.metrics import errors
from equipot.fit.train import fit
from equipot.models.model_file import load_potential, read_model_header


@pytest.fixture(scope="module")
def data():
    return small.dataset(8), small.dataset(5, seed=1)


def interrupted_then_resumed(data, options, folder, after_step, **axes):
    """A run of 3 epochs of 3 steps, stopped after a step, and gone on with from nothing but its folder."""
    interrupter = small.Interrupter(after_step)
    result = fit(small.potential(**axes), *data, options, folder, reporter=interrupter)
    assert (result.status, result.steps) == ("interrupted", after_step)
    fresh = small.potential(**axes, seed=99)
    return fit(fresh, *data, options, folder, resume=True), fresh


@pytest.mark.parametrize("after_step", [1, 3, 5, 6], ids=["first", "epoch-end", "mid-epoch", "second-end"])
def test_resumed_equals_uninterrupted_bit_for_bit(data, tmp_path, after_step):
    options = small.options(
        schedule="plateau", plateau_patience=1, warmup_steps=4, stages=[{"from_epoch": 1, "energy_weight": 5.0}]
    )
    straight = small.potential(dtype=torch.float32)
    once = fit(straight, *data, options, tmp_path / "once")
    twice, resumed = interrupted_then_resumed(data, options, tmp_path / "twice", after_step, dtype=torch.float32)
    assert (once.status, twice.status) == ("finished", "finished")
    assert once.best_loss == twice.best_loss
    assert small.bits(straight) == small.bits(resumed)
    small.assert_same_run(tmp_path / "once", tmp_path / "twice")


@pytest.mark.parametrize(
    "choice",
    [
        {"optimiser": "adam", "schedule": "exponential"},
        {"optimiser": "adamw", "schedule": "cosine", "weight_decay": 0.01},
        {"optimiser": "muon", "schedule": "constant", "ema_decay": None},
        {"optimiser": "schedulefree", "schedule": "constant", "warmup_steps": 3},
        {"batch_size": None, "batch_atoms": 10, "loss": "huber", "schedule": "plateau"},
    ],
    ids=lambda c: c.get("optimiser", "by-atoms"),
)
def test_every_choice_resumes(data, tmp_path, choice):
    options = small.options(**choice)
    fit(small.potential(), *data, options, tmp_path / "once")
    interrupted_then_resumed(data, options, tmp_path / "twice", after_step=4)
    small.assert_same_run(tmp_path / "once", tmp_path / "twice")


def test_interrupted_often(data, tmp_path):
    options = small.options()
    fit(small.potential(), *data, options, tmp_path / "once")
    for step in range(1, 9):
        result = fit(
            small.potential(seed=step - 1),
            *data,
            options,
            tmp_path / "often",
            reporter=small.Interrupter(step, signal.SIGTERM),
            resume=step > 1,
        )
        assert (result.status, result.steps) == ("interrupted", step)
    assert fit(small.potential(), *data, options, tmp_path / "often", resume=True).status == "finished"
    small.assert_same_run(tmp_path / "once", tmp_path / "often")


class InterruptingValidation:
    """The validation set, which asks to stop when it is read for the second time."""

    def __init__(self, dataset):
        self.dataset, self.reads = dataset, 0

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __len__(self):
        return len(self.dataset)

    def batch(self, indices):
        self.reads += 1
        if self.reads == 2 * len(self.dataset) - 1:
            signal.raise_signal(signal.SIGINT)
        return self.dataset.batch(indices)


def test_interrupted_in_the_middle_of_a_validation(data, tmp_path):
    options = small.options(valid_batch_size=1)
    fit(small.potential(), *data, options, tmp_path / "once")
    valid = InterruptingValidation(data[1])
    result = fit(small.potential(), data[0], valid, options, tmp_path / "twice")
    assert (result.status, result.steps, result.epochs) == ("interrupted", 6, 1)
    assert len(small.records(tmp_path / "twice")) == 1
    fit(small.potential(seed=3), *data, options, tmp_path / "twice", resume=True)
    small.assert_same_run(tmp_path / "once", tmp_path / "twice")


def test_a_lost_session_is_trained_again(data, tmp_path):
    """After `kill -9` the metrics are ahead of the checkpoint; the resumed run writes those lines again."""
    options = small.options()
    fit(small.potential(), *data, options, tmp_path / "once")
    fit(small.potential(), *data, options, tmp_path / "twice", reporter=small.Interrupter(4))
    with (tmp_path / "twice" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 1, "lost": True}) + "\n")
    fit(small.potential(), *data, options, tmp_path / "twice", resume=True)
    small.assert_same_run(tmp_path / "once", tmp_path / "twice")


def test_metrics_are_whole_when_dropping_lines_is_interrupted(data, tmp_path, monkeypatch):
    """The old file, with the lines that a lost session wrote, or the new one; never half of it."""
    fit(small.potential(), *data, small.options(), tmp_path, reporter=small.Interrupter(7))
    metrics = tmp_path / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write(json.dumps({"epoch": 2, "lost": True}) + "\n")
    before = metrics.read_text()

    def half(path: Path, text: str, **how) -> None:
        path.write_bytes(text.encode()[: len(text) // 2])
        raise OSError("the power is gone")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", half)
        with pytest.raises(OSError, match="the power is gone"):
            fit(small.potential(), *data, small.options(), tmp_path, resume=True)
    assert metrics.read_text() == before
    fit(small.potential(), *data, small.options(), tmp_path, resume=True)
    assert [line["epoch"] for line in small.records(tmp_path)] == [0, 1, 2]


def warnings(caplog) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "fit." in r.getMessage())


def test_another_length_says_what_it_does_to_the_learning_rate(data, tmp_path, caplog):
    """Half of the longer cosine: 1/2 of the rate, where the shorter one had come down to its hundredth."""
    fit(small.potential(), *data, small.options(max_epochs=2), tmp_path)
    fit(small.potential(), *data, small.options(max_epochs=2), tmp_path, resume=True)
    assert warnings(caplog) == ""
    fit(small.potential(), *data, small.options(max_epochs=4), tmp_path, reporter=small.Interrupter(7), resume=True)
    assert warnings(caplog) == (
        "fit.max_epochs was 2 and is now 4: the learning rate goes from 0.0001 to 0.00505 at this point, because "
        "the cosine schedule now spans the new length (epoch 2, step 6)"
    )
    caplog.clear()
    fit(small.potential(), *data, small.options(max_epochs=2), tmp_path, resume=True)
    assert "max_epochs was 4 and is now 2: there is no epoch left to train" in warnings(caplog)


def test_another_time_says_what_it_does_to_the_learning_rate(data, tmp_path, caplog):
    choice = {"max_epochs": 3, "schedule": "exponential", "final_lr_fraction": 0.01}
    fit(small.potential(), *data, small.options(**choice), tmp_path, reporter=small.Interrupter(3))
    rate = 0.01 * 0.01 ** (1 / 3)
    seconds = load_checkpoint(tmp_path / "last.ckpt")["state"]["seconds"]
    options = small.options(**choice, max_minutes=2 * seconds / 60)
    fit(small.potential(), *data, options, tmp_path, reporter=small.Interrupter(4), resume=True)
    said = warnings(caplog)
    assert f"max_minutes was None and is now {options.max_minutes}: the learning rate goes from {rate:.3g} to " in said
    assert "to 0.001 at this point, because the exponential schedule" in said


def test_another_length_without_a_schedule_keeps_the_learning_rate(data, tmp_path, caplog):
    fit(small.potential(), *data, small.options(max_epochs=1, schedule="constant"), tmp_path)
    fit(small.potential(), *data, small.options(max_epochs=2, schedule="constant"), tmp_path, resume=True)
    assert "max_epochs was 1 and is now 2: the learning rate of the next step stays at 0.01 (" in warnings(caplog)


def test_a_longer_run_continues_a_finished_one(data, tmp_path):
    changes = {"schedule": "constant", "patience": 100}
    fit(small.potential(), *data, small.options(max_epochs=4, **changes), tmp_path / "once")
    fit(small.potential(), *data, small.options(max_epochs=2, **changes), tmp_path / "twice")
    again = fit(small.potential(), *data, small.options(max_epochs=2, **changes), tmp_path / "twice", resume=True)
    assert (again.status, again.epochs, again.steps) == ("finished", 2, 6)
    fit(small.potential(), *data, small.options(max_epochs=4, **changes), tmp_path / "twice", resume=True)
    assert small.same(small.records(tmp_path / "once"), small.records(tmp_path / "twice"))
    first, second = (load_potential(tmp_path / n / "last.equipot") for n in ("once", "twice"))
    assert small.bits(first) == small.bits(second)


def test_weights_of_the_start_survive_a_stop(data, tmp_path):
    options = small.options(max_epochs=2, lr=3.0, schedule="constant", ema_decay=None, keep_start=True)
    fit(small.potential(), *data, options, tmp_path, reporter=small.Interrupter(2))
    result = fit(small.potential(), *data, options, tmp_path, resume=True)
    assert (result.status, result.best_epoch) == ("finished", -1)
    assert small.bits(load_potential(result.model)) == small.bits(small.potential())


def test_an_interrupted_run_leaves_usable_models(data, tmp_path):
    """Before the first validation too: the averaged weights are then the best there is."""
    before = fit(small.potential(), *data, small.options(), tmp_path / "a", reporter=small.Interrupter(2))
    assert before.best_epoch == -1
    best, last = (load_potential(tmp_path / "a" / name) for name in ("best.equipot", "last.equipot"))
    assert small.bits(best) == small.bits(last)

    model = small.potential()
    after = fit(model, *data, small.options(), tmp_path / "b", reporter=small.Interrupter(5))
    assert after.best_epoch == 0
    loaded = load_potential(after.model)
    assert small.bits(loaded) == small.bits(model)
    assert errors(loaded, data[1]) == pytest.approx(after.errors, rel=1e-9)
    provenance = read_model_header(after.model).provenance
    assert provenance["valid_errors"] == after.errors
    assert provenance["train_data"] == data[0].hash()


@pytest.fixture
def pythons_interrupt():
    """Ctrl-C as Python has it at its start; a shell lets background jobs start with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_second_signal_stops_at_once(data, tmp_path, pythons_interrupt):
    class Impatient(small.Interrupter):
        def step(self, report):
            super().step(report)
            super().step(report)

    with pytest.raises(KeyboardInterrupt):
        fit(small.potential(), *data, small.options(), tmp_path, reporter=Impatient(2))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_repeated_kill_and_a_launcher_that_repeats_are_patient():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert stop.requested
    with StopRequest(insist=False) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert stop.requested


def test_a_changed_configuration_is_named(data, tmp_path):
    fit(small.potential(), *data, small.options(max_epochs=1), tmp_path)
    with pytest.raises(EquipotError, match=r"fit\.lr was 0\.01 and is now 0\.02; fit\.batch_size was 3 and is now 4"):
        fit(small.potential(), *data, small.options(max_epochs=1, lr=0.02, batch_size=4), tmp_path, resume=True)
    with pytest.raises(EquipotError, match=r"design\.channels was 4 and is now 8"):
        fit(small.potential(channels=8), *data, small.options(max_epochs=1), tmp_path, resume=True)
    with pytest.raises(EquipotError, match=r"dtype was 'float64' and is now 'float32'"):
        fit(small.potential(torch.float32), *data, small.options(max_epochs=1), tmp_path, resume=True)
    with pytest.raises(EquipotError, match=r"train_data was '\w+\.\.\. and is now"):
        fit(small.potential(), data[1], data[1], small.options(max_epochs=1), tmp_path, resume=True)


def test_splined_radial_functions_resume_and_are_deployed_as_trained(data, tmp_path):
    def made(seed=0):
        return small.potential(torch.float32, seed=seed).choose_radial("spline:32")

    fit(made(), *data, small.options(), tmp_path / "once")
    fit(made(), *data, small.options(), tmp_path / "twice", reporter=small.Interrupter(4))
    fit(made(seed=9), *data, small.options(), tmp_path / "twice", resume=True)
    small.assert_same_run(tmp_path / "once", tmp_path / "twice")
    assert read_model_header(tmp_path / "once" / "best.equipot").radial == "spline:32"
    loaded = load_potential(tmp_path / "once" / "best.equipot", check=True)
    assert loaded.radial == "spline:32"
    with pytest.raises(EquipotError, match=r"radial was 'spline:32' and is now 'exact'"):
        fit(small.potential(torch.float32), *data, small.options(), tmp_path / "once", resume=True)


def test_a_checkpoint_without_a_choice_of_radial_functions_has_exact_ones(data, tmp_path):
    fit(small.potential(), *data, small.options(max_epochs=1), tmp_path)
    content = load_checkpoint(tmp_path / "last.ckpt")
    del content["configuration"]["radial"]
    torch.save(content, tmp_path / "last.ckpt")
    assert fit(small.potential(), *data, small.options(max_epochs=2), tmp_path, resume=True).epochs == 2
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(EquipotError, match=r"radial was 'exact' and is now 'spline:32'"):
        splined = small.potential().choose_radial("spline:32")
        fit(splined, *data, small.options(max_epochs=2), tmp_path, resume=True)


def test_a_folder_with_a_run_is_not_overwritten(data, tmp_path):
    fit(small.potential(), *data, small.options(max_epochs=1), tmp_path)
    with pytest.raises(EquipotError, match="holds a run already"):
        fit(small.potential(), *data, small.options(max_epochs=1), tmp_path)
    with pytest.raises(EquipotError, match="cannot resume: there is no checkpoint"):
        fit(small.potential(), *data, small.options(max_epochs=1), tmp_path / "other", resume=True)


def test_checkpoints_in_between_change_nothing(data, tmp_path):
    fit(small.potential(), *data, small.options(checkpoint_seconds=0.0), tmp_path / "often")
    fit(small.potential(), *data, small.options(checkpoint_seconds=1e9), tmp_path / "seldom")
    assert small.same(small.records(tmp_path / "often"), small.records(tmp_path / "seldom"))
    first, second = (load_checkpoint(tmp_path / n / "last.ckpt")["optimiser"] for n in ("often", "seldom"))
    assert small.same(first, second)
