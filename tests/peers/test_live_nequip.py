"""nequip itself beside the converted models, where it is installed.

Slow, and skipped unless EQUIPOT_PEER_NEQUIP names the python of an environment with nequip ≥ 0.16.
"""

import os
import shutil
import subprocess
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from equipot.convert import convert_model
from equipot.convert.nequip import potential_of
from equipot.deploy import EquipotCalculator

from .golden import FOLDER, FORCE, RELATIVE_ENERGY, STRESS, errors, predict, read_golden, structures

PEER = os.environ.get("EQUIPOT_PEER_NEQUIP", "")
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "goldens" / "make_nequip.py"
EXPORT = ROOT / "equipot" / "convert" / "export" / "export_nequip.py"
NAMES = ("nequip_both_parities", "nequip_per_type", "nequip_zbl", "nequip_readout_mlp", "nequip_preset_S")
CONFIG = """
run: [train]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  train_file_path: [data.xyz]
  val_file_path: [data.xyz]
  transforms:
    - {_target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper, model_type_names: [O, C, H]}
    - {_target_: nequip.data.transforms.NeighborListTransform, r_max: 4.0}
  train_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 2}
  val_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 2}
trainer:
  _target_: lightning.Trainer
  accelerator: cpu
  max_epochs: 2
  logger: false
  enable_progress_bar: false
  callbacks: [{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: out, save_last: true}]
training_module:
  _target_: nequip.train.EMALightningModule
  ema_decay: 0.9
  loss: {_target_: nequip.train.EnergyForceLoss, coeffs: {total_energy: 1.0, forces: 1.0}}
  val_metrics: {_target_: nequip.train.EnergyForceMetrics, coeffs: {total_energy_mae: 1.0, forces_mae: 1.0}}
  optimizer: {_target_: torch.optim.Adam, lr: 0.05}
  model:
    _target_: nequip.model.NequIPGNNModel
    seed: 4
    model_dtype: float64
    type_names: [O, C, H]
    r_max: 4.0
    num_layers: 3
    l_max: 2
    num_features: 4
    radial_mlp_width: 8
    bessel_trainable: true
    avg_num_neighbors: {O: 3.0, C: 4.0, H: 2.0}
    per_type_energy_scales: 1.0
    per_type_energy_shifts: {O: -3.0, C: -2.0, H: -1.0}
    per_type_energy_scales_trainable: true
    pair_potential: {_target_: nequip.nn.pair_potential.ZBL, units: metal, chemical_species: [O, C, H]}
"""
PREDICT = """
import sys, ase.io, numpy as np
from nequip.integrations.ase import NequIPCalculator
calculator = NequIPCalculator._from_saved_model(sys.argv[1], chemical_species_to_atom_type_map={s: s for s in "OCH"})
E, F = [], []
for atoms in ase.io.read("data.xyz", ":"):
    atoms.calc = calculator
    E.append(atoms.get_potential_energy())
    F.append(atoms.get_forces())
np.savez("theirs.npz", E=E, F=np.concatenate(F))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PEER, reason="EQUIPOT_PEER_NEQUIP does not name a python with nequip"),
]


def run(folder: Path, *command: str) -> None:
    subprocess.run([PEER, *command], cwd=folder, check=True, capture_output=True, timeout=900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("nequip")
    shutil.copy(FOLDER / "structures.json", made)
    run(made, str(SCRIPT), str(made), *NAMES)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_nequip_gives_now_what_the_converted_model_does(folder, name):
    golden = read_golden(folder / f"{name}.npz")
    found = errors(predict(potential_of(golden.source)), golden)
    assert found["energy"] <= RELATIVE_ENERGY, found
    assert max(found["forces"], found["stress"]) <= min(FORCE, STRESS), found


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A true training of two epochs with averaged weights, its package, and what nequip's calculator says of it."""
    made = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(6):
        atoms = ase.Atoms(structures()[0].numbers, positions=structures()[0].positions + rng.normal(0, 0.05, (8, 3)))
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(-15), forces=rng.normal(0, 1, (8, 3)))
        frames.append(atoms)
    ase.io.write(made / "data.xyz", frames)
    (made / "conf.yaml").write_text(CONFIG)
    run(made, "-m", "nequip.scripts.train", "-cp", str(made), "-cn", "conf", f"hydra.run.dir={made}/hydra")
    shutil.move(next(made.rglob("last.ckpt")), made / "last.ckpt")
    run(made, "-m", "nequip.scripts.package", "build", "last.ckpt", "model.nequip.zip")
    (made / "predict.py").write_text(PREDICT)
    run(made, "predict.py", "last.ckpt")
    run(made, str(EXPORT), "last.ckpt", "weights.pt")
    return made


@pytest.mark.parametrize("name", ["last.ckpt", "weights.pt", "model.nequip.zip"])
def test_a_trained_model_gives_what_nequips_calculator_does(trained, name):
    converted = convert_model(trained / name, trust_pickle=name.endswith(".zip"))
    E, F = [], []
    for atoms in ase.io.read(trained / "data.xyz", ":"):
        atoms.calc = EquipotCalculator(converted.potential)
        E.append(atoms.get_potential_energy())
        F.append(atoms.get_forces())
    with np.load(trained / "theirs.npz") as theirs:
        assert np.abs(np.array(E) - theirs["E"]).max() < 1e-10
        assert np.abs(np.concatenate(F) - theirs["F"]).max() < 1e-9
        assert np.abs(theirs["F"]).max() > 0.1
