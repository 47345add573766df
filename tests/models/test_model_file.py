"""The model file: what comes back is what went in, and every damaged or foreign file says what it is."""

import json
import pickle
import stat
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from equipot import files
from equipot.errors import EquipotError
from equipot.files import write_atomically
from equipot.geometry import build_graph, evaluate
from equipot.models import model_file
from equipot.models.model_file import (
    as_device,
    as_dtype,
    converted,
    fingerprint,
    load_potential,
    read_model_header,
    save_potential,
)
from equipot.models.potential import Potential
from equipot.points import named_point
from equipot.statistics import Statistics
from equipot.units import UNITS

STATISTICS = Statistics(
    species=(1, 8),
    atomic_energies=(-13.587222780835477, -2041.9816003861047),
    mean_neighbours=9.3,
    mean_neighbours_per_species=(8.1, 10.7),
    force_rms=0.94798,
    energy_mean=-4.873083,
    energy_mean_per_species=(-2.1, -6.3),
    min_distance=0.92,
)
SMALL = {"channels": 4, "r_max": 4.0, "radial_mlp": (8,), "num_radial": 4}
POINTS = {
    "mace": {"max_ell": 2},
    "nequip": {"layers": 2, "max_L": 1},
    "botnet": {"layers": 2, "max_ell": 2, "max_L": 1},
    "ace": {"max_ell": 2},
}


def potential_of(name="mace", dtype=torch.float64, seed=3):
    return Potential(named_point(name, **SMALL, **POINTS[name]), STATISTICS, dtype=dtype, seed=seed)


def prediction(potential):
    positions = np.array([[0.0, 0.1, 0.0], [0.9, 0.2, 0.1], [-0.3, 0.9, 0.2], [2.5, 0.3, -0.4]])
    numbers = np.array([8, 1, 1, 8])
    return evaluate(potential, build_graph(positions, np.zeros((3, 3)), np.zeros(3, bool), numbers, potential.r_max))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.equipot"
    provenance = {"data": "sha256:ab", "errors": {"forces_rmse_meV_per_A": 31.5}, "config": {"data": {"seed": 7}}}
    save_potential(path, potential_of(), provenance=provenance)
    return path


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_bitwise(tmp_path, name, dtype):
    potential = potential_of(name, dtype)
    path = save_potential(tmp_path / "model.equipot", potential)
    loaded = load_potential(path, check=True)
    assert loaded.dtype == dtype
    for before, after in zip(prediction(potential), prediction(loaded), strict=True):
        assert torch.equal(before.nan_to_num(), after.nan_to_num())
    assert fingerprint(loaded) == fingerprint(potential)


def test_header_holds_what_the_model_is_and_where_it_came_from(saved):
    header = read_model_header(saved)
    potential = potential_of()
    assert header.format_version == 1
    assert header.design == potential.design
    assert header.statistics == STATISTICS
    assert header.units == UNITS
    assert header.dtype == "float64"
    assert header.parameters == potential.parameter_counts().parameters
    assert header.provenance["errors"]["forces_rmse_meV_per_A"] == 31.5
    assert header.versions["torch"] == torch.__version__


def test_conversion_of_precision(tmp_path):
    """float32 → float64 keeps the parameters exactly and computes everything else in float64."""
    single = potential_of(dtype=torch.float32)
    path = save_potential(tmp_path / "model.equipot", single)
    double = load_potential(path, dtype="float64", check=True)
    assert double.dtype == torch.float64
    state = double.state_dict()
    assert all(torch.equal(state[name], value.to(state[name].dtype)) for name, value in single.state_dict().items())
    forces, reference = prediction(double).forces, prediction(single).forces
    assert torch.allclose(forces, reference, atol=1e-4 * float(reference.abs().max()))
    assert not torch.equal(forces, reference)
    again = converted(double, "float32")
    assert torch.equal(prediction(again).forces, reference)


def test_float64_model_in_float32(saved):
    single = load_potential(saved, dtype=torch.float32, check=True)
    reference = prediction(potential_of()).energy
    assert abs(float(prediction(single).energy - reference)) < 1e-3


