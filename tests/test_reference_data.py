"""The data sets of the examples: the committed files, and their labels against a fresh calculation."""

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import ase.io
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
MOLECULE = ROOT / "examples" / "xtb_3bpa"
CRYSTAL = ROOT / "examples" / "xtb_periodic"
SCRIPT = ROOT / "scripts" / "make_reference_data.py"
COUNTS = {
    MOLECULE / "train_300K.xyz.gz": 500,
    MOLECULE / "valid_300K.xyz.gz": 50,
    MOLECULE / "test_300K.xyz.gz": 300,
    MOLECULE / "test_600K.xyz.gz": 300,
    MOLECULE / "test_1200K.xyz.gz": 300,
    MOLECULE / "dihedral_scan.xyz.gz": 108,
    CRYSTAL / "train.xyz.gz": 60,
    CRYSTAL / "valid.xyz.gz": 10,
    CRYSTAL / "test.xyz.gz": 20,
}
DIHEDRALS = {"alpha": (13, 8, 7, 6), "beta": (8, 7, 6, 3), "gamma": (7, 6, 3, 2)}


@cache
def read(path):
    return ase.io.read(path, index=":", format="extxyz")


def energies(frames):
    return np.array([frame.info["REF_energy"] for frame in frames])


def force_rms(frames):
    return np.sqrt(np.mean(np.concatenate([frame.arrays["REF_forces"] for frame in frames]) ** 2))


def run_script(*arguments):
    pytest.importorskip("tblite")
    pytest.importorskip("rdkit")
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("path", COUNTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_files_hold_complete_labels(path):
    frames = read(path)
    assert len(frames) == COUNTS[path]
    assert len({str(frame.symbols) for frame in frames}) == 1
    isolated = {str(atom.symbols): atom.info["REF_energy"] for atom in read(path.parent / "isolated_atoms.xyz.gz")}
    for frame in frames:
        forces = frame.arrays["REF_forces"]
        assert forces.shape == (len(frame), 3)
        np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-5 * len(frame))
        binding = frame.info["REF_energy"] - sum(isolated[symbol] for symbol in frame.symbols)
        assert -9.0 < binding / len(frame) < -5.0


@pytest.mark.parametrize("folder", [MOLECULE, CRYSTAL], ids=lambda folder: folder.name)
def test_checksums_are_those_of_the_provenance(folder):
    expected = json.loads((folder / "provenance.json").read_text())["sha256_of_uncompressed_files"]
    files = {path.name: path.read_bytes() for path in folder.glob("*.xyz.gz")}
    found = {name: hashlib.sha256(gzip.decompress(content)).hexdigest() for name, content in files.items()}
    assert found == expected


def test_data_stay_small():
    files = [path for folder in (MOLECULE, CRYSTAL) for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < 3_000_000


def test_labels_of_molecules_are_invariant_to_rotation():
    for frame in read(MOLECULE / "test_1200K.xyz.gz"):
        torque = np.cross(frame.positions, frame.arrays["REF_forces"]).sum(axis=0)
        np.testing.assert_allclose(torque, 0.0, atol=2e-3)


def test_temperature_sets_energy_and_forces():
    """In a harmonic solid both <E> - E_min and <F²> are proportional to T; molecules are nearly so."""
    frames = {T: read(MOLECULE / f"test_{T}K.xyz.gz") for T in (300, 600, 1200)}
    minimum = energies(read(MOLECULE / "dihedral_scan.xyz.gz")).min()
    boltzmann = 8.617333e-5
    for temperature, sampled in frames.items():
        assert {frame.info["config_type"] for frame in sampled} == {f"{temperature}K"}
        equipartition = (3 * 27 - 6) / 2 * boltzmann * temperature
        assert energies(sampled).mean() - minimum == pytest.approx(equipartition, rel=0.15)
    rms = {temperature: force_rms(sampled) for temperature, sampled in frames.items()}
    assert rms[600] / rms[300] == pytest.approx(np.sqrt(2.0), rel=0.1)
    assert rms[1200] / rms[300] == pytest.approx(2.0, rel=0.1)


def test_training_and_test_come_from_different_trajectories():
    names = ("train_300K", "valid_300K", "test_300K", "test_600K", "test_1200K")
    trajectories = [{frame.info["trajectory"] for frame in read(MOLECULE / f"{name}.xyz.gz")} for name in names]
    assert sum(map(len, trajectories)) == len(set().union(*trajectories)) == 60
    assert force_rms(read(MOLECULE / "train_300K.xyz.gz")) == pytest.approx(
        force_rms(read(MOLECULE / "test_300K.xyz.gz")), rel=0.05
    )


def test_scan_is_of_the_stated_dihedrals():
    frames = read(MOLECULE / "dihedral_scan.xyz.gz")
    planes = {(frame.info["plane"], frame.info["alpha"], frame.info["beta"]) for frame in frames}
    assert planes == {(0, 71, 120), (1, 67, 150), (2, 151, 180)}
    for frame in frames:
        assert frame.info["config_type"] == "dihedral"
        for name, indices in DIHEDRALS.items():
            difference = frame.get_dihedral(*indices) - frame.info[name]
            assert abs((difference + 180.0) % 360.0 - 180.0) < 0.02


def test_scan_has_the_twofold_symmetry_of_the_phenyl_ring():
    frames = read(MOLECULE / "dihedral_scan.xyz.gz")
    values = energies(frames).reshape(3, 36)
    np.testing.assert_allclose(values[:, :18], values[:, 18:], atol=3e-3)


def test_stress_is_symmetric_and_resists_compression():
    frames = read(CRYSTAL / "train.xyz.gz")
    stress = np.array([frame.info["REF_stress"] for frame in frames]).reshape(-1, 3, 3)
    np.testing.assert_allclose(stress, np.swapaxes(stress, 1, 2), atol=1e-8)
    volumes = [frame.get_volume() for frame in frames]
    assert np.corrcoef(volumes, np.trace(stress, axis1=1, axis2=2))[0, 1] > 0.3
    assert all(np.abs(frame.cell.array - frame.cell.array.T).max() > 0.1 for frame in frames)


@pytest.mark.parametrize(("name", "folder"), [("3bpa", MOLECULE), ("periodic", CRYSTAL)])
def test_labels_are_reproduced(name, folder):
    result = run_script("--set", name, "--out", folder, "--verify", 3)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "everything agrees" in result.stdout


def test_verification_notices_wrong_labels(tmp_path):
    for path in CRYSTAL.iterdir():
        shutil.copy(path, tmp_path)
    wrong = tmp_path / "train.xyz.gz"
    text = gzip.decompress(wrong.read_bytes()).decode()
    wrong.write_bytes(gzip.compress(re.sub(r'REF_stress="(\S+)', 'REF_stress="0.5', text).encode()))
    result = run_script("--set", "periodic", "--out", tmp_path, "--verify", 3)
    assert result.returncode == 1
    assert "stress differs" in result.stdout
    assert "train.xyz.gz: its checksum" in result.stdout


def test_crystals_are_recomputed_from_the_seed(tmp_path):
    result = run_script("--set", "periodic", "--out", tmp_path, "--quick")
    assert result.returncode == 0, result.stderr
    for name in ("train", "valid", "test"):
        fresh, committed = read(tmp_path / f"{name}.xyz.gz"), read(CRYSTAL / f"{name}.xyz.gz")
        for new, old in zip(fresh, committed, strict=False):
            np.testing.assert_allclose(new.positions, old.positions, atol=1.01e-4)
            np.testing.assert_allclose(new.cell.array, old.cell.array, atol=1.01e-4)
