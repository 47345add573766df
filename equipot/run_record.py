"""What a run says and remembers: lines for the log, facts for its JSON files, warnings for its report."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from equipot.data.keys import LABELS
from equipot.data.load import LoadedData
from equipot.deploy.md import MDResult
from equipot.files import write_atomically
from equipot.statistics import Statistics
from equipot.study.style import significant

logger = logging.getLogger("equipot.pipeline")

_SHOWN_ELEMENTS = 10


def announce(data: LoadedData) -> None:
    """Says per file what was found and used, how it is split, and what was measured."""
    for name, reading in data.readings.items():
        for row in reading.summary():
            labels = ", ".join(f"{label} {row[label]}" for label in LABELS if row[label] != "–")
            logger.info("%s: %s, %d structures of %s: %s", name, row["file"], row["frames"], row["elements"], labels)
    for note in data.notes:
        logger.info(note)
    s = data.statistics
    logger.info("E0 (eV, %s): %s", s.atomic_energies_source.replace("_", " "), energies_in_words(s, 4, "data.json"))
    logger.info(
        "(E − ΣE0)/N %.4f ± %.4f eV/atom, rms force %.4f eV/Å, %.1f neighbours, shortest distance %.3f Å",
        round(s.energy_mean, 4) + 0.0, s.energy_std, s.force_rms, s.mean_neighbours, s.min_distance,
    )  # fmt: skip
    for warning in data.warnings:
        logger.warning(warning)


def energies_in_words(statistics: Statistics, digits: int, rest: str) -> str:
    """Returns the E0s in one line, those of the first ten elements where there are more.

    Args:
        statistics: Has the E0s.
        digits: After the point.
        rest: Where all of them are, in words.
    """
    pairs = list(zip(statistics.species, statistics.atomic_energies, strict=True))
    shown = ", ".join(f"{chemical_symbols[z]} {energy:.{digits}f}" for z, energy in pairs[:_SHOWN_ELEMENTS])
    return shown + (f", … ({len(pairs)} elements; all in {rest})" if len(pairs) > _SHOWN_ELEMENTS else "")


def md_facts(result: MDResult, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a molecular dynamics run gave, as JSON can hold it."""
    return {
        "status": result.status, "message": result.message, "steps": result.step, "atoms": len(result.atoms),
        "formula": result.atoms.get_chemical_formula(), "mean_temperature_K": float(result.temperatures.mean()),
        "drift_meV_per_atom_per_ns": result.drift, "seconds_per_step": result.seconds_per_step,
        "options": dict(options),
    }  # fmt: skip


def data_facts(data: LoadedData) -> dict[str, Any]:
    """Returns what was found in the data, as JSON can hold it."""
    sets = {"train": data.train, "valid": data.valid, **data.tests}
    return {
        "files": {name: reading.summary() for name, reading in data.readings.items()},
        "sets": {name: {"structures": len(s), "atoms": int(s.num_atoms.sum())} for name, s in sets.items()},
        "statistics": data.statistics.model_dump(mode="json"),
        "split": data.split,
        "notes": list(data.notes),
        "warnings": list(data.warnings),
        "hashes": data.hashes(),
    }


def in_words(errors: Mapping[str, Any]) -> str:
    """Returns the RMSEs of a set in one line."""
    named = [
        ("E", "energy_rmse_meV_per_atom", "meV/atom"), ("F", "forces_rmse_meV_per_A", "meV/Å"),
        ("σ", "stress_rmse_meV_per_A3", "meV/Å³"),
    ]  # fmt: skip
    return ", ".join(f"{q} {significant(errors[key])} {unit}" for q, key, unit in named if errors.get(key) is not None)


class Warnings(logging.Handler):
    """A context that remembers the warnings of equipot's log.

    Attributes:
        messages: In order, each once.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def __enter__(self) -> "Warnings":
        logging.getLogger("equipot").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("equipot").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Remembers a message."""
        message = record.getMessage()
        if message not in self.messages:
            self.messages.append(message)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, with its folder where there is none; an old one is replaced as a whole."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, document: Any) -> None:
    """Writes a JSON file."""
    write_text(path, as_json(document) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; an empty one where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def as_json(document: Any) -> str:
    """Returns JSON as its standard has it: what is not a finite number is null."""
    return json.dumps(_finite(document), indent=1, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
