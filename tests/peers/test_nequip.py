"""Both generations of nequip: checkpoints, folders, units, signs, and what is refused by name."""

import dataclasses
import json
import zipfile

import pytest
import torch

from equipot.convert import CONVERTERS, convert_model
from equipot.convert.nequip_config import full_options
from equipot.convert.nequip_paper_config import irreps_of, model_options
from equipot.errors import EquipotError

from .golden import FOLDER, Golden, errors, graph_of, predict, read_golden

CURRENT = read_golden(FOLDER / "nequip_per_type.npz")
PAPER = read_golden(FOLDER / "nequip_paper.npz")
ZBL = read_golden(FOLDER / "nequip_zbl.npz")
PREFIX = "model.sole_model."


def convert(golden: Golden, tensors: dict | None = None, head: str | None = None, **options):
    source = golden.source
    source = dataclasses.replace(source, options=source.options | options, tensors=tensors or source.tensors)
    return CONVERTERS[source.code](source, head)


def checkpoint(golden: Golden, *, averaged: bool = False) -> dict:
    """What nequip-train writes, as far as it matters; with an average the raw weights are others."""
    weights = golden.source.tensors
    config = {key: v for key, v in golden.meta["options"].items() if key not in ("code", "version", "e3nn")}
    state = {PREFIX + key: value for key, value in weights.items()}
    if averaged:
        trained = [key for key in weights if key.endswith((".weight", "scales", "shifts")) and weights[key].numel()]
        state |= {PREFIX + key: 2.0 * weights[key] + 1.0 for key in trained}
        state |= {f"ema.ema_weight_{n}": weights[key] for n, key in enumerate(trained)}
    info = {"versions": {"nequip": "0.19.1", "e3nn": "0.6.0"}}
    return {"state_dict": state, "hyper_parameters": {"model": config, "info_dict": info}, "epoch": 3}


@pytest.mark.parametrize("averaged", [False, True])
def test_a_checkpoint_is_read_as_it_is_with_its_averaged_weights(tmp_path, averaged):
    """nequip evaluates with the exponential moving average where there is one; nothing is unpickled."""
    torch.save(checkpoint(CURRENT, averaged=averaged), tmp_path / "best.ckpt")
    converted = convert_model(tmp_path / "best.ckpt")
    assert errors(predict(converted.potential), CURRENT)["forces"] < 1e-13
    assert converted.provenance["converted_from"]["version"] == "0.19.1"
    json.dumps(converted.provenance)


