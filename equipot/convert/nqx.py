"""Reading `.nqx` files: a line of JSON, then the arrays of a Nequix model in numpy's own format, one after the other.

Neither JAX nor equinox is needed, and nothing is unpickled.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from equipot.convert.nequix_layout import NequixShape
from equipot.convert.taken import Options
from equipot.errors import EquipotError

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_TYPES = {"float32": torch.float32, "float64": torch.float64}
_LONGEST_HEADER = 10_000_000


def read_nqx(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the header of a `.nqx` file and its arrays by name.

    Raises:
        EquipotError: The header is no JSON, an array is missing, incomplete or of another shape or type than the
            header says, or something else follows the arrays.
    """
    with path.open("rb") as file:
        header = _header(file, path)
        expected = list(NequixShape(Options(header, path.name), path.name).arrays())
        tensors = {}
        for n, (name, shape) in enumerate(expected, start=1):
            array = _array(file, f"{path}, array {n} of {len(expected)} ({name})", shape, tuple(_TYPES))
            tensors[name] = torch.from_numpy(array)
        _end(file, path, header)
    return header, tensors


def _header(file: BinaryIO, path: Path) -> dict[str, Any]:
    line = file.readline(_LONGEST_HEADER)
    try:
        header = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise EquipotError(f"{path} is no .nqx file: its first line must be a JSON object ({error}).") from error
    if not isinstance(header, dict):
        raise EquipotError(f"{path} is no .nqx file: its first line is a {type(header).__name__}, not a JSON object.")
    return header


def _array(file: BinaryIO, what: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> np.ndarray:
    """The next array of the file, which must be of this shape and of one of these types."""
    try:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version} of numpy's format")
        found, by_columns, dtype = _HEADERS[version](file)
    except (ValueError, EOFError, SyntaxError) as error:
        raise EquipotError(
            f"{what} cannot be read ({error}). The file is incomplete or damaged, or its header belongs to another "
            "model: copy it again."
        ) from error
    if found != shape or dtype.name not in dtypes:
        raise EquipotError(
            f"{what} is {dtype.name} of shape {list(found)}, but must be {' or '.join(dtypes)} of shape {list(shape)}. "
            "The arrays belong to other hyper-parameters than the header."
        )
    count = math.prod(shape)
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise EquipotError(f"{what} ends after {len(data)} of {count * dtype.itemsize} bytes: copy the file again.")
    values = np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")
    return np.ascontiguousarray(values, dtype.newbyteorder("=")).reshape(shape).copy()


def _end(file: BinaryIO, path: Path, header: dict[str, Any]) -> None:
    """The end of the file; released models have a line break there, or the numbers of the header once more."""
    start = file.tell()
    size = file.seek(0, 2) - start
    file.seek(start)
    if size == 0 or (size == 1 and file.read(1) == b"\n"):
        return
    file.seek(start)
    try:
        repeated = [_array(file, "", (), ("float64", "int64", "bool")).item() for _ in _numbers(header)]
    except EquipotError:
        repeated = []
    if repeated != list(_numbers(header)) or file.read(1):
        raise EquipotError(
            f"{path}: {size} bytes follow the arrays that the header names. The model has parts that equipot does not "
            "know, so it is not converted."
        )


def _numbers(value: Any) -> Iterator[bool | int | float]:
    """The numbers in a JSON value, in the order of a JAX tree: keys sorted, texts left out."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _numbers(value[key])
    elif isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, (bool, int, float)):
        yield value
