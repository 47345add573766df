import numpy as np
import pytest
import small

from equipot.data.dataset import Dataset
from equipot.fit.distributed import Alone
from equipot.fit.interrupt import Interrupted
from equipot.fit.metrics import error_table, errors, evaluate_set
from equipot.geometry.derivatives import evaluate


@pytest.fixture(scope="module")
def frames() -> list:
    made = small.frames(7)
    made[1] = small.labelled(made[1].atoms, 1, energy=None)
    made[3] = small.labelled(made[3].atoms, 3, forces=None)
    return made


def by_hand(model, frames) -> dict[str, float]:
    energy, per_atom, forces, stress = [], [], [], []
    for frame in frames:
        alone = evaluate(model, Dataset([frame], small.R_MAX).batch([0]).graph)
        if frame.energy is not None:
            energy.append(alone.energy.item() - frame.energy)
            per_atom.append(energy[-1] / len(frame.atoms))
        if frame.forces is not None:
            forces.append((alone.forces.numpy() - frame.forces).ravel())
        if frame.stress is not None:
            stress.append((alone.stress[0].numpy() - frame.stress).ravel())
    values = {}
    for name, unit, parts in (
        ("energy", "meV", energy),
        ("energy", "meV_per_atom", per_atom),
        ("forces", "meV_per_A", forces),
        ("stress", "meV_per_A3", stress),
    ):
        x = 1000 * np.hstack(parts)
        values[f"{name}_rmse_{unit}"] = np.sqrt(np.mean(x**2))
        values[f"{name}_mae_{unit}"] = np.mean(np.abs(x))
        values[f"{name}_count"] = x.size
    return values


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_errors_are_exact_whatever_the_batches(frames, batch_size):
    model = small.potential()
    found = errors(model, Dataset(frames, small.R_MAX), batch_size)
    assert found == pytest.approx(by_hand(model, frames), rel=1e-12)


class OneOfThree(Alone):
    """A process that does its share and hears nothing of the others."""

    count = 3

    def __init__(self, rank: int) -> None:
        self.rank = rank


@pytest.mark.parametrize("choice", [{"valid_batch_size": 1}, {"batch_size": None, "batch_atoms": 5}])
def test_every_process_asks_equally_often_whether_to_stop(choice):
    """Four structures on three processes: one has two batches, but a sum over all needs all to take part."""
    data, asked = small.dataset(4), []
    for rank in range(3):
        asked.append(0)

        def watch(rank: int = rank) -> None:
            asked[rank] += 1

        evaluate_set(small.potential(), data, small.options(**choice), OneOfThree(rank), watch)
    assert asked == [2, 2, 2]


def test_an_evaluation_can_be_ended_between_two_batches():
    calls = []

    def watch() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        evaluate_set(small.potential(), small.dataset(4), small.options(valid_batch_size=1), watch=watch)
    assert len(calls) == 2


def test_errors_by_config_type_and_element(frames):
    model = small.potential()
    table = error_table(model, Dataset(frames, small.R_MAX))
    crystals = [f for f in frames if f.config_type == "crystal"]
    assert sorted(table.config_types) == ["crystal", "molecule"]
    assert table.config_types["crystal"] == pytest.approx(by_hand(model, crystals), rel=1e-12)
    assert table.config_types["molecule"]["stress_rmse_meV_per_A3"] is None
    copper = table.elements["Cu"]
    assert copper["forces_mae_meV_per_A"] == pytest.approx(
        table.config_types["crystal"]["forces_mae_meV_per_A"], rel=1e-12
    )
    assert sum(e["forces_count"] for e in table.elements.values()) == table.total["forces_count"]


def test_errors_without_labels_are_none(frames):
    bare = [small.labelled(f.atoms, 0, energy=None, forces=None, stress=None) for f in frames]
    found = errors(small.potential(), Dataset(bare, small.R_MAX))
    assert {k: v for k, v in found.items() if not k.endswith("count")} == dict.fromkeys(
        [k for k in found if not k.endswith("count")]
    )
    assert found["energy_count"] == found["forces_count"] == found["stress_count"] == 0
