"""Whole pickled models of other codes, opened with consent only: loading a pickle can run any code.

What is read from the living object is left to `equipot.convert.export`, the same scripts that users run where the
other code is installed.
"""

import importlib
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipot.convert.exporters import FOLDER, elsewhere
from equipot.errors import EquipotError

EXPORTERS = {"mace": "export_mace", "botnet": "export_botnet", "nequip": "export_nequip"}
"""Which exporter reads objects of which package."""
INSTALL = {"mace": "mace-torch", "botnet": "the code of github.com/gncs/botnet", "nequip": "nequip"}


def unpickle(path: Path, *, trusted: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the hyper-parameters and weights of a pickled model.

    Args:
        path: The file.
        trusted: Whether the user trusts it.

    Raises:
        EquipotError: It is not trusted, the code that it needs is not installed, or it holds no known model.
    """
    packages = packages_of(path)
    code = next((package for package in EXPORTERS if package in packages), None)
    if not trusted:
        raise EquipotError(_why(path, code))
    try:
        model = torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        needed = INSTALL.get(code or "", "the code that wrote it")
        raise EquipotError(
            f"{path} cannot be unpickled here ({error}): it needs {needed} in this environment, in the version that "
            f"wrote it. {_elsewhere(code)}"
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise EquipotError(f"{path} cannot be unpickled ({error}): copy it again.") from error
    package = type(model).__module__.split(".")[0]
    if package not in EXPORTERS:
        raise EquipotError(
            f"{path} holds a {type(model).__module__}.{type(model).__name__}, which is no model of "
            f"{', '.join(INSTALL.values())}."
        )
    exporter = importlib.import_module(f"equipot.convert.export.{EXPORTERS[package]}")
    try:
        options, tensors = exporter.export(model)
    except (ValueError, AttributeError, TypeError) as error:
        raise EquipotError(f"{path}: its {type(model).__name__} is not converted ({error}).") from error
    return options, tensors


def packages_of(path: Path) -> set[str]:
    """Returns the names of the packages whose objects a pickle holds, read without running it."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            content = archive.read(name)
    except (zipfile.BadZipFile, StopIteration):
        content = path.read_bytes()
    found, texts = set(), list[str]()
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "GLOBAL":
                found.add(str(argument).split(".")[0].split(" ")[0])
            elif isinstance(argument, str):
                texts.append(argument)
    except (ValueError, IndexError):
        return found
    return found | {text.split(".")[0] for text in texts}


def _why(path: Path, code: str | None) -> str:
    whose = f"a whole pickled model of {INSTALL[code]}" if code else "a pickle of whole Python objects"
    return (
        f"{path} is {whose}, and loading a pickle can run any code that its author put into it. If you trust where it "
        f"comes from, say so with --trust-pickle (it then needs {INSTALL.get(code or '', 'the code that wrote it')} "
        f"installed here). Or: {_elsewhere(code)}"
    )


def _elsewhere(code: str | None) -> str:
    if code is None:
        return f"Scripts that write plain weights, for environments that have the other codes, are in {FOLDER}."
    return elsewhere(f"{EXPORTERS[code]}.py")
