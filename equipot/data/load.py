"""From data options to everything that a training run needs: sets, statistics, split, and what to log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from equipot.data.atomic_energies import AtomicEnergies, find_atomic_energies, interaction_energies
from equipot.data.check import check_species, check_weights
from equipot.data.dataset import Dataset, Progress
from equipot.data.doubts import correlated, doubts, leakage
from equipot.data.frame import Frame
from equipot.data.keys import LABELS
from equipot.data.measure import measure
from equipot.data.options import DataOptions, Indices, Keys
from equipot.data.plausible import check_energies, unbound
from equipot.data.read import E0_TOLERANCE, Reading, read_frames
from equipot.data.require import check_labels, label_notes
from equipot.data.split import Split, given_split, random_split
from equipot.data.weights import check_config_type_weights, weighted
from equipot.errors import EquipotError
from equipot.statistics import Statistics


@dataclass(frozen=True)
class LoadedData:
    """The sets of a training run.

    Attributes:
        train: Structures to learn from.
        valid: Structures to choose the best model by.
        tests: Further sets, by name.
        statistics: Measured on the training set.
        readings: What was found in the files of each set, by its name ("train", "valid", names of tests).
        split: Names of the structures in "train" and "valid".
        notes: Facts for the log.
        warnings: Things that can be used but look wrong, for the log.
    """

    train: Dataset
    valid: Dataset
    tests: dict[str, Dataset]
    statistics: Statistics
    readings: dict[str, Reading]
    split: dict[str, list[str]]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def hashes(self) -> dict[str, str]:
        """Returns the SHA-256 of the content of each set."""
        sets = {"train": self.train, "valid": self.valid, **self.tests}
        return {name: dataset.hash() for name, dataset in sets.items()}


def load(
    options: DataOptions,
    r_max: float,
    progress: Progress | None = None,
    known: Sequence[int] | None = None,
    model: str = "the model that the training starts from",
) -> LoadedData:
    """Reads, checks, splits and measures the data of a training run.

    Args:
        options: Which files, keys, split, weights and E0s.
        r_max: Cutoff, Å.
        progress: Told how many graphs of the training set are built.
        known: Elements of the model that the training starts from, if there is one. Its E0s are chosen later, so
            the E0s here are fitted, and serve only to find energies that cannot be right.
        model: What this model is called in messages.

    Raises:
        EquipotError: The data cannot be used; says which file and frame, what was found, and what to write.
    """
    readings = _read_all(options)
    reading = readings["train"]
    for name, each in readings.items():
        check_labels(each, options.keys, name)
    check_config_type_weights(options.config_type_weights, reading.frames)
    split, valid_frames = _split(options, readings)
    train_frames = weighted((reading.frames[i] for i in split.train), options.config_type_weights)
    valid_frames = weighted(valid_frames, options.config_type_weights)
    check_weights(train_frames)
    others = {"valid": valid_frames, **{name: readings[name].frames for name in options.tests}}
    if known is None:
        isolated = _isolated(reading, options.atomic_energies)
        E0 = find_atomic_energies(train_frames, options.atomic_energies, isolated, options.keys)
    else:
        E0 = _fitted_energies([*train_frames, *chain(*others.values())], known, model)
    check_energies(train_frames, E0)
    for frames in others.values():
        check_species(frames, E0.energies, "the training set")
        check_energies(frames, E0)
    train = Dataset(train_frames, r_max, progress)
    sets = {name: Dataset(frames, r_max) for name, frames in others.items()}
    measured = measure(train, E0)
    warnings = [text for each in readings.values() for text in each.warnings]
    warnings += [*measured.warnings, *unbound(train_frames, E0), *doubts(train), *_isolated_elsewhere(readings, E0)]
    warnings += correlated(reading.frames) if isinstance(options.valid, float) else []
    for name, dataset in sets.items():
        warnings += leakage(train.frames, dataset.frames, name)
        warnings += _shifted(dataset.frames, measured.statistics, f"the {name} set") if known is None else []
    return LoadedData(
        train=train,
        valid=sets.pop("valid"),
        tests=sets,
        statistics=measured.statistics,
        readings=readings,
        split={"train": train.names, "valid": [frame.name for frame in valid_frames]},
        notes=tuple([*_split_notes(options, split, len(valid_frames)), *label_notes(readings, options.keys)]),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _fitted_energies(frames: Sequence[Frame], known: Sequence[int], model: str) -> AtomicEnergies:
    """Returns E0s fitted to the energies of all structures, for a model of known elements.

    Raises:
        EquipotError: A structure has an element that the model does not know.
    """
    check_species(frames, known, model, "take a model that knows")
    return find_atomic_energies(frames, "least_squares", {})._replace(warnings=())


def given_energies(options: DataOptions, data: LoadedData) -> AtomicEnergies | None:
    """Returns the E0s that the data give by isolated atoms, a file or a table; None where they give none for all.

    Raises:
        EquipotError: They are asked for and lack an element, or contradict each other.
    """
    isolated = _isolated(data.readings["train"], options.atomic_energies)
    if options.atomic_energies == "auto" and not set(data.train.species) <= set(isolated):
        return None
    return find_atomic_energies(data.train.frames, options.atomic_energies, isolated, options.keys)


def load_set(
    paths: str | Sequence[str], r_max: float, statistics: Statistics, keys: Keys | None = None
) -> tuple[Dataset, Reading]:
    """Reads structures to evaluate a trained model on.

    Args:
        paths: File or files.
        r_max: Cutoff of the model, Å.
        statistics: Those of the model: its elements and E0s.
        keys: Names of the labels; default: recognised.

    Raises:
        EquipotError: The files cannot be used, or have elements or energies that the model cannot know.
    """
    reading = read_frames(paths, keys)
    check_labels(reading, keys or Keys(), "test")
    check_species(reading.frames, statistics.species, "the model")
    energies = dict(zip(statistics.species, statistics.atomic_energies, strict=True))
    check_energies(reading.frames, AtomicEnergies(energies, statistics.atomic_energies_source))
    reading.warnings += _shifted(reading.frames, statistics, paths if isinstance(paths, str) else ", ".join(paths))
    return Dataset(reading.frames, r_max), reading


def _isolated(reading: Reading, wanted: str | Mapping[str, float]) -> dict[int, float]:
    """Returns the energies of isolated atoms as far as they matter: beside a table they are only compared with it."""
    if not isinstance(wanted, str):
        return {int(f.atoms.numbers[0]): f.energy for f in reversed(reading.isolated) if f.energy is not None}
    return reading.isolated_atoms if wanted in ("auto", "isolated_atoms") else {}


def _read_all(options: DataOptions) -> dict[str, Reading]:
    twice = [path for path in options.train if options.train.count(path) > 1]
    if twice:
        raise EquipotError(f"data.train names {twice[0]} twice. Name each file once.")
    reserved = [name for name in options.tests if name in ("train", "valid")]
    if reserved:
        raise EquipotError(f"data.tests: '{reserved[0]}' cannot be the name of a test set; choose another one.")
    readings = {"train": read_frames(options.train, options.keys)}
    if isinstance(options.valid, tuple):
        readings["valid"] = read_frames(options.valid, options.keys)
    readings.update({name: read_frames(paths, options.keys) for name, paths in options.tests.items()})
    return readings


def _split(options: DataOptions, readings: Mapping[str, Reading]) -> tuple[Split, list[Frame]]:
    """Returns the split of the training files, and the structures of validation."""
    reading = readings["train"]
    if isinstance(options.valid, tuple):
        return Split(tuple(range(len(reading.frames))), ()), readings["valid"].frames
    if isinstance(options.valid, Indices):
        split = given_split(reading, options.valid)
    else:
        split = random_split(reading.frames, options.valid, options.seed)
    return split, [reading.frames[i] for i in split.valid]


def _split_notes(options: DataOptions, split: Split, num_valid: int) -> list[str]:
    if isinstance(options.valid, float):
        how = f"a random {options.valid:.3g} of the training files, seed {options.seed}"
    else:
        how = "given structures" if isinstance(options.valid, Indices) else ", ".join(options.valid)
    return [f"{len(split.train)} structures for training, {num_valid} for validation ({how})."]


def _isolated_elsewhere(readings: Mapping[str, Reading], E0: AtomicEnergies) -> list[str]:
    """Isolated atoms outside the training files are not used; they should agree all the same."""
    if E0.source not in ("isolated_atoms", "given"):
        return []
    return [
        f"{frame.where}: the isolated atom {frame.atoms.get_chemical_formula()} has {frame.energy} eV, the E0 in use "
        f"is {E0.energies[int(frame.atoms.numbers[0])]} eV: do the {name} files come from another method?"
        for name, reading in readings.items()
        for frame in reading.isolated
        if name != "train" and frame.energy is not None
        if abs(E0.energies.get(int(frame.atoms.numbers[0]), frame.energy) - frame.energy) > E0_TOLERANCE
    ]


def _shifted(frames: Sequence[Frame], statistics: Statistics, name: str) -> list[str]:
    """Energies that lie far from those of training point to another method.

    Args:
        frames: Structures of another set.
        statistics: Those of the training set.
        name: How to call the other set.
    """
    energies = dict(zip(statistics.species, statistics.atomic_energies, strict=True))
    theirs = interaction_energies(frames, energies)
    theirs = theirs[np.isfinite(theirs)]
    if not len(theirs):
        return []
    shift = float(np.median(theirs)) - statistics.energy_mean
    if abs(shift) < 1.0 + 10 * statistics.energy_std:
        return []
    return [
        f"energies of {name} lie {shift:+.3g} eV/atom from those of the training set; do they come from another method?"
    ]


def count_labels(frames: Sequence[Frame]) -> dict[str, dict[str, int]]:
    """Returns, for each config_type, how many structures there are and how many have each label."""
    table: dict[str, dict[str, int]] = {}
    for frame in frames:
        row = table.setdefault(frame.config_type, dict.fromkeys(("structures", *LABELS), 0))
        row["structures"] += 1
        for label in LABELS:
            row[label] += getattr(frame, label) is not None
    return table
