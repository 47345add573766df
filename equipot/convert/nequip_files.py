"""The files of nequip: checkpoints, packages, and the folders and deployed models of nequip 0.5 and 0.6."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.package import PackageImporter

from equipot.convert.export.export_nequip import export
from equipot.convert.exporters import elsewhere
from equipot.convert.nequip_config import from_checkpoint
from equipot.convert.nequip_paper_config import read_folder
from equipot.errors import EquipotError

Content = tuple[dict[str, Any], dict[str, Tensor]]
_EXPORT = elsewhere("export_nequip.py")


def read_nequip(path: Path, *, trusted: bool) -> Content | None:
    """Returns the hyper-parameters and weights of a file of nequip; None for any other file.

    Args:
        path: A checkpoint (``.ckpt``), a package (``.nequip.zip``), or the folder of a training with nequip 0.5 or 0.6.
        trusted: Whether code in a package may run.

    Raises:
        EquipotError: The file is damaged, not trusted, or holds no model that equipot reads.
    """
    if path.name.endswith(".nequip.zip"):
        return _package(path, trusted=trusted)
    if path.is_dir():
        return read_folder(path)
    if path.suffix == ".ckpt":
        return _checkpoint(path)
    return None


def _checkpoint(path: Path) -> Content:
    """A Lightning checkpoint of nequip-train holds plain containers and tensors: nothing in it is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EquipotError(
            f"{path} holds Python objects beside numbers, or is damaged, and equipot does not load it. {_EXPORT}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise EquipotError(
            f"{path} is no readable checkpoint ({str(error).splitlines()[0]}): copy it again."
        ) from error
    if not isinstance(content, Mapping) or not {"state_dict", "hyper_parameters"} <= set(content):
        raise EquipotError(
            f"{path} is no checkpoint of nequip-train (it lacks state_dict or hyper_parameters). Of mace-torch give "
            "NAME.model; a run of equipot has its model beside it, model.equipot."
        )
    return from_checkpoint(content, path.name)


def _package(path: Path, *, trusted: bool) -> Content:
    """A package brings the code of nequip and e3nn that it needs, and runs it."""
    if not trusted:
        raise EquipotError(
            f"{path} is a package of nequip: it brings its own Python code, which runs when it is opened. If you trust "
            f"where it comes from, say so with --trust-pickle. {_EXPORT}"
        )
    try:
        package = PackageImporter(str(path))
        facts = yaml.safe_load(package.load_text("model", "package_metadata.txt"))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # of torch.package's own
            models = package.load_pickle("model", "eager_model.pkl", map_location="cpu")
    except (RuntimeError, ImportError, OSError) as error:
        raise EquipotError(f"{path} cannot be opened here ({str(error).splitlines()[0]}). {_EXPORT}") from error
    if len(models) != 1:
        raise EquipotError(f"{path} holds several models ({', '.join(models)}); equipot converts packages of one.")
    options, tensors = export(next(iter(models.values())))
    versions = facts.get("versions", {})
    return options | {"version": str(versions.get("nequip", "")), "e3nn": str(versions.get("e3nn", ""))}, tensors
