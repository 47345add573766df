"""The model file: one safetensors file that holds a potential, what it is, and where it came from.

Tensors are named ``potential.<state name>``, ``selftest.<name>`` and, where a model says how uncertain it is,
``uncertainty.<name>``; the metadata of the file holds one JSON document (`ModelHeader`) under the key ``equipot`` and
a SHA-256 checksum over that document and all tensors under the key ``sha256``. Nothing in it is ever unpickled or
executed.

The format is versioned: a file of an older ``format_version`` is lifted to the present one by the functions
in `UPGRADES`, one step each; a newer file is refused with a clear error.
"""

import copy
import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError

from equipot.errors import EquipotError
from equipot.files import write_atomically
from equipot.kernels.backend import use_backend
from equipot.kernels.operations import follow_backend
from equipot.models.model_header import ModelHeader, built, part_header
from equipot.models.potential import Potential
from equipot.models.self_test import check_self_test, self_test_tensors
from equipot.models.uncertainty import Uncertainty
from equipot.units import UNITS

logger = logging.getLogger(__name__)

SUFFIX = ".equipot"
FORMAT_VERSION = 1
DTYPES = {"float32": torch.float32, "float64": torch.float64}
_DOCUMENT = "equipot"
_CHECKSUM = "sha256"
_STATE = "potential."
_CONVERT = " A model of mace-torch, nequip, BOTNet or Nequix becomes one with: equipot convert."
_SELF_TEST = "selftest."
_UNCERTAINTY = "uncertainty."
_PACKAGES = ("equipot", "torch", "numpy", "ase", "vesin", "safetensors")

Tensors = dict[str, torch.Tensor]
Upgrade = Callable[[dict[str, Any], Tensors], tuple[dict[str, Any], Tensors]]

UPGRADES: dict[int, Upgrade] = {}
"""``UPGRADES[v]`` takes the document and the tensors of format ``v`` to those of format ``v + 1``."""


class _Content(NamedTuple):
    """The raw document and metadata of a file, and where its tensors lie."""

    document: str
    checksum: str
    path: Path


def save_potential(
    path: str | os.PathLike[str], potential: Potential, *, provenance: Mapping[str, Any] | None = None
) -> Path:
    """Write a potential to one file, atomically: the old file or the new one is there, never half of one.

    Args:
        path: where to write; by convention it ends in ``.equipot``.
        potential: the potential, on any device.
        provenance: what JSON can hold: data hash, resolved configuration, final errors, seeds.

    Raises:
        EquipotError: `provenance` cannot be written as JSON, or a parameter is not finite.
    """
    state = {_prefixed(name): t.detach().cpu().contiguous().clone() for name, t in potential.state_dict().items()}
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise EquipotError(
            f"the potential has non-finite numbers in {', '.join(bad[:3])}: it is not written to {path}. "
            "Go back to the last checkpoint whose loss was finite."
        )
    header = ModelHeader(
        **dict(part_header(potential)),
        format_version=FORMAT_VERSION,
        units=UNITS,
        versions=_versions(),
        dtype=dtype_name(potential.dtype),
        parameters=sum(parameter.numel() for parameter in potential.parameters()),
        provenance=dict(provenance or {}),
    )
    document = _as_json(header)
    tensors = state | {_SELF_TEST + name: value for name, value in self_test_tensors(potential).items()}
    information = {_DOCUMENT: document, _CHECKSUM: _digest(document, tensors)}
    content = safetensors.torch.save(tensors, metadata=information)
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_potential(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    radial: str | None = None,
    backend: str | None = None,
    check: bool = False,
) -> Potential:
    """Build the potential that a file holds, ready for evaluation.

    Args:
        path: a file written by `save_potential`.
        dtype: ``float32`` or ``float64``; None keeps the precision of the file.
        device: where to put it.
        radial: how radial functions are evaluated, ``exact`` or ``spline:KNOTS``; None does as in training.
        backend: how to evaluate its operations (see `kernels.backend.use_backend`); None is plain torch.
        check: recompute the energies and forces that were stored with the model on this machine, and refuse
            a model that no longer gives them.

    Raises:
        EquipotError: the file is missing, empty, truncated, corrupted, foreign, of a newer version, or does
            not reproduce its self-test; the device, dtype or backend does not exist here.
    """
    header, tensors = _read(path)
    state = _under(tensors, _STATE)
    potential = built(header, as_dtype(dtype or header.dtype))
    _fill(potential, state, header, Path(path))
    if uncertain := _under(tensors, _UNCERTAINTY):
        potential.uncertainty = _uncertainty(uncertain, Path(path))
    potential = potential.to(as_device(device)).eval()
    if backend is not None:
        use_backend(potential, backend, training=False)
    if check:
        check_self_test(potential, _under(tensors, _SELF_TEST), DTYPES[header.dtype], name=str(path))
    return potential if radial is None else potential.choose_radial(radial)


