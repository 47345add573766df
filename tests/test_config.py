"""Configuration: what is read, what is refused, and that what is written can be read again."""

from pathlib import Path

import pytest
import yaml

from equipot.config import SECTIONS, Config, parse_settings, section_keys
from equipot.errors import EquipotError
from equipot.points import named_point


def write(folder: Path, text: str) -> Path:
    path = folder / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_files_alone_give_a_first_model(tmp_path):
    config = Config.from_files([tmp_path / "my.extxyz"])
    assert config.design.name == "mace"
    assert config.design.design.r_max == 5.0
    assert config.data.train == (str(tmp_path / "my.extxyz"),)
    assert config.data.valid == 0.1
    assert config.md is not None
    assert config.scan is None


def test_paths_are_relative_to_the_file_and_settings_to_the_working_directory(tmp_path, monkeypatch):
    folder, elsewhere = tmp_path / "job", tmp_path / "here"
    folder.mkdir()
    elsewhere.mkdir()
    text = """
    data:
      train: [a.xyz, ../b.xyz]
      tests: {hot: hot.xyz, far: /data/far.xyz}
      atomic_energies: atoms.xyz
    scan: {file: scan.xyz, x: gamma}
    md: {structure: start.xyz}
    """
    monkeypatch.chdir(elsewhere)
    config = Config.from_yaml(write(folder, text), ["data.valid=valid.xyz"])
    assert config.data.train == (str(folder / "a.xyz"), str(tmp_path / "b.xyz"))
    assert config.data.tests == {"hot": (str(folder / "hot.xyz"),), "far": ("/data/far.xyz",)}
    assert config.data.atomic_energies == str(folder / "atoms.xyz")
    assert config.data.valid == (str(elsewhere / "valid.xyz"),)
    assert config.scan.file == str(folder / "scan.xyz")
    assert config.md.structure == str(folder / "start.xyz")


def test_words_and_numbers_are_not_taken_for_paths():
    raw = {"data": {"train": "/a.xyz", "valid": "0.2", "atomic_energies": "least_squares"}}
    config = Config.from_dict(raw)
    assert config.data.valid == 0.2
    assert config.data.atomic_energies == "least_squares"


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["md=false", "data.atomic_energies={H: -13.6, 8: -2041}", "design.channels=16", "fit.max_epochs=3"],
        ["design.name=botnet", "scan={file: s.xyz, x: angle, group: plane}", "data.valid={indices: [1, 2]}"],
        ["fit.stages=[{from_progress: 0.5, energy_weight: 10}]", "fit.batch_size=null", "fit.batch_atoms=100"],
        ["run.seed=7", "md.ensemble=nve", "data.config_type_weights={300: 2.0}"],
    ],
)
def test_what_is_written_is_read_as_the_same(tmp_path, settings):
    config = Config.from_files(["a.xyz"], settings)
    assert Config.from_yaml(write(tmp_path, config.to_yaml())) == config


def test_a_linear_fit_has_its_own_section_and_none_of_training(tmp_path):
    settings = ["design=mace", "linear.solver=qr", "linear.scratch=/data/scratch", "run.seed=3"]
    config = Config.from_files(["a.xyz"], settings, linear=True)
    assert (config.linear.solver, config.linear.seed, config.run.dtype, config.run.device) == (
        "qr",
        3,
        "float64",
        "cpu",
    )
    assert "fit" not in config.as_dict()
    assert "linear" not in Config.from_files(["a.xyz"]).as_dict()
    assert Config.from_yaml(write(tmp_path, config.to_yaml())) == config
    assert config.portable()["linear"]["scratch"] == "scratch"
    given = {"data": {"train": "a.xyz"}, "design": "mace", "linear": {"prior": 0.5}}
    assert Config.from_dict(given, linear=True).linear.prior == 0.5