def test_wrong_checkpoints_and_packages_are_refused(tmp_path):
    content = checkpoint(CURRENT, averaged=True)
    content["state_dict"].pop("ema.ema_weight_3")
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(EquipotError, match=r"averaged weights do not have the shapes .*export_nequip\.py"):
        convert_model(tmp_path / "a.ckpt")
    content = checkpoint(CURRENT)
    content["hyper_parameters"]["model"] = {"_target_": "nequip.model.ModelFromPackage", "package_path": "x"}
    torch.save(content, tmp_path / "b.ckpt")
    with pytest.raises(EquipotError, match=r"built by ModelFromPackage; equipot knows .*export_nequip\.py"):
        convert_model(tmp_path / "b.ckpt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "c.ckpt")
    with pytest.raises(EquipotError, match="Python objects beside numbers"):
        convert_model(tmp_path / "c.ckpt")
    (tmp_path / "d.nequip.zip").write_bytes(b"PK")
    with pytest.raises(EquipotError, match=r"brings its own Python code.*--trust-pickle"):
        convert_model(tmp_path / "d.nequip.zip")
    with pytest.raises(EquipotError, match="cannot be opened here"):
        convert_model(tmp_path / "d.nequip.zip", trust_pickle=True)
    with zipfile.ZipFile(tmp_path / "e.pth", "w") as archive:
        archive.writestr("deployed/constants.pkl", b"")
    with pytest.raises(EquipotError, match=r"is a program \(TorchScript\).*export_nequip_paper\.py"):
        convert_model(tmp_path / "e.pth")


def test_the_folder_of_a_training_with_nequip_0_5(tmp_path):
    """config.yaml holds Python's tuples and hundreds of options of the training; none is executed."""
    config = {key: value for key, value in PAPER.meta["options"].items() if key not in ("code", "version", "e3nn")}
    lines = [f"{key}: {json.dumps(value)}" for key, value in config.items()]
    lines += ["nequip_version: 0.5.6", "e3nn_version: 0.4.4", "learning_rate: 0.01", "_jit_fusion_strategy:"]
    lines += ["- !!python/tuple", "  - DYNAMIC", "  - 3", "torch_version: !!python/object/new:torch.Version [x]"]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(EquipotError, match=r"folder without best_model\.pth"):
        convert_model(tmp_path)
    torch.save(PAPER.source.tensors, tmp_path / "best_model.pth")
    converted = convert_model(tmp_path)
    assert errors(predict(converted.potential), PAPER)["forces"] < 1e-13
    (tmp_path / "config.yaml").write_text("\n".join([*lines, "layer1_convnet_resnet: true"]))
    with pytest.raises(EquipotError, match=r"layer1_convnet_resnet = True sets resnet for a part of the model alone"):
        convert_model(tmp_path)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(EquipotError, match=r"folder without config\.yaml"):
        convert_model(tmp_path)


def test_names_of_all_builders_mean_the_same():
    preset = full_options({"_target_": "nequip.model.PresetNequIPGNNModel", "preset": "m", "r_max": 5.0}, "x")
    assert preset["feature_irreps_hidden"] == ["128x0e + 64x1o + 32x2e"] * 3 + ["128x0e"]
    assert (preset["type_embed_num_features"], preset["radial_mlp_width"]) == (32, [128] * 4)
    plain = full_options({"_target_": "nequip.model.NequIPGNNModel", "l_max": 1, "num_features": 4}, "x")
    assert plain["feature_irreps_hidden"] == ["4x0e + 4x0o + 4x1e + 4x1o"] * 3 + ["4x0e"]
    assert (plain["irreps_edge_sh"], plain["type_embed_num_features"]) == ("1x0e + 1x1o", 4)
    with pytest.raises(EquipotError, match="preset = 'XXL' does not exist; nequip has S, M, L, XL"):
        full_options({"_target_": "nequip.model.PresetNequIPGNNModel", "preset": "XXL"}, "x")
    paper = irreps_of({"l_max": 2, "parity": False, "num_features": 5})
    assert paper["feature_irreps_hidden"] == "5x0e+5x1e+5x2e"
    assert (paper["irreps_edge_sh"], paper["conv_to_output_hidden_irreps_out"]) == ("1x0e+1x1e+1x2e", "2x0e")
    assert "learning_rate" not in model_options({"learning_rate": 1.0, "r_max": 4.0}, "x")


def test_numbers_of_neighbours_must_be_those_of_the_types():
    for wrong in ([1.0, 2.0], {"H": 1.0}, [1.0, 2.0, 3.0, 4.0]):
        with pytest.raises(EquipotError, match=r"avg_num_neighbors .* give one number"):
            convert(ZBL, avg_num_neighbors=wrong)


def test_units_of_lammps_real_become_ev():
    """A model with ZBL in kcal/mol: everything else is scaled by LAMMPS's own ratio, ZBL is that of metal units."""
    metal = convert(ZBL)
    given = {"pair_potential": ZBL.meta["options"]["pair_potential"] | {"units": "real"}}
    with pytest.raises(EquipotError, match=r"_qqr2exesquare"):  # the weights say metal
        convert(ZBL, **given)
    name = "model.func.pair_potential._qqr2exesquare"
    real = convert(ZBL, tensors=ZBL.source.tensors | {name: torch.tensor(332.06371 / 2, dtype=torch.float64)}, **given)
    graph = graph_of(metal)
    repulsion = metal.repulsion(graph, graph.vectors().norm(dim=1))
    a, b = (model(graph, graph.vectors()) - repulsion for model in (metal, real))
    assert repulsion.max() > 1.0
    assert torch.allclose(b, a * 14.399645 / 332.06371, rtol=1e-12)


def test_signs_are_those_of_the_symbols_in_the_file():
    """The symbols in a state dict are what the model computes with, whatever version is said to have made it."""
    old = read_golden(FOLDER / "nequip_paper_no_parity_e3nn04.npz")
    assert errors(predict(convert(old, e3nn="0.6.0")), old)["forces"] < 1e-12
    plain = {key: value for key, value in old.source.tensors.items() if "_w3j_" not in key}
    assert len(plain) < len(old.source.tensors)
    assert errors(predict(convert(old, plain, e3nn="0.4.4")), old)["forces"] < 1e-12
    assert errors(predict(convert(old, plain, e3nn="0.5.1")), old)["forces"] > 1e-6


CURRENT_REFUSED = [
    ({"per_edge_type_cutoff": {"H": 2.0}}, r"per_edge_type_cutoff = .*one cutoff for all pairs"),
    ({"learnable_shift": True}, "learnable_shift = True"),
    ({"convnet_resnet": True}, "convnet_resnet = True"),
    ({"categorical_graph_field_embed": [{"field": "charge"}]}, "categorical_graph_field_embed"),
    ({"convnet_nonlinearity_type": "norm"}, "convnet_nonlinearity_type = 'norm'"),
    ({"convnet_nonlinearity_scalars": {"e": "abs", "o": "tanh"}}, "convnet_nonlinearity_scalars.*silu or ssp"),
    ({"convnet_nonlinearity_gates": {"e": "ssp"}}, "convnet_nonlinearity_gates.*silu or ssp for both"),
    ({"pair_potential": {"_target_": "nequip.nn.pair_potential.LennardJones"}}, "LennardJones: equipot has ZBL"),
    ({"readout_mlp_nonlinearity": "softplus"}, "readout_mlp_nonlinearity = 'softplus'.*'mish'"),
    ({"polynomial_cutoff_p": 4.5}, r"polynomial_cutoff_p = 4\.5 must be a whole number"),
    ({"radial_mlp_depth": [1, 2, 1, 1]}, "radial_mlp_depth"),
    ({"feature_irreps_hidden": ["3x0e+2x0o+3x1o+3x1e"] * 3 + ["3x0e"]}, "one width for both parities"),
    ({"feature_irreps_hidden": ["3x0e+3x1o"] * 3 + ["4x0e"]}, "last layer makes their even scalars, here 3x0e"),
    ({"irreps_edge_sh": "0e + 2e"}, "irreps_edge_sh = .*equipot has the harmonics"),
    ({"type_names": ["C1", "H", "O"]}, "C1 is none"),
    ({"something_new": 3}, "does not know the hyper-parameter something_new = 3"),
    ({"r_max": 3.0}, "_rmax_recip"),
]
PAPER_REFUSED = [
    ({"resnet": True}, "resnet = True"),
    ({"nonlinearity_type": "norm"}, "nonlinearity_type = 'norm'"),
    ({"nonlinearity_gates": {"e": "tanh"}}, "nonlinearity_gates.*silu for both or ssp"),
    ({"model_builders": ["EnergyModel", "PairPotentialTerm"]}, "PairPotentialTerm"),
    ({"avg_num_neighbors": "auto"}, "avg_num_neighbors = 'auto'.*number that the training found"),
    ({"edge_sh_normalization": "norm"}, "edge_sh_normalization = 'norm'"),
    ({"conv_to_output_hidden_irreps_out": "2x0e+1x0o"}, "equipot has even scalars there"),
    ({"BesselBasis_trainable": False}, "BesselBasis_trainable = False"),
]


@pytest.mark.parametrize(("options", "message"), CURRENT_REFUSED, ids=lambda x: str(x)[:40])
def test_what_current_models_have_beyond_the_axes_is_refused_by_name(options, message):
    with pytest.raises(EquipotError, match=message):
        convert(CURRENT, **options)


@pytest.mark.parametrize(("options", "message"), PAPER_REFUSED, ids=lambda x: str(x)[:40])
def test_what_the_papers_models_have_beyond_the_axes_is_refused_by_name(options, message):
    with pytest.raises(EquipotError, match=message):
        convert(PAPER, **options)


@pytest.mark.parametrize("golden", [CURRENT, PAPER], ids=["current", "paper"])
def test_weights_that_are_left_over_missing_or_of_another_model(golden):
    tensors = golden.source.tensors
    more = tensors | {next(iter(tensors)).split("layer")[0] + "extra.weight": torch.ones(3)}
    with pytest.raises(EquipotError, match=r"would leave out .*extra\.weight"):
        convert(golden, more)
    with pytest.raises(EquipotError, match="have no"):
        convert(golden, {key: value for key, value in tensors.items() if "layer1_convnet.conv.linear_2" not in key})
    with pytest.raises(EquipotError, match="it is no model of nequip"):
        convert(golden, {"a.weight": torch.ones(3)})
    with pytest.raises(EquipotError, match="one energy and no head 'b'"):
        convert(golden, head="b")


def test_other_versions_and_an_energy_that_does_not_add_up_are_refused():
    source = dataclasses.replace(PAPER.source, version="0.3.3")
    with pytest.raises(EquipotError, match=r"version = '0\.3\.3' of nequip; equipot reads 0\.5 and 0\.6"):
        CONVERTERS["nequip-0.5"](source, None)
    with pytest.raises(EquipotError, match=r"version = '0\.12\.1' of nequip; equipot reads 0\.16 and later"):
        CONVERTERS["nequip"](dataclasses.replace(CURRENT.source, version="0.12.1"), None)
    with pytest.raises(EquipotError, match="does not grow with the number of atoms"):
        convert(PAPER, PAPER.source.tensors | {"shift_by": torch.tensor(1.0)})


@pytest.mark.parametrize(
    ("options", "trained"), [({}, set()), ({"per_species_rescale_shifts_trainable": True}, {"E0"})]
)
def test_what_was_trained_is_trained_here(options, trained):
    names = {name for name, _ in convert(PAPER, **options).named_parameters()}
    assert names & {"E0", "scale", "shift"} == trained
    assert "radial_basis.functions.frequencies" in names
    assert {"E0", "scale"} <= {name for name, _ in convert(CURRENT).named_parameters()}
