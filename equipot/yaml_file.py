"""YAML read strictly: a key that is given twice is an error, and errors name the line."""

import difflib
from pathlib import Path
from typing import Any

import yaml

from equipot.errors import EquipotError


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice in one mapping, where YAML itself would take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                problem = f"the key '{key.value}' is given twice, first in line {lines[key.value]}; keep one of them"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


def parse_yaml(text: str) -> Any:
    """Returns the value of a YAML text.

    Raises:
        yaml.YAMLError: The text is not YAML, or gives a key twice.
    """
    return yaml.load(text, Loader=_Loader)


def yaml_problem(error: yaml.YAMLError) -> str:
    """Returns where in a text the problem is, and what it is."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return str(error)


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file.

    Raises:
        EquipotError: The file is missing, is not YAML, gives a key twice, or holds no mapping.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in _siblings(path)], n=1)
        hint = f" Did you mean {path.with_name(near[0])}?" if near else ""
        raise EquipotError(f"there is no file {path}.{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise EquipotError(f"{path} cannot be read as YAML: {error}.") from None
    except yaml.YAMLError as error:
        raise EquipotError(f"{path} is not YAML: {yaml_problem(error)}.") from None
    if not isinstance(raw, dict):
        raise EquipotError(f"{path} holds no configuration; it needs at least data: {{train: my.extxyz}}.")
    return raw


def _siblings(path: Path) -> list[Path]:
    return sorted(path.parent.iterdir()) if path.parent.is_dir() else []
