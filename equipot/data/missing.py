"""A label that no structure of a file has: what is there instead, and what to write."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from equipot.data.check import first_few
from equipot.data.files import RawFile
from equipot.data.keys import Key, is_gradient, known_keys, misspelt, suspect

_UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³", "virial": "eV"}


@dataclass(frozen=True)
class MissingLabel:
    """A label that no structure of a file has.

    Attributes:
        label: Which one.
        file: Path of the file.
        misspelt: A key that is a known name but for a letter or two, or "".
        message: What was looked for, what was found, and what to write.
    """

    label: str
    file: str
    misspelt: str
    message: str


def missing_label(label: str, raw: RawFile, frames: Sequence[dict[Key, Any]], wanted: tuple[str, ...]) -> MissingLabel:
    """Returns what to say about a label that no structure of a file has.

    Args:
        label: The label.
        raw: The file.
        frames: Everything in each structure that may be a label, by key.
        wanted: ("auto",), or the names that were looked for.
    """
    keys = known_keys(frames)
    found = f"Keys found: {first_few(keys, 12)}." if keys else "The frames have no keys at all."
    looked = "" if wanted == ("auto",) else f" under {' or '.join(repr(name) for name in wanted)} (data.{label}_key)"
    near = misspelt(label, frames) or ""
    message = f"{raw.path}: no frame has {_article(label)}{looked}. {found} {_advice(label, raw, frames, wanted)}"
    return MissingLabel(label, raw.path, near if wanted == ("auto",) else "", message)


def _article(label: str) -> str:
    return {"energy": "an energy", "forces": "forces", "stress": "a stress", "virial": "a virial"}[label]


def _advice(label: str, raw: RawFile, frames: Sequence[dict[Key, Any]], wanted: tuple[str, ...]) -> str:
    option = f"data.{label}_key"
    gradient = next((name for name in known_keys(frames) if is_gradient(name)), None) if label == "forces" else None
    if gradient:
        return f"'{gradient}' is the gradient, minus the forces: store its negative as 'REF_forces' ({_UNITS[label]})."
    if wanted != ("auto",):
        near = difflib.get_close_matches(wanted[0], known_keys(frames), n=1, cutoff=0.6)
        if near:
            return f"Did you mean {option}: {near[0]}?"
    near_key = suspect(label, frames)
    if near_key:
        return f"If '{near_key}' holds the {label} in {_UNITS[label]}, write {option}: {near_key}."
    columns = _undeclared_columns(raw) if label == "forces" else ""
    if columns:
        return columns
    return f"Write the {label} as 'REF_{label}' ({_UNITS[label]}), or {option}: none if the data have none."


def _undeclared_columns(raw: RawFile) -> str:
    """A common slip: columns of forces in an XYZ file whose comment line does not say so."""
    if raw.format != "extxyz" or raw.path.endswith((".gz", ".bz2", ".xz")):
        return ""
    with open(raw.path, encoding="utf-8", errors="replace") as stream:
        _, comment, first = (stream.readline() for _ in range(3))
    if "Properties" in comment or len(first.split()) < 7:
        return ""
    return (
        f"Its lines have {len(first.split())} columns that the comment line does not name; if three of them are forces "
        "in eV/Å, write Properties=species:S:1:pos:R:3:REF_forces:R:3 into every comment line."
    )
