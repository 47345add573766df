"""Which labels a set must have, and sentences about those it lacks."""

from collections.abc import Mapping

from equipot.data.keys import LABELS
from equipot.data.options import Keys
from equipot.data.read import Reading
from equipot.errors import EquipotError

_REQUIRED = ("energy", "forces")


def check_labels(reading: Reading, keys: Keys, name: str) -> None:
    """Raises if a set lacks labels by mistake; what it may lack is added to the warnings of its reading.

    A training set needs energies and forces, unless their key is "none", and every label whose key is named.

    Args:
        reading: What was read.
        keys: Names of the labels.
        name: "train", "valid" or the name of a test set.

    Raises:
        EquipotError: Says what was found, and what to write.
    """
    if not reading.frames:
        files = ", ".join(file.file for file in reading.files)
        raise EquipotError(
            f"{files}: holds isolated atoms only, no structure for the {name} set. Give a file of structures as well."
        )
    counts = reading.counts()
    for missing in reading.missing:
        named = keys.of(missing.label) != ("auto",)
        absent = counts[missing.label][0] == 0
        if name == "train" and absent and (named or missing.label in _REQUIRED):
            raise EquipotError(missing.message)
        if missing.label in _REQUIRED or named:
            reading.warnings.append(f"{missing.message.split(' Keys found')[0]} That label is left out there.")


def label_notes(readings: Mapping[str, Reading], keys: Keys) -> list[str]:
    """Returns sentences on labels that are left out, missing or masked, and on isolated atoms."""
    notes = [
        f"{label}: not read (data.{label}_key: none); nothing is learned from {label}."
        for label in LABELS
        if keys.of(label) == ("none",)
    ]
    for name, reading in readings.items():
        masked = sum(file.labels["stress"].masked for file in reading.files)
        for label, (present, missing) in reading.counts().items():
            missing -= masked if label == "stress" else 0
            if present and missing > 0 and label != "virial":
                notes.append(f"{name}: {present} structures have {label}, {missing} do not (masked in the loss).")
        if masked:
            notes.append(
                f"{name}: the stress of {masked} structures is masked, because they are not periodic in all three "
                "directions and have no volume."
            )
        if reading.isolated:
            notes.append(f"{name}: {len(reading.isolated)} isolated atoms give E0s and are not in the set.")
    return notes
