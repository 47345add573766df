"""equipot: the design space of E(3)-equivariant atom-centred interatomic potentials, as software.

    import equipot

    potential = equipot.load_potential("run/model.equipot")
    atoms.calc = equipot.EquipotCalculator(potential)

Names are imported on first use, so that the command line starts fast.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Design": "equipot.design",
    "EquipotError": "equipot.errors",
    "NAMED_POINTS": "equipot.points",
    "named_point": "equipot.points",
    "Statistics": "equipot.statistics",
    "Graph": "equipot.geometry",
    "batch_graphs": "equipot.geometry",
    "evaluate": "equipot.geometry",
    "graph_from_atoms": "equipot.geometry",
    "Potential": "equipot.models",
    "describe": "equipot.models",
    "load_potential": "equipot.models.model_file",
    "save_potential": "equipot.models.model_file",
    "convert_model": "equipot.convert",
    "DataOptions": "equipot.data",
    "read_frames": "equipot.data",
    "FitOptions": "equipot.fit",
    "fit": "equipot.fit",
    "EquipotCalculator": "equipot.deploy",
    "MDOptions": "equipot.deploy",
    "RelaxOptions": "equipot.deploy",
    "relax": "equipot.deploy",
    "run_md": "equipot.deploy",
    "use_backend": "equipot.kernels.backend",
    "Config": "equipot.config",
    "train": "equipot.pipeline",
    "linear_fit": "equipot.linear_pipeline",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'equipot' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
