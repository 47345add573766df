"""The backend as a choice of a run: said once, recorded, the same numbers, and free to change when a run goes on."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
from small_runs import SMALL
from typer.testing import CliRunner

import equipot
from equipot.cli import app
from equipot.config import Config
from equipot.errors import EquipotError
from equipot.fit.checkpoint import load_checkpoint
from equipot.kernels import backend
from equipot.kernels.backend import Choice, backend_of
from equipot.models.model_file import load_potential, read_model_header
from equipot.pipeline import train
from tests.kernels.fused import needs_compiler

runner = CliRunner()


def call(*arguments, code=0):
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result


def document(*arguments):
    return json.loads(call(*arguments, "--json").stdout)


def test_a_run_says_once_what_it_takes_and_why_and_records_it(run):
    taken = json.loads((run.folder / "run.json").read_text())["backend"]
    assert taken == backend.choose("auto", "cpu")._asdict()
    line = str(Choice(**taken))
    assert (run.folder / "equipot.log").read_text().count(line) == 1
    assert line.removeprefix("backend ") in run.report.read_text()
    header = read_model_header(run.model)
    assert header.provenance["backend"] == taken["name"]
    assert header.provenance["config"]["run"]["backend"] == "auto"
    assert "backend" not in header.design.model_dump()
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {record["backend"] for record in records} == {taken["name"]}


@needs_compiler
def test_a_training_takes_the_same_path_on_either_backend_and_may_change_it_on_the_way(files, run, tmp_path):
    settings = [*SMALL, "md=false", "run.dtype=float64"]
    plain = train(Config.from_yaml(files / "train.yaml", [*settings, "run.backend=reference"]), tmp_path / "plain")
    fused = train(Config.from_yaml(files / "train.yaml", [*settings, "run.backend=cpu"]), tmp_path / "fused")
    loss, fused_loss = plain.fit.best_loss, fused.fit.best_loss
    assert fused_loss == pytest.approx(loss, rel=1e-9) and plain.fit.steps == fused.fit.steps
    longer = Config.from_yaml(tmp_path / "plain" / "config.yaml", ["run.backend=cpu", "fit.max_epochs=3"])
    changed = train(longer, tmp_path / "plain", resume=True)
    assert changed.fit.epochs == 3
    records = [json.loads(line) for line in (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()]
    assert [record["backend"] for record in records] == ["reference", "reference", "cpu"]
    longer = Config.from_yaml(tmp_path / "fused" / "config.yaml", ["fit.max_epochs=3"])
    straight = train(longer, tmp_path / "fused", resume=True)
    assert changed.fit.best_loss == pytest.approx(straight.fit.best_loss, rel=1e-9)
    assert "backend" not in str(load_checkpoint(tmp_path / "fused" / "last.ckpt")["configuration"])


@needs_compiler
def test_commands_take_a_backend_say_so_and_give_the_same(run, files, tmp_path):
    sets = {}
    for name in ("reference", "cpu"):
        found = call("evaluate", run.model, files / "hot.extxyz", "--backend", name, "--dtype", "float64", "--json")
        assert found.stderr.count(f"backend {name}: ") == 1
        total = json.loads(found.stdout)["sets"]["hot.extxyz"]["total"]
        sets[name] = {key: value for key, value in total.items() if value is not None}
    assert sets["cpu"] == pytest.approx(sets["reference"], rel=1e-9)

    few = ["--steps", 3, "--timestep", 0.05, "--temperature", 10]
    result = call("md", run.model, files / "water.extxyz", "--out", tmp_path / "md", *few, "--backend", "cpu", "--json")
    assert json.loads(result.stdout)["backend"] == "cpu" and "backend cpu: generated C++" in result.stderr
    again = document("md", run.model, files / "water.extxyz", "--out", tmp_path / "b", *few, "--backend", "reference")
    assert again["backend"] == "reference"
    out = tmp_path / "relaxed.extxyz"
    text = call(
        "relax", run.model, files / "water.extxyz", "--out", out, "--steps", 1, "--backend", "reference", code=1
    )
    assert "backend reference: plain torch" in text.stderr

    checks = document("info", run.model, "--check", "--backend", "cpu")["checks"]
    assert checks["backend"]["passed"] and 0 <= checks["backend"]["value"] < 1e-10
    assert "backend" not in document("info", run.model, "--check", "--backend", "reference")["checks"]


@needs_compiler
def test_first_use_says_that_it_compiles_and_the_second_does_not(run, files, tmp_path):
    environment = {"EQUIPOT_CACHE": str(tmp_path / "cache")}
    shutil.copy(run.model, tmp_path / "m.equipot")
    program = "import sys; from equipot.cli import main; sys.argv[0] = 'equipot'; main()"
    arguments = ["evaluate", str(tmp_path / "m.equipot"), str(files / "hot.extxyz"), "--backend", "cpu"]
    said = []
    for _ in range(2):
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=True)
        said.append(done.stderr)
    assert "once; kept in" in said[0] and str(tmp_path / "cache") in said[0]
    assert "compiling" not in said[1] and "backend cpu" in said[1]


def _without(package, find_spec):
    """Finds every package but this one and its like."""
    return lambda name, *rest: None if name.startswith(package) else find_spec(name, *rest)


def test_names_that_do_not_exist(run, files, tmp_path, monkeypatch):
    for arguments in (
        ["train", files / "train.extxyz", "--out", tmp_path / "r", "--backend", "refrence"],
        ["md", run.model, files / "water.extxyz", "--out", tmp_path / "md", "--backend", "refrence"],
        ["evaluate", run.model, files / "hot.extxyz", "--backend", "refrence"],
    ):
        error = call(*arguments, code=1).stderr
        assert "'refrence'" in error and "Did you mean 'reference'?" in error and "cuequivariance" in error
        assert ".." not in error
    monkeypatch.setattr("importlib.util.find_spec", _without("cuequivariance", importlib.util.find_spec))
    missing = call("train", files / "train.extxyz", "--out", tmp_path / "r", "--backend", "cuequivariance", code=1)
    assert "cannot be used" in missing.stderr and "structures of" not in missing.stderr  # before data are read
    assert not (tmp_path / "r").exists()
    with pytest.raises(EquipotError, match=r"backend 'fortran' is not known\. Choose one of auto, reference, cpu"):
        equipot.EquipotCalculator(run.model, backend="fortran")
    with pytest.raises(EquipotError, match=r"'cuequivariance' cannot be used: .*'auto' takes what works here"):
        equipot.EquipotCalculator(run.model, backend="cuequivariance")


def test_a_calculator_takes_the_fastest_or_leaves_what_a_potential_has(run):
    best = backend.choose("auto", "cpu").name
    assert backend_of(equipot.EquipotCalculator(run.model).potential) == best
    potential = load_potential(run.model)
    assert backend_of(potential) == "reference"
    assert backend_of(equipot.EquipotCalculator(potential, backend=None).potential) == "reference"
    assert backend_of(equipot.EquipotCalculator(potential).potential) == best
    assert backend_of(equipot.EquipotCalculator(potential, dtype="float64", backend=None).potential) == best
    assert equipot.use_backend(potential, "reference") == ("reference", "plain torch")


def test_doctor_says_what_there_is(monkeypatch):
    found = document("doctor")
    assert [row[0] for row in found["backends"]] == ["reference", "cpu", "triton", "cuequivariance"]
    assert found["backends"][0][1] == "yes" and found["auto"].startswith("backend ")
    for key in ("compiler", "vectors", "cache_folder", "threads", "triton", "cuequivariance", "torch"):
        assert found[key]
    assert "Backends" in call("doctor").stdout
    monkeypatch.setattr("equipot.kernels.cpu.compiler.target", lambda: None)
    missing = document("doctor")
    assert missing["backends"][1][1] == "no" and "EQUIPOT_CXX" in missing["backends"][1][2]
    assert missing["auto"].startswith("backend reference: ") and "EQUIPOT_CXX" in missing["compiler"]
