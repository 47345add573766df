"""From a path to ASE structures: anything that ASE reads, compressed or not, with errors that say where."""

import bz2
import difflib
import gzip
import lzma
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.db
import ase.io
from ase.io.extxyz import key_val_str_to_dict
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

from equipot.errors import EquipotError

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

_MATRIX_KEY = re.compile(r"(?<![\w-])(stress|virial)(?=\s*=)")
MATRIX_SUFFIX = "_as_written"
"""Added to `stress` and `virial` in extended XYZ, because ASE's parser refuses them unless they are nine numbers."""

FORMATS = "extended XYZ (.xyz, .extxyz), ASE .traj/.db/.json, VASP OUTCAR/vasprun.xml and all others that ASE reads"


@dataclass(frozen=True)
class RawFile:
    """What a file held.

    Attributes:
        path: As the user gave it.
        format: ASE's name of the format.
        structures: Every structure in it.
        warnings: What ASE warned of.
    """

    path: str
    format: str
    structures: tuple[ase.Atoms, ...]
    warnings: tuple[str, ...]


def read_structures(path: str | Path) -> RawFile:
    """Returns every structure of a file, with the labels as ASE reads them.

    Args:
        path: The file; its format is recognised from its name and content, and .gz, .bz2, .xz are decompressed.

    Raises:
        EquipotError: No such file, empty, of no known format, or damaged (with line or frame).
    """
    path = str(path)
    _check_exists(path)
    with _decompressed(path) as plain:
        form = _format(path, plain)
        if form == "extxyz":
            _check_xyz(path, plain)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            structures = tuple(_structures(path, plain, form))
    if not structures:
        raise EquipotError(f"{path} ({form}) holds no structures. Write structures with labels to it.")
    messages = dict.fromkeys(str(w.message) for w in caught if not issubclass(w.category, ResourceWarning))
    return RawFile(path, form, structures, tuple(f"{path}: ASE says: {message}" for message in messages))


def _check_exists(path: str) -> None:
    file = Path(path)
    if file.is_dir():
        raise EquipotError(f"{path} is a folder; give a file of structures{_listing(file)}.")
    if file.is_file():
        if file.stat().st_size == 0:
            raise EquipotError(f"{path} is empty (0 bytes). Write structures with labels to it: {FORMATS}.")
        if not os.access(file, os.R_OK):
            raise EquipotError(f"{path} may not be read (its permissions). Allow reading, or copy it.")
        return
    if not file.parent.is_dir():
        raise EquipotError(f"{path} does not exist: there is no folder {file.parent}.")
    near = difflib.get_close_matches(file.name, [p.name for p in file.parent.iterdir()], n=1, cutoff=0.5)
    hint = (
        f" Did you mean {file.parent / near[0]}?" if near else f" The folder {file.parent.resolve()} has no such file."
    )
    raise EquipotError(f"{path} does not exist.{hint}")


def _listing(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return f", such as {', '.join(str(folder / name) for name in names[:3])}" if names else ""


@contextmanager
def _decompressed(path: str) -> Iterator[str]:
    """Yields the path of a plain file: the file itself, or a temporary copy without compression."""
    opener = _OPENERS.get(Path(path).suffix.lower())
    if opener is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="equipot-") as folder:
        plain = Path(folder) / Path(path).stem
        try:
            with opener(path, "rb") as source, open(plain, "wb") as target:
                shutil.copyfileobj(source, target)
        except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
            raise EquipotError(
                f"{path} cannot be decompressed ({error}); it is truncated or not what its suffix says. "
                "Copy or compress it again."
            ) from None
        if plain.stat().st_size == 0:
            raise EquipotError(f"{path} is empty (0 bytes after decompression). Write structures with labels to it.")
        yield str(plain)


def _format(path: str, plain: str) -> str:
    try:
        form = filetype(plain)
    except UnknownFileTypeError:
        form = ""
    if form in ioformats:
        return form
    with open(plain, "rb") as stream:
        if stream.readline().strip().isdigit():
            return "extxyz"
    raise EquipotError(f"{path} has no format that can be recognised. Readable: {FORMATS}.")


def _check_xyz(path: str, plain: str) -> None:
    """Raises where an XYZ file is malformed; ASE itself stops without a word at the first blank line."""
    with open(plain, encoding="utf-8", errors="replace") as stream:
        number, frame, header = 1, 0, stream.readline()
        while header.strip():
            if header.lstrip().startswith("VEC") and frame:
                number, header = number + 1, stream.readline()
                continue
            if not header.strip().isdigit():
                raise EquipotError(_bad_header(path, number, frame, header))
            count = int(header)
            if sum(1 for _ in range(count + 1) if stream.readline()) < count + 1:
                raise EquipotError(
                    f"{path}, frame {frame}: line {number} announces {count} atoms, but the file ends before the last "
                    "of them. The file is cut off: copy it again, or remove the last frame."
                )
            number, frame, header = number + count + 2, frame + 1, stream.readline()
        if any(line.strip() for line in stream):
            raise EquipotError(
                f"{path}, line {number} is blank, between frames; readers take that for the end of the file and the "
                "frames behind it would be lost. Remove blank lines between frames (a blank comment line is allowed)."
            )


def _bad_header(path: str, number: int, frame: int, line: str) -> str:
    previous = f"frame {frame - 1} has more or fewer lines than its number of atoms says" if frame else "not XYZ"
    return (
        f"{path}, line {number}: frame {frame} should begin here with its number of atoms, but the line is "
        f"'{line.strip()[:60]}' ({previous}). Correct the number of atoms, or the lines."
    )


def _structures(path: str, plain: str, form: str) -> Iterator[ase.Atoms]:
    done = 0
    try:
        for atoms in _reader(plain, form):
            yield atoms
            done += 1
    except Exception as error:  # ASE's readers raise whatever a damaged file makes them raise
        reason = str(error) or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"unknown chemical symbol or key {reason}"
        raise EquipotError(
            f"{path}, frame {done}: cannot be read as {form}: {reason}. Correct the frame, or convert the file to "
            "extended XYZ."
        ) from None


def _reader(plain: str, form: str) -> Iterator[ase.Atoms]:
    if form in ("db", "json"):
        yield from _database(plain, form)
    elif form == "extxyz":
        yield from ase.io.iread(
            plain, ":", format=form, do_not_split_by_at_sign=True, properties_parser=_comment_of_xyz
        )
    else:
        yield from ase.io.iread(plain, ":", format=form, do_not_split_by_at_sign=True)


def _database(plain: str, form: str) -> Iterator[ase.Atoms]:
    """Rows of an ASE database with their key-value pairs, which hold labels more often than not."""
    with ase.db.connect(plain, type=form, serial=True) as database:
        for row in database.select():
            atoms = row.toatoms()
            atoms.info.update({**row.data, **row.key_value_pairs})
            yield atoms


def _comment_of_xyz(line: str) -> dict:
    """ASE's parser of comment lines, but with a stress or virial of any length."""
    return key_val_str_to_dict(_MATRIX_KEY.sub(rf"\1{MATRIX_SUFFIX}", line))
