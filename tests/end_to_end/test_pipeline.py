"""The pipeline: what a run leaves, that it can be stopped and resumed, and that nothing loses the model."""

import json
import os
import shutil
import signal
import subprocess
import sys

import ase.io
import numpy as np
import pytest
import torch
from small_runs import SMALL

from equipot import pipeline, run_stages
from equipot.config import Config
from equipot.deploy.md_files import read_thermo
from equipot.errors import EquipotError
from equipot.fit.reporter import NullReporter
from equipot.models.model_file import load_potential, read_model_header
from equipot.pipeline import train
from equipot.study.predictions import Predictions


def config(files, *settings):
    return Config.from_yaml(files / "train.yaml", [*SMALL, *settings])


def test_a_run_leaves_everything(run):
    left = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    assert left >= {
        "model.equipot", "best.equipot", "last.equipot", "last.ckpt", "report.html", "config.yaml", "equipot.log",
        "metrics.jsonl", "data.json", "errors.json", "scan.json", "run.json", "md/thermo.csv", "md/summary.json",
        "md/trajectory.extxyz", "predictions/train.npz", "predictions/valid.npz", "predictions/hot.npz",
    }  # fmt: skip
    assert run.problems == []
    assert list(run.errors) == ["train", "valid", "hot"]


def test_the_files_say_the_same_as_the_result(run):
    errors = json.loads((run.folder / "errors.json").read_text())
    assert errors["hot"]["total"] == run.errors["hot"]
    assert set(errors["hot"]["config_types"]) == {"water", "methane"}
    header = read_model_header(run.model)
    assert header.provenance["errors"] == run.errors
    assert header.provenance["config"]["data"]["train"] == ["train.extxyz"]
    reference, predicted = Predictions.load(run.folder / "predictions" / "hot.npz").pairs("forces")
    rmse = 1000 * np.sqrt(np.mean((predicted - reference) ** 2))
    assert rmse == pytest.approx(run.errors["hot"]["forces_rmse_meV_per_A"], rel=1e-5)
    assert len(read_thermo(run.folder / "md")["step"]) == 3
    assert [len(path.x) for path in run.scan] == [4, 4]


def test_the_log_says_how_to_train_without_the_dynamics(run):
    lines = (run.folder / "equipot.log").read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if "--set md=false" in line]
    assert len(told) == 1
    assert "dynamics: 20 steps of 0.05 fs at 10 K, about " in told[0]


def test_the_written_configuration_is_the_one_in_use(run, files):
    written = Config.from_yaml(run.folder / "config.yaml")
    assert written.run.radial.startswith("spline:"), "what was left open is written as it was decided"
    assert written == Config.from_dict(config(files).as_dict(), [f"run.radial={written.run.radial}"])


def test_a_run_is_not_overwritten(run, files):
    with pytest.raises(EquipotError, match="holds a run already"):
        train(config(files), run.folder)


class Stop(NullReporter):
    """Presses Ctrl-C in the first step of the second epoch."""

    def step(self, report):
        if report.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_run_has_a_model_and_resumed_ends_with_the_same_bits(run, files, tmp_path):
    stopped = train(config(files), tmp_path / "run", reporter=Stop())
    assert stopped.fit.status == "interrupted"
    assert stopped.problems == []
    load_potential(stopped.model, check=True)
    assert "The training was interrupted" in stopped.report.read_text(encoding="utf-8")
    resumed = train(Config.from_yaml(tmp_path / "run" / "config.yaml"), tmp_path / "run", resume=True)
    assert resumed.fit.status == "finished"
    ours, theirs = load_potential(resumed.model).state_dict(), load_potential(run.model).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.errors == run.errors


def test_resuming_with_another_configuration_names_the_difference(run):
    changed = Config.from_yaml(run.folder / "config.yaml", ["fit.lr=0.5"])
    before = (run.folder / "config.yaml").read_bytes()
    with pytest.raises(EquipotError, match=r"fit\.lr was 0\.01 and is now 0\.5"):
        train(changed, run.folder, resume=True)
    assert (run.folder / "config.yaml").read_bytes() == before


def test_options_are_compared_before_data_are_read(run, monkeypatch):
    monkeypatch.setattr(pipeline, "prepare", lambda *_: 1 / 0)
    changed = Config.from_yaml(run.folder / "config.yaml", ["fit.lr=0.5"])
    with pytest.raises(EquipotError, match="lr"):
        train(changed, run.folder, resume=True)


def test_every_changed_option_is_named(run):
    changed = Config.from_yaml(run.folder / "config.yaml", ["data.valid=0.3", "design.channels=8", "fit.lr=0.5"])
    with pytest.raises(EquipotError, match=r"data\.valid was 0\.1 and is now 0\.3; design\.channels .*; fit\.lr "):
        train(changed, run.folder, resume=True)


