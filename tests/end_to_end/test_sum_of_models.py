"""`equipot fit --baseline`: what another model leaves is fitted, and the sum is a model like any other."""

import json

import ase.io
import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet
from small_runs import SMALL, labelled
from test_cli import call, document

from equipot.config import Config
from equipot.deploy import EquipotCalculator
from equipot.errors import EquipotError
from equipot.linear_pipeline import linear_fit
from equipot.models.model_file import load_potential, read_model_header, save_potential
from equipot.models.potential import Potential
from equipot.models.uncertainty import Uncertainty
from equipot.pipeline import train
from equipot.points import ace_linear, mace
from equipot.start_options import sha256
from tests.physics.small import STATISTICS

QUICK = ["md=false", "run.threads=1", "data.valid=0.3"]
ACE = ["design.degrees=[4, 6, 6]", "design.r_max=3.0"]


def flags(*settings):
    return [part for setting in settings for part in ("--set", setting)]


def fitted(files, folder, *settings):
    return linear_fit(Config.from_files([files / "train.extxyz"], [*QUICK, *settings], linear=True), folder)


@pytest.fixture(scope="module")
def pair(files, tmp_path_factory):
    """A pair potential."""
    return fitted(files, tmp_path_factory.mktemp("pair") / "fit", "design.degrees=[3]", "design.r_max=3.0")


@pytest.fixture(scope="module")
def total(run, files, tmp_path_factory):
    """The command, on top of a trained model in float32, with all that follows."""
    folder = tmp_path_factory.mktemp("sum") / "fit"
    settings = flags(*ACE, f"data.tests.hot={files / 'hot.extxyz'}", *QUICK[1:], *(s for s in SMALL if s[:2] == "md"))
    said = document("fit", files / "train.extxyz", "--baseline", run.model, "--out", folder, *settings)
    assert said["problems"] == []
    return folder


def test_it_is_better_than_the_baseline_which_stays_as_it_is(run, total):
    facts = json.loads((total / "baseline.json").read_text(encoding="utf-8"))
    errors = json.loads((total / "errors.json").read_text(encoding="utf-8"))
    assert facts["sha256"] == sha256(run.model)
    for name in ("train", "valid"):
        forces = "forces_rmse_meV_per_A"
        assert errors[name]["total"][forces] < 0.5 * facts["errors"][name][forces]
    own, new = load_potential(run.model, dtype="float64"), load_potential(total / "model.equipot", check=True)
    assert (new.dtype, new.r_max, new.design.r_max) == (own.dtype, 3.5, 3.0)
    below = new.baseline.state_dict()
    assert all(np.array_equal(value, below[name]) for name, value in own.state_dict().items())
    assert np.allclose(new.E0.detach(), own.E0.detach(), rtol=0, atol=0)
    assert new.uncertainty is not None


def test_run_folder_report_and_info_say_so(run, total):
    header = read_model_header(total / "model.equipot")
    assert header.provenance["baseline"]["provenance"]["train_data"]
    again = Config.from_yaml(total / "config.yaml")
    assert again.baseline is not None
    assert (again.baseline.model, again.baseline.reference) == (str(run.model), "keep")
    page = (total / "report.html").read_text(encoding="utf-8")
    for part in ("The baseline", sha256(run.model), "MACE: higher order", "Linear fit", "calibration-forces-hot"):
        assert part in page
    said = call("info", total / "model.equipot").stdout
    assert "mace, 2 × 3.5 Å (model.equipot)" in said
    assert "(--set md=false fits without)" in (total / "equipot.log").read_text(encoding="utf-8")
    assert (total / "md" / "summary.json").exists()


def test_the_source_of_E0_is_that_of_the_baseline(tmp_path):
    """The sum has a mean shift's energies as E0s; they are no isolated atoms', nor fitted."""
    shifted = STATISTICS.model_copy(update={"atomic_energies_source": "mean_shift"})
    below = Potential(mace(r_max=3.0, channels=4, energy_reference="mean_shift"), shifted)
    fitted = STATISTICS.model_copy(update={"atomic_energies_source": "least_squares"})
    design = ace_linear(r_max=3.0, degrees=(3,), energy_reference="least_squares")
    save_potential(tmp_path / "sum.equipot", Potential(design, fitted, baseline=below), provenance={})
    said = " ".join(call("info", tmp_path / "sum.equipot").stdout.split())
    assert "source of E0 │ mean shift" in said or "source of E0 mean shift" in said


def test_it_goes_through_every_door(total, files, tmp_path):
    model = total / "model.equipot"
    found = document("evaluate", model, files / "hot.extxyz", "--uncertainty", "--out", tmp_path / "out.extxyz")
    errors = json.loads((total / "errors.json").read_text(encoding="utf-8"))["hot"]["total"]
    assert found["sets"]["hot.extxyz"]["total"]["forces_rmse_meV_per_A"] == pytest.approx(
        errors["forces_rmse_meV_per_A"]
    )
    assert all(a.info["energy_std"] > 0 for a in ase.io.read(tmp_path / "out.extxyz", ":"))
    document("relax", model, files / "water.extxyz", "--out", tmp_path / "relaxed.extxyz")
    atoms = ase.io.read(files / "water.extxyz")
    atoms.calc = EquipotCalculator(model, uncertainty=True)
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, 0.02 * units.fs).run(20)
    assert atoms.get_total_energy() == pytest.approx(before, abs=1e-3)
    assert atoms.calc.results["energy_std"] > 0
    checks = document("info", model, "--check")["checks"]
    assert all(check["passed"] for check in checks.values())


