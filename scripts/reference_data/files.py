"""Compressed extended XYZ whose bytes depend on nothing but the data, and its provenance."""

import gzip
import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

DECIMALS = {"energy": 8, "forces": 5, "stress": 9}
"""Decimals kept of REF_energy (eV), REF_forces (eV/Å) and REF_stress (eV/Å³)."""


def write_frames(path: Path, frames: list[Atoms]) -> None:
    """Write labelled structures as gzip-compressed extended XYZ, without time stamp or file name inside."""
    text = "".join(_frame_text(frame) for frame in frames)
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as stream:
        stream.write(text.encode())


def read_frames(path: Path) -> list[Atoms]:
    """Read every structure of a file that `write_frames` wrote."""
    return ase.io.read(path, index=":", format="extxyz")


def sha256(path: Path) -> str:
    """Checksum of the uncompressed text of a file (compression may differ between versions of zlib)."""
    return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()


def write_provenance(folder: Path, facts: dict) -> None:
    """Write `provenance.json`: versions, protocol, counts and checksums; it bears no date."""
    names = ("ase", "numpy", "rdkit", "tblite")
    files = sorted(folder.glob("*.xyz.gz"))
    document = {
        **facts,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "sha256_of_uncompressed_files": {file.name: sha256(file) for file in files},
    }
    (folder / "provenance.json").write_text(json.dumps(document, indent=1) + "\n")


def _frame_text(frame: Atoms) -> str:
    """One structure as extended XYZ."""
    rows = zip(frame.get_chemical_symbols(), frame.positions, frame.arrays["REF_forces"], strict=True)
    lines = [str(len(frame)), _comment(frame)]
    for symbol, position, force in rows:
        lines.append(f"{symbol} {_numbers(position, 4)} {_numbers(force, DECIMALS['forces'])}")
    return "\n".join(lines) + "\n"


def _comment(frame: Atoms) -> str:
    """The comment line: lattice, columns, labels and whatever else is known of a structure."""
    info = dict(frame.info)
    periodic = bool(frame.pbc.all())
    words = [f'Lattice="{_numbers(frame.cell.array.reshape(9), 4)}"'] if periodic else []
    words += ["Properties=species:S:1:pos:R:3:REF_forces:R:3"]
    words += [f"REF_energy={info.pop('REF_energy'):.{DECIMALS['energy']}f}"]
    if periodic:
        words += [f'REF_stress="{_numbers(info.pop("REF_stress"), DECIMALS["stress"])}"']
    words += [f"{key}={value}" for key, value in info.items()]
    words += [f'pbc="{"T T T" if periodic else "F F F"}"']
    return " ".join(words)


def _numbers(values: np.ndarray, decimals: int) -> str:
    """Numbers with a fixed count of decimals and no negative zero."""
    return " ".join(f"{value:.{decimals}f}" for value in np.round(values, decimals) + 0.0)
