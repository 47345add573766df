"""Files of a few labelled molecules, and one small run trained on them."""

from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import molecule
from small_runs import SMALL, bends, labelled, molecules

from equipot.config import Config
from equipot.pipeline import TrainResult, train


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A folder with train.extxyz, hot.extxyz, scan.extxyz, water.extxyz and train.yaml."""
    folder = tmp_path_factory.mktemp("files")
    isolated = [labelled(Atoms(symbol), config_type="IsolatedAtom") for symbol in ("H", "C", "O")]
    ase.io.write(folder / "train.extxyz", [*isolated, *molecules(20, seed=0)])
    ase.io.write(folder / "hot.extxyz", molecules(6, seed=1, size=0.1))
    ase.io.write(folder / "scan.extxyz", bends())
    water = molecule("H2O")
    ase.io.write(folder / "water.extxyz", water)
    (folder / "train.yaml").write_text(
        "data: {train: train.extxyz, tests: {hot: hot.extxyz}}\nscan: {file: scan.extxyz, x: angle, group: stretch}\n"
        "run: {title: Water and methane}\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="session")
def run(files, tmp_path_factory) -> TrainResult:
    """A finished run; not to be changed."""
    config = Config.from_yaml(files / "train.yaml", SMALL)
    return train(config, tmp_path_factory.mktemp("runs") / "run")
