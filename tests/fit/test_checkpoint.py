import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from equipot.errors import EquipotError
from equipot.files import write_atomically
from equipot.fit.checkpoint import (
    check_unchanged,
    differences,
    load_checkpoint,
    save_checkpoint,
)

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


def test_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"step": 1, "weights": torch.arange(3.0)})
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert load_checkpoint(path)["weights"].tolist() == [0, 1, 2]
    assert len(os.listdir(tmp_path)) == 2
    save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 2
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
    save_checkpoint(path, {"step": 1, "weights": torch.zeros(1000)})
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


def test_differences_name_nested_keys():
    old = {"fit": {"lr": 0.01, "seed": 1}, "dtype": "float32", "gone": 1}
    new = {"fit": {"lr": 0.02, "seed": 1}, "dtype": "float32", "here": 2}
    assert differences(old, new) == {"fit.lr": (0.01, 0.02), "gone": (1, None), "here": (None, 2)}


def test_only_the_length_of_a_run_may_change():
    old = {"fit": {"lr": 0.01, "max_epochs": 10, "max_minutes": None}, "train_data": "abc"}
    check_unchanged(old, {"fit": {"lr": 0.01, "max_epochs": 20, "max_minutes": 5.0}, "train_data": "abc"})
    with pytest.raises(EquipotError, match=r"fit\.lr was 0\.01 and is now 0\.1; train_data was 'abc' and is now 'd'"):
        check_unchanged(old, {"fit": {"lr": 0.1, "max_epochs": 10, "max_minutes": None}, "train_data": "d"})
