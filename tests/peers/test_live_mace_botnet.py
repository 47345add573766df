"""mace-torch and BOTNet's code themselves beside the converted models, with weights drawn anew.

Slow, and skipped unless EQUIPOT_PEER_MACE names the python of an environment with mace-torch (EQUIPOT_PEER_BOTNET one
with e3nn, and EQUIPOT_BOTNET_SOURCE the code of github.com/gncs/botnet).
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from equipot.convert import CONVERTERS, convert_model
from equipot.errors import EquipotError

from .golden import FOLDER, RELATIVE_ENERGY, STRESS, errors, force_limit, predict, read_golden

MACE, BOTNET = os.environ.get("EQUIPOT_PEER_MACE", ""), os.environ.get("EQUIPOT_PEER_BOTNET", "")
SOURCE = os.environ.get("EQUIPOT_BOTNET_SOURCE", "")
SCRIPTS = Path(__file__).parents[2] / "scripts" / "goldens"
EXPORT_MACE = Path(__file__).parents[2] / "equipot" / "convert" / "export" / "export_mace.py"

pytestmark = pytest.mark.slow
needs_mace = pytest.mark.skipif(not MACE, reason="EQUIPOT_PEER_MACE does not name a python with mace-torch")
needs_botnet = pytest.mark.skipif(not (BOTNET and SOURCE), reason="EQUIPOT_PEER_BOTNET, EQUIPOT_BOTNET_SOURCE missing")
SAVE = """
import sys, torch
sys.path[:0] = [sys.argv[1]]
import make_mace
torch.set_default_dtype(torch.float64)
torch.save(make_mace.build({}, 5), sys.argv[2])
"""


def run(python: str, *arguments: str, seed: int = 1) -> None:
    environment = {**os.environ, "GOLDEN_SEED": str(seed), "PYTHONPATH": ""}
    subprocess.run([python, *arguments], check=True, capture_output=True, timeout=3000, env=environment)


def compare(folder: Path, *, left_out: str = "float32") -> int:
    """Converts what a golden script wrote, and returns how many configurations there are."""
    files = [path for path in sorted(folder.glob("*.npz")) if left_out not in path.stem]
    for path in files:
        golden = read_golden(path)
        found = errors(predict(CONVERTERS[golden.source.code](golden.source, golden.meta["head"])), golden)
        print(f"{path.stem:36s} " + "  ".join(f"{name} {value:.1e}" for name, value in found.items()))
        assert found["energy"] <= RELATIVE_ENERGY, (path.stem, found)
        assert found["forces"] <= force_limit(golden), (path.stem, found)
        assert found["stress"] <= STRESS, (path.stem, found)
    return len(files)


@needs_mace
def test_mace_with_new_weights(tmp_path):
    shutil.copy(FOLDER / "structures.json", tmp_path)
    run(MACE, str(SCRIPTS / "make_mace.py"), str(tmp_path))
    assert compare(tmp_path) >= 26


@needs_botnet
def test_botnet_with_new_weights(tmp_path):
    shutil.copy(FOLDER / "structures.json", tmp_path)
    run(BOTNET, str(SCRIPTS / "make_botnet.py"), SOURCE, str(tmp_path))
    assert compare(tmp_path) >= 2


@needs_mace
def test_a_pickled_model_goes_through_the_exporter(tmp_path):
    """What mace-torch saves is refused without consent, and read after its own environment wrote plain weights."""
    run(MACE, "-c", SAVE, str(SCRIPTS), str(tmp_path / "MACE.model"))
    with pytest.raises(EquipotError, match="--trust-pickle"):
        convert_model(tmp_path / "MACE.model")
    run(MACE, str(EXPORT_MACE), str(tmp_path / "MACE.model"), str(tmp_path / "weights.pt"))
    potential = convert_model(tmp_path / "weights.pt").potential
    assert potential.design.layers == 2