def test_other_structures_are_named_before_what_follows_from_them(run, files, tmp_path):
    """The data may have moved, but not changed."""
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    moved = tmp_path / "moved.extxyz"
    shutil.copy(files / "train.extxyz", moved)
    longer = Config.from_yaml(folder / "config.yaml", [f"data.train={moved}", "fit.max_epochs=3", "md=false"])
    assert train(longer, folder, resume=True).fit.epochs == 3
    structures = ase.io.read(moved, ":")
    for atoms in structures[5:]:
        atoms.info["REF_energy"] += 0.1
    ase.io.write(moved, structures)
    with pytest.raises(EquipotError, match="train_data was") as caught:
        train(longer, folder, resume=True)
    assert "statistics" not in str(caught.value)


def test_a_run_killed_before_its_first_checkpoint_was_due_goes_on(files, tmp_path, run):
    """SIGKILL in the first epoch: a checkpoint was written before the first step."""
    killed = tmp_path / "killed"
    code = (
        "import os, signal, sys\nfrom equipot.config import Config\nfrom equipot.fit.reporter import NullReporter\n"
        "from equipot.pipeline import train\n"
        "class Kill(NullReporter):\n    def step(self, report):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "train(Config.from_yaml(sys.argv[1], sys.argv[3:]), sys.argv[2], reporter=Kill())\n"
    )
    arguments = [str(files / "train.yaml"), str(killed), *SMALL]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    resumed = train(Config.from_yaml(killed / "config.yaml"), killed, resume=True)
    assert resumed.errors == run.errors


def broken(*_, **__):
    raise RuntimeError("the disk is on fire")


def test_what_fails_after_the_training_does_not_lose_the_model(files, tmp_path, monkeypatch):
    for stage in ("evaluate_set", "evaluate_scan", "run_md"):
        monkeypatch.setattr(run_stages, stage, broken)
    result = train(config(files, "fit.max_epochs=1"), tmp_path / "run")
    assert [problem.split(" failed: ")[0] for problem in result.problems] == [
        "evaluation",
        "scan",
        "molecular dynamics",
    ]
    load_potential(result.model, check=True)
    for file in ("equipot.log", "report.html", "run.json"):
        assert (tmp_path / "run" / file).read_text(encoding="utf-8").count("the disk is on fire") >= 3


def test_dynamics_that_explodes_is_a_problem(files, tmp_path):
    settings = ["fit.max_epochs=1", "md.temperature=300", "md.timestep=10", "md.steps=100", "scan=null"]
    result = train(config(files, *settings), tmp_path / "run")
    (problem,) = result.problems
    assert problem.startswith("molecular dynamics failed: the model does not hold the structure together")
    assert result.dynamics.status == "exploded"
    assert "does not hold the structure together" in result.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(("index", "taken"), [(0, 0), (1, 1), (-1, 1), (-2, 0)])
def test_the_structure_of_the_dynamics_is_counted_as_ase_does(files, index, taken):
    configuration = config(files, f"md.index={index}")
    data = pipeline.prepare(configuration).data
    started = run_stages.start_structure(configuration, data)
    np.testing.assert_array_equal(started.positions, data.valid.frames[taken].atoms.positions)


def test_a_report_that_fails_does_not_lose_the_model_either(files, tmp_path, monkeypatch):
    monkeypatch.setattr(run_stages, "write_run_report", broken)
    result = train(config(files, "fit.max_epochs=1", "md=false", "scan=null"), tmp_path / "run")
    assert len(result.problems) == 1
    assert result.problems[0].startswith("report failed")
    load_potential(result.model, check=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["scan.x=angel"], "scan: frame 0 has no 'angel'; it has"),
        (["scan.file=nowhere.xyz"], "nowhere.xyz does not exist"),
        (["md.index=99"], "md.index is 99, but the validation set has 2 structures"),
        (["md.index=-3"], "md.index is -3"),
        (["run.device=cuda:99"], "is not available here"),
    ],
)
def test_what_would_fail_after_the_training_is_found_before(files, tmp_path, settings, message):
    with pytest.raises(EquipotError, match=message):
        train(config(files, *settings), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_dynamics_takes_no_more_steps_than_there_is_time_for(files, tmp_path):
    settings = ["fit.max_epochs=1", "md.steps=100000", "md.max_minutes=0.003", "scan=null"]
    result = train(config(files, *settings), tmp_path / "run")
    assert 0 < result.dynamics.step < 10000
    assert "as many as fit into md.max_minutes" in result.report.read_text(encoding="utf-8")


def test_the_faster_number_of_threads_is_used_written_down_and_taken_back(files, tmp_path, monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(pipeline, "fastest_training_threads", lambda *_: before + 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    settings = ["fit.max_epochs=1", "run.threads=null", "run.backend=reference"]
    settings += ["md=false", "scan=null", "data.tests={}"]
    train(config(files, *settings), tmp_path / "run")
    assert seen == [4, before + 1, 4]
    assert Config.from_yaml(tmp_path / "run" / "config.yaml").run.threads == before + 1
