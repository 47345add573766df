"""`equipot fit`: last weights of a trained model by least squares, its run folder, and how it ends early."""

import json
import re

import ase.io
import pytest
import torch
from small_runs import SMALL
from test_cli import call, document

from equipot.config import Config
from equipot.errors import EquipotError
from equipot.linear_pipeline import linear_fit
from equipot.models.model_file import load_potential, read_model_header
from equipot.pipeline import train
from equipot.start_options import sha256
from equipot.study.uncertainty import SetDeviations

QUICK = ["md=false", "run.threads=1", "data.valid=0.3"]


def settings(run, *more):
    return [f"start.model={run.model}", *QUICK, *more]


@pytest.fixture(scope="module")
def refitted(run, files, tmp_path_factory):
    """The last weights of a model of two epochs, refitted to the data that it was trained on."""
    config = Config.from_files(
        [files / "train.extxyz"], settings(run, f"data.tests.hot={files / 'hot.extxyz'}"), linear=True
    )
    return linear_fit(config, tmp_path_factory.mktemp("fits") / "fit")


def test_the_last_weights_become_better_and_the_others_stay(run, refitted):
    """Two epochs leave much to do."""
    before = json.loads((refitted.folder / "start.json").read_text(encoding="utf-8"))["errors"]
    for name in ("train", "valid"):
        assert refitted.errors[name]["forces_rmse_meV_per_A"] < 0.8 * before[name]["forces_rmse_meV_per_A"]
    own, new = load_potential(run.model), load_potential(refitted.model, check=True)
    changed = {name for name, value in own.state_dict().items() if not torch.equal(value, new.state_dict()[name])}
    assert changed
    assert all(name.startswith("readouts.") for name in changed)
    assert new.dtype == own.dtype
    assert refitted.problems == []


def test_the_run_folder_says_all(run, refitted):
    header = read_model_header(refitted.model)
    assert header.provenance["start"]["sha256"] == sha256(run.model)
    assert header.provenance["train_data"]
    assert header.provenance["errors"] == refitted.errors
    facts = json.loads((refitted.folder / "linear.json").read_text(encoding="utf-8"))
    assert facts["rows_by_kind"] == {"energy": 14, "forces": 174, "stress": 0}
    assert facts["prior_strength"] > 0
    assert 0 < facts["effective_parameters"] <= facts["weights"]
    assert facts["peak_memory_GB"] > 0.1
    again = Config.from_yaml(refitted.folder / "config.yaml")
    assert again.linear is not None
    assert again.run.dtype == "float32"
    assert {path.name for path in refitted.folder.iterdir()} == {
        "config.yaml", "data.json", "equipot.log", "errors.json", "linear.json", "model.equipot", "predictions",
        "report.html", "run.json", "start.json", "uncertainty", "uncertainty.json",
    }  # fmt: skip


def test_it_says_how_uncertain_it_is(run, refitted):
    """Errors of the validation structures set the scale; other structures are judged by it."""
    document = json.loads((refitted.folder / "uncertainty.json").read_text(encoding="utf-8"))
    assert list(document) == ["valid", "hot"]
    for kind in ("energies", "forces"):
        assert 0.3 < document["valid"][kind]["ratio"] < 3.0
        assert document["hot"][kind]["rms_deviation"] > document["valid"][kind]["rms_deviation"]
    assert document["hot"]["largest_extrapolation"] > 1.0
    found = SetDeviations.load(refitted.folder / "uncertainty" / "hot.npz")
    assert found.as_dict()["forces"] == pytest.approx(document["hot"]["forces"], rel=1e-5)
    facts = json.loads((refitted.folder / "linear.json").read_text(encoding="utf-8"))["uncertainty"]
    assert (facts["members"], facts["exact"]) == (20, True)
    assert load_potential(refitted.model).uncertainty.factor.shape == (20, 20)
    page = refitted.report.read_text(encoding="utf-8")
    for part in ("Linear fit", "condition number", "calibration-forces-hot", "How the strength of the prior was found"):
        assert part in page
    assert 'id="curves"' not in page


def test_a_model_that_is_trained_further_says_nothing_old(refitted, files, tmp_path):
    more = [f"start.model={refitted.model}", *QUICK, "fit.max_epochs=1", "fit.keep_start=false"]
    result = train(Config.from_files([files / "train.extxyz"], more), tmp_path / "run")
    assert load_potential(result.model).uncertainty is None


