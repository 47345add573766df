"""Published models as they lie on disk: their weights, and the hyper-parameters that say what they mean."""

import hashlib
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from equipot.convert.exporters import FOLDER
from equipot.convert.nequip_files import read_nequip
from equipot.convert.nequip_paper_config import BEST_MODEL
from equipot.convert.nqx import read_nqx
from equipot.convert.unpickle import unpickle
from equipot.errors import EquipotError

CODES = ("mace-torch", "nequip", "nequip-0.5", "botnet", "nequix")
"""The codes whose models are read, as the entry "code" of the JSON file names them."""


@dataclass(frozen=True)
class Source:
    """One published model, as plain data.

    Attributes:
        code: One of `CODES`.
        version: Version of that code.
        options: Hyper-parameters by the names of its own constructor.
        tensors: Weights and constants by their names in its state dict.
        name: Name of the file, for messages.
        sha256: Checksum of the file of the weights.
        assumed: Hyper-parameters that the source does not say, with the code's defaults; filled by the conversion.
    """

    code: str
    version: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]
    name: str
    sha256: str = ""
    assumed: dict[str, Any] = field(default_factory=dict)


def read_source(
    path: str | os.PathLike[str], config: str | os.PathLike[str] | None = None, *, trust_pickle: bool = False
) -> Source:
    """Reads a published model.

    A plain state dict (``.pt``, ``.pth`` with tensors only, or ``.safetensors``) needs a JSON file of hyper-parameters,
    which is `config` or the file of the same name that ends in ``.json``. A ``.nqx`` file of Nequix, a checkpoint of
    nequip-train and the folder of a training with nequip 0.5 or 0.6 have their own. A whole pickled model needs
    `trust_pickle` and the code it was made with; a package of nequip needs `trust_pickle`.

    Args:
        path: The file of the weights, or the folder of a training with nequip 0.5 or 0.6.
        config: JSON file of the hyper-parameters.
        trust_pickle: Whether loading may run code that the file contains.

    Raises:
        EquipotError: The file is missing, damaged or of an unknown kind; hyper-parameters are missing; or the file
            is a pickle that was not declared to be trusted.
    """
    path = Path(path)
    if not path.exists():
        raise EquipotError(f"there is no file {path}. Give the model of the other code, e.g. MACE.model or weights.pt.")
    weights = path / BEST_MODEL if path.is_dir() else path
    if not weights.exists():
        raise EquipotError(f"{path} is a folder without {BEST_MODEL}: name the file of the model in it.")
    if weights.stat().st_size == 0:
        raise EquipotError(f"{weights} is empty (0 bytes): copy it again.")
    if path.suffix == ".json":
        raise EquipotError(f"{path} holds hyper-parameters: give the file of the weights that lies beside it.")
    if path.suffix == ".equipot":
        raise EquipotError(f"{path} is an equipot model already: use it as it is.")
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    if path.suffix == ".nqx":
        return Source("nequix", "", *_nequix(path, config), path.name, sha256)
    options, tensors = _content(path, config, trust_pickle)
    code = options.pop("code", None)
    if code not in CODES:
        raise EquipotError(
            f'{path.name}: the hyper-parameters must name the code of the model in the entry "code": one of '
            f"{', '.join(CODES)}; it is {code!r}."
        )
    return Source(str(code), str(options.pop("version", "")), options, tensors, path.name, sha256)


def _nequix(path: Path, config: str | os.PathLike[str] | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if config is not None:
        raise EquipotError(f"{path.name} carries its hyper-parameters in its first line: leave out {config}.")
    return read_nqx(path)


def _content(
    path: Path, config: str | os.PathLike[str] | None, trust_pickle: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:  # fmt: skip
    known = read_nequip(path, trusted=trust_pickle)
    if known is None and _is_program(path):
        raise EquipotError(
            f"{path} is a program (TorchScript), such as mace-torch's NAME_compiled.model, or what nequip-deploy and "
            "nequip-compile write. Give mace-torch's NAME.model, or the checkpoint of nequip-train, that it was made "
            f"from. Of a model that nequip 0.5 or 0.6 deployed, {FOLDER / 'export_nequip_paper.py'} writes a folder "
            "that equipot reads (python export_nequip_paper.py DEPLOYED.pth FOLDER)."
        )
    tensors = _plain_tensors(path) if known is None else None
    if tensors is not None:
        return _hyper_parameters(path, config), tensors
    options, tensors = known or unpickle(path, trusted=trust_pickle)
    return options | ({} if config is None else _json(Path(config))), tensors


def _is_program(path: Path) -> bool:
    """Whether a file is compiled code (TorchScript), which has no hyper-parameters any more."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _plain_tensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a state dict; None where the file is a pickle of other objects."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, ValueError) as error:
            raise EquipotError(f"{path} is no readable safetensors file ({error}): copy it again.") from error
    try:
        with warnings.catch_warnings():  # of the pickle's protocol; what is no state dict is told below
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        if isinstance(error, pickle.UnpicklingError) and path.read_bytes()[:1] in (b"P", b"\x80"):
            return None
        reason = "" if isinstance(error, pickle.UnpicklingError) else f" ({str(error).splitlines()[0]})"
        raise EquipotError(
            f"{path} is not a file that torch can read{reason}. Give a .model, .pt, .pth, .ckpt, .safetensors or .nqx "
            "file as the other code wrote it (of plain weights the .pt, not the .json); a copy may be incomplete."
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise EquipotError(_not_plain(path, content))
    return {str(key): value for key, value in content.items()}


def _not_plain(path: Path, content: object) -> str:
    if not isinstance(content, Mapping):
        return f"{path} holds a {type(content).__name__}, not the weights of a model by name."
    entries = ", ".join(str(key) for key in list(content)[:6])
    return (
        f"{path} holds more than weights (entries {entries}): a checkpoint of a training? Give the model that the "
        "training wrote at its end, or save the state dict alone: torch.save(model.state_dict(), 'weights.pt')."
    )


def _hyper_parameters(path: Path, config: str | os.PathLike[str] | None) -> dict[str, Any]:
    if config is not None:
        return _json(Path(config))
    beside = path.with_suffix(".json")
    if not beside.exists():
        raise EquipotError(
            f"{path} holds weights only; their meaning is missing. Give a JSON file of hyper-parameters with --config, "
            f'or lay it beside as {beside.name}: {{"code": "mace-torch", "r_max": 5.0, …}} (docs/bring/). '
            f"Scripts that write both from a live model are in {FOLDER}."
        )
    return _json(beside)


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EquipotError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(values, dict):
        raise EquipotError(f"{path} must hold one JSON object of hyper-parameters, not a {type(values).__name__}.")
    return values
