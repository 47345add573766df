"""How published models are read from disk: plain weights, pickles with consent only, and what is refused by name."""

import dataclasses
import json
import pickle
import sys
import types

import pytest
import safetensors.torch
import torch

from equipot.convert import CONVERTERS, convert_model
from equipot.convert.export import export_botnet, export_mace
from equipot.convert.unpickle import packages_of
from equipot.errors import EquipotError
from equipot.models.model_file import load_potential, save_potential
from equipot.o3 import wigner_3j

from .golden import FOLDER, Golden, errors, predict, read_golden, structures

MACE = read_golden(FOLDER / "mace_L1.npz")
BOTNET = read_golden(FOLDER / "botnet.npz")


@pytest.fixture
def files(tmp_path):
    """A state dict and the JSON of its hyper-parameters, as a user has them."""
    torch.save(MACE.source.tensors, tmp_path / "weights.pt")
    (tmp_path / "weights.json").write_text(json.dumps(MACE.meta["options"]))
    return tmp_path


def changed(golden: Golden, **options) -> Golden:
    return dataclasses.replace(golden, meta=golden.meta | {"options": golden.meta["options"] | options})


def convert(golden: Golden, tensors: dict | None = None, head: str | None = None):
    source = dataclasses.replace(golden.source, tensors=golden.source.tensors if tensors is None else tensors)
    return CONVERTERS[source.code](source, head)


def test_a_state_dict_with_its_json_is_converted(files):
    converted = convert_model(files / "weights.pt")
    assert errors(predict(converted.potential), MACE)["forces"] < 1e-13
    origin = converted.provenance["converted_from"]
    assert (origin["code"], origin["version"], origin["file"]) == ("mace-torch", "0.3.16", "weights.pt")
    assert len(origin["sha256"]) == 64
    json.dumps(converted.provenance)


def test_safetensors_and_a_json_elsewhere(files, tmp_path):
    safetensors.torch.save_file(MACE.source.tensors, tmp_path / "w.safetensors")
    converted = convert_model(tmp_path / "w.safetensors", config=files / "weights.json", dtype="float32")
    assert converted.potential.dtype == torch.float32


def test_what_is_missing_or_wrong_with_files_is_said(files, tmp_path):
    with pytest.raises(EquipotError, match=r"there is no file .*nothing\.pt"):
        convert_model(tmp_path / "nothing.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(EquipotError, match="is empty"):
        convert_model(tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("not a model")
    with pytest.raises(EquipotError, match=r"text\.pt is not a file that torch can read\. Give") as told:
        convert_model(tmp_path / "text.pt")
    assert "weights_only" not in str(told.value), "torch's advice to open it without care is not ours"
    (tmp_path / "cut.pt").write_bytes((files / "weights.pt").read_bytes()[:5000])
    with pytest.raises(EquipotError, match="not a file that torch can read"):
        convert_model(tmp_path / "cut.pt")
    with pytest.raises(EquipotError, match="is a folder"):
        convert_model(tmp_path)
    (files / "weights.json").write_text("{")
    with pytest.raises(EquipotError, match="cannot be read as JSON"):
        convert_model(files / "weights.pt")
    (files / "weights.json").write_text(json.dumps({"r_max": 5.0}))
    with pytest.raises(EquipotError, match='must name the code of the model in the entry "code"'):
        convert_model(files / "weights.pt")
    (files / "weights.json").unlink()
    with pytest.raises(EquipotError, match=r"weights only; their meaning is missing.*--config"):
        convert_model(files / "weights.pt")
    with pytest.raises(EquipotError, match=r"absent\.json cannot be read as JSON"):
        convert_model(files / "weights.pt", config=files / "absent.json")
    torch.save({"model": MACE.source.tensors, "epoch": 3}, tmp_path / "checkpoint.pt")
    with pytest.raises(EquipotError, match=r"more than weights \(entries model, epoch\)"):
        convert_model(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("atomic_numbers", ["H", "C", "O"], "invalid literal"),
        ("atomic_numbers", 6, "TypeError"),
        ("correlation", "three", "correlation"),
        ("hidden_irreps", 16, "TypeError"),
        ("avg_num_neighbors", 0, "greater than 0"),
        ("num_interactions", 3, "do not belong together"),
    ],
)
def test_hyper_parameters_of_a_wrong_kind_are_an_error_that_names_the_file(files, option, value, message):
    (files / "weights.json").write_text(json.dumps(MACE.meta["options"] | {option: value}))
    with pytest.raises(EquipotError, match=rf"(?s)^weights\.pt: .*{message}"):
        convert_model(files / "weights.pt")


def test_compiled_models_are_refused_for_what_they_were_made_from(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "m_compiled.model")
    with pytest.raises(EquipotError, match=r"mace-torch's NAME_compiled\.model.*Give mace-torch's NAME\.model"):
        convert_model(tmp_path / "m_compiled.model", trust_pickle=True)


@pytest.mark.filterwarnings("ignore:.*looks like a TorchScript archive")
def test_the_exporter_of_mace_says_which_file_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mace", types.ModuleType("mace"))
    torch.save({"model": {}, "optimizer": {}}, tmp_path / "epoch-0.pt")
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "compiled.model")
    for name, message in (("epoch-0.pt", "holds a dict, no model"), ("compiled.model", "is a compiled model")):
        monkeypatch.setattr(sys, "argv", ["export_mace.py", str(tmp_path / name), str(tmp_path / "out.pt")])
        with pytest.raises(SystemExit, match=message):
            export_mace.main()


