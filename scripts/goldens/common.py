"""What the golden scripts share: the structures, random weights, and how results are stored. Needs numpy only.

python scripts/goldens/common.py tests/peers/goldens     writes structures.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

SPECIES = (1, 6, 8)
E0 = (-0.6, -1.9, -2.7)
R_MAX = 3.2


def make_structures() -> list[dict[str, Any]]:
    """Structures of H, C and O: molecules, periodic and slanted cells, a slab, far and single atoms."""
    rng = np.random.default_rng(3)
    lattice = np.array(np.meshgrid(range(2), range(2), range(2))).reshape(3, -1).T * 1.35
    molecule = lattice + rng.normal(scale=0.15, size=(8, 3))
    cubic = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) * 4.4
    slab = np.array([[0.2, 0.1, 3.0], [1.6, 1.3, 4.1], [0.3, 1.7, 5.3]])
    structures = [
        _structure("molecule", [6, 8, 1, 1, 6, 8, 1, 8], molecule),
        _structure("far atoms", [6, 8, 1], [[0, 0, 0], [1.1, 0.2, 0], [40.0, 0, 0]]),
        _structure("isolated carbon", [6], [[0.3, 0.2, 0.1]]),
        _structure("isolated oxygen", [8], [[0.0, 0.0, 0.0]]),
        _structure("cubic", [6, 8, 1, 8], cubic + rng.normal(scale=0.1, size=(4, 3)), np.eye(3) * 4.4, True),
        _structure(
            "triclinic, shorter than the cutoff", [8, 6, 1],
            [[0.1, 0.33, 0.02], [1.5, 2.0, 2.0], [2.9, 2.1, 0.7]],
            [[2.9, 0.0, 0.0], [0.7, 3.3, 0.0], [-0.5, 0.9, 3.6]], True,
        ),
        _structure("one atom in a small cell", [6], [[0, 0, 0]], [[2.1, 0, 0], [0.3, 2.2, 0], [0, 0.4, 2.3]], True),
        _structure("slab", [8, 6, 1], slab, [[3.0, 0, 0], [0.4, 3.1, 0], [0, 0, 20.0]], [True, True, False]),
    ]  # fmt: skip
    return structures


def _structure(name: str, numbers: list[int], positions: Any, cell: Any = None, pbc: Any = False) -> dict[str, Any]:
    cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, float)
    pbc = [pbc] * 3 if isinstance(pbc, bool) else pbc
    return {
        "name": name, "numbers": numbers, "positions": np.round(np.asarray(positions, float), 6).tolist(),
        "cell": cell.tolist(), "pbc": pbc,
    }  # fmt: skip


def read_structures(folder: Path) -> list[dict[str, Any]]:
    """The structures, as they were written once."""
    return json.loads((folder / "structures.json").read_text())


def write_golden(
    folder: Path, name: str, meta: dict[str, Any], weights: dict[str, np.ndarray], results: dict[str, np.ndarray]
) -> None:
    """Writes one configuration.

    Args:
        folder: Where to.
        name: Name of the configuration.
        meta: code, version, e3nn, dtype, options (hyper-parameters as the JSON file of a state dict has them),
            head (or None), versions of the packages.
        weights: The state dict, without constants that are large and can be computed.
        results: energy [S] and interaction [S] in eV, forces [N, 3] in eV/Å, stress [S, 3, 3] in eV/Å³ (NaN where
            the cell is not periodic in three directions), and perhaps features/<t> as the code has them.
    """
    stored = {f"weights/{key}": value for key, value in weights.items()} | results
    meta = {"name": name, **meta}
    path = folder / f"{name}.npz"
    np.savez_compressed(path, meta=np.array(json.dumps(meta)), **stored)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, E = {results['energy'][0]:.6f} eV")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    (target / "structures.json").write_text(json.dumps(make_structures(), indent=1))
