"""The command line: what each command prints, one JSON document where asked for, and how it fails."""

import json
import os
import re
import subprocess
import sys

import ase.io
import numpy as np
import pytest
from small_runs import SMALL
from typer.testing import CliRunner

from equipot.cli import app
from equipot.models.model_file import load_potential, save_potential
from equipot.models.potential import Potential
from equipot.points import mace
from equipot.run_record import energies_in_words
from equipot.statistics import Statistics

runner = CliRunner()
SETTINGS = [part for setting in SMALL for part in ("--set", setting)]


def call(*arguments, code=0):
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result


def document(*arguments, code=0):
    return json.loads(call(*arguments, "--json", code=code).stdout)


def test_help_is_fast_because_torch_is_not_loaded():
    code = "import sys, equipot.cli; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


COMMANDS = [
    ["train"], ["fit"], ["evaluate"], ["md"], ["relax"], ["info"], ["data"], ["options"], ["report"], ["doctor"],
    ["design"], ["design", "show"], ["design", "compare"], ["design", "list"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command):
    text = call(*command, "--help").stdout
    assert "Usage" in text
    assert "╭" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_characters_gets_their_escapes(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "equipot", "design", "list"]
    found = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"\\u2113" in found.stdout or b"\\u2013" in found.stdout or b"\\u2500" in found.stdout


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", call("--version").stdout)


def test_train_from_a_file_of_structures(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call("train", files / "train.extxyz", "--set", "data.energy_key=nothing", code=1)  # leaves the folder to the next
    result = call("train", files / "train.extxyz", *SETTINGS, "--set", "md=false", "--threads", 1, "--seed", 3)
    assert "valid" in result.stdout
    assert "meV/atom" in result.stdout
    assert "REF_energy (23)" in result.stderr
    load_potential(tmp_path / "runs" / files.name / "model.equipot", check=True)


def test_train_prints_one_json_document_and_goes_on_where_it_stopped(files, tmp_path):
    out = tmp_path / "run"
    first = document("train", files / "train.yaml", *SETTINGS, "--set", "md.steps=5", "--out", out)
    assert (first["epochs"], first["status"], first["problems"]) == (2, "finished", [])
    assert set(first["errors"]) == {"train", "valid", "hot"}
    assert first["md"]["steps"] == 5
    again = document("train", "--resume", out, "--set", "fit.max_epochs=3", "--set", "md=false")
    assert again["epochs"] == 3


def test_a_dry_run_prints_and_writes_nothing(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = document("train", files / "train.yaml", *SETTINGS, "--dry-run")
    assert plan["cost"]["steps_per_epoch"] == 5
    assert plan["cost"]["seconds_per_step"] > 0
    assert plan["config"]["design"]["channels"] == 4
    assert plan["data"]["sets"]["hot"]["structures"] == 6
    assert list(tmp_path.iterdir()) == []


def test_evaluate(run, files, tmp_path):
    html, frames = tmp_path / "e.html", tmp_path / "p.extxyz"
    found = document(
        "evaluate", run.model, files / "hot.extxyz", files / "scan.extxyz", "--report", html, "--out", frames
    )
    total = found["sets"]["hot.extxyz"]["total"]
    assert total["forces_rmse_meV_per_A"] == pytest.approx(run.errors["hot"]["forces_rmse_meV_per_A"], rel=1e-6)
    page = html.read_text(encoding="utf-8")
    assert all(f"figure-{what}-{name}" in page for what in ("energies", "forces") for name in found["sets"])
    written = ase.io.read(frames, ":")
    assert len(written) == 14
    error = np.concatenate([(a.get_forces() - a.arrays["REF_forces"]).ravel() for a in written[:6]])
    assert 1000 * np.sqrt(np.mean(error**2)) == pytest.approx(total["forces_rmse_meV_per_A"], rel=1e-4)
    table = call("evaluate", run.model, files / "hot.extxyz").stdout
    assert all(word in table for word in ("hot.extxyz", "water", "methane", "meV/Å"))


def test_evaluate_says_which_keys_it_uses(run, files, tmp_path):
    structures = ase.io.read(files / "hot.extxyz", ":")
    for atoms in structures:
        atoms.info["energy"] = atoms.info["REF_energy"] + 1.0
        del atoms.arrays["REF_forces"]
    ase.io.write(tmp_path / "two.extxyz", structures)
    said = call("evaluate", run.model, tmp_path / "two.extxyz").stderr
    assert "6 structures of H C O: energy REF_energy (6)" in said
    assert "'energy'" in said
    assert "--energy-key energy would use it" in said
    assert "no frame has forces" in said
    assert "data." not in said


def test_evaluate_doubts_energies_of_another_method_and_says_what_a_format_cannot_hold(run, files, tmp_path):
    structures = ase.io.read(files / "hot.extxyz", ":")
    for atoms in structures:
        atoms.info["REF_energy"] -= 15.0 * len(atoms)
    ase.io.write(tmp_path / "other.extxyz", structures)
    assert "from another method?" in call("evaluate", run.model, tmp_path / "other.extxyz").stderr
    said = call("evaluate", run.model, files / "hot.extxyz", "--out", tmp_path / "p.traj").stderr
    assert "another method" not in said
    assert "cannot hold reference forces" in said
    assert len(ase.io.read(tmp_path / "p.traj", ":")) == 6


def test_evaluate_takes_a_virial_and_several_keys(run, files, tmp_path):
    """The first key that a frame has is used; virial = −stress · volume, ASE's order of components."""
    structures = ase.io.read(files / "hot.extxyz", ":")
    for i, atoms in enumerate(structures):
        atoms.info = {("E_one", "E_two")[i % 2]: atoms.info["REF_energy"]}
        atoms.set_cell(20.0 * np.eye(3))
        atoms.set_pbc(True)
        atoms.info["W"] = 0.001 * (i + 1) * np.eye(3)
    ase.io.write(tmp_path / "a.extxyz", structures)
    flags = ["--energy-key", "E_one,E_two"]
    with_virial = document("evaluate", run.model, tmp_path / "a.extxyz", *flags, "--virial-key", "W")
    without = document("evaluate", run.model, tmp_path / "a.extxyz", *flags)
    total = with_virial["sets"]["a.extxyz"]["total"]
    assert total["energy_count"] == without["sets"]["a.extxyz"]["total"]["energy_count"] == 6
    assert total["stress_rmse_meV_per_A3"] > 0
    assert without["sets"]["a.extxyz"]["total"]["stress_rmse_meV_per_A3"] is None
    found = document(
        "evaluate", run.model, tmp_path / "a.extxyz", *flags, "--virial-key", "W", "--out", tmp_path / "p.extxyz"
    )
    predicted = np.array([atoms.get_stress(voigt=False) for atoms in ase.io.read(tmp_path / "p.extxyz", ":")])
    reference = np.array([-0.001 * (i + 1) / 8000.0 * np.eye(3) for i in range(6)])
    rmse = 1000 * np.sqrt(np.mean((predicted - reference) ** 2))
    assert found["sets"]["a.extxyz"]["total"]["stress_rmse_meV_per_A3"] == pytest.approx(rmse, rel=1e-5)


def test_of_several_processes_the_first_tells_a_mistake(tmp_path, monkeypatch):
    """torchrun sets RANK and a file for the failure of each process, which it prints in its summary."""
    for rank, said in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / rank))
        stderr = call("info", tmp_path / "none.equipot", code=1).stderr
        assert ("none.equipot" in stderr) == said
        assert "none.equipot" in json.loads((tmp_path / rank).read_text())["message"]["message"]


def test_evaluate_predicts_files_without_labels(run, files, tmp_path):
    out = tmp_path / "new" / "p.extxyz"
    result = call("evaluate", run.model, files / "water.extxyz", "--out", out, "--report", tmp_path / "new" / "r.html")
    assert "nothing to compare" in result.stderr
    assert result.stdout == ""
    assert ase.io.read(out).get_forces().shape == (3, 3)
    found = document("evaluate", run.model, files / "water.extxyz", files / "hot.extxyz", "--out", out)
    assert found["sets"]["water.extxyz"]["total"]["energy_rmse_meV_per_atom"] is None
    assert found["sets"]["hot.extxyz"]["total"]["energy_rmse_meV_per_atom"] > 0
    assert len(ase.io.read(out, ":")) == 7


@pytest.mark.parametrize("arguments", [["evaluate", "--out"], ["evaluate", "--report"], ["relax", "--out"]])
def test_output_paths_are_checked_before_the_work(run, files, tmp_path, monkeypatch, arguments):
    from equipot.deploy import relaxation
    from equipot.study import evaluate as module

    monkeypatch.setattr(module, "evaluate_set", lambda *_: 1 / 0)
    monkeypatch.setattr(relaxation, "relax", lambda *_, **__: 1 / 0)
    name, flag = arguments
    failed = call(name, run.model, files / "hot.extxyz", flag, tmp_path, code=1)
    assert f"{flag} {tmp_path} is a folder" in failed.stderr
    failed = call(name, run.model, files / "hot.extxyz", flag, files / "water.extxyz" / "a.extxyz", code=1)
    assert "cannot be made" in failed.stderr
    failed = call(name, run.model, files / "hot.extxyz", flag, files / "hot.extxyz", code=1)
    assert "another file of this command" in failed.stderr


def test_md_says_which_structure_it_takes_and_how_to_go_on(run, files, tmp_path):
    flags = ["--out", tmp_path / "md", "--steps", 1, "--temperature", 10, "--timestep", 0.05]
    said = call("md", run.model, files / "hot.extxyz", *flags).stderr
    assert "structure 5 of 0 … 5 is taken" in said
    assert "--restart" in call("md", run.model, files / "hot.extxyz", *flags, code=1).stderr


def test_md_and_its_restart(run, files, tmp_path):
    out = tmp_path / "md"
    flags = ["--ensemble", "nve", "--timestep", 0.05, "--temperature", 10, "--log-interval", 1]
    first = document("md", run.model, files / "water.extxyz", "--out", out, *flags, "--steps", 5)
    assert (first["status"], first["steps"], first["options"]["ensemble"]) == ("finished", 5, "nve")
    again = document("md", run.model, "--out", out, "--restart", "--steps", 8)
    assert (again["steps"], again["options"]["timestep"]) == (8, 0.05)
    assert len((out / "thermo.csv").read_text().splitlines()) == 10


def test_md_that_explodes_says_so_and_fails(run, files, tmp_path):
    arguments = [
        "md",
        run.model,
        files / "water.extxyz",
        "--out",
        tmp_path / "md",
        "--temperature",
        3000,
        "--max-temperature",
        1,
    ]
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 1
    assert "temperature" in result.stderr
    assert "Traceback" not in result.stderr


def test_relax(run, files, tmp_path):
    out = tmp_path / "relaxed.extxyz"
    found = document("relax", run.model, files / "water.extxyz", "--out", out, "--fmax", 0.05, "--steps", 200)
    assert found["status"] == "converged"
    assert found["energy_eV"] <= found["energy_start_eV"]
    assert np.linalg.norm(ase.io.read(out).get_forces(), axis=1).max() <= 0.05
    failed = call("relax", run.model, files / "water.extxyz", "--out", out, "--fmax", 1e-9, "--steps", 1, code=1)
    assert "not converged" in failed.stderr


def many(count: int) -> Statistics:
    energies = tuple(-float(z) for z in range(1, count + 1))
    return Statistics(
        species=tuple(range(1, count + 1)), atomic_energies=energies, mean_neighbours=10.0,
        mean_neighbours_per_species=(10.0,) * count, energy_mean_per_species=(0.0,) * count,
    )  # fmt: skip


def test_a_line_has_the_energies_of_at_most_ten_elements():
    assert energies_in_words(many(10), 1, "x").endswith(", Ne -10.0")
    assert energies_in_words(many(11), 1, "data.json").endswith(", Ne -10.0, … (11 elements; all in data.json)")


def test_info_of_a_model_of_many_elements_is_readable(tmp_path):
    design = mace(channels=2, max_ell=1, max_L=0, correlation=1, layers=1, radial_mlp=(4,))
    save_potential(tmp_path / "m.equipot", Potential(design, many(89)), provenance={})
    text = " ".join(call("info", tmp_path / "m.equipot").stdout.replace("│", " ").split())
    assert "Ne -10.00000, … (89 elements; all in equipot info --json)" in text
    assert "Na -11" not in text
    assert len(document("info", tmp_path / "m.equipot")["statistics"]["atomic_energies"]) == 89


def test_info_and_its_check(run):
    found = document("info", run.model, "--check")
    assert found["point"] == "mace"
    assert found["design"]["channels"] == 4
    assert found["statistics"]["species"] == [1, 6, 8]
    assert found["checks"]["rotation"]["passed"]
    assert found["provenance"]["errors"]["hot"] == run.errors["hot"]
    text = call("info", run.model).stdout
    assert all(word in text for word in ("mace", "E0 (eV)", "torch", "errors of hot"))


def test_radial_functions_are_as_trained_unless_another_choice_is_made(run, files):
    found = document("info", run.model, "--check")
    assert found["radial"] == "spline:256"
    assert found["checks"]["spline_forces"]["value"] < 0.01
    sets = [document("evaluate", run.model, files / "hot.extxyz", *flag)["sets"]["hot.extxyz"]["total"]
            for flag in ((), ("--radial", "exact"), ("--radial", "spline:64"))]  # fmt: skip
    rmse = [each["forces_rmse_meV_per_A"] for each in sets]
    assert max(rmse) - min(rmse) < 1e-3 * rmse[0]
    said = call("evaluate", run.model, files / "hot.extxyz", "--radial", "splines", code=1).stderr
    assert "choose exact, spline" in said


def test_a_check_that_fails_is_a_failure(run, monkeypatch):
    from equipot.deploy import doctor

    bad = doctor.Check(1.0, "relative", 1e-10, "never well")
    monkeypatch.setattr(doctor, "check_potential", lambda potential, atoms: {"rotation": bad})
    assert "fails rotation" in call("info", run.model, "--check", code=1).stderr


def test_data(files):
    found = document("data", files / "train.extxyz", files / "hot.extxyz", "--r-max", 3)
    assert [file["frames"] for file in found["files"]] == [20, 6]
    assert found["atomic_energies_source"] == "isolated atoms"
    assert found["measured"]["structures"] == 26
    assert {row["element"]: row["atoms"] for row in found["elements"]} == {"H": 78, "C": 13, "O": 13}
    text = call("data", files / "train.extxyz").stdout
    assert all(word in text for word in ("REF_energy (23)", "rms force", "shortest distance"))


def test_design_show_has_the_published_number_of_parameters():
    found = document("design", "show", "botnet_element", "--species", "H,C,O")
    assert found["parameters"] == 2_756_416
    assert set(found) >= {"axes", "active_parameters", "blocks", "layers", "receptive_field_A", "operations_per_edge"}
    small = call("design", "show", "mace", "--set", "channels=4", "--species", "H").stdout
    assert all(word in small for word in ("channels", "body order", "Parameters by block", "Axes that differ"))


def test_design_compare_names_the_axes_that_differ():
    axes = document("design", "compare", "nequip_ablation", "nequip_linear")["axes"]
    assert axes == {"nonlinearity": ["gate", "none"]}
    assert "self_connection_first" in call("design", "compare", "botnet", "mace").stdout


def test_design_compare_with_a_variant_of_its_own():
    arguments = ["design", "compare", "mace", "mace", "--set", "channels=32", "--second-set", "max_L=0"]
    assert document(*arguments)["axes"] == {"max_L": [1, 0]}


def test_design_list_and_options():
    assert "botnet" in document("design", "list")["points"]
    assert document("options", "fit")["fit"]["lr"]["default"] == 0.01
    assert "md.temperature" in call("options").stdout


def test_report(run, tmp_path):
    out = tmp_path / "again.html"
    assert call("report", run.folder, "--out", out).stdout.strip() == str(out)
    assert "Water and methane" in out.read_text(encoding="utf-8")


MISTAKES = [
    (["train"], "nothing to train on"),
    (["train", "{files}/nothing.xyz"], "nothing.xyz does not exist"),
    (["train", "{files}/trian.yaml"], "Did you mean"),
    (["train", "{files}/train.yaml", "{files}/train.extxyz"], "give one YAML configuration"),
    (["train", "{files}/train.extxyz", "--set", "fit.max_epoch=2"], "Did you mean 'fit.max_epochs'?"),
    (["train", "{files}/train.extxyz", "--dtype", "float16"], "run.dtype = 'float16'"),
    (["train", "{files}/train.extxyz", "--device", "cuda:99"], "device 'cuda:99' is not available here"),
    (["train", "{files}/train.extxyz", "--set", "data.energy_key=E"], "no frame has an energy under 'E'"),
    (["train", "{files}/train.extxyz", "--resume", "{run}"], "leave out files and --out"),
    (["train", "{files}/train.extxyz", "--set", "data.valid={fraction: 0.1, fraction: 0.2}"], "is given twice"),
    (["train", "--resume", "{files}/nowhere"], "there is no such folder"),
    (["train", "--resume", "{model}"], "is a file; give the folder of the run"),
    (["train", "--resume", "{files}"], "it is not a run folder that can be resumed"),
    (["train", "{files}/train.extxyz", "--out", "{run}"], "holds a run already"),
    (["evaluate", "{files}/train.extxyz", "{files}/hot.extxyz"], "train.extxyz"),
    (["evaluate", "{files}/none.equipot", "{files}/hot.extxyz"], "none.equipot"),
    (["evaluate", "{model}", "{files}/hot.extxyz", "{files}/hot.extxyz"], "is given twice"),
    (["evaluate", "{model}", "{files}/hot.extxyz", "--dtype", "half"], "float32 or float64"),
    (["evaluate", "{model}", "{files}/hot.extxyz", "--stress-key", "foo"], "a stress under 'foo' (--stress-key)"),
    (["evaluate", "{model}", "{files}/hot.extxyz", "--energy-key", "E"], "Write --energy-key REF_energy"),
    (["evaluate", "{model}", "{files}/water.extxyz"], "give --out FILE"),
    (["evaluate", "{model}", "{files}/water.extxyz", "--energy-key", "E", "--out", "{tmp}/a.xyz"], "(--energy-key)"),
    (["evaluate", "{model}", "{files}/hot.extxyz", "--out", "{tmp}/a.nonsense"], "cannot be written"),
    (["evaluate", "{model}", "{files}/hot.extxyz", "--report", "{files}/hot.extxyz/a.html"], "hot.extxyz"),
    (["md", "{model}", "{files}/water.extxyz", "--ensemble", "nvt"], "ensemble = 'nvt'"),
    (["md", "{model}", "{files}/water.extxyz", "--index", "7"], "--index 7 is none of them"),
    (["md", "{model}", "--out", "{tmp}/none", "--restart"], "there is nothing to restart"),
    (["md", "{model}", "--out", "{tmp}/none"], "the argument STRUCTURE"),
    (["relax", "{model}", "{files}/water.extxyz", "--cell", "full"], "needs three periodic directions"),
    (["relax", "{model}", "{files}/water.extxyz", "--pressure", "1"], "pressure and mask act on the cell"),
    (["info", "{files}/train.yaml"], "train.yaml"),
    (["data", "{files}/train.yaml"], "no format that can be recognised"),
    (["design", "show", "mase"], "Did you mean 'mace'?"),
    (["design", "show", "mace", "--species", "H,Q"], "not chemical symbols"),
    (["design", "show", "mace", "--set", "channels={a: 1, a: 2}"], "is given twice"),
    (["design", "show", "mace", "--set", "channels"], "write axis=value"),
    (["design", "compare", "mace", "nequip", "--set", "layer=1"], "Did you mean 'layers'?"),
    (["options", "fitt"], "Did you mean 'fit'?"),
    (["report", "{files}"], "holds no model.equipot"),
]  # fmt: skip


def _filled(argument, places):
    for name, place in places.items():
        argument = argument.replace(f"{{{name}}}", str(place))
    return argument


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(m[0])[:60] for m in MISTAKES])
def test_a_mistake_is_a_message_on_standard_error_and_status_1(run, files, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    places = {"files": files, "run": run.folder, "model": run.model, "tmp": tmp_path}
    result = runner.invoke(app, [_filled(a, places) for a in arguments])
    assert result.exit_code == 1, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_defect_keeps_its_traceback(run, files, monkeypatch):
    from equipot.study import evaluate as module

    monkeypatch.setattr(module, "evaluate_set", lambda *_: 1 / 0)
    result = runner.invoke(app, ["evaluate", str(run.model), str(files / "hot.extxyz")])
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--epoch", "3"], ["md"], ["design", "show"]])
def test_wrong_usage_is_status_2(arguments):
    assert runner.invoke(app, arguments).exit_code == 2