class Bomb:
    """A pickle that runs code when it is opened."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle ran')",))


class Exotic(torch.nn.Module):
    pass


def test_a_pickle_is_not_opened_without_consent(tmp_path):
    torch.save({"weights": Bomb()}, tmp_path / "bomb.model")
    with pytest.raises(EquipotError, match=r"can run any code .*--trust-pickle"):
        convert_model(tmp_path / "bomb.model")
    (tmp_path / "old.model").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(EquipotError, match=r"can run any code .*--trust-pickle"):
        convert_model(tmp_path / "old.model")


def test_nothing_runs_from_files_that_need_no_consent(tmp_path):
    """Nor is torch's advice repeated, to load such files nevertheless."""
    (tmp_path / "run").mkdir()
    for name in ("a.ckpt", "a.safetensors", "a.nqx", "run/best_model.pth"):
        torch.save({"weights": Bomb()}, tmp_path / name)
    (tmp_path / "run" / "config.yaml").write_text("!!python/object/apply:sys.exit ['the configuration ran']")
    (tmp_path / "hyper.json").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.ckpt", "a.safetensors", "a.nqx", "run", "hyper.json"):
        with pytest.raises(EquipotError) as caught:
            convert_model(tmp_path / name)
        assert "weights_only" not in str(caught.value)


def test_consent_opens_it_and_says_what_it_found(tmp_path):
    torch.save(Exotic(), tmp_path / "exotic.model")
    with pytest.raises(EquipotError, match=r"holds a .*Exotic, which is no model of mace-torch"):
        convert_model(tmp_path / "exotic.model", trust_pickle=True)


def test_a_pickle_whose_code_is_missing_names_it(tmp_path):
    """A pickle that refers to mace.modules.models, as mace-torch's own files do."""
    (tmp_path / "mace.model").write_bytes(pickled_as("mace.modules.models", "ScaleShiftMACE"))
    assert "mace" in packages_of(tmp_path / "mace.model")
    with pytest.raises(EquipotError, match=r"a whole pickled model of mace-torch, and .*export_mace\.py"):
        convert_model(tmp_path / "mace.model")
    with pytest.raises(EquipotError, match=r"needs mace-torch in this environment.*export_mace\.py"):
        convert_model(tmp_path / "mace.model", trust_pickle=True)


def pickled_as(module: str, name: str) -> bytes:
    """The bytes of a pickle of an object of a class that is not installed."""
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n)\x81."


def test_weights_that_nobody_used_are_an_error():
    tensors = MACE.source.tensors | {"joint_embedding.weight": torch.zeros(3)}
    with pytest.raises(EquipotError, match=r"would leave out joint_embedding\.weight \(3,\)"):
        convert(MACE, tensors)
    with pytest.raises(EquipotError, match=r"would leave out extra"):
        convert(BOTNET, BOTNET.source.tensors | {"extra": torch.zeros(1)})


def test_weights_that_are_missing_or_of_another_size_are_an_error():
    tensors = dict(MACE.source.tensors)
    del tensors["interactions.1.linear_up.weight"]
    with pytest.raises(EquipotError, match=r"no 'interactions\.1\.linear_up\.weight'"):
        convert(MACE, tensors)
    with pytest.raises(EquipotError, match=r"a linear map .* weights instead of"):
        convert(changed(MACE, hidden_irreps="4x0e + 4x1o"), MACE.source.tensors | embedding(4))
    tensors = MACE.source.tensors | {"interactions.0.linear_up.weight": torch.full((9,), torch.nan)}
    with pytest.raises(EquipotError, match="non-finite"):
        convert(MACE, tensors)