def test_a_pair_potential_first_and_many_bodies_on_top(pair, files, tmp_path):
    """E0s are counted once, and a fit of the sum around its weights changes nothing where the prior holds them."""
    result = fitted(files, tmp_path / "fit", *ACE, "design.r_max=3.5", f"baseline={pair.model}")
    assert result.errors["train"]["forces_rmse_meV_per_A"] < 0.7 * pair.errors["train"]["forces_rmse_meV_per_A"]
    assert abs(result.errors["train"]["energy_rmse_meV_per_atom"]) < pair.errors["train"]["energy_rmse_meV_per_atom"]
    log = (result.folder / "equipot.log").read_text(encoding="utf-8")
    assert "the uncertainty of the baseline is dropped" in log
    again = fitted(files, tmp_path / "again", f"start.model={result.model}", "linear.prior=1e12")
    own, new = (load_potential(path).state_dict() for path in (result.model, again.model))
    assert all(np.allclose(own[n], new[n], atol=1e-9) for n in own if not n.startswith("uncertainty."))
    with pytest.raises(EquipotError, match="not trained by gradients"):
        train(Config.from_files([files / "train.extxyz"], [*QUICK, f"start={result.model}"]), tmp_path / "run")


@pytest.mark.parametrize("reference", ["keep", "data", "refit"])
def test_labels_with_another_zero_of_energy(pair, files, tmp_path, reference):
    """Every H has 7 eV more than in the baseline: data and refit find out, keep is warned of."""
    frames = ase.io.read(files / "train.extxyz", ":")
    for atoms in frames:
        atoms.info["REF_energy"] += 7.0 * int((atoms.numbers == 1).sum())
    ase.io.write(tmp_path / "moved.extxyz", frames)
    more = [*QUICK, *ACE, f"baseline.model={pair.model}", f"baseline.reference={reference}"]
    result = linear_fit(Config.from_files([tmp_path / "moved.extxyz"], more, linear=True), tmp_path / "fit")
    error = result.errors["train"]["energy_rmse_meV_per_atom"]
    warned = "of another method than the baseline" in (result.folder / "equipot.log").read_text(encoding="utf-8")
    assert warned == (reference == "keep")
    assert error < 10.0
    hydrogen, carbon, oxygen = (load_potential(result.model).E0 - load_potential(pair.model).E0).tolist()
    expected = {"keep": (0.0, 0.0), "data": (14.0, 28.0), "refit": (14.0, 28.0)}[reference]
    tolerance = 0.1 if reference == "refit" else 1e-9
    assert (2 * hydrogen + oxygen, 4 * hydrogen + carbon) == pytest.approx(expected, abs=tolerance), "water and methane"
    assert reference == "refit" or pytest.approx(expected[0] / 2, abs=1e-9) == hydrogen


def test_float32_is_of_both_parts(run, files, tmp_path):
    result = fitted(files, tmp_path / "fit", *ACE, f"baseline={run.model}", "run.dtype=float32")
    potential = load_potential(result.model, check=True)
    assert {p.dtype for part in potential.parts() for p in part.layers.parameters()} == {potential.dtype}
    assert read_model_header(result.model).dtype == "float32"


def test_what_does_not_fit_is_said(pair, run, files, tmp_path):
    data, other = files / "train.extxyz", tmp_path / "other.extxyz"
    frames = [labelled(a) for a in ase.io.read(data, "3:9")]
    frames[0].numbers[0] = 7
    ase.io.write(other, frames)
    (tmp_path / "model.pt2").write_bytes(b"PK\x03\x04" + bytes(100))
    cases = [
        ([data, "--baseline", tmp_path / "no.equipot"], "there is no model file"),
        ([data, "--baseline", tmp_path / "model.pt2"], "needs the model file"),
        ([other, "--baseline", pair.model], f"contains N, unknown to the baseline {pair.model}, which has H, C, O"),
        ([data, "--baseline", pair.model, "--refit-readout", run.model], "leave out one of the two"),
        ([data, "--baseline", pair.model, *flags("design.shift=mean")], "design.shift=none"),
        ([data, "--baseline", pair.model, *flags("data.atomic_energies=least_squares")], "set baseline.reference"),
        ([data, "--baseline", pair.model, *flags("baseline.sha256=abc")], "is another file"),
        ([data, "--baseline", pair.model, *flags("baseline.modl=x")], "Did you mean 'baseline.model'?"),
        ([data, "--baseline", pair.model, *flags("design.name=mace")], "set design.name=ace_linear"),
    ]
    for arguments, message in cases:
        said = call("fit", *arguments, "--out", tmp_path / "fit", code=1).stderr
        assert message in " ".join(said.split()), said
        assert not (tmp_path / "fit" / "model.equipot").exists()
    said = call("train", data, *flags(f"baseline={pair.model}"), "--out", tmp_path / "run", code=1).stderr
    assert "the section 'baseline' is for linear fits" in " ".join(said.split())


def test_a_baseline_in_other_units_is_refused(pair, tmp_path, monkeypatch, files):
    from equipot import baseline_options

    monkeypatch.setattr(baseline_options, "UNITS", {**baseline_options.UNITS, "energy": "Hartree"})
    with pytest.raises(EquipotError, match="has energy in eV; equipot has energy in Hartree"):
        Config.from_files([files / "train.extxyz"], [f"baseline={pair.model}"], linear=True)


def test_the_size_of_a_fit_without_one(pair, files, tmp_path):
    found = document("fit", files / "train.extxyz", "--baseline", pair.model, "--dry-run", *flags(*ACE))
    own = document("fit", files / "train.extxyz", "--dry-run", *flags(*ACE))
    assert found["size"]["weights"] == own["size"]["weights"]
    assert found["config"]["baseline"]["sha256"] == sha256(pair.model)
    assert isinstance(load_potential(pair.model).uncertainty, Uncertainty)