LINEAR = {"data": {"train": "a.xyz"}, "design": "mace", "linear": {}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["fit.max_epochs=3"], "the section 'fit' is for equipot train"),
        (["linear.solvr=qr"], "unknown key 'linear.solvr'. Did you mean 'linear.solver'?"),
        (["linear.prior=-1"], "linear: prior must be a number ≥ 0"),
        (["linear.solver=lsqr"], "lsqr has no factor to find the prior by evidence"),
        (["linear.committee=1"], "linear.committee = 1"),
        (["linear.keep_weights=true"], "there is none; give it with start.model (--refit-readout MODEL)"),
        (["run.device=cuda"], "a linear fit works on the CPU"),
    ],
)
def test_mistakes_of_a_linear_fit_are_named(settings, message):
    with pytest.raises(EquipotError) as caught:
        Config.from_dict(LINEAR, settings, source="fit.yaml")
    assert message in str(caught.value)


def test_axes_without_a_name_change_the_first_model_and_a_name_starts_from_the_published_point():
    changed = Config.from_files(["a.xyz"], ["design.channels=8"]).design.design
    assert (changed.channels, changed.max_ell) == (8, Config.from_files(["a.xyz"]).design.design.max_ell)
    assert Config.from_files(["a.xyz"], ["design.name=mace"]).design.design == named_point("mace")
    assert Config.from_files(["a.xyz"], ["design=nequip"]).design.design == named_point("nequip")
    raw = {"data": {"train": "a.xyz"}, "design": "botnet"}
    assert Config.from_dict(raw, ["design.channels=4"]).design.design == named_point("botnet", channels=4)


def test_one_seed_is_for_everything_that_has_none_of_its_own():
    config = Config.from_files(["a.xyz"], ["run.seed=5", "fit.seed=2"])
    assert (config.run.seed, config.data.seed, config.fit.seed) == (5, 5, 2)


def test_a_model_file_gets_names_instead_of_paths():
    settings = ["data.valid=/secret/v.xyz", "scan={file: /secret/s.xyz, x: a}", "data.tests.t=/secret/t.xyz"]
    portable = Config.from_files(["/secret/a.xyz"], settings).portable()
    assert "secret" not in yaml.safe_dump(portable)
    assert portable["data"]["train"] == ["a.xyz"]


def test_later_settings_win_and_nest():
    assert parse_settings(["a.b=1", "a.c=[x, y]", "a.b=2.5"]) == {"a": {"b": 2.5, "c": ["x", "y"]}}


DATA = {"data": {"train": "a.xyz"}}
MISTAKES = [
    ({**DATA, "fit": {"max_epoch": 3}}, [], "unknown key 'fit.max_epoch'. Did you mean 'fit.max_epochs'?"),
    ({**DATA, "fits": {}}, [], "Did you mean 'fit'?"),
    (DATA, ["channels=3"], "unknown key 'channels'. Did you mean 'design.channels'?"),
    (DATA, ["design.chanels=3"], "unknown design axis 'chanels'. Did you mean 'channels'?"),
    (DATA, ["design.name=mase"], "unknown point 'mase'. Did you mean 'mace'?"),
    (DATA, ["design.correlation=9"], "design.correlation = 9"),
    (DATA, ["data.trian=x"], "unknown key 'data.trian'. Did you mean 'data.train'?"),
    (DATA, ["data.valid=1.5"], "a validation fraction lies between 0 and 1"),
    (DATA, ["fit.lr=-1"], "fit.lr = -1: Input should be greater than 0"),
    (DATA, ["fit.loss=l2"], "fit.loss = 'l2': Input should be 'mse', 'mae' or 'huber'"),
    (DATA, ["fit.batch_size=null"], "fit: give exactly one of batch_size (structures) and batch_atoms"),
    (DATA, ["fit.stages=[{from_epoch: 0}]"], "fit.stages.0.from_epoch = 0"),
    (DATA, ["md.step=1"], "unknown key 'md.step'. Did you mean 'md.steps'?"),
    (DATA, ["md.steps=-1"], "md.steps = -1"),
    (DATA, ["md.max_minutes=0"], "md.max_minutes = 0"),
    (DATA, ["run.dtype=half"], "run.dtype = 'half'"),
    (DATA, ["scan.x=gamma"], "'scan.file' is missing"),
    (DATA, ["fit.lr"], "--set fit.lr: write section.key=value"),
    (DATA, ["fit.lr={"], "--set fit.lr={: the value is not YAML"),
    ({"data": {}}, [], "data.train is missing"),
    ({}, [], "there is no section 'data'"),
    ({"data": ["a.xyz"]}, [], "there is no section 'data'"),
    ({**DATA, "fit": 3}, [], "section 'fit' is 3"),
]


