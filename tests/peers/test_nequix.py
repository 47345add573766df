"""Nequix: what a `.nqx` file must hold, what is refused by name, and that a converted model trains."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equipot.basis import RadialFeatures
from equipot.convert import convert_model
from equipot.convert.nequix import potential_of
from equipot.convert.nqx import read_nqx
from equipot.convert.source import Source
from equipot.errors import EquipotError

from .golden import FOLDER, errors, graph_of, predict, read_golden

FILE = FOLDER / "nequix_file.nqx"
GOLDEN = FOLDER / "nequix_file.npz"
BYTES = FILE.read_bytes()


def header() -> dict[str, Any]:
    return json.loads(BYTES[: BYTES.index(b"\n")])


def arrays() -> list[np.ndarray]:
    file = io.BytesIO(BYTES[BYTES.index(b"\n") + 1 :])
    return [np.load(file) for _ in read_nqx(FILE)[1]]


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def written(path: Path, values: dict[str, Any], parts: list[np.ndarray], end: bytes = b"") -> Path:
    path.write_bytes(json.dumps(values).encode() + b"\n" + b"".join(saved(part) for part in parts) + end)
    return path


def test_a_file_is_read_as_nequix_reads_it():
    """Names and values of every array, as nequix itself says what it holds: the order in the file is right."""
    golden = read_golden(GOLDEN)
    options, tensors = read_nqx(FILE)
    assert {k: v for k, v in golden.source.options.items()}.items() <= options.items()
    assert list(tensors) == list(golden.source.tensors)
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor.double(), golden.source.tensors[name]), name


def test_a_file_gives_the_energies_of_nequix():
    golden = read_golden(GOLDEN)
    potential, provenance = convert_model(FILE, dtype="float64")
    found = errors(predict(potential), golden)
    assert max(found.values()) < 1e-9, found
    facts = provenance["converted_from"]
    assert (facts["code"], facts["file"]) == ("nequix", FILE.name)
    assert facts["hyper_parameters"]["optimizer"] == "muon", "how it was trained stays known"
    single = convert_model(FILE).potential
    assert single.dtype == torch.float32
    assert (predict(single).forces - golden.result("forces")).abs().max() < 1e-4 * golden.result("forces").abs().max()


def test_every_weight_of_a_converted_model_is_trained():
    potential = convert_model(FILE, dtype="float64").potential
    counts = potential.parameter_counts()
    assert counts.parameters == sum(a.size for a in arrays()) - len(header()["atomic_numbers"])
    assert counts.active_parameters == counts.parameters
    energy = potential(graph_of(potential), graph_of(potential).vectors()).sum()
    gradients = torch.autograd.grad(energy, list(potential.parameters()))
    assert all(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("end", [b"\n", b"the header"])
def test_what_released_files_have_at_their_end_is_understood(tmp_path, end):
    """A line break, or the numbers of the header once more (texts have no array), keys sorted."""
    values = {**header(), "atom_energies": {"8": -2.7, "1": -0.6}, "train_path": ["a", "b"], "kernel": False}
    if end != b"\n":
        end = b"".join(saved(np.asarray(number)) for number in numbers(values))
    path = written(tmp_path / "m.nqx", values, arrays(), end)
    assert torch.equal(predict(convert_model(path).potential).energy, predict(convert_model(FILE).potential).energy)


def numbers(value: Any) -> list:
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    return [] if isinstance(value, str) else [value]


@pytest.mark.parametrize("kept", [10, 700, 1000, 3000, len(BYTES) - 1])
def test_an_incomplete_file_is_an_error(tmp_path, kept):
    path = tmp_path / "m.nqx"
    path.write_bytes(BYTES[:kept])
    with pytest.raises(EquipotError, match=r"m\.nqx.*(is no \.nqx file|cannot be read|ends after \d+ of \d+ bytes)"):
        convert_model(path)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (saved(np.zeros(3)), "152 bytes follow the arrays"),
        (b"x", "1 bytes follow the arrays"),
        (saved(np.asarray(1.0)), "bytes follow the arrays"),
    ],
)
def test_what_follows_the_arrays_is_an_error(tmp_path, end, message):
    with pytest.raises(EquipotError, match=message):
        convert_model(written(tmp_path / "m.nqx", header(), arrays(), end))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radial_mlp_size": 7}, r"array 2 of .*float32 of shape \[5, 6\], but must be .* of shape \[5, 7\]"),
        ({"layer_norm": False}, "belong to other hyper-parameters"),
        ({"index_weights": True}, "belong to other hyper-parameters"),
        ({"n_layers": 2}, "belong to other hyper-parameters"),
        ({"n_layers": 0}, "n_layers = 0 must be 1 to 12"),
        ({"n_layers": 10**12}, "n_layers = 1000000000000 must be 1 to 12"),
        ({"radial_mlp_layers": 10**12}, "radial_mlp_layers = 1000000000000 0 to 12"),
        ({"radial_mlp_layers": -1}, "radial_mlp_layers = -1 0 to 12"),
        ({"radial_basis_size": 0}, "radial_basis_size and radial_mlp_size must be at least 1"),
        ({"hidden_irreps": "1000000000000x0e + 3x1o + 2x2e"}, "belong to other hyper-parameters"),
        ({"atomic_numbers": [1, 6, 7, 8]}, "belong to other hyper-parameters"),
        ({"atomic_numbers": [1, 1, 8]}, "distinct atomic numbers"),
        ({"hidden_irreps": "4x0e + 3x1o + 2x2e + 2x0o"}, "every degree once.*nequix itself cannot evaluate 0o"),
        ({"hidden_irreps": "4x0e + 3x1e + 2x2e"}, "every degree once"),
        ({"hidden_irreps": "3x1o + 4x0e + 2x2e"}, "ascending from 0e"),
        ({"hidden_irreps": "4x0e + 2x2e"}, "left out degrees"),
        ({"lmax": 1}, "the harmonics end at lmax = 1"),
        ({"hidden_irreps": 4}, "must be a text"),
        ({"radial_polynomial_p": 5.5}, "radial_polynomial_p = 5.5 must be a whole number"),
        ({"layer_norm": "batch"}, "layer_norm = 'batch' is not a value that equipot has"),
        ({"scale": 0.0}, "scale = 0.0 and avg_n_neighbors = 2.3 must be positive"),
        ({"avg_n_neighbors": -1}, "avg_n_neighbors = -1 must be positive"),
        ({"shift": float("nan")}, "shift = nan must be a finite number"),
        ({"cutoff": float("inf")}, "cutoff = inf must be a finite number"),
        ({"centering": True}, "does not know the hyper-parameter centering = True"),
        ({"cutoff": None}, "cutoff = None must be a number"),
    ],
)
def test_what_equipot_lacks_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(EquipotError, match=message):
        convert_model(written(tmp_path / "m.nqx", {**header(), **changes}, arrays()))


@pytest.mark.parametrize("key", ["avg_n_neighbors", "hidden_irreps", "shift", "layer_norm", "cutoff"])
def test_a_hyper_parameter_that_is_missing_is_named(tmp_path, key):
    values = header()
    del values[key]
    with pytest.raises(EquipotError, match=f"hyper-parameter '{key}' is missing"):
        convert_model(written(tmp_path / "m.nqx", values, arrays()))


@pytest.mark.parametrize("content", [b"", b"not JSON\n", b"[1, 2]\n", b"\x93NUMPY", b"PK\x03\x04\n"])
def test_other_files_are_told_apart(tmp_path, content):
    path = tmp_path / "m.nqx"
    path.write_bytes(content)
    with pytest.raises(EquipotError, match=r"is no \.nqx file|is empty"):
        convert_model(path)


class Harm:
    """What a pickle could do."""

    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for bad in (saved(np.array([Harm()], dtype=object)), pickle.dumps(Harm())):
        first, *_ = arrays()
        path = written(tmp_path / "m.nqx", header(), [first], bad)
        with pytest.raises(EquipotError, match="array 2 of"):
            convert_model(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(("position", "dtype"), [(0, np.int64), (3, np.float16), (3, np.complex64)])
def test_arrays_of_other_types_are_refused(tmp_path, position, dtype):
    parts = arrays()
    parts[position] = parts[position].astype(dtype)
    with pytest.raises(EquipotError, match=f"array {position + 1} of .* is {np.dtype(dtype).name} .*must be float32"):
        convert_model(written(tmp_path / "m.nqx", header(), parts))


def test_arrays_may_be_stored_by_columns_and_in_double_precision(tmp_path):
    parts = [np.asfortranarray(part.astype(np.float64)) for part in arrays()]
    path = written(tmp_path / "m.nqx", header(), parts)
    potential = convert_model(path).potential
    assert potential.dtype == torch.float64
    assert max(errors(predict(potential), read_golden(GOLDEN)).values()) < 1e-9


def test_weights_that_are_not_finite_are_refused(tmp_path):
    parts = arrays()
    parts[5][0] = np.nan
    with pytest.raises(EquipotError, match="has non-finite numbers"):
        convert_model(written(tmp_path / "m.nqx", header(), parts))


def test_tensors_that_nobody_uses_and_heads_are_refused():
    options, tensors = read_nqx(FILE)
    with pytest.raises(EquipotError, match="would leave out extra"):
        potential_of(Source("nequix", "", options, {**tensors, "extra": torch.ones(2)}, "m"), None)
    with pytest.raises(EquipotError, match="no heads; leave out head='a'"):
        potential_of(Source("nequix", "", options, tensors, "m"), "a")


def test_a_header_of_its_own_needs_no_config(tmp_path):
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(EquipotError, match=r"carries its hyper-parameters"):
        convert_model(FILE, config=tmp_path / "c.json")


def test_a_radial_network_without_hidden_layers_is_a_linear_map(tmp_path):
    """nequix's R = e W is ours, e W / √n, with W √n."""
    values = {**header(), "radial_mlp_layers": 0}
    tensors = read_nqx(FILE)[1]
    generator = np.random.default_rng(0)
    parts, networks = [], {}
    for name, tensor in tensors.items():
        if "radial_mlp" not in name:
            parts.append(tensor.numpy())
        elif name.endswith("layers.2.weights"):
            networks[name] = generator.normal(size=(5, tensor.shape[1])).astype(np.float32)
            parts.append(networks[name])
    potential = convert_model(written(tmp_path / "m.nqx", values, parts), dtype="float64").potential
    assert potential.design.radial_map == "linear"
    e = torch.randn(4, 5, dtype=torch.float64)
    for layer, W in zip(potential.layers, networks.values(), strict=True):
        R = layer.radial(RadialFeatures(e, torch.ones(4, 1, dtype=torch.float64)), torch.zeros(4, dtype=torch.int64))
        expected = (e @ torch.from_numpy(W).double()).sort(dim=1).values
        assert torch.allclose(R.sort(dim=1).values, expected, rtol=1e-6, atol=1e-6)
