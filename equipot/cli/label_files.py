"""Files given to `equipot evaluate`: read, said what was found, and refused in the words of the command line."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from equipot.cli.output import note
from equipot.errors import EquipotError

if TYPE_CHECKING:
    from equipot.data.dataset import Dataset
    from equipot.data.options import Keys
    from equipot.data.read import Reading
    from equipot.models.potential import Potential

_OPTION = re.compile(
    r"data\.(energy|forces|stress|virial)_key(?:: (?P<value>\[[^\]]*\]|[^\s,;)]+?)(?=[\s,;)]|\.(?:\s|$)|$))?"
)


def as_flags(text: str) -> str:
    """Returns a message about data with the options of a configuration replaced by flags of `evaluate`."""

    def flag(found: re.Match[str]) -> str:
        value = (found["value"] or "").strip("[]").replace(" ", "")
        return f"--{found[1]}-key {value}".rstrip()

    return _OPTION.sub(flag, text)


def keys_of(flags: Mapping[str, str]) -> "Keys":
    """Returns the names of labels from flags; several are separated by commas, in order of preference.

    Raises:
        EquipotError: A flag is empty.
    """
    from equipot.data.options import Keys

    names = {label: tuple(n.strip() for n in text.split(",") if n.strip()) for label, text in flags.items()}
    for label, given in names.items():
        if not given:
            raise EquipotError(f"--{label}-key is empty; give the key of the label, auto, or none.")
    return Keys(**names)


def load_files(
    files: Mapping[str, Path], potential: "Potential", keys: "Keys", *, predict: bool
) -> dict[str, "Dataset"]:
    """Returns the structures of each file, and says on standard error what was found and used.

    Args:
        files: Paths by name.
        potential: The model.
        keys: Names of the labels.
        predict: Predictions are written, so that files without any label are of use.

    Raises:
        EquipotError: A file cannot be used, or a key that was named is not in it.
    """
    try:
        return {name: _load(path, potential, keys, predict) for name, path in files.items()}
    except EquipotError as error:
        raise EquipotError(as_flags(str(error))) from error


def _load(path: Path, potential: "Potential", keys: "Keys", predict: bool) -> "Dataset":
    from equipot.data.load import load_set

    try:
        dataset, reading = load_set(str(path), potential.r_max, potential.statistics, keys)
    except EquipotError:
        bare = _without_labels(path, potential, keys, predict)
        if bare is None:
            raise
        note(f"{path}: {len(bare)} structures without labels; there is nothing to compare, they are predicted only.")
        return bare
    for missing in reading.missing:
        if keys.of(missing.label) != ("auto",):
            raise EquipotError(missing.message)
    _say(reading)
    return dataset


def _say(reading: "Reading") -> None:
    from equipot.data.keys import LABELS

    for row in reading.summary():
        labels = ", ".join(f"{label} {row[label]}" for label in LABELS if row[label] != "–")
        apart = f" ({row['isolated atoms']} isolated atoms are left out)" if row["isolated atoms"] else ""
        note(f"{row['file']}: {row['frames']} structures of {row['elements']}{apart}: {labels}")
    for warning in dict.fromkeys(reading.warnings):
        note(f"warning: {as_flags(warning)}")


def _without_labels(path: Path, potential: "Potential", keys: "Keys", predict: bool) -> "Dataset | None":
    """Returns the structures of a file where none has a label; None where some have one.

    Raises:
        EquipotError: No structure has a label, but a key was named or is misspelt, or no predictions are written.
    """
    from equipot.data.check import check_species
    from equipot.data.dataset import Dataset
    from equipot.data.files import read_structures
    from equipot.data.keys import LABELS, Choice, choose, entries_of
    from equipot.data.labels import make_frame
    from equipot.data.missing import missing_label

    raw = read_structures(path)
    entries = [entries_of(atoms) for atoms in raw.structures]
    take: list[Callable[..., object]] = [choose(label, entries, keys.of(label), raw.path).take for label in LABELS]
    if any(each(found) is not None for each in take for found in entries):
        return None
    wanted = [label for label in LABELS if keys.of(label) != ("none",)]
    lacking = [missing_label(label, raw, entries, keys.of(label)) for label in wanted]
    for missing in sorted(lacking, key=lambda each: not each.likely):
        if missing.likely or keys.of(missing.label) != ("auto",):
            raise EquipotError(missing.message)
    if not predict:
        reason = lacking[0].message if lacking else f"{path}: all keys are none, so that no label is read."
        raise EquipotError(
            f"{reason} There is nothing to compare the model with; to write its predictions, give --out FILE."
        )
    choices = {label: Choice(label) for label in LABELS}
    frames = [make_frame(atoms, entries[i], choices, raw.path, i)[0] for i, atoms in enumerate(raw.structures)]
    check_species(frames, potential.statistics.species, "the model")
    return Dataset(frames, potential.r_max)