@pytest.mark.parametrize(("raw", "settings", "message"), MISTAKES, ids=[m[2][:40] for m in MISTAKES])
def test_mistakes_are_named(raw, settings, message):
    with pytest.raises(EquipotError) as caught:
        Config.from_dict(raw, settings, source="train.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith(("train.yaml: ", "--set "))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [", "is not YAML: line 2, column 1"),
        ("- a\n- b\n", "holds no configuration"),
        ("", "holds no configuration"),
    ],
)
def test_files_that_hold_no_configuration(tmp_path, text, message):
    with pytest.raises(EquipotError, match=message):
        Config.from_yaml(write(tmp_path, text + "\n"))


def test_a_missing_file_names_the_nearest(tmp_path):
    write(tmp_path, "data: {train: a.xyz}")
    with pytest.raises(EquipotError, match=r"Did you mean .*train\.yaml\?"):
        Config.from_yaml(tmp_path / "trian.yaml")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_has_a_meaning_and_the_defaults_are_those_in_use(section):
    keys = section_keys(section)
    assert all(entry["meaning"] for entry in keys.values())
    settings = ["design.name=mace"] if section == "linear" else []
    resolved = Config.from_files(["a.xyz"], settings, linear=section == "linear").as_dict()[section] or {}
    differing = {
        key for key, value in resolved.items() if key != "train" and keys[key]["default"] not in (value, "(needed)")
    }
    allowed = {
        "train",
        "energy_key",
        "forces_key",
        "stress_key",
        "virial_key",
        "radial_mlp",
        "degrees",
        "stages",
        "betas",
        "weight_decay_on",
        "train_only",
    }
    assert differing <= allowed, "defaults differ by more than tuples written as lists"


def test_a_design_with_fitted_reference_energies_asks_the_data_for_them() -> None:
    raw = {"data": {"train": "a.xyz"}, "design": {"name": "mace", "energy_reference": "least_squares"}}
    assert Config.from_dict(raw).data.atomic_energies == "least_squares"
    given = {"data": {"train": "a.xyz", "atomic_energies": {"H": -13.6}}, "design": raw["design"]}
    assert Config.from_dict(given).data.atomic_energies == {"H": -13.6}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("data: {train: a.xyz}\nfit: {}\ndata: {train: b.xyz}\n", "line 3, .*'data' is given twice, first in line 1"),
        ("data:\n  train: a.xyz\n  train: b.xyz\n", "line 3, .*'train' is given twice, first in line 2"),
        ("data: {train: a.xyz}\nmd: {steps: 1, steps: 2}\n", "line 2, .*'steps' is given twice"),
    ],
)
def test_a_key_given_twice_is_an_error(tmp_path, text, problem):
    with pytest.raises(EquipotError, match=rf"train\.yaml.*{problem}"):
        Config.from_yaml(write(tmp_path, text))


def test_merged_keys_of_an_anchor_are_not_given_twice(tmp_path):
    text = "data: {train: a.xyz}\nfit: &a {max_epochs: 3}\nrun: {seed: 1}\nmd: {<<: {steps: 5}, steps: 7}\n"
    assert Config.from_yaml(write(tmp_path, text)).md.options.steps == 7


def test_a_key_given_twice_in_a_setting_is_an_error():
    with pytest.raises(EquipotError, match="'H' is given twice"):
        parse_settings(["data.atomic_energies={H: -1, H: -2}"])


def test_an_empty_mapping_empties(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data: {train: a.xyz, tests: {hot: b.xyz}}")
    assert Config.from_yaml(path).data.tests != {}
    assert Config.from_yaml(path, ["data.tests={}"]).data.tests == {}
