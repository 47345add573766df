"""mace-torch itself beside the converted models, where it is installed.

Slow, and skipped unless EQUIPOT_PEER_MACE names the python of an environment with mace-torch.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from equipot.convert.mace import potential_of

from .golden import FOLDER, FORCE, RELATIVE_ENERGY, STRESS, errors, predict, read_golden

PEER = os.environ.get("EQUIPOT_PEER_MACE", "")
SCRIPT = Path(__file__).parents[2] / "scripts" / "goldens" / "make_mace.py"
NAMES = (
    "mace_L1", "mace_first_not_residual", "mace_three_layers", "mace_density_first", "mace_edge_irreps",
    "mace_nonlinear", "mace_nonlinear_L0", "mace_nonlinear_later", "mace_nonlinear_after_residual",
    "mace_nonlinear_edge_irreps", "mace_nonlinear_heads", "mace_nonlinear_elements_unordered",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PEER, reason="EQUIPOT_PEER_MACE does not name a python with mace-torch"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("mace")
    shutil.copy(FOLDER / "structures.json", made)
    subprocess.run([PEER, str(SCRIPT), str(made), *NAMES], check=True, capture_output=True, timeout=1800)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_mace_torch_gives_now_what_the_converted_model_does(folder, name):
    golden = read_golden(folder / f"{name}.npz")
    found = errors(predict(potential_of(golden.source, golden.meta.get("head"))), golden)
    assert found["energy"] <= RELATIVE_ENERGY, found
    assert max(found["forces"], found["stress"]) <= min(FORCE, STRESS), found