def test_weights_are_kept_where_only_their_uncertainty_is_wanted(run, files, tmp_path):
    result = document(
        "fit", files / "train.extxyz", "--refit-readout", run.model, "--keep-weights", "--out", tmp_path / "fit",
        *(part for setting in QUICK for part in ("--set", setting)),
    )  # fmt: skip
    own, new = load_potential(run.model).state_dict(), load_potential(result["model"]).state_dict()
    assert all(torch.equal(value, new[name]) for name, value in own.items())
    assert result["linear"]["options"]["keep_weights"]
    assert result["linear"]["uncertainty"]["error_over_deviation"].keys() == {"energy", "forces"}


def test_a_fitted_model_says_what_it_is(run, refitted):
    said = call("info", refitted.model).stdout
    for part in ("refitted from", "last weights", "normal equations", "exact covariance"):
        assert part in said
    assert "prediction rigidity" in refitted.report.read_text(encoding="utf-8")


def test_the_size_of_a_fit_without_one(run, files, tmp_path):
    found = document(
        "fit", files / "train.extxyz", "--refit-readout", run.model, "--out", tmp_path / "fit", "--dry-run",
    )  # fmt: skip
    assert found["size"]["weights"] == 20
    assert found["size"]["rows_of_energy"] == 18
    assert not (tmp_path / "fit").exists()


def test_training_and_fits_are_told_apart(run, files, tmp_path):
    (tmp_path / "a.yaml").write_text(
        f"data: {{train: {files / 'train.extxyz'}}}\ndesign: mace\nlinear: {{}}\n", encoding="utf-8"
    )
    for more in ([], ["--dry-run"]):
        said = call("train", tmp_path / "a.yaml", "--out", tmp_path / "run", *more, code=1).stderr
        assert "with equipot fit" in said
    with pytest.raises(EquipotError, match=r"with equipot fit \(in Python equipot\.linear_fit\)"):
        train(Config.from_yaml(tmp_path / "a.yaml"), tmp_path / "run")
    said = call("fit", tmp_path / "a.yaml", "--set", SMALL[5], "--out", tmp_path / "fit", code=1).stderr
    assert "the section 'fit' is for equipot train" in said
    with pytest.raises(EquipotError, match="the configuration is one of equipot train"):
        linear_fit(Config.from_files([files / "train.extxyz"]), tmp_path / "fit")


def test_a_new_model_that_is_not_linear_is_refused(files, tmp_path):
    config = Config.from_files([files / "train.extxyz"], ["design.name=mace", *QUICK, *SMALL[:5]], linear=True)
    with pytest.raises(EquipotError, match="the design mace are not found by least squares"):
        linear_fit(config, tmp_path / "fit")


def test_a_folder_with_a_run_is_left_alone(run, refitted, files):
    with pytest.raises(EquipotError, match="holds a run already, a linear fit, which is not resumed; name another"):
        linear_fit(Config.from_files([files / "train.extxyz"], settings(run), linear=True), refitted.folder)


@pytest.mark.parametrize(
    ("command", "said"), [("fit", "--refit-readout .* refits .* --baseline"), ("train", "--from .* trains it further")]
)
def test_a_model_in_place_of_structures_is_recognised(command, said, run):
    message = " ".join(call(command, run.model, code=1).stderr.split())
    assert re.search(rf"is a model, not structures\. .*{said}", message)


def test_words_are_those_of_a_fit(refitted):
    log = (refitted.folder / "equipot.log").read_text(encoding="utf-8")
    assert "before the fit, train" in log
    assert "before training" not in log
    assert "What the fit started from" in (refitted.folder / "report.html").read_text(encoding="utf-8")


def test_stopped_before_the_weights_are_found_nothing_but_the_log_is_left(run, files, tmp_path):
    def stop(what, done, total):
        raise KeyboardInterrupt

    config = Config.from_files([files / "train.extxyz"], settings(run), linear=True)
    with pytest.raises(KeyboardInterrupt):
        linear_fit(config, tmp_path / "fit", progress=stop)
    assert [path.name for path in (tmp_path / "fit").iterdir()] == ["equipot.log"]
    log = (tmp_path / "fit" / "equipot.log").read_text(encoding="utf-8")
    assert "there is no model" in log
    linear_fit(config, tmp_path / "fit")
    assert (tmp_path / "fit" / "model.equipot").exists()


def test_stopped_after_the_fit_the_model_is_there(run, files, tmp_path):
    def stop(row, steps):
        raise KeyboardInterrupt

    more = [setting for setting in SMALL if setting.startswith("md.")]
    config = Config.from_files(
        [files / "train.extxyz"], [s for s in settings(run, *more) if s != "md=false"], linear=True
    )
    with pytest.raises(KeyboardInterrupt):
        linear_fit(config, tmp_path / "fit", md_progress=stop)
    load_potential(tmp_path / "fit" / "model.equipot", check=True)
    assert "the model is whole" in (tmp_path / "fit" / "equipot.log").read_text(encoding="utf-8")


