"""Files that are either the old one or the new one, whole, whenever the power goes out."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from equipot.errors import EquipotError
from equipot.files import write_atomically

FORMAT_VERSION = 1

FREE_TO_CHANGE = frozenset({"fit.max_epochs", "fit.max_minutes"})
"""What may differ when a run is resumed: how long it goes on."""

_WHAT_TO_DO = "resume with the same configuration, or start a new run in another folder"


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Writes what a run needs to go on: tensors, numbers, strings, and lists and dicts of them."""
    state = {"format_version": FORMAT_VERSION, **content}
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; no code in the file is run.

    Raises:
        EquipotError: There is no such file, it is damaged, or it has another format version.
    """
    if not path.is_file():
        raise EquipotError(f"cannot resume: there is no checkpoint {path}; start the run without resuming")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, LookupError) as error:
        raise EquipotError(
            f"cannot resume: {path} is damaged or not a checkpoint ({_first_line(error)}); start a new run"
        ) from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise EquipotError(
            f"cannot resume: {path} has checkpoint format {version}, this program reads {FORMAT_VERSION}; "
            "resume with the version of equipot that wrote it"
        )
    return content


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Returns the entries of two nested configurations that differ: dotted key to (old, new) value."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in (*old, *(k for k in new if k not in old)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found |= differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found[f"{prefix}{key}"] = (before, after)
    return found


def check_unchanged(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Compares the configuration of a run with the one it is to be resumed with.

    Raises:
        EquipotError: They differ in more than `FREE_TO_CHANGE`; the message names every difference.
    """
    changed = {k: v for k, v in differences(old, new).items() if k not in FREE_TO_CHANGE}
    if changed:
        listed = "; ".join(f"{key} was {_short(a)} and is now {_short(b)}" for key, (a, b) in changed.items())
        allowed = ", ".join(sorted(FREE_TO_CHANGE))
        raise EquipotError(
            f"cannot resume with a changed configuration: {listed}. Only {allowed} may change; {_WHAT_TO_DO}"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
