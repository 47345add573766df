"""Training and validation: a random fraction, or given structures; always recorded by name."""

import difflib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from equipot.data.frame import Frame
from equipot.data.options import Indices
from equipot.data.read import Reading
from equipot.errors import EquipotError


@dataclass(frozen=True)
class Split:
    """Positions in a list of structures: disjoint, each in ascending order."""

    train: tuple[int, ...]
    valid: tuple[int, ...]


def random_split(frames: Sequence[Frame], fraction: float, seed: int) -> Split:
    """Returns a random split in which every element stays in the training set.

    Structures are drawn for validation in a random order that is a function of the seed; one whose element no
    remaining training structure would have is passed over.

    Args:
        frames: The structures.
        fraction: Of them for validation, 0 < fraction < 1; at least one structure on either side.
        seed: Seed of the order.

    Raises:
        EquipotError: There are fewer than two structures, or none can be spared.
    """
    count = len(frames)
    if count < 2:
        raise EquipotError(
            f"{frames[0].source if frames else 'the data'} has {count} structure(s); a split into training and "
            "validation needs at least two. Add structures, or give a validation file with data.valid."
        )
    wanted = min(max(1, round(fraction * count)), count - 1)
    elements = [set(frame.atoms.numbers.tolist()) for frame in frames]
    left = Counter(z for present in elements for z in present)
    valid: list[int] = []
    for i in np.random.default_rng(seed).permutation(count).tolist():
        if len(valid) < wanted and all(left[z] > 1 for z in elements[i]):
            valid.append(i)
            left.subtract(elements[i])
    if not valid:
        raise EquipotError(
            f"no structure of {frames[0].source} can be set aside for validation: each has an element that no other "
            "one has. Give a validation file with data.valid."
        )
    return _complement(valid, count)


def given_split(reading: Reading, indices: Indices) -> Split:
    """Returns the split that a list or a file of structures gives.

    Args:
        reading: The training files; positions count over all their frames in order, isolated atoms included.
        indices: Numbers or names of the structures, or a file of them.

    Raises:
        EquipotError: An entry is out of range, unknown, an isolated atom, given twice, or in both sets.
    """
    position = {frame.name: i for i, frame in enumerate(reading.frames)}
    valid = _positions(reading, position, _entries(indices.indices, "valid"), "data.valid.indices")
    if indices.train_indices is None:
        split = _complement(valid, len(position))
    else:
        train = _positions(reading, position, _entries(indices.train_indices, "train"), "data.valid.train_indices")
        split = Split(tuple(sorted(train)), tuple(sorted(valid)))
    both = sorted(set(split.train) & set(split.valid))
    if both:
        raise EquipotError(
            f"data.valid: {len(both)} structure(s) are in both training and validation (first: "
            f"{reading.frames[both[0]].name}). Remove them from indices or train_indices."
        )
    if not split.train:
        raise EquipotError("data.valid.indices takes every structure, so none is left for training. Give fewer.")
    return split


def _complement(valid: Sequence[int], count: int) -> Split:
    taken = set(valid)
    return Split(tuple(i for i in range(count) if i not in taken), tuple(sorted(taken)))


def _positions(reading: Reading, position: dict[str, int], entries: Sequence[Any], option: str) -> list[int]:
    if not entries:
        raise EquipotError(f"{option} is empty; give at least one structure.")
    full = _full_names(reading.names)
    found = [_position(reading, position, full.get(str(entry), entry), option) for entry in entries]
    twice = [i for i, n in Counter(found).items() if n > 1]
    if twice:
        name = reading.frames[twice[0]].name
        raise EquipotError(f"{option} names {name} {Counter(found)[twice[0]]} times. Name each structure once.")
    return found


def _position(reading: Reading, position: dict[str, int], entry: Any, option: str) -> int:
    name = entry
    if isinstance(entry, int) and not isinstance(entry, bool):
        if not 0 <= entry < len(reading.names):
            raise EquipotError(
                f"{option}: {entry} is out of range; the training files have {len(reading.names)} frames, numbered "
                f"from 0 to {len(reading.names) - 1}."
            )
        name = reading.names[entry]
    if name in position:
        return position[name]
    if name in reading.names:
        raise EquipotError(
            f"{option}: {name} is an isolated atom; it gives an E0 and is in neither training nor validation. Remove "
            "it from the list."
        )
    near = difflib.get_close_matches(str(name), reading.names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise EquipotError(
        f"{option}: '{name}' is not a structure of the training files.{hint} Entries are numbers from 0 to "
        f"{len(reading.names) - 1} or names such as '{reading.names[0]}'."
    )


def _full_names(names: Sequence[str]) -> dict[str, str]:
    """Returns the name of each structure by its file name, where only one structure has it."""
    short = Counter(Path(name).name for name in names)
    return {Path(name).name: name for name in names if short[Path(name).name] == 1}


def _entries(given: str | Sequence[int | str], which: str) -> list[int | str]:
    """Returns the entries of a list, or of a file: JSON, or one entry per line."""
    if not isinstance(given, str):
        return list(given)
    path = Path(given)
    if not path.is_file():
        raise EquipotError(
            f"data.valid: {given} is not a file. Give a list, or a file with one number or name per line, or JSON."
        )
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return [int(word) if word.lstrip("-").isdigit() else word for word in text.split("\n") if word.strip()]
        content = json.loads(text)
        entries = content[which] if isinstance(content, dict) else content
        return [entry if isinstance(entry, int) else str(entry) for entry in list(entries)]
    except (ValueError, KeyError, TypeError) as error:
        raise EquipotError(
            f"{given} is not a list of structures ({type(error).__name__}: {error}). Write one number or name per "
            f'line, or JSON: a list, or an object with "{which}".'
        ) from None
