"""Reads structures with labels, and says per file what was found and used."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from equipot.data.files import RawFile, read_structures
from equipot.data.frame import Frame
from equipot.data.keys import LABELS, Choice, Key, choose, disagreements, entries_of
from equipot.data.labels import Stress, make_frame, unlabelled
from equipot.data.missing import MissingLabel, missing_label
from equipot.data.options import Keys
from equipot.errors import EquipotError

E0_TOLERANCE = 1e-3
"""eV; two isolated atoms of one element that differ by more contradict each other."""


@dataclass(frozen=True)
class LabelSummary:
    """One label in one file.

    Attributes:
        keys: Keys that it was taken from, with the number of frames for each, isolated atoms among them.
        frames: Frames that have it, isolated atoms aside.
        missing: Frames that do not.
        masked: Frames that have it without being able to use it: a stress or virial without three periodic directions.
    """

    keys: dict[str, int]
    frames: int
    missing: int
    masked: int = 0


@dataclass(frozen=True)
class FileSummary:
    """What was found in one file, and used.

    Attributes:
        file: Path as given.
        format: ASE's name of the format.
        frames: Structures, isolated atoms aside.
        isolated_atoms: Frames that give an E0.
        atoms: Atoms in all structures.
        elements: Chemical symbols.
        config_types: Number of structures of each.
        labels: Summary of each label.
    """

    file: str
    format: str
    frames: int
    isolated_atoms: int
    atoms: int
    elements: tuple[str, ...]
    config_types: dict[str, int]
    labels: dict[str, LabelSummary]

    def row(self) -> dict[str, Any]:
        """Returns the summary as one row of a table, in words."""
        return {
            "file": self.file,
            "format": self.format,
            "frames": self.frames,
            "isolated atoms": self.isolated_atoms,
            "atoms": self.atoms,
            "elements": " ".join(self.elements),
            "config types": ", ".join(f"{name} ({n})" for name, n in self.config_types.items()),
            **{label: self._label(label) for label in LABELS},
        }

    def _label(self, label: str) -> str:
        found = self.labels[label]
        words = [f"{key} ({n})" for key, n in found.keys.items()]
        if found.masked:
            words.append(f"{found.masked} masked")
        if found.missing and found.frames:
            words.append(f"{found.missing} without")
        return ", ".join(words) or "–"


@dataclass
class Reading:
    """Structures read from one or more files.

    Attributes:
        frames: Structures to learn from or test on, in order of the files.
        isolated: Isolated atoms, whose energies are E0s; they are not among `frames`.
        names: Name of every frame of the files, isolated atoms among them, in order.
        files: What was found in each file.
        warnings: Things that can be used but look wrong.
        missing: Labels that no frame of a file has, with what might help.
    """

    frames: list[Frame] = field(default_factory=list)
    isolated: list[Frame] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    files: list[FileSummary] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    missing: list[MissingLabel] = field(default_factory=list)

    @property
    def isolated_atoms(self) -> dict[int, float]:
        """E0 of each element that an isolated atom gives, eV.

        Raises:
            EquipotError: Two isolated atoms of one element have different energies.
        """
        return isolated_energies(self.isolated)

    def summary(self) -> list[dict[str, Any]]:
        """Returns one row for each file: what was found and used."""
        return [file.row() for file in self.files]

    def counts(self) -> dict[str, tuple[int, int]]:
        """Returns for each label how many structures have it, and how many do not."""
        have = {label: sum(getattr(f, label) is not None for f in self.frames) for label in LABELS}
        return {label: (n, len(self.frames) - n) for label, n in have.items()}


def read_frames(paths: str | Path | Iterable[str | Path], keys: Keys | None = None) -> Reading:
    """Reads the structures and labels of one or more files.

    Args:
        paths: Anything that ASE reads, compressed or not.
        keys: Names of the labels; default: recognised (see `equipot.data.keys`).

    Raises:
        EquipotError: A file cannot be read, or a structure or label in it cannot be used.
    """
    reading = Reading()
    for path in [paths] if isinstance(paths, str | Path) else paths:
        _add(reading, read_structures(path), keys or Keys())
    return reading


def _add(reading: Reading, raw: RawFile, keys: Keys) -> None:
    entries = [entries_of(atoms) for atoms in raw.structures]
    choices = {label: choose(label, entries, keys.of(label), raw.path) for label in LABELS}
    made = [make_frame(atoms, entries[i], choices, raw.path, i) for i, atoms in enumerate(raw.structures)]
    frames = [frame for frame, _ in made]
    structures = [i for i, frame in enumerate(frames) if not frame.isolated]
    missing = _missing(raw, structures, entries, choices, keys)
    likely = next((label for label in missing if label.likely), None)
    if likely is not None:
        raise EquipotError(likely.message)
    reading.missing += missing
    _check_labelled(frames, entries, choices, keys)
    reading.warnings += raw.warnings
    for label in LABELS:
        reading.warnings += disagreements(choices[label], entries, raw.path) if keys.of(label) == ("auto",) else []
    reading.warnings += _contradictions(raw.path, [stress for _, stress in made])
    reading.frames += [frames[i] for i in structures]
    reading.isolated += [frame for frame in frames if frame.isolated]
    reading.names += [frame.name for frame in frames]
    reading.files.append(_summary(raw, made, entries, choices))


def _missing(
    raw: RawFile, structures: list[int], entries: list[dict[Key, Any]], choices: dict[str, Choice], keys: Keys
) -> list[MissingLabel]:
    """Returns the labels that no structure of a file has, each with what might help."""
    absent = [
        label
        for label in LABELS
        if structures
        and keys.of(label) != ("none",)
        and all(choices[label].take(entries[i]) is None for i in structures)
    ]
    return [missing_label(label, raw, [entries[i] for i in structures], keys.of(label)) for label in absent]


def _check_labelled(
    frames: Sequence[Frame], entries: Sequence[dict[Key, Any]], choices: dict[str, Choice], keys: Keys
) -> None:
    for frame, found in zip(frames, entries, strict=True):
        if all(choice.take(found) is None for choice in choices.values()):
            raise EquipotError(unlabelled(frame, found))
        if frame.isolated and frame.energy is None and keys.energy != ("none",):
            raise EquipotError(
                f"{frame.where}: an isolated atom ({frame.atoms.get_chemical_formula()}) without energy. Write its "
                "energy in eV under the key of the other energies, or remove the frame."
            )


def _contradictions(path: str, stresses: Sequence[Stress]) -> list[str]:
    found = [stress.contradiction for stress in stresses if stress.contradiction]
    if not found:
        return []
    return [
        f"{path}: stress and virial contradict each other in {len(found)} frames (first: {found[0]}); the stress is "
        "used. data.stress_key: none would use the virial."
    ]


def _summary(
    raw: RawFile, made: Sequence[tuple[Frame, Stress]], entries: Sequence[dict[Key, Any]], choices: dict[str, Choice]
) -> FileSummary:
    structures = [(frame, stress) for frame, stress in made if not frame.isolated]
    return FileSummary(
        file=raw.path,
        format=raw.format,
        frames=len(structures),
        isolated_atoms=len(made) - len(structures),
        atoms=sum(len(frame.atoms) for frame, _ in structures),
        elements=tuple(chemical_symbols[z] for z in sorted({int(z) for frame, _ in made for z in frame.atoms.numbers})),
        config_types=dict(Counter(frame.config_type for frame, _ in structures)),
        labels={label: _label_summary(choices[label], made, entries) for label in LABELS},
    )


def _label_summary(
    choice: Choice, made: Sequence[tuple[Frame, Stress]], entries: Sequence[dict[Key, Any]]
) -> LabelSummary:
    found = [(frame, stress, choice.take(e)) for (frame, stress), e in zip(made, entries, strict=True)]
    keys = Counter(taken[0].name for _, _, taken in found if taken is not None)
    structures = [(stress, taken) for frame, stress, taken in found if not frame.isolated]
    given = sum(taken is not None for _, taken in structures)
    masked = {
        "stress": sum(bool(stress.masked) for stress, _ in structures),
        "virial": sum(stress.virial is not None and stress.stress is None for stress, _ in structures),
    }.get(choice.label, 0)
    return LabelSummary(dict(keys), given - masked, len(structures) - given, masked)


def isolated_energies(frames: Iterable[Frame]) -> dict[int, float]:
    """Returns the energy of each element's isolated atom, eV.

    Raises:
        EquipotError: Two frames of one element contradict each other.
    """
    first: dict[int, Frame] = {}
    for frame in frames:
        if frame.energy is None:
            continue
        z = int(frame.atoms.numbers[0])
        known = first.setdefault(z, frame)
        if known.energy is not None and abs(known.energy - frame.energy) > E0_TOLERANCE:
            raise EquipotError(
                f"{frame.where}: the isolated atom {chemical_symbols[z]} has {frame.energy} eV, but {known.energy} eV "
                f"in {known.where}. Keep one of them, or give data.atomic_energies: {{{chemical_symbols[z]}: …}}."
            )
    return {z: float(frame.energy) for z, frame in sorted(first.items()) if frame.energy is not None}
