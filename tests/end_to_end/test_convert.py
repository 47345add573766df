"""A published model from its file to use: converted, looked at, evaluated, simulated, trained further."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import SMALL
from test_cli import call, document

import equipot
from equipot.models.model_file import read_model_header

GOLDENS = Path(__file__).parents[1] / "peers" / "goldens"
TRAINING = [part for s in SMALL if not s.startswith("design.") for part in ("--set", s)]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder with weights.pt and weights.json of a mace-torch model, heads.pt of one with several, and a .nqx."""
    folder = tmp_path_factory.mktemp("published")
    for name, golden in (("weights", "mace_L1"), ("heads", "mace_heads")):
        with np.load(GOLDENS / f"{golden}.npz") as file:
            weights = {key.removeprefix("weights/"): torch.from_numpy(file[key]) for key in file.files if "/" in key}
            weights = {key: value for key, value in weights.items() if not key.startswith("features")}
            options = json.loads(str(file["meta"]))["options"]
        torch.save(weights, folder / f"{name}.pt")
        (folder / f"{name}.json").write_text(json.dumps(options))
    shutil.copy(next(GOLDENS.glob("*.nqx")), folder / "model.nqx")
    return folder


@pytest.fixture(scope="module")
def model(published) -> Path:
    call("convert", published / "weights.pt", published / "mace.equipot")
    return published / "mace.equipot"


def test_convert_says_what_it_made(published):
    result = call("convert", published / "weights.pt", published / "a.equipot", "--dtype", "float32")
    assert "mace-torch 0.3.16" in result.stdout
    assert "float32" in result.stdout
    assert "check it with: equipot info" in result.stderr
    found = document("convert", published / "model.nqx", published / "n.equipot")
    assert found["converted_from"].startswith("model.nqx, nequix")
    assert found["design"]["element_embedding"] == "one_hot"
    assert "energies" not in found
    result = call("convert", published / "weights.pt", published / "k.equipot", "--energy-unit", "kcal/mol")
    assert "from kcal/mol to eV" in result.stdout
    shown = call("info", published / "n.equipot").stdout
    assert "axes changed" not in shown
    refused = call("info", published / "model.nqx", code=1).stderr
    assert "equipot convert" in refused


def test_convert_says_what_it_assumed(published):
    options = json.loads((published / "weights.json").read_text())
    del options["apply_cutoff"], options["e3nn"]
    (published / "less.json").write_text(json.dumps(options))
    less = published / "less.json"
    said = call("convert", published / "weights.pt", published / "l.equipot", "--config", less).stderr.replace(
        "\n", " "
    )
    assert "assumed, because the hyper-parameters do not say" in said
    assert "apply_cutoff = True" in said
    assert "e3nn = '0.4.4'" in said
    kept = read_model_header(published / "l.equipot").provenance["converted_from"]["assumed"]
    assert {"apply_cutoff", "e3nn"} <= set(kept)


def test_convert_asks_for_the_head_and_for_a_model_file(published):
    assert "choose one with --head" in call("convert", published / "heads.pt", published / "h.equipot", code=1).stderr
    assert document("convert", published / "heads.pt", published / "h.equipot", "--head", "b")["head"] == "b"
    result = call("convert", published / "weights.pt", published / "m.pt", code=1)
    assert "a model file ends in .equipot; write" in result.stderr
    assert not (published / "m.pt").exists()
    assert (
        "is an equipot model already"
        in call("convert", published / "h.equipot", published / "i.equipot", code=1).stderr
    )


def test_a_converted_model_says_where_it_is_from_and_passes_the_checks(model):
    shown = call("info", model).stdout
    assert "converted from" in shown
    assert "weights.pt of mace-torch 0.3.16" in shown
    found = document("info", model, "--check")
    assert all(check["passed"] for check in found["checks"].values())
    assert found["point"] == "mace"


def test_a_converted_model_is_evaluated_simulated_and_relaxed(model, files, tmp_path):
    assert document("evaluate", model, files / "train.extxyz")["sets"]
    found = document("md", model, files / "water.extxyz", "--steps", 5, "--timestep", 0.05, "--temperature", 5,
                     "--out", tmp_path / "md")  # fmt: skip
    assert found["steps"] == 5
    calculator = equipot.EquipotCalculator(model)
    assert calculator.potential.dtype == torch.float64


def test_a_converted_model_is_trained_further(model, files, tmp_path):
    """It starts as the published model, and the result remembers that."""
    out = tmp_path / "run"
    call("train", files / "train.extxyz", "--from", model, *TRAINING, "--set", "md=false", "--out", out)
    header = read_model_header(out / "model.equipot")
    assert set(header.design.differences(read_model_header(model).design)) <= {"energy_reference"}
    shown = call("info", out / "model.equipot").stdout.replace("\n", " ")
    assert "fine-tuned from" in shown
    assert "mace-torch 0.3.16" in " ".join(shown.split())
