"""A trained potential at work: ASE calculator, molecular dynamics, relaxation, and its health check.

Names are imported on first use, so that reading options does not load torch.
"""

import importlib
from typing import Any

_HOMES = {
    "Check": "doctor",
    "EquipotCalculator": "ase_calculator",
    "MDOptions": "options",
    "MDResult": "md",
    "RelaxOptions": "options",
    "RelaxResult": "relaxation",
    "check_potential": "doctor",
    "read_thermo": "md_files",
    "relax": "relaxation",
    "run_md": "md",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"equipot.deploy has no {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"equipot.deploy.{_HOMES[name]}"), name)