def test_loading_touches_no_global_state(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    load_potential(saved, dtype="float64", check=True)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == threads


def test_loading_never_unpickles(saved, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a model file was unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    load_potential(saved)


def broken(saved, kind):
    """The file in one of the states in which files arrive."""
    content = saved.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if kind == "flipped tensor bit":
        changed = bytearray(content)
        changed[-9] ^= 4
        return bytes(changed)
    if kind == "edited header":
        return content.replace(b"forces_rmse_meV_per_A", b"forces_rmse_meV_per_B")
    if kind == "half a head":
        return content[: 8 + length // 2]
    if kind == "half the tensors":
        return content[: (8 + length + len(content)) // 2]
    if kind == "garbled head":
        return content[:8] + b"{" + b"\xff" * (length - 1) + content[8 + length :]
    return {
        "empty": b"",
        "text": b"r_max: 5.0\n" * 40,
        "five bytes": b"hello",
        "pickle": pickle.dumps([1] * 40),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", r"is empty \(0 bytes\)"),
        ("five bytes", "not a safetensors file"),
        ("text", "not a safetensors file"),
        ("pickle", "pickled or zipped file"),
        ("half a head", r"is truncated: \d+ bytes of at least \d+"),
        ("half the tensors", r"is truncated: \d+ bytes of at least \d+"),
        ("garbled head", "damaged: its head cannot be read"),
        ("flipped tensor bit", "damaged: its checksum does not match"),
        ("edited header", "damaged: its checksum does not match"),
    ],
)
def test_damaged_and_foreign_files(saved, kind, message):
    saved.write_bytes(broken(saved, kind))
    with pytest.raises(EquipotError, match=message):
        load_potential(saved)


@pytest.mark.parametrize("name", ["nequix-mp-1.nqx", "weights.pt"])
def test_models_of_other_codes_are_sent_to_convert(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"cutoff": 6.0}\n' * 9)
    with pytest.raises(EquipotError, match=r"not a safetensors file.*equipot convert"):
        load_potential(tmp_path / name)


def test_missing_file_names_the_models_beside_it(saved):
    with pytest.raises(EquipotError, match=r"there is no model file .*modle\.equipot.*model\.equipot"):
        load_potential(saved.parent / "modle.equipot")
    with pytest.raises(EquipotError, match="there is no model file"):
        read_model_header("/nowhere/at/all.equipot")


def test_a_folder_is_not_a_model(saved):
    with pytest.raises(EquipotError, match=r"is a folder: name a file in it, such as .*model\.equipot"):
        load_potential(saved.parent)


def test_safetensors_of_something_else(tmp_path):
    path = tmp_path / "llm.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(3)}, path, metadata={"format": "pt"})
    with pytest.raises(EquipotError, match="not an equipot model"):
        load_potential(path)


def test_zipped_checkpoint_is_named_as_such(tmp_path):
    path = tmp_path / "old.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", "x" * 100)
    with pytest.raises(EquipotError, match="pickled or zipped file"):
        read_model_header(path)


def rewrite(path, change):
    """Change document and tensors of a file, checksum included, as another version would write them."""
    with safetensors.safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()["equipot"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    document, tensors = change(document, tensors)
    text = json.dumps(document)
    metadata = {"equipot": text, "sha256": model_file._digest(text, tensors)}
    safetensors.torch.save_file(tensors, path, metadata=metadata)


def test_newer_format(saved):
    rewrite(saved, lambda d, t: (d | {"format_version": 99, "versions": {"equipot": "7.0"}, "new": 1}, t))
    for read in (load_potential, read_model_header):
        with pytest.raises(EquipotError, match=r"format version 99 \(written by equipot 7\.0\).*Upgrade equipot"):
            read(saved)


@pytest.mark.parametrize("version", [0, "1", None])
def test_senseless_format_version(saved, version):
    rewrite(saved, lambda d, t: (d | {"format_version": version}, t))
    with pytest.raises(EquipotError, match="its format_version is"):
        read_model_header(saved)


def test_splined_radial_functions_come_back(tmp_path):
    potential = potential_of().choose_radial("spline:64")
    path = save_potential(tmp_path / "m.equipot", potential)
    known = prediction(potential.eval())
    loaded = load_potential(path, check=True)
    assert loaded.radial == read_model_header(path).radial == "spline:64"
    assert torch.equal(prediction(loaded).forces, known.forces)
    exact = load_potential(path, radial="exact", check=True)
    assert exact.radial == "exact"
    difference = (prediction(exact).forces - known.forces).abs().max()
    assert 0 < difference < 1e-4 * known.forces.abs().max()
    assert converted(potential, "float32").radial == "spline:64"
    assert fingerprint(exact) != fingerprint(loaded)


def test_a_header_without_a_choice_of_radial_functions_has_exact_ones(saved):
    header = read_model_header(saved)
    older = {key: value for key, value in header.model_dump(mode="json").items() if key != "radial"}
    assert model_file.ModelHeader.model_validate(older).radial == "exact"


def test_unknown_header_entry(saved):
    rewrite(saved, lambda d, t: (d | {"design": d["design"] | {"charge_equilibration": True}}, t))
    with pytest.raises(EquipotError, match=r"does not understand the header entry 'design'.*charge_equilibration"):
        load_potential(saved)


def test_tensors_that_do_not_fit_the_design(saved):
    rewrite(saved, lambda d, t: (d, {name: value for name, value in t.items() if "embedding" not in name}))
    with pytest.raises(EquipotError, match=r"tensors do not fit its design; they differ in embedding\.weight"):
        load_potential(saved)


def test_older_formats_are_upgraded_step_by_step(saved, monkeypatch):
    """Two later formats are imagined: 2 renames a parameter, 3 a key of the header."""
    reference = prediction(load_potential(saved)).energy
    later = {
        1: lambda d, t: (d, {name.replace("embedding", "elements"): value for name, value in t.items()}),
        2: lambda d, t: (d | {"provenance": {"upgraded": True}}, t),
        3: lambda d, t: (d, {name.replace("elements", "embedding"): value for name, value in t.items()}),
    }
    monkeypatch.setattr(model_file, "FORMAT_VERSION", 4)
    monkeypatch.setattr(model_file, "UPGRADES", later)
    header = read_model_header(saved)
    assert header.format_version == 4
    assert header.provenance == {"upgraded": True}
    assert torch.equal(prediction(load_potential(saved, check=True)).energy, reference)
    del later[2]
    with pytest.raises(EquipotError, match="format version 2, for which there is no upgrade"):
        load_potential(saved)


def test_a_file_without_self_test_cannot_be_checked(saved):
    rewrite(saved, lambda d, t: (d, {name: value for name, value in t.items() if not name.startswith("selftest")}))
    load_potential(saved)
    with pytest.raises(EquipotError, match="has no self-test"):
        load_potential(saved, check=True)


def test_a_header_with_another_number_of_parameters(saved):
    rewrite(saved, lambda d, t: (d | {"parameters": 7}, t))
    with pytest.raises(EquipotError, match="the header says 7"):
        load_potential(saved)


def test_self_test_notices_another_function(saved):
    """Parameters that are intact, and a program that computes something else with them."""

    def other(document, tensors):
        name = next(name for name in tensors if name.startswith("potential.readouts"))
        return document, tensors | {name: 1.1 * tensors[name]}

    load_potential(saved, check=True)
    rewrite(saved, other)
    load_potential(saved)
    with pytest.raises(EquipotError, match="does not give the energies and forces that were stored with it"):
        load_potential(saved, check=True)


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "model.equipot"
    with pytest.raises(EquipotError, match="provenance of a model must be plain JSON"):
        save_potential(path, potential_of(), provenance={"what": object()})
    potential = potential_of()
    with torch.no_grad():
        next(potential.parameters())[0] = torch.nan
    with pytest.raises(EquipotError, match=r"non-finite numbers in .*last checkpoint"):
        save_potential(path, potential)
    assert not path.exists()


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full_disk(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_potential(saved, potential_of(seed=9))
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_the_file_has_ordinary_permissions(tmp_path):
    path = write_atomically(tmp_path / "deep" / "er" / "a.bin", lambda temporary: temporary.write_bytes(b"abc"))
    plain = tmp_path / "plain"
    plain.write_bytes(b"abc")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_dtype_and_device_names():
    assert as_dtype("float64") is torch.float64
    assert as_dtype(torch.float32) is torch.float32
    with pytest.raises(EquipotError, match="dtype 'float16' is not offered: choose float32 or float64"):
        as_dtype(torch.float16)
    for name in ("warp", "cuda:99"):
        with pytest.raises(EquipotError, match=f"device '{name}' is not available"):
            as_device(name)
