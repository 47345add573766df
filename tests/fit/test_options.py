import pytest
from pydantic import ValidationError

from equipot.fit.options import FitOptions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"optimiser": "sgd"}, "'amsgrad'"),
        ({"batch_atoms": 100}, "exactly one of batch_size"),
        ({"batch_size": None}, "exactly one of batch_size"),
        ({"optimiser": "schedulefree"}, "set schedule: constant"),
        ({"energy_weight": 0, "forces_weight": 0, "stress_weight": 0}, "all weights of the loss are zero"),
        ({"stages": [{"from_epoch": 5, "from_progress": 0.5}]}, "exactly one of from_epoch"),
        ({"stages": [{"from_epoch": 5}, {"from_epoch": 3}]}, "must follow each other"),
        (
            {"stages": [{"from_epoch": 5, "energy_weight": 0, "forces_weight": 0, "stress_weight": 0}]},
            "zero in stage 1",
        ),
        ({"lr": -0.1}, "greater than 0"),
        ({"betas": (0.9, 1.0)}, "betas must lie"),
    ],
)
def test_bad_options_say_what_to_do(given, message):
    with pytest.raises(ValidationError, match=message):
        FitOptions(**given)


def test_every_option_is_described():
    assert [name for name, field in FitOptions.model_fields.items() if not field.description] == []


def test_energies_forces_and_stresses_all_count_by_default():
    assert FitOptions().loss_weights(0).model_dump() == {"energy": 100.0, "forces": 10.0, "stress": 100.0}


def test_options_survive_json():
    options = FitOptions(stages=[{"from_progress": 0.5, "energy_weight": 3.0}], loss="huber")
    assert FitOptions.model_validate_json(options.model_dump_json()) == options


def test_stages_change_what_they_name():
    options = FitOptions(
        energy_weight=1,
        forces_weight=10,
        stages=[{"from_epoch": 2, "energy_weight": 5}, {"from_epoch": 4, "forces_weight": 2}],
    )
    assert [(w.energy, w.forces) for w in map(options.loss_weights, range(3))] == [(1, 10), (5, 10), (5, 2)]
    assert options.final_loss_weights == options.loss_weights(2)