def read_model_header(path: str | os.PathLike[str]) -> ModelHeader:
    """The header of a model file, without its tensors.

    Raises:
        EquipotError: as `load_potential`, except that no checksum is compared and tensors are not looked at.
    """
    content = _open(Path(path))
    document, _ = _upgraded(_parse(content), {}, content.path)
    return _header(document, content.path)


def converted(potential: Potential, dtype: torch.dtype | str, device: torch.device | str | None = None) -> Potential:
    """The same potential in another precision, as a new object.

    Constants such as coupling coefficients are computed afresh in the new precision; only parameters are
    converted. The backend stays, unless it is for another kind of device.
    """
    state = {name: tensor.detach().cpu() for name, tensor in potential.state_dict().items()}
    result = built(part_header(potential), as_dtype(dtype))
    if potential.uncertainty is not None:
        result.uncertainty = copy.deepcopy(potential.uncertainty).cpu()
    result.load_state_dict(state)
    before = next(potential.parameters()).device
    place = before if device is None else as_device(device)
    if place.type == before.type:
        follow_backend(result, potential)
    return result.to(place).train(potential.training)


def fingerprint(potential: Potential) -> str:
    """A checksum of designs, statistics, choices of splines and every parameter in its present precision."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in potential.state_dict().items()}
    return _digest("".join(part_header(part).identity for part in potential.parts()), state)


def _uncertainty(tensors: Tensors, path: Path) -> Uncertainty | None:
    """What a model knows of its errors; None, with a warning, where its file has the grades of an earlier kind."""
    if "limits" in tensors:
        logger.warning(
            "%s has an uncertainty of an earlier kind, whose grades of extrapolation did not grow away from the data: "
            "it is left out. Predictions are what they were; fit again, or take equipot fit DATA --refit-readout %s "
            "--keep-weights.",
            path, path,
        )  # fmt: skip
        return None
    return Uncertainty.from_tensors(tensors)


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """``torch.float32`` or ``torch.float64`` from a dtype or its name.

    Raises:
        EquipotError: any other dtype.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise EquipotError(f"dtype {name!r} is not offered: choose float32 or float64.")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` or ``float64``."""
    return str(as_dtype(dtype)).removeprefix("torch.")


def as_device(device: torch.device | str) -> torch.device:
    """A torch device that exists on this machine; ``auto`` is a GPU if there is one, else the CPU.

    Raises:
        EquipotError: the name is unknown or there is no such device here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise EquipotError(
            f"device {str(device)!r} is not available here ({str(error).splitlines()[0]}): use 'cpu'"
            + (", 'cuda'." if torch.cuda.is_available() else "; torch sees no CUDA device on this machine.")
        ) from error
    return place


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _as_json(header: ModelHeader) -> str:
    try:
        return json.dumps(header.model_dump(mode="json"), ensure_ascii=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise EquipotError(
            f"the provenance of a model must be plain JSON (text, numbers, lists, dictionaries): {error}"
        ) from error


def _digest(document: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the document and, in the order of names, every tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(document.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: str | os.PathLike[str]) -> tuple[ModelHeader, Tensors]:
    content = _open(Path(path))
    document = _parse(content)
    try:
        tensors = safetensors.torch.load(content.path.read_bytes())
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise EquipotError(f"{path} is damaged ({error}): copy it again or use a backup.") from error
    if _digest(content.document, tensors) != content.checksum:
        raise EquipotError(
            f"{path} is damaged: its checksum does not match its content. Copy it again or use a backup."
        )
    document, tensors = _upgraded(document, tensors, content.path)
    return _header(document, content.path), tensors


def _open(path: Path) -> _Content:
    """Read the head of a file, saying precisely what is wrong when it is not a whole model file."""
    if not path.exists():
        near = sorted(path.parent.glob(f"*{SUFFIX}")) if path.parent.is_dir() else []
        hint = f" Model files in that folder: {', '.join(p.name for p in near[:5])}." if near else ""
        raise EquipotError(f"there is no model file {path}.{hint}")
    if path.is_dir():
        inside = sorted(path.glob(f"*{SUFFIX}"))
        hint = f": name a file in it, such as {inside[0]}." if inside else f" without any *{SUFFIX} file in it."
        raise EquipotError(f"{path} is a folder{hint}")
    size = path.stat().st_size
    if size == 0:
        raise EquipotError(f"{path} is empty (0 bytes): copy it again or use a backup.")
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > 100_000_000:
            raise EquipotError(_foreign(path, head))
        text = file.read(length)
    if not text.startswith(b"{"):
        raise EquipotError(_foreign(path, head))
    if len(text) < length:
        raise EquipotError(_truncated(path, size, 8 + length))
    try:
        entries = json.loads(text)
        information = entries.pop("__metadata__", {})
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise EquipotError(f"{path} is damaged: its head cannot be read ({error}).") from error
    if _DOCUMENT not in information or _CHECKSUM not in information:
        raise EquipotError(
            f"{path} is a safetensors file, but not an equipot model (it has no '{_DOCUMENT}' metadata). "
            f"Give a *{SUFFIX} file written by equipot.{_CONVERT}"
        )
    if size < 8 + length + end:
        raise EquipotError(_truncated(path, size, 8 + length + end))
    return _Content(information[_DOCUMENT], information[_CHECKSUM], path)


def _foreign(path: Path, head: bytes) -> str:
    pickled = head[:2] == b"PK" or head[:1] == b"\x80"
    kind = (
        "a pickled or zipped file (.pt, .pth, .ckpt, .model?), which equipot never opens because loading one "
        "can run code"
        if pickled
        else "not a safetensors file"
    )
    if path.suffix == ".pt2":
        return (
            f"{path} is a compiled potential, for md, relax and the ASE calculator; this needs the model file "
            f"(*{SUFFIX}) that it was compiled from."
        )
    hint = _CONVERT if pickled or path.suffix in {".nqx", ".pt", ".pth", ".model"} else ""
    return f"{path} is no equipot model: it is {kind}. Give a *{SUFFIX} file written by equipot.{hint}"


def _truncated(path: Path, size: int, expected: int) -> str:
    return f"{path} is truncated: {size} bytes of at least {expected}. Copy it again or use a backup."


def _parse(content: _Content) -> dict[str, Any]:
    try:
        document = json.loads(content.document)
        version = document["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise EquipotError(f"{content.path} is damaged: its header cannot be read ({error}).") from error
    if not isinstance(version, int) or version < 1:
        raise EquipotError(f"{content.path} is damaged: its format_version is {version!r}.")
    return document


def _upgraded(document: dict[str, Any], tensors: Tensors, path: Path) -> tuple[dict[str, Any], Tensors]:
    """Lift a document and its tensors to `FORMAT_VERSION`, one version at a time."""
    version = document["format_version"]
    if version > FORMAT_VERSION:
        written = document.get("versions", {}).get("equipot", "a later version")
        raise EquipotError(
            f"{path} has format version {version} (written by equipot {written}); this equipot "
            f"({_versions()['equipot']}) reads up to {FORMAT_VERSION}. Upgrade equipot: pip install -U equipot."
        )
    while version < FORMAT_VERSION:
        if version not in UPGRADES:
            raise EquipotError(f"{path} has format version {version}, for which there is no upgrade any more.")
        document, tensors = UPGRADES[version](document, tensors)
        version += 1
        document = document | {"format_version": version}
    return document, tensors


def _header(document: dict[str, Any], path: Path) -> ModelHeader:
    try:
        return ModelHeader.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise EquipotError(
            f"{path}: this equipot does not understand the header entry '{place}' ({first['msg']}). "
            "The file was changed by hand or written by another version of equipot."
        ) from error


def _prefixed(name: str) -> str:
    return name if name.startswith(_UNCERTAINTY) else _STATE + name


def _under(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _fill(potential: Potential, state: Tensors, header: ModelHeader, path: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in potential.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    count = sum(parameter.numel() for parameter in potential.parameters())
    if wanted != given or count != header.parameters:
        names = sorted({name for name, _ in wanted.items() ^ given.items()})
        differ = ", ".join(names[:4]) or f"their number ({count}, the header says {header.parameters})"
        raise EquipotError(
            f"{path}: its tensors do not fit its design; they differ in {differ}. "
            "The file was changed by hand or written by another version of equipot."
        )
    potential.load_state_dict(state)