def embedding(channels: int) -> dict[str, torch.Tensor]:
    return {"node_embedding.linear.weight": torch.zeros(3 * channels, dtype=torch.float64)}


def test_an_option_that_nobody_knows_is_an_error():
    with pytest.raises(EquipotError, match=r"does not know the hyper-parameter magic = 3"):
        convert(changed(MACE, magic=3))


MACE_REFUSED = [
    ({"interaction_cls": "RealAgnosticAttResidualInteractionBlock"}, r"interaction_cls = 'RealAgnosticAtt"),
    ({"model": "AtomicDipolesMACE"}, r"model = 'AtomicDipolesMACE' is not"),
    ({"use_so3": True}, r"use_so3 = True"),
    ({"embedding_specs": ["total_charge"]}, r"embedding_specs = .*charge"),
    ({"use_embedding_readout": True}, r"use_embedding_readout = True"),
    ({"gate": "tanh"}, r"gate = 'tanh'"),
    ({"distance_transform": "Cosine"}, r"distance_transform = 'Cosine'"),
    ({"radial_type": "laguerre"}, r"radial_type = 'laguerre'"),
    ({"correlation": [2, 3]}, r"correlation = \[2, 3\]"),
    ({"hidden_irreps": "3x0e + 3x2e"}, r"every degree up to the highest"),
    ({"hidden_irreps": "3x1o + 3x0e"}, r"begin with 1o"),
    ({"MLP_irreps": "4x0e + 4x1o"}, r"MLP_irreps"),
    ({"cueq_config": {"enabled": True}}, r"cueq_config .*mace_cueq_to_e3nn"),
    ({"atomic_numbers": [6, 1, 8]}, r"atomic_numbers = \[6, 1, 8\] .* are not those of the weights, \[1, 6, 8\]"),
    ({"r_max": 6.0}, r"r_max is \[3\.2\d*\] in the weights, but \[6\.0\] by the hyper-parameters"),
    ({"r_max": "5"}, r"r_max = '5' must be a number"),
    ({"e3nn": "new"}, r"e3nn = 'new' is not a version"),
]
BOTNET_REFUSED = [
    ({"interaction_cls": "NonlinearInteractionBlock"}, r"interaction_cls = 'NonlinearInteractionBlock'"),
    ({"model": "Other"}, r"model = 'Other'"),
    ({"interaction_cls": "NequIPInteractionBlock"}, r"differ in radial functions or gate"),
]


@pytest.mark.parametrize(("options", "message"), MACE_REFUSED, ids=lambda x: str(x)[:40])
def test_what_mace_has_and_equipot_lacks_is_refused_by_name(options, message):
    with pytest.raises(EquipotError, match=message):
        convert(changed(MACE, **options))


@pytest.mark.parametrize(("options", "message"), BOTNET_REFUSED, ids=lambda x: str(x)[:40])
def test_what_botnet_has_and_equipot_lacks_is_refused_by_name(options, message):
    with pytest.raises(EquipotError, match=message):
        convert(changed(BOTNET, **options))


NOT_THEIRS = [
    ("mace_L1", {"atomic_numbers": [6, 1, 8]}, r"atomic_numbers = \[6, 1, 8\] .* those of the weights, \[1, 6, 8\]"),
    ("mace_L1", {"use_agnostic_product": True}, r"weights of 3 elements instead of 1: use_agnostic_product = True"),
    ("mace_agnostic_product", {"use_agnostic_product": False}, r"weights of 1 elements instead of 3"),
    ("mace_L1", {"distance_transform": "Agnesi"}, r"distance transform 'none', the hyper-parameters to 'agnesi'"),
    ("mace_agnesi", {"distance_transform": "None"}, r"distance transform 'agnesi', the hyper-parameters to 'none'"),
    ("mace_agnesi", {"distance_transform": "Soft"}, r"distance transform 'agnesi', the hyper-parameters to 'soft'"),
    ("mace_soft", {"distance_transform": "None"}, r"distance transform 'soft', the hyper-parameters to 'none'"),
    ("mace_L1", {"pair_repulsion": True}, r"weights lack a pair repulsion"),
    ("mace_zbl", {"pair_repulsion": False}, r"weights have a pair repulsion"),
    ("botnet", {"r_max": 4.0}, r"cutoff_fn\.r_max is \[3\.2"),
    ("botnet", {"num_polynomial_cutoff": 4}, r"cutoff_fn\.p"),
]


