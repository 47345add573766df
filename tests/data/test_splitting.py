"""Splits: a function of the seed, complete, and replayed from their record."""

import json

import pytest

from equipot.config import Config
from equipot.data import DataOptions, load, read_frames
from equipot.data.split import random_split


@pytest.mark.parametrize(("fraction", "valid"), [(0.25, 3), (0.01, 1), (0.99, 11), (0.5, 6)])
def test_random_split_takes_the_fraction_and_nothing_twice(clusters, fraction, valid):
    frames = read_frames(clusters).frames
    split = random_split(frames, fraction, seed=3)
    assert len(split.valid) == valid
    assert sorted(split.train + split.valid) == list(range(12))


def test_random_split_is_a_function_of_the_seed(clusters):
    frames = read_frames(clusters).frames
    splits = [random_split(frames, 0.5, seed) for seed in (0, 0, 1, 2)]
    assert splits[0] == splits[1]
    assert len({split.valid for split in splits}) == 3


def test_random_split_leaves_every_element_in_training(write, cluster):
    rare = [cluster(100, "CHO"), cluster(101, "CON"), *(cluster(i) for i in range(6))]
    for frame in rare:
        del frame.info["REF_energy"]
    frames = read_frames(write("a.xyz", rare), DataOptions(train="a", energy_key="none").keys).frames
    for seed in range(20):
        split = random_split(frames, 0.5, seed)
        assert {0, 1} <= set(split.train)
        assert len(split.valid) == 4


def test_structures_may_be_named_by_file_name(clusters, tmp_path):
    by_name = load(DataOptions(train=clusters, valid={"indices": ["train.xyz#3", "train.xyz#0"]}), 3.0)
    by_number = load(DataOptions(train=clusters, valid={"indices": [0, 3]}), 3.0)
    assert by_name.split == by_number.split
    config = Config.from_files([clusters], ["data.valid={indices: ['train.xyz#3']}"])
    assert config.portable()["data"]["valid"]["indices"] == ["train.xyz#3"]


def test_recorded_split_can_be_given_back(clusters, tmp_path):
    data = load(DataOptions(train=clusters, valid=0.25, seed=5), 3.0)
    path = tmp_path / "split.json"
    path.write_text(json.dumps(data.split))
    again = load(DataOptions(train=clusters, valid={"indices": str(path)}, seed=99), 3.0)
    assert again.split == data.split
    assert again.hashes() == data.hashes()


def test_given_indices_count_over_all_files(write, cluster, atom):
    paths = [write("a.xyz", [atom("C"), atom("O"), cluster(0)]), write("b.xyz", [cluster(1), cluster(2)])]
    split = load(DataOptions(train=paths, valid={"indices": [3]}), 3.0).split
    assert split == {"train": [f"{paths[0]}#2", f"{paths[1]}#1"], "valid": [f"{paths[1]}#0"]}


@pytest.mark.parametrize("content", ["1\n2\n", "{path}#1\n{path}#2\n", "[1, 2]"])
def test_indices_from_a_file(clusters, tmp_path, content):
    path = tmp_path / ("split.json" if content.startswith("[") else "split.txt")
    path.write_text(content.replace("{path}", clusters))
    data = load(DataOptions(train=clusters, valid={"indices": str(path), "train_indices": [7, 5]}), 3.0)
    assert data.split == {
        "train": [f"{clusters}#5", f"{clusters}#7"],
        "valid": [f"{clusters}#1", f"{clusters}#2"],
    }


def test_validation_from_a_file(clusters, write, cluster):
    path = write("valid.xyz", [cluster(50), cluster(51)])
    data = load(DataOptions(train=clusters, valid=path, tests={"more": path}), 3.0)
    assert (len(data.train), len(data.valid), len(data.tests["more"])) == (12, 2, 2)
    assert data.split["valid"] == [f"{path}#0", f"{path}#1"]


def test_statistics_see_the_training_structures_only(clusters, write, cluster):
    far = write("valid.xyz", [cluster(50, scale=0.3), cluster(51, scale=0.3)])
    alone = load(DataOptions(train=clusters, valid=far), 3.0).statistics
    other = load(DataOptions(train=clusters, valid=clusters), 3.0).statistics
    assert alone == other


def test_test_sets_are_named_after_their_files():
    options = DataOptions(train="a.xyz", tests=["x/test_300K.xyz.gz", "x/train.xyz", "y/a.xyz", "z/a.xyz"])
    assert list(options.tests) == ["test_300K", "x_train", "y_a", "z_a"]
