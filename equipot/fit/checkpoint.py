"""Files that are either the old one or the new one, whole, whenever the power goes out."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from equipot.design import Design
from equipot.errors import EquipotError
from equipot.files import write_atomically
from equipot.fit.options import FitOptions
from equipot.interactions import EXACT
from equipot.models.model_file import read_model_header

CHECKPOINT = "last.ckpt"

FORMAT_VERSION = 1

PARTS = ("configuration", "state", "model", "optimiser", "average", "random")
"""What a checkpoint holds, each a dictionary."""

FREE_TO_CHANGE = frozenset({"fit.max_epochs", "fit.max_minutes"})
"""What may differ when a run is resumed: how long it goes on."""

_MEANING = {
    "train_data": "the training structures or their labels differ: ",
    "valid_data": "the validation structures or their labels differ: ",
}
_WHAT_TO_DO = "resume with the same configuration, or start a new run in another folder"


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Writes what a run needs to go on: tensors, numbers, strings, and lists and dicts of them."""
    state = {"format_version": FORMAT_VERSION, **content}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getbuffer()))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; no code in the file is run.

    Raises:
        EquipotError: There is no such file, it is damaged or something else, parts are missing, or it has
            another format version.
    """
    if path.parent.is_file():
        raise EquipotError(
            f"cannot resume: {path.parent} is a file; give the folder of the run, which holds {path.name}"
        )
    if not path.is_file():
        raise EquipotError(f"cannot resume: there is no checkpoint {path}; start the run without resuming")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, LookupError) as error:
        raise EquipotError(f"cannot resume: {path} is {_what(path, error)}") from error
    return _checked(content, path)


def _what(path: Path, error: Exception) -> str:
    """Returns what a file is that torch cannot read, and what to do."""
    try:
        read_model_header(path)
    except EquipotError:
        return f"damaged or not a checkpoint ({_first_line(error)}); start a new run"
    return (
        "an equipot model, not a checkpoint: it holds weights, but neither optimiser nor the state of a run. "
        f"Put the run's own {CHECKPOINT} in its place, or start a new run"
    )


def _checked(content: Any, path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint that has all its parts."""
    if not isinstance(content, dict) or "format_version" not in content:
        raise EquipotError(
            f"cannot resume: {path} is a file of torch, but not a checkpoint of equipot: it holds {_holds(content)}. "
            f"Put the run's own {CHECKPOINT} in its place, or start a new run"
        )
    if content["format_version"] != FORMAT_VERSION:
        raise EquipotError(
            f"cannot resume: {path} has checkpoint format {content['format_version']}, this program reads "
            f"{FORMAT_VERSION}; resume with the version of equipot that wrote it"
        )
    missing = [part for part in PARTS if not isinstance(content.get(part), dict)]
    if missing:
        raise EquipotError(
            f"cannot resume: the checkpoint {path} is not whole, it lacks {', '.join(missing)}; copy it again, "
            "or start a new run"
        )
    return content


def _holds(content: Any) -> str:
    if not isinstance(content, dict):
        return f"one object of type {type(content).__name__}"
    return f"a dictionary with {', '.join(map(str, list(content)[:4]))}{' …' if len(content) > 4 else ''}"


def misfit(path: Path, error: Exception) -> EquipotError:
    """Returns the error of a checkpoint whose parts are there, but cannot be put into the run."""
    reason = " ".join(str(error).split())
    return EquipotError(
        f"cannot resume: the checkpoint {path} is not whole or does not belong to this run "
        f"({type(error).__name__}: {reason[:200]}); copy it again, or start a new run"
    )


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


def check_unchanged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compares the configuration of a run with the one it is to be resumed with.

    An option that was not there yet when the run began has its default, as the run had.

    Returns:
        What differs and may: dotted key to (old, new) value.

    Raises:
        EquipotError: They differ in more than `FREE_TO_CHANGE`; the message names every difference.
    """
    found = differences(_with_later_options(old, new), new)
    changed = {k: v for k, v in found.items() if k not in FREE_TO_CHANGE}
    if "train_data" in changed:
        changed = {k: v for k, v in changed.items() if not k.startswith("statistics.")}
    if changed:
        listed = "; ".join(
            f"{_MEANING.get(key, '')}{key} was {_short(a)} and is now {_short(b)}" for key, (a, b) in changed.items()
        )
        allowed = ", ".join(sorted(FREE_TO_CHANGE))
        raise EquipotError(
            f"cannot resume with a changed configuration: {listed}. Only {allowed} may change; {_WHAT_TO_DO}"
        )
    return found


def _with_later_options(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an old configuration with the defaults of options that only the new one has."""
    filled = {"radial": EXACT, **old} if "radial" in new else dict(old)
    for section, defaults in (("design", Design()), ("fit", FitOptions())):
        before, after = old.get(section), new.get(section)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            known = defaults.model_dump(mode="json")
            filled[section] = {**before, **{key: known[key] for key in after if key in known and key not in before}}
    return filled


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
