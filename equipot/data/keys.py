"""Which key of a file holds which label: names, precedence, and what to say when there is none.

Keys are looked for in this order, in every frame of a file alike:

1. reference keys: ``REF_energy``, ``REF_forces``, ``REF_stress``, ``REF_virial`` …
2. keys that name a method: ``DFT_energy``, ``dft_forces`` …
3. plain keys in the file: ``Energy``, ``total_energy``, ``force``, ``virials`` …
4. results of a calculator: ``energy``, ``forces``, ``stress`` as ASE stores them (extended XYZ too).

Within a step ``energy`` comes before ``free_energy``. A key that is present beside the one in use and has other
values is reported, never mixed in.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import ase
import numpy as np

from equipot.data.files import MATRIX_SUFFIX
from equipot.errors import EquipotError

LABELS = ("energy", "forces", "stress", "virial")

_NAMES = {
    "energy": ("energy", "total_energy", "tot_energy", "potential_energy", "etot", "e_tot", "free_energy"),
    "forces": ("forces", "force"),
    "stress": ("stress", "stress_tensor"),
    "virial": ("virial", "virials", "virial_tensor"),
}
_PREFIXES = {"ref_": 0, "reference_": 0, "dft_": 1, "qm_": 1, "ab_initio_": 1}
_PLAIN, _CALCULATOR = 2, 3
_NOT_LABELS = frozenset(
    ("numbers", "positions", "tags", "momenta", "masses", "initial_charges", "initial_magmoms", "config_type")
)
_GRADIENTS = frozenset(("gradient", "gradients", "grad", "de_dr", "dedr"))
_WORDS = {"energy": ("energ",), "forces": ("forc", "grad"), "stress": ("stress",), "virial": ("viri",)}
_SHORT = {
    "energy": ("e", "e0", "u", "epot", "toten", "e_total"),
    "forces": ("f", "frc"),
    "stress": ("s",),
    "virial": ("w",),
}
"""Names that many programs use for many things: suggested, never taken for a label unasked."""
_OTHER_MEANING = ("kinetic", "per_atom", "std", "sigma", "error", "unit", "weight", "cutoff")
TOLERANCE = {"energy": 1e-4, "forces": 1e-3, "stress": 1e-5, "virial": 1e-3}
"""Two keys for one label agree within this (eV, eV/Å, eV/Å³, eV)."""


class Key(NamedTuple):
    """A key and where it is: "file" (info, arrays) or "calculator"."""

    place: str
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Choice:
    """Where one label of one file comes from.

    Attributes:
        label: "energy", "forces", "stress" or "virial".
        keys: Keys in use, in order of preference.
        others: Further keys that could hold the label, in order of preference.
    """

    label: str
    keys: tuple[Key, ...] = ()
    others: tuple[Key, ...] = ()

    def take(self, entries: dict[Key, Any]) -> tuple[Key, Any] | None:
        """Returns key and value of the label in a frame, or None."""
        return next(((key, entries[key]) for key in self.keys if key in entries), None)


def entries_of(atoms: ase.Atoms) -> dict[Key, Any]:
    """Returns everything in a structure that may be a label, by key."""
    entries = {Key("file", name): value for name, value in atoms.arrays.items() if name not in _NOT_LABELS}
    for name, value in atoms.info.items():
        entries[Key("file", name.removesuffix(MATRIX_SUFFIX))] = value
    if atoms.calc is not None:
        results = atoms.calc.results
        entries.update({Key("calculator", name): v for name, v in results.items() if v is not None})
    return entries


@lru_cache(maxsize=4096)
def _rank(label: str, key: Key) -> tuple[int, int, str] | None:
    """Returns the precedence of a key for a label (smaller is better), or None if it is none."""
    lower = key.name.lower()
    prefix = next((p for p in _PREFIXES if lower.startswith(p)), "")
    name = lower.removeprefix(prefix)
    if name not in _NAMES[label]:
        return None
    tier = _CALCULATOR if key.place == "calculator" else _PREFIXES.get(prefix, _PLAIN)
    return tier, _NAMES[label].index(name), key.name


def without_labels(atoms: ase.Atoms) -> ase.Atoms:
    """Returns a copy of a structure without calculator and without what "auto" would take for a label.

    Labels belong to the positions that they were computed at; structures that move must not carry them along.
    """
    bare = atoms.copy()
    for place in (bare.info, bare.arrays):
        for name in [n for n in place if n not in _NOT_LABELS]:
            if any(_rank(label, Key("file", name.removesuffix(MATRIX_SUFFIX))) for label in LABELS):
                del place[name]
    return bare


def choose(label: str, frames: Sequence[dict[Key, Any]], wanted: tuple[str, ...], path: str) -> Choice:
    """Returns where a label comes from in one file.

    Args:
        label: The label.
        frames: `entries_of` every frame.
        wanted: ("auto",), ("none",), or names in order of preference.
        path: The file, for messages.

    Raises:
        EquipotError: With "auto": a frame lacks the key that is in use elsewhere, but has another one that could
            hold the label, so that two sources would be mixed.
    """
    if wanted == ("none",):
        return Choice(label)
    if wanted != ("auto",):
        return Choice(label, tuple(Key(place, name) for name in wanted for place in ("file", "calculator")))
    present = {key for entries in frames for key in entries if _rank(label, key) is not None}
    order = sorted(present, key=lambda key: _rank(label, key) or ())
    if not order:
        return Choice(label)
    choice = Choice(label, (order[0],), tuple(order[1:]))
    for number, entries in enumerate(frames):
        if order[0] not in entries:
            _check_unmixed(choice, entries, f"{path}, frame {number}")
    return choice


def _check_unmixed(choice: Choice, entries: dict[Key, Any], where: str) -> None:
    other = next((key for key in choice.others if key in entries), None)
    if other is not None:
        used, option = choice.keys[0], f"data.{choice.label}_key"
        raise EquipotError(
            f"{where}: has no '{used}', from which other frames of this file take the {choice.label}, but has "
            f"'{other}'. To take either, write {option}: [{used}, {other}]; to leave such frames without "
            f"{choice.label}, {option}: {used}; to use the second everywhere, {option}: {other}."
        )


def disagreements(choice: Choice, frames: Sequence[dict[Key, Any]], path: str) -> list[str]:
    """Returns a sentence for each further key whose values differ from those of the key in use."""
    return [text for other in choice.others if (text := _disagreement(choice, other, frames, path))]


def _disagreement(choice: Choice, other: Key, frames: Sequence[dict[Key, Any]], path: str) -> str:
    used = choice.keys[0]
    largest = [_difference(entries[used], entries[other]) for entries in frames if used in entries and other in entries]
    differing = sum(d > TOLERANCE[choice.label] for d in largest)
    if not differing:
        return ""
    place = " of the calculator" if other.place == "calculator" and used.place == "file" else ""
    text = (
        f"{path}: {choice.label} is taken from '{used}'; '{other}'{place} differs in {differing} of {len(frames)} "
        f"frames, by up to {max(largest):.4g}, and is not used"
    )
    if other.name.lower().endswith("free_energy"):
        return text + f" (forces are derivatives of the free energy: data.energy_key: {other} would agree with them)."
    return text + f" (data.{choice.label}_key: {other} would use it)."


def _difference(a: Any, b: Any) -> float:
    try:
        x, y = np.asarray(a, dtype=float).ravel(), np.asarray(b, dtype=float).ravel()
    except (TypeError, ValueError):
        return float("inf")
    return float(np.abs(x - y).max(initial=0.0)) if x.shape == y.shape else float("inf")


def known_keys(frames: Sequence[dict[Key, Any]]) -> list[str]:
    """Returns the names of all keys that any frame has, sorted."""
    return sorted({key.name for entries in frames for key in entries})


def recognised(label: str, frames: Sequence[dict[Key, Any]]) -> str | None:
    """Returns the key that "auto" would take a label from."""
    present = {key for entries in frames for key in entries if _rank(label, key) is not None}
    return min(present, key=lambda key: _rank(label, key) or ()).name if present else None


def misspelt(label: str, frames: Sequence[dict[Key, Any]]) -> str | None:
    """Returns a key that is a known name of a label but for a letter or two, and has the shape of one."""
    names = [prefix + name for name in _NAMES[label] for prefix in ("", *_PREFIXES)]
    fitting = _unknown_but_fitting(label, frames)
    near = [name for name in fitting if difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.8)]
    return near[0] if near else None


def suspect(label: str, frames: Sequence[dict[Key, Any]]) -> str | None:
    """Returns a key that looks like a misspelt or unusual name of a label, judged by its letters and its shape."""
    by_word = [
        name
        for name in _unknown_but_fitting(label, frames)
        if any(word in name.lower() for word in _WORDS[label]) or name.lower() in _SHORT[label]
    ]
    return misspelt(label, frames) or (min(by_word, key=len) if by_word else None)


def _unknown_but_fitting(label: str, frames: Sequence[dict[Key, Any]]) -> list[str]:
    shown = {key: value for entries in frames for key, value in entries.items()}
    return sorted(
        key.name
        for key, value in shown.items()
        if all(_rank(other, key) is None for other in LABELS)
        and not any(word in key.name.lower() for word in _OTHER_MEANING)
        and _fits(label, value)
    )


def _fits(label: str, value: Any) -> bool:
    if isinstance(value, bool | str):
        return False
    try:
        shape = np.asarray(value, dtype=float).shape
    except (TypeError, ValueError):
        return False
    if label == "energy":
        return shape in ((), (1,))
    if label == "forces":
        return len(shape) == 2 and shape[1] == 3
    return shape in ((6,), (9,), (3, 3))


def is_gradient(name: str) -> bool:
    """Returns whether a key names gradients, which are minus the forces."""
    lower = name.lower()
    return lower.removeprefix(next((p for p in _PREFIXES if lower.startswith(p)), "")) in _GRADIENTS