@pytest.mark.parametrize(("name", "options", "message"), NOT_THEIRS, ids=str)
def test_hyper_parameters_of_another_model_are_refused(name, options, message):
    """Parts without trained weights leave constants in the file, which must be those of the hyper-parameters."""
    with pytest.raises(EquipotError, match=message):
        convert(changed(read_golden(FOLDER / f"{name}.npz"), **options))


@pytest.mark.parametrize("name", ["mace_linear_gate", "botnet"])
def test_the_gate_has_no_default(name):
    golden = read_golden(FOLDER / f"{name}.npz")
    options = {key: value for key, value in golden.meta["options"].items() if key != "gate"}
    with pytest.raises(EquipotError, match="'gate' is missing"):
        convert(dataclasses.replace(golden, meta=golden.meta | {"options": options}))


def test_a_repulsion_that_mace_cuts_off_is_refused():
    """The sum of covalent radii of potassium, 4.06 Å, is longer than the cutoff: mace-torch's envelope is not zero."""
    golden = read_golden(FOLDER / "mace_zbl_scaled.npz")
    heavy = {"atomic_numbers": torch.tensor([1, 6, 19])}
    with pytest.raises(EquipotError, match=r"two K atoms has the range 4\.06 Å, .* r_max = 3\.2 Å"):
        convert(changed(golden, atomic_numbers=[1, 6, 19]), golden.source.tensors | heavy)


@pytest.mark.parametrize(("widths", "shape"), [(None, r"\(5, 64\)"), ([], r"\(5, 12\)")])
def test_no_widths_of_the_radial_network_are_not_the_default_widths(widths, shape):
    with pytest.raises(EquipotError, match=rf"layer0\.weight.*{shape}"):
        convert(changed(MACE, radial_MLP=widths))


def test_radii_and_repulsion_of_others_are_refused():
    golden = read_golden(FOLDER / "mace_zbl_scaled.npz")
    for name in ("pair_repulsion_fn.covalent_radii", "pair_repulsion_fn.c"):
        other = {name: 1.01 * golden.source.tensors[name]}
        with pytest.raises(EquipotError, match=f"{name} is .*published constants"):
            convert(golden, golden.source.tensors | other)


def test_a_state_dict_as_torch_writes_it_is_converted():
    """With the Wigner 3j symbols of compiled products, whose signs count."""
    golden = read_golden(FOLDER / "mace_full_parity.npz")
    symbol = {"interactions.1.conv_tp._compiled_main_left_right._w3j_1_2_2": -wigner_3j(1, 2, 2)}
    for version in ("0.4.4", "0.6.0"):
        potential = convert(changed(golden, e3nn=version), golden.source.tensors | symbol)
        assert errors(predict(potential), golden)["energy"] < 1e-12


def test_hyper_parameters_of_another_form_are_an_error(files):
    for wrong, message in (
        ({"radial_MLP": 64}, r"radial_MLP = 64 must be a list"),
        ({"heads": "Default"}, r"heads = 'Default' must be a list"),
        ({"correlation": 3.5}, r"correlation = 3\.5 must be a whole number"),
        ({"atomic_numbers": 6}, r"TypeError"),
        ({"radial_MLP": ["a"]}, r"not of the form that mace-torch has \(ValueError"),
    ):
        (files / "weights.json").write_text(json.dumps(MACE.meta["options"] | wrong))
        with pytest.raises(EquipotError, match=message):
            convert_model(files / "weights.pt")
    with pytest.raises(EquipotError, match=r"weights\.json holds hyper-parameters"):
        convert_model(files / "weights.json")


class Convolution:
    """What an exporter reads of a convolution first."""

    def __init__(self, neighbours: float) -> None:
        self.avg_num_neighbors = neighbours


@pytest.mark.parametrize("exporter", [export_mace._neighbours, export_botnet._neighbours])
def test_numbers_of_neighbours_that_differ_between_layers_are_refused(exporter):
    model = types.SimpleNamespace(interactions=[Convolution(2.0), Convolution(3.0)])
    with pytest.raises(ValueError, match="avg_num_neighbors differs between the layers"):
        exporter(model)
    model.interactions[1] = Convolution(2.0)
    assert exporter(model) == 2.0


