import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import small
import torch

from equipot.design import Design
from equipot.errors import EquipotError
from equipot.files import write_atomically
from equipot.fit.checkpoint import (
    PARTS,
    check_unchanged,
    differences,
    load_checkpoint,
    save_checkpoint,
)
from equipot.fit.options import FitOptions
from equipot.fit.train import fit
from equipot.models.model_file import save_potential

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from equipot.files import write_atomically

def write(path):
    with path.open("wb") as file:
        file.write(b"half of a checkp")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

write_atomically(Path(sys.argv[1]), write)
"""


def whole(**state) -> dict:
    """A checkpoint with all its parts, most of them empty."""
    return {**{part: {} for part in PARTS}, "state": state}


def test_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, whole(step=1, weights=torch.arange(3.0)))
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert load_checkpoint(path)["state"]["weights"].tolist() == [0, 1, 2]
    assert len(os.listdir(tmp_path)) == 2
    save_checkpoint(path, whole(step=2))
    assert load_checkpoint(path)["state"]["step"] == 2
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("new, but")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path: Path) -> None:
    path.write_text("epoch 1 loss 2")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, foreign, empty])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, whole(step=1, weights=torch.zeros(1000)))
    damage(path)
    with pytest.raises(EquipotError, match=r"last\.ckpt is damaged or not a checkpoint"):
        load_checkpoint(path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"format_version": 1, "harm": os.system}, path)
    with pytest.raises(EquipotError, match="damaged or not a checkpoint"):
        load_checkpoint(path)


def test_no_checkpoint_and_another_format(tmp_path):
    path = tmp_path / "last.ckpt"
    with pytest.raises(EquipotError, match="there is no checkpoint"):
        load_checkpoint(path)
    torch.save({"format_version": 99}, path)
    with pytest.raises(EquipotError, match="has checkpoint format 99, this program reads 1"):
        load_checkpoint(path)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(tmp_path, part):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {name: value for name, value in whole(step=1).items() if name != part})
    with pytest.raises(EquipotError, match=rf"last\.ckpt is not whole, it lacks {part}; copy it again"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"epoch": 3, "model_state_dict": {"w": torch.zeros(2)}}, r"a dictionary with epoch, model_state_dict"),
        ([torch.zeros(2)], "one object of type list"),
        (torch.zeros(2), "one object of type Tensor"),
    ],
)
def test_a_file_of_torch_that_is_no_checkpoint_is_called_that(tmp_path, content, what):
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    with pytest.raises(EquipotError, match=f"file of torch, but not a checkpoint of equipot: it holds {what}"):
        load_checkpoint(path)


def test_a_model_in_the_place_of_a_checkpoint_is_called_that(tmp_path):
    path = tmp_path / "last.ckpt"
    save_potential(path, small.potential())
    with pytest.raises(EquipotError, match=r"last\.ckpt is an equipot model, not a checkpoint.*start a new run"):
        load_checkpoint(path)


def test_a_file_in_the_place_of_the_folder_is_called_that(tmp_path):
    path = tmp_path / "best.equipot"
    save_potential(path, small.potential())
    with pytest.raises(EquipotError, match=r"best\.equipot is a file; give the folder of the run"):
        load_checkpoint(path / "last.ckpt")


def without_epoch(content: dict) -> None:
    del content["state"]["epoch"]


def without_best_weight(content: dict) -> None:
    del content["state"]["best_weights"]["embedding.weight"]


def without_random_state(content: dict) -> None:
    content["random"] = {}


def without_average(content: dict) -> None:
    content["average"] = {}


def without_weight(content: dict) -> None:
    del content["model"]["embedding.weight"]


def without_optimiser(content: dict) -> None:
    content["optimiser"] = {"state": {}, "param_groups": []}


@pytest.mark.parametrize(
    "damage",
    [without_epoch, without_best_weight, without_random_state, without_average, without_weight, without_optimiser],
)
def test_a_part_with_something_missing_is_an_error_that_says_so(tmp_path, damage):
    data = small.dataset(3), small.dataset(2, seed=1)
    fit(small.potential(), *data, small.options(max_epochs=1), tmp_path)
    content = load_checkpoint(tmp_path / "last.ckpt")
    damage(content)
    save_checkpoint(tmp_path / "last.ckpt", content)
    with pytest.raises(EquipotError, match=r"last\.ckpt is not whole or does not belong to this run .*start a new"):
        fit(small.potential(), *data, small.options(max_epochs=1), tmp_path, resume=True)


def test_differences_name_nested_keys():
    old = {"fit": {"lr": 0.01, "seed": 1}, "dtype": "float32", "gone": 1}
    new = {"fit": {"lr": 0.02, "seed": 1}, "dtype": "float32", "here": 2}
    assert differences(old, new) == {"fit.lr": (0.01, 0.02), "gone": (1, None), "here": (None, 2)}


def test_only_the_length_of_a_run_may_change():
    old = {"fit": {"lr": 0.01, "max_epochs": 10, "max_minutes": None}, "train_data": "abc"}
    check_unchanged(old, {"fit": {"lr": 0.01, "max_epochs": 20, "max_minutes": 5.0}, "train_data": "abc"})
    with pytest.raises(
        EquipotError,
        match=r"fit\.lr was 0\.01 and is now 0\.1; the training structures or their labels differ: "
        r"train_data was 'abc' and is now 'd'",
    ):
        check_unchanged(old, {"fit": {"lr": 0.1, "max_epochs": 10, "max_minutes": None}, "train_data": "d"})


def test_options_of_a_later_version_at_their_defaults_are_no_change():
    """A run that began before an axis or an option existed goes on with it."""
    new = {"design": Design().model_dump(mode="json"), "fit": FitOptions().model_dump(mode="json")}
    old = {section: dict(values) for section, values in new.items()}
    del old["design"]["repulsion_scaled"], old["design"]["first_layer"], old["fit"]["train_only"]
    assert check_unchanged(old, new) == {}
    new["fit"]["train_only"] = ["readouts.*"]
    new["design"]["first_layer"] = "linear"
    with pytest.raises(EquipotError, match=r"design\.first_layer was 'same' and is now 'linear'.*train_only"):
        check_unchanged(old, new)
    old["fit"]["clip"] = None  # another value, not an absent one
    with pytest.raises(EquipotError, match=r"fit\.clip was None and is now 10"):
        check_unchanged(old, new)


def test_a_full_disk_is_an_operating_system_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "last.ckpt", {"model": {"x": torch.zeros(3)}})
