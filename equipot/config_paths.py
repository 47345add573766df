"""Which values of a configuration are paths: relative to a file when it is read, names alone in a model file."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from equipot.data.options import ENERGY_MODES
from equipot.start_options import start_options

Raw = dict[str, Any]


def with_absolute_paths(raw: Raw, base: Path) -> Raw:
    """Returns the configuration with its paths made absolute.

    Args:
        raw: Nested dictionaries.
        base: Folder that relative paths start from.
    """
    return map_paths(raw, lambda path: os.path.normpath(base / Path(path).expanduser()))


def map_paths(raw: Raw, change: Callable[[str], str]) -> Raw:
    """Returns the configuration with every path changed; what is not a path stays."""
    mapped = dict(raw)
    data = raw.get("data")
    if isinstance(data, Mapping):
        mapped["data"] = _map_data_paths(dict(data), change)
    models = ("start", "baseline")
    for section, key in (("scan", "file"), ("md", "structure"), *((m, "model") for m in models), ("linear", "scratch")):
        values = start_options(raw.get(section)) if section in models else raw.get(section)
        if isinstance(values, Mapping) and isinstance(values.get(key), str):
            mapped[section] = {**values, key: change(values[key])}
    return mapped


def _map_data_paths(data: Raw, change: Callable[[str], str]) -> Raw:
    def mapped(value: Any) -> Any:
        if isinstance(value, str | os.PathLike):
            return change(os.fspath(value))
        return [mapped(item) for item in value] if isinstance(value, list | tuple) else value

    if "train" in data:
        data["train"] = mapped(data["train"])
    tests = data.get("tests")
    if isinstance(tests, Mapping):
        data["tests"] = {str(name): mapped(files) for name, files in tests.items()}
    elif tests is not None:
        data["tests"] = mapped(tests)
    valid = data.get("valid")
    if isinstance(valid, Mapping):
        data["valid"] = {k: mapped(v) for k, v in valid.items()}
    elif not _is_number(valid):
        data["valid"] = mapped(valid)
        if valid is None:
            data.pop("valid")
    energies = data.get("atomic_energies")
    if isinstance(energies, str) and energies not in ENERGY_MODES:
        data["atomic_energies"] = change(energies)
    return data


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
