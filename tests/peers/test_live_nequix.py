"""Nequix itself beside the converted models, where it is installed.

Slow, and skipped unless EQUIPOT_PEER_NEQUIX names the python of an environment with nequix. EQUIPOT_NEQUIX_MODELS may
list `.nqx` files, such as the released models, separated as in PATH.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.spacegroup import crystal

from equipot.convert import convert_model
from equipot.convert.nequix import potential_of
from equipot.geometry import batch_graphs, evaluate, graph_from_atoms

from .golden import FOLDER, FORCE, RELATIVE_ENERGY, SINGLE, STRESS, errors, predict, read_golden

PEER = os.environ.get("EQUIPOT_PEER_NEQUIX", "")
MODELS = [Path(path) for path in os.environ.get("EQUIPOT_NEQUIX_MODELS", "").split(os.pathsep) if path]
SCRIPT = Path(__file__).parents[2] / "scripts" / "goldens" / "make_nequix.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PEER, reason="EQUIPOT_PEER_NEQUIX does not name a python with nequix"),
]


def run_peer(folder: Path, *names: str) -> None:
    subprocess.run([PEER, str(SCRIPT), str(folder), *names], check=True, capture_output=True, timeout=1800)


@pytest.mark.parametrize("name", ["nequix", "nequix_indexed_norm", "nequix_L3"])
def test_nequix_gives_now_what_its_golden_results_say(tmp_path, name):
    shutil.copy(FOLDER / "structures.json", tmp_path)
    run_peer(tmp_path, name)
    golden = read_golden(tmp_path / f"{name}.npz")
    found = errors(predict(potential_of(golden.source, None)), golden)
    assert found["energy"] <= RELATIVE_ENERGY, found
    assert max(found["forces"], found["stress"]) <= min(FORCE, STRESS), found


def solids_and_water() -> dict[str, ase.Atoms]:
    """Strained and rattled, so that every force and stress component is there."""
    rutile = crystal(
        ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
    )
    made = {
        "NaCl": bulk("NaCl", "rocksalt", a=5.64, cubic=True), "Si": bulk("Si", "diamond", a=5.43),
        "Cu": bulk("Cu", "fcc", a=3.61, cubic=True), "TiO2": rutile, "H2O": molecule("H2O"),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    for atoms in made.values():
        if atoms.pbc.all():
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.01, size=(3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.06, size=atoms.positions.shape)
    return made


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_released_models_are_the_same_function(tmp_path, path):
    listed = solids_and_water()
    described = [
        {"name": name, "numbers": a.numbers.tolist(), "positions": a.positions.tolist(), "cell": a.cell.tolist(),
         "pbc": a.pbc.tolist()}
        for name, a in listed.items()
    ]  # fmt: skip
    (tmp_path / "structures.json").write_text(json.dumps(described))
    run_peer(tmp_path, str(path))
    for dtype in ("float64", "float32"):
        potential = convert_model(path, dtype=dtype).potential
        graph = batch_graphs([graph_from_atoms(atoms, potential.r_max) for atoms in listed.values()])
        prediction, golden = evaluate(potential, graph), read_golden(tmp_path / f"{path.stem}_{dtype}.npz")
        if dtype == "float64":
            found = errors(prediction, golden)
            assert found["energy"] <= RELATIVE_ENERGY, found
            assert max(found["forces"], found["stress"]) <= min(FORCE, STRESS), found
        else:
            for what in ("energy", "forces", "stress"):
                expected = golden.result(what)
                difference = (getattr(prediction, what) - expected).nan_to_num().abs().max()
                assert difference <= SINGLE * expected.nan_to_num().abs().max(), what