def test_trained_constants_are_refused():
    roots = MACE.source.tensors["radial_embedding.bessel_fn.bessel_weights"] * 1.01
    with pytest.raises(EquipotError, match=r"the Bessel roots is .* the constants were trained"):
        convert(MACE, MACE.source.tensors | {"radial_embedding.bessel_fn.bessel_weights": roots})


def test_reduced_couplings_without_their_matrices_are_refused():
    golden = read_golden(FOLDER / "mace_reduced_couplings.npz")
    tensors = {name: value for name, value in golden.source.tensors.items() if "U_matrix" not in name}
    for said in (True, False):
        with pytest.raises(EquipotError, match=r"another basis .*U_matrix_…"):
            convert(changed(golden, use_reduced_cg=said), tensors)


def test_couplings_that_our_products_do_not_span_are_refused():
    golden = read_golden(FOLDER / "mace_reduced_couplings.npz")
    name = next(name for name in golden.source.tensors if name.endswith("U_matrix_3"))
    wrong = golden.source.tensors[name] + 0.1 * torch.rand(golden.source.tensors[name].shape, dtype=torch.float64)
    with pytest.raises(EquipotError, match="does not span"):
        convert(golden, golden.source.tensors | {name: wrong})


@pytest.mark.parametrize("name", ["mace_L1", "mace_no_scale", "botnet_e3nn04"])
def test_energies_in_other_units_become_electronvolts(name, tmp_path):
    golden = read_golden(FOLDER / f"{name}.npz")
    torch.save(golden.source.tensors, tmp_path / "w.pt")
    (tmp_path / "w.json").write_text(json.dumps(golden.meta["options"]))
    potential = convert_model(tmp_path / "w.pt", energy_unit="kcal/mol").potential
    loaded = load_potential(save_potential(tmp_path / "m.equipot", potential))
    kcal = 0.0433641
    for key in ("energy", "forces"):
        found, expected = getattr(predict(loaded), key), kcal * golden.result(key)
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert loaded.statistics.atomic_energies[1] == pytest.approx(kcal * -1.9, rel=1e-6)


def test_unknown_units_and_units_with_a_repulsion_are_refused(tmp_path):
    golden = read_golden(FOLDER / "mace_zbl.npz")
    torch.save(golden.source.tensors, tmp_path / "w.pt")
    (tmp_path / "w.json").write_text(json.dumps(golden.meta["options"]))
    with pytest.raises(EquipotError, match=r"energy unit 'kcal' is not known: choose one of eV, meV, kcal/mol"):
        convert_model(tmp_path / "w.pt", energy_unit="kcal")
    with pytest.raises(EquipotError, match="has a ZBL repulsion, whose constants are in eV"):
        convert_model(tmp_path / "w.pt", energy_unit="hartree")


@pytest.mark.parametrize("name", ["cut.ckpt", "cut.pt"])
def test_a_copy_that_is_incomplete_is_told(name, files):
    whole = (files / "weights.pt").read_bytes()
    for size in (3, 100, len(whole) // 2, len(whole) - 1):
        (files / name).write_bytes(whole[:size])
        with pytest.raises(EquipotError, match=name):
            convert_model(files / name)
        with pytest.raises(EquipotError, match=name):
            convert_model(files / name, trust_pickle=True)


@pytest.mark.parametrize("scale", [-0.83, 0.0])
def test_a_scale_of_any_sign_is_a_number_like_others(scale):
    """It is trained or given in some codes; only a measured rms must be positive."""
    potential = convert(MACE, MACE.source.tensors | {"scale_shift.scale": torch.tensor(scale, dtype=torch.float64)})
    ours, shift = predict(potential).energy, MACE.source.tensors["scale_shift.shift"]
    atoms = torch.tensor([len(atoms) for atoms in structures()])
    own = MACE.result("energy") - MACE.result("interaction")
    network = (MACE.result("interaction") - atoms * shift) / MACE.source.tensors["scale_shift.scale"]
    assert (ours - (own + scale * network + atoms * shift)).abs().max() < 1e-12


def test_a_head_is_chosen_by_name():
    golden = read_golden(FOLDER / "mace_heads.npz")
    with pytest.raises(EquipotError, match=r"several heads \(a, b, c\): choose one with --head"):
        convert(golden)
    with pytest.raises(EquipotError, match=r"no head 'd'; it has a, b, c"):
        convert(golden, head="d")
    with pytest.raises(EquipotError, match="one energy"):
        convert(BOTNET, head="a")
