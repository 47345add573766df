import sys

import numpy as np
import pytest
import small
import torch

from equipot.errors import EquipotError
from equipot.fit.optimise import (
    ExponentialAverage,
    build_average,
    build_optimiser,
    grouped,
    only_trained,
    trainable,
)
from equipot.fit.schedule import Plateau, learning_rate, shape, stage_at


def step(model, optimiser, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    optimiser.step()


def test_moving_average_is_its_formula():
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    average = ExponentialAverage([parameter], decay=0.8)
    expected, values = np.zeros(3), np.random.default_rng(0).normal(size=(40, 3))
    for t, value in enumerate(values, start=1):
        with torch.no_grad():
            parameter.copy_(torch.tensor(value))
        average.update()
        d = min(0.8, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * value
    assert np.allclose(average.averages[0].numpy(), expected, rtol=1e-13)
    assert d == 0.8
    with average.applied():
        assert np.allclose(parameter.detach().numpy(), expected, rtol=1e-13)
    assert np.array_equal(parameter.detach().numpy(), values[-1])


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "muon", "schedulefree"])
def test_average_gives_the_weights_back_to_the_last_bit(name):
    options = small.options(optimiser=name, schedule="constant")
    model = small.potential()
    optimiser = build_optimiser(model, options)
    average = build_average(model, optimiser, options)
    for seed in range(3):
        step(model, optimiser, seed)
        average.update()
    before = small.bits(model)
    with average.applied():
        assert small.bits(model) != before
    assert small.bits(model) == before
    step(model, optimiser, 3)
    assert small.bits(model) != before


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "muon", "schedulefree"])
def test_optimiser_goes_on_from_its_state(name, tmp_path):
    options = small.options(optimiser=name, schedule="constant", weight_decay=0.01)
    model = small.potential()
    optimiser = build_optimiser(model, options)
    step(model, optimiser, 0)
    torch.save([model.state_dict(), optimiser.state_dict()], tmp_path / "state")

    other = small.potential(seed=5)
    restored = build_optimiser(other, options)
    weights, state = torch.load(tmp_path / "state", weights_only=True)
    other.load_state_dict(weights)
    restored.load_state_dict(state)
    for seed in (1, 2):
        step(model, optimiser, seed)
        step(other, restored, seed)
    assert small.bits(other) == small.bits(model)


def test_muon_takes_the_matrices():
    model = small.potential()
    optimiser = build_optimiser(model, small.options(optimiser="muon"))
    muon, adamw = optimiser.optimisers
    matrices = [p for group in muon.param_groups for p in group["params"]]
    others = [p for group in adamw.param_groups for p in group["params"]]
    assert matrices and all(p.ndim == 2 and min(p.shape) > 1 for p in matrices)
    assert len(matrices) + len(others) == len(trainable(model))


def test_weight_decay_on_named_parameters_only():
    model = small.potential()
    options = small.options(optimiser="adamw", weight_decay=0.5, weight_decay_on=("readouts.*",))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimiser = build_optimiser(model, options)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if n.startswith("readouts.")}
    with pytest.raises(EquipotError, match=r"'products\.\*' matches no parameter; there are .*readouts"):
        build_optimiser(model, small.options(weight_decay=0.1, weight_decay_on=("products.*",)))


def test_a_model_without_parameters_is_refused():
    model = small.potential()
    model.requires_grad_(False)
    with pytest.raises(EquipotError, match="no trainable parameters"):
        build_optimiser(model, small.options())


def test_a_missing_schedulefree_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(EquipotError, match=r"pip install equipot\[schedulefree\]"):
        build_optimiser(small.potential(), small.options(optimiser="schedulefree", schedule="constant"))


def test_shapes_of_the_learning_rate():
    options = {name: small.options(schedule=name, final_lr_fraction=0.01) for name in ("cosine", "exponential")}
    assert [shape(options["cosine"], p) for p in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([1, 0.505, 0.01, 0.01])
    assert [shape(options["exponential"], p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.1, 0.01])
    assert shape(small.options(schedule="constant"), 0.7) == 1


def test_warm_up_plateau_and_stages_multiply():
    options = small.options(
        schedule="constant", lr=0.1, warmup_steps=4, stages=[{"from_epoch": 3, "lr_factor": 0.5, "warmup_steps": 0}]
    )
    rates = [learning_rate(options, step=s, progress=0.0, plateau=1.0, stage=0, step_in_stage=0) for s in range(6)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert learning_rate(options, step=9, progress=0.0, plateau=0.8, stage=1, step_in_stage=0) == pytest.approx(0.04)


def test_a_stage_warms_up_anew():
    """The second moments of Adam belong to the old weights of the loss; steps are small until they have followed."""
    stages = [{"from_epoch": 1, "warmup_steps": 2}, {"from_epoch": 2, "warmup_steps": 4}]
    options = small.options(schedule="constant", lr=0.1, stages=stages)
    rates = [
        learning_rate(options, step=50, progress=0.0, plateau=1.0, stage=2, step_in_stage=s) / 0.1 for s in range(6)
    ]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    assert learning_rate(options, step=50, progress=0, plateau=1, stage=1, step_in_stage=0) == pytest.approx(0.05)


def test_stages_begin_by_epoch_or_progress_and_never_end():
    options = small.options(stages=[{"from_epoch": 3}, {"from_progress": 0.5}])
    assert [stage_at(options, epoch=e, progress=e / 10, stage=0) for e in (0, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]
    assert stage_at(options, epoch=0, progress=0.0, stage=2) == 2


def test_plateau_falls_after_its_patience():
    options = small.options(schedule="plateau", plateau_patience=2, plateau_factor=0.5)
    plateau, factors = Plateau(), []
    for better in (True, False, False, False, False, False, False, True):
        plateau.validated(better, options)
        factors.append(plateau.factor)
    assert factors == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_names_are_grouped_by_as_many_parts_as_make_a_short_list():
    layers = [f"layers.{i}.{block}.{n}" for i in range(4) for block in ("up", "mix", "radial") for n in range(2)]
    assert grouped(["embedding.weight", *layers, "scale"]) == [
        "embedding.weight", *(f"layers.{i}.* (6 parameters)" for i in range(4)), "scale"
    ]  # fmt: skip
    assert grouped(layers[:4]) == layers[:4]
    assert grouped([*layers, "readouts.3.weight"], most=5)[-1] == "readouts.3.weight"
    assert grouped(["a.b", "c"], most=2) == ["a.b", "c"]
    assert grouped([f"p{n}" for n in range(20)], most=4) == ["p0", "p1", "p2", "… (17 more)"]
    assert grouped([]) == []


@pytest.mark.parametrize("pattern", ["readout.*", "*.weigth"])
def test_a_pattern_without_a_match_is_an_error_that_stays_short(pattern):
    model = small.potential(layers=3)
    with pytest.raises(EquipotError, match=r"fit\.train_only: .*layers\.0\.\* \(\d+ parameters\)") as told:
        with only_trained(model, [pattern]):
            pass
    assert len(str(told.value)) < 500