def test_evaluation_says_how_uncertain_predictions_are(refitted, files, tmp_path):
    out, page = tmp_path / "out.extxyz", tmp_path / "r.html"
    found = document("evaluate", refitted.model, files / "hot.extxyz", "--uncertainty", "--out", out, "--report", page)
    expected = json.loads((refitted.folder / "uncertainty.json").read_text(encoding="utf-8"))["hot"]
    rounding = 1e-4  # of the model, which is in float32; in float64 it is 3e-5 away
    assert found["uncertainty"]["hot.extxyz"]["forces"] == pytest.approx(expected["forces"], rel=rounding)
    atoms = ase.io.read(out, ":")
    assert len(atoms) == 6
    for each in atoms:
        assert each.info["energy_std"] > 0
        assert each.arrays["forces_std"].shape == (len(each), 3)
        assert each.arrays["energies_std"].shape == each.arrays["extrapolation"].shape == (len(each),)
        assert each.get_potential_energy() == pytest.approx(each.info["REF_energy"], abs=3.0)
    assert "<h2>Uncertainty</h2>" in page.read_text(encoding="utf-8")
    said = call("evaluate", refitted.model, files / "hot.extxyz", "--uncertainty")
    assert "rank correlation" in said.stdout
    assert "predicted" in said.stderr
    bare = call("evaluate", refitted.model, files / "water.extxyz", "--uncertainty", "--out", tmp_path / "w.extxyz")
    assert "of 3 atoms extrapolate" in bare.stderr


def test_a_model_without_uncertainty_says_how_to_get_it(run, files):
    said = call("evaluate", run.model, files / "hot.extxyz", "--uncertainty", code=1).stderr
    assert f"equipot fit DATA --refit-readout {run.model} --keep-weights" in said


@pytest.fixture(scope="module")
def ace(files, tmp_path_factory):
    """A small linear ACE with everything that follows a fit."""
    folder = tmp_path_factory.mktemp("ace")
    more = ["design.degrees=[5, 4]", "design.r_max=3.5", *(s for s in SMALL if s.startswith(("md.", "run.")))]
    result = document(
        "fit", files / "train.yaml", "--out", folder / "fit", *(part for setting in more for part in ("--set", setting))
    )
    assert result["problems"] == []
    return folder / "fit"


def test_a_linear_ace_from_a_file_to_a_report(ace):
    facts = json.loads((ace / "linear.json").read_text(encoding="utf-8"))
    assert set(facts["weights_by_order"]) == {"1", "2"} == set(facts["contributions_eV"])
    header = read_model_header(ace / "model.equipot")
    assert (header.design.channel_coupling, header.dtype) == ("coupled", "float64")
    potential = load_potential(ace / "model.equipot", check=True)
    assert potential.uncertainty.factor.shape[0] == facts["weights"]
    errors = json.loads((ace / "errors.json").read_text(encoding="utf-8"))
    trained, typical = errors["train"]["total"]["forces_rmse_meV_per_A"], 1000 * header.statistics.force_rms
    assert trained < 0.1 * typical
    assert (ace / "md" / "summary.json").exists()
    page = (ace / "report.html").read_text(encoding="utf-8")
    for part in ("ν = 2", "Linear fit", "calibration-energies-valid", "scan"):
        assert part in page


def test_a_linear_ace_is_evaluated_as_it_was_in_its_run(ace, files):
    found = document("evaluate", ace / "model.equipot", files / "hot.extxyz", "--uncertainty")
    errors = json.loads((ace / "errors.json").read_text(encoding="utf-8"))["hot"]["total"]
    for name in ("energy_rmse_meV", "forces_rmse_meV_per_A"):
        assert found["sets"]["hot.extxyz"]["total"][name] == pytest.approx(errors[name], rel=1e-9)


def test_a_linear_ace_is_refitted_around_its_weights(ace, files, tmp_path):
    """With a prior that holds everything, nothing changes."""
    config = Config.from_files(
        [files / "train.extxyz"], [f"start.model={ace / 'model.equipot'}", *QUICK, "linear.prior=1e12"], linear=True
    )
    result = linear_fit(config, tmp_path / "fit")
    own, new = (load_potential(path).state_dict() for path in (ace / "model.equipot", result.model))
    for name in own:
        if not name.startswith("uncertainty."):
            assert torch.allclose(own[name], new[name], rtol=1e-6, atol=1e-9), name
