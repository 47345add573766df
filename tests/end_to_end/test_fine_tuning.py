"""Training that starts from a model: what is the model's stays, E0s follow the data, a run goes on without its file."""

import json
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from small_runs import SMALL, labelled, molecules
from test_cli import call, document

from equipot.config import Config
from equipot.convert import convert_model
from equipot.errors import EquipotError
from equipot.fit.metrics import errors
from equipot.fit.reporter import NullReporter
from equipot.geometry import evaluate
from equipot.models.model_file import load_potential, read_model_header, save_potential
from equipot.pipeline import prepare, train
from equipot.run_report import run_content
from equipot.start_options import sha256
from equipot.study import citations

QUICK = ["fit.max_epochs=2", "fit.batch_size=4", "data.valid=0.3", "md=false", "run.threads=1"]
SHIFT = {"H": -3.0, "O": 7.5}


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A run that has learned something, so that its energies have a meaning."""
    longer = [*SMALL, "fit.max_epochs=40", "md=false", "scan=null", "data.tests={}"]
    return train(Config.from_yaml(files / "train.yaml", longer), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def water(tmp_path_factory):
    """Files of water alone: as the model knows it, and with another energy reference."""
    folder = tmp_path_factory.mktemp("water")
    structures = [atoms for atoms in molecules(40, seed=3) if "C" not in atoms.symbols]
    ase.io.write(folder / "water.extxyz", structures)
    for atoms in structures:
        atoms.info["REF_energy"] += sum(SHIFT[symbol] for symbol in atoms.symbols)
    ase.io.write(folder / "other.extxyz", structures)
    return folder


def settings(run, *more):
    return [f"start.model={run.model}", *QUICK, *more]


def config(run, water, *more, file="water.extxyz"):
    return Config.from_files([water / file], settings(run, *more))


def weights(path):
    return {name: value.clone() for name, value in load_potential(path).state_dict().items()}


def test_before_the_first_step_it_is_the_model_to_the_bit(run, water):
    """Water alone: the element that the data lack is kept."""
    prepared = prepare(config(run, water, "start.reference=keep"))
    own = load_potential(run.model, backend="auto")
    batch = prepared.data.valid.batch(range(len(prepared.data.valid)))
    ours, theirs = evaluate(prepared.potential, batch.graph), evaluate(own, batch.graph)
    assert torch.equal(ours.energy, theirs.energy)
    assert torch.equal(ours.forces, theirs.forces)
    assert prepared.potential.design == own.design
    assert prepared.potential.statistics.species == (1, 6, 8)
    before = prepared.start["errors"]["valid"]
    assert before == errors(own, prepared.data.valid)
    assert prepared.start["E0_eV"]["O"][0] == prepared.start["E0_eV"]["O"][1]


def test_the_design_is_the_models(run, water):
    model = load_potential(run.model)
    assert config(run, water).design.design == model.design
    assert config(run, water, "design.channels=4", "design.r_max=3.5").design.design == model.design
    with pytest.raises(
        EquipotError, match=r"design\.channels = 8 but the model has 4; design\.r_max = 5\.0 but"
    ) as caught:
        config(run, water, "design.channels=8", "design.r_max=5.0")
    assert "--from" in str(caught.value)
    with pytest.raises(EquipotError, match=r"design\.layers = 5 but the model has 2"):
        config(run, water, "design=botnet")
    with pytest.raises(EquipotError, match="unknown design axis 'chanels'"):
        config(run, water, "design.chanels=8")


def test_a_short_form_and_paths_beside_the_file(run, water, tmp_path):
    shutil.copy(run.model, tmp_path / "m.equipot")
    shutil.copy(water / "water.extxyz", tmp_path / "w.extxyz")
    (tmp_path / "a.yaml").write_text("data: {train: w.extxyz}\nstart: m.equipot\n", encoding="utf-8")
    found = Config.from_yaml(tmp_path / "a.yaml", ["start.reference=keep"])
    assert found.start.model == str(tmp_path / "m.equipot")
    assert (found.start.reference, found.start.sha256) == ("keep", sha256(run.model))
    assert found.portable()["start"]["model"] == "m.equipot"
    (tmp_path / "b.yaml").write_text(found.to_yaml(), encoding="utf-8")
    assert Config.from_yaml(tmp_path / "b.yaml") == found


def test_a_written_configuration_refuses_another_model(run, water, tmp_path):
    written = config(run, water).to_yaml()
    (tmp_path / "a.yaml").write_text(written, encoding="utf-8")
    other = load_potential(run.model)
    save_potential(tmp_path / "other.equipot", other, provenance={"made": "again"})
    with pytest.raises(EquipotError, match="is another file than the configuration was made for"):
        prepare(Config.from_yaml(tmp_path / "a.yaml", [f"start.model={tmp_path / 'other.equipot'}"]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["data.atomic_energies=least_squares"], "set start.reference=refit"),
        (["data.atomic_energies={H: 1, O: 2}", "start.reference=keep"], "start.reference = keep does not use them"),
        (["start.reference=data"], "no isolated atoms of all their elements"),
        (["start.refrence=keep"], "Did you mean 'start.reference'"),
        (["start.model=nowhere.equipot"], "there is no model file"),
        (["fit.train_only=[readout.*]"], r"the pattern 'readout\.\*' matches no parameter; there are embedding"),
    ],
)
def test_mistakes_are_named(run, water, tmp_path, more, message):
    with pytest.raises(EquipotError, match=message):
        train(config(run, water, *more), tmp_path / "run")


def test_patterns_that_match_nothing_are_found_before_anything_is_read(run, tmp_path):
    """Evaluating a large model on its data takes minutes; here there are no data at all."""
    ase.io.write(tmp_path / "w.extxyz", molecules(6, seed=0))
    found = Config.from_files([tmp_path / "w.extxyz"], settings(run, "fit.train_only=[readout.*]"))
    (tmp_path / "w.extxyz").unlink()
    with pytest.raises(EquipotError, match="matches no parameter"):
        prepare(found)


def test_an_element_that_the_model_does_not_know(run, tmp_path):
    structures = molecules(6, seed=0)
    structures[3].symbols[0] = "N"
    ase.io.write(tmp_path / "n.extxyz", structures)
    with pytest.raises(
        EquipotError, match="contains N, unknown to the model that the training starts from, which has H"
    ):
        prepare(Config.from_files([tmp_path / "n.extxyz"], settings(run)))


def test_a_shifted_reference_is_found_and_carbon_keeps_its_energy(run, water, tmp_path):
    result = train(config(run, water, file="other.extxyz"), tmp_path / "run")
    log = (tmp_path / "run" / "equipot.log").read_text(encoding="utf-8")
    assert "the E0s are fitted to what the model leaves" in log
    assert "before the training, valid" in log
    facts = json.loads((tmp_path / "run" / "start.json").read_text(encoding="utf-8"))
    assert facts["reference"] == "refit"
    assert facts["energy_left_meV_per_atom"]["keep"] > 10 * facts["energy_left_meV_per_atom"]["refit"]
    own, tuned = weights(run.model), weights(result.model)
    assert tuned["E0"][1] == own["E0"][1]
    moved = tuned["E0"] - own["E0"]
    assert float(2 * moved[0] + moved[2]) == pytest.approx(2 * SHIFT["H"] + SHIFT["O"], abs=0.3)
    header = read_model_header(result.model)
    assert header.provenance["start"]["sha256"] == sha256(run.model)
    assert (
        header.provenance["start"]["provenance"]["train_data"] == read_model_header(run.model).provenance["train_data"]
    )
    page = result.report.read_text(encoding="utf-8")
    assert "What the training started from" in page
    assert sha256(run.model) in call("info", result.model).stdout.replace("\n", "").replace(" ", "")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["start"]["reference"] == "refit"


def test_energies_of_isolated_atoms_in_the_data(run, water, tmp_path):
    """A whole new level of theory, isolated atoms among it."""
    structures = ase.io.read(water / "other.extxyz", ":")
    for symbol, shift in SHIFT.items():
        atom = labelled(ase.Atoms(symbol), config_type="IsolatedAtom")
        atom.info["REF_energy"] += shift
        structures.append(atom)
    ase.io.write(tmp_path / "w.extxyz", structures)
    prepared = prepare(Config.from_files([tmp_path / "w.extxyz"], settings(run)))
    own = load_potential(run.model)
    assert prepared.start["reference"] == "data"
    moved = (prepared.potential.E0 - own.E0).tolist()
    assert moved == pytest.approx([SHIFT["H"], 0.0, SHIFT["O"]], abs=1e-9)
    table = prepare(config(run, water, "data.atomic_energies={H: 0.25, O: 0.5}", "start.reference=data"))
    assert table.potential.E0[[0, 2]].tolist() == [0.25, 0.5]


def test_elements_of_other_sets_alone_are_named_where_energies_change(run, water, files, caplog):
    prepare(config(run, water, f"data.tests={{hot: {files / 'hot.extxyz'}}}", file="other.extxyz"))
    assert "the hot set has C, which no training structure has: their E0s stay the model's" in caplog.text


class Stop(NullReporter):
    """Ends the run in the first step of the second epoch."""

    def step(self, report):
        if report.epoch == 1:
            raise KeyboardInterrupt


def test_a_run_goes_on_to_the_same_bits_without_the_file_of_the_model(run, water, tmp_path):
    model = tmp_path / "m.equipot"
    shutil.copy(run.model, model)
    more = [f"start.model={model}", "fit.checkpoint_seconds=0"]
    whole = train(config(run, water, *more, file="other.extxyz"), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config(run, water, *more, file="other.extxyz"), tmp_path / "run", reporter=Stop())
    model.unlink()
    resumed = train(Config.from_yaml(tmp_path / "run" / "config.yaml"), tmp_path / "run", resume=True)
    ours, theirs = weights(resumed.model), weights(whole.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.errors == whole.errors
    first, second = (read_model_header(result.model) for result in (resumed, whole))
    assert first.statistics == second.statistics
    assert first.provenance["start"] == second.provenance["start"]
    changed = Config.from_yaml(tmp_path / "run" / "config.yaml", ["start.reference=keep"])
    with pytest.raises(EquipotError, match=r"start\.reference was 'auto' and is now 'keep'"):
        train(changed, tmp_path / "run", resume=True)


def test_a_model_in_double_precision_is_trained_in_single_and_back(run, water, tmp_path):
    single = train(config(run, water), tmp_path / "single")
    double = train(
        Config.from_files([water / "water.extxyz"], [f"start.model={single.model}", *QUICK, "run.dtype=float64"]),
        tmp_path / "double",
    )
    assert read_model_header(double.model).dtype == "float64"
    again = prepare(Config.from_files([water / "water.extxyz"], [f"start.model={double.model}", *QUICK]))
    assert again.potential.dtype == torch.float32
    assert read_model_header(double.model).provenance["start"]["provenance"]["start"]["sha256"] == sha256(run.model)


def test_only_some_parameters_are_trained(run, water, tmp_path):
    result = train(config(run, water, "fit.keep_start=false", "fit.train_only=[readouts.*]"), tmp_path / "run")
    own, tuned = weights(run.model), weights(result.model)
    changed = {name for name in own if not torch.equal(own[name], tuned[name])}
    assert any(name.startswith("readouts.") for name in changed)
    assert all(name.startswith("readouts.") for name in changed)


def test_a_converted_model_is_trained_further(water, tmp_path):
    """A released file format, random weights: energies of its own zero, which are refitted."""
    source = convert_model(Path(__file__).parents[1] / "peers" / "goldens" / "nequix_file.nqx")
    save_potential(tmp_path / "n.equipot", source.potential, provenance=source.provenance)
    found = Config.from_files([water / "water.extxyz"], [f"start.model={tmp_path / 'n.equipot'}", *QUICK])
    result = train(found, tmp_path / "run")
    header = read_model_header(result.model)
    start = header.provenance["start"]
    assert start["provenance"]["converted_from"]["code"] == "nequix"
    assert header.design == source.potential.design.with_reference("least_squares")
    assert result.fit.best_loss < start["valid_loss"]
    papers = run_content(result.folder).papers
    assert citations.NEQUIX in papers
    assert not {citations.MACE, citations.ACE, citations.NEQUIP} & set(papers)


def test_it_is_better_than_a_training_from_the_beginning(run, water, tmp_path):
    """Ten structures, equal steps: the error of the forces is well below that of fresh weights."""
    more = ["fit.max_epochs=4"]
    tuned = train(config(run, water, *more), tmp_path / "tuned")
    fresh = Config.from_files([water / "water.extxyz"], [*SMALL, *QUICK, *more])
    fresh = train(fresh, tmp_path / "fresh")
    assert tuned.fit.steps == fresh.fit.steps
    key = "forces_rmse_meV_per_A"
    assert tuned.errors["valid"][key] < 0.8 * fresh.errors["valid"][key]


def test_a_model_that_gets_worse_is_told(run, water, tmp_path):
    result = train(config(run, water, "fit.lr=0.3"), tmp_path / "run")
    assert "no validation was better than the model before the training" in result.report.read_text(encoding="utf-8")
    assert result.fit.best_epoch == -1
    start = read_model_header(result.model).provenance["start"]
    assert result.fit.best_loss == pytest.approx(start["valid_loss"], rel=1e-6)


def test_the_command_line(run, water, tmp_path):
    flags = [part for setting in QUICK for part in ("--set", setting)]
    out = tmp_path / "run"
    found = document("train", water / "water.extxyz", "--from", run.model, *flags, "--out", out)
    assert found["status"] == "finished"
    assert np.isfinite(found["errors"]["valid"]["forces_rmse_meV_per_A"])
    assert document("info", out / "model.equipot")["design"] == document("info", run.model)["design"]
    plan = document("train", water / "water.extxyz", "--from", run.model, *flags, "--dry-run")
    assert plan["config"]["start"]["sha256"] == sha256(run.model)
    assert "--from" in call("train", "--resume", out, "--from", run.model, code=1).stderr
    assert "start.reference" in call("options", "start").stdout
    refused = call("train", water / "water.extxyz", "--from", run.model, "--set", "design.max_L=0", code=1).stderr
    assert "design.max_L = 0 but the model has 1" in refused.replace("\n", " ")
