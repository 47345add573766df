"""A label that no structure of a file has: what is there instead, and what to write."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from equipot.data.check import first_few
from equipot.data.files import RawFile
from equipot.data.keys import Key, is_gradient, known_keys, misspelt, recognised, suspect

_UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³", "virial": "eV"}


@dataclass(frozen=True)
class MissingLabel:
    """A label that no structure of a file has.

    Attributes:
        label: Which one.
        file: Path of the file.
        likely: A key that most probably holds it: a known name but for a letter or two, or a known name where
            another one was asked for; or "".
        message: What was looked for, what was found, and what to write.
    """

    label: str
    file: str
    likely: str
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
    message = f"{raw.path}: no frame has {_article(label)}{looked}. {found} {_advice(label, raw, frames, wanted)}"
    return MissingLabel(label, raw.path, _likely(label, frames, wanted) or "", message)


def _article(label: str) -> str:
    return {"energy": "an energy", "forces": "forces", "stress": "a stress", "virial": "a virial"}[label]


def _likely(label: str, frames: Sequence[dict[Key, Any]], wanted: tuple[str, ...]) -> str | None:
    if wanted == ("auto",):
        return misspelt(label, frames)
    near = difflib.get_close_matches(wanted[0], known_keys(frames), n=1, cutoff=0.8)
    return near[0] if near else recognised(label, frames)


def _advice(label: str, raw: RawFile, frames: Sequence[dict[Key, Any]], wanted: tuple[str, ...]) -> str:
    option = f"data.{label}_key"
    likely = _likely(label, frames, wanted)
    if likely:
        return f"Did you mean '{likely}'? Write {option}: {likely}, or rename it; {option}: none leaves it out."
    gradient = next((name for name in known_keys(frames) if is_gradient(name)), None) if label == "forces" else None
    if gradient:
        return f"'{gradient}' is the gradient, minus the forces: store its negative as 'REF_forces' ({_UNITS[label]})."
    near = suspect(label, frames)
    if near:
        return f"If '{near}' holds the {label} in {_UNITS[label]}, write {option}: {near}."
    columns = _undeclared_columns(raw) if label == "forces" else ""
    return columns or f"Write the {label} as 'REF_{label}' ({_UNITS[label]}), or {option}: none if the data have none."


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
