"""The one-particle basis's operators on the CPU; sizes are taken at run time, the code is compiled once per width."""

import ctypes
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from equipot.kernels.coupled import CoupledProduct
from equipot.kernels.cpu.compiler import Target, load, target_or_error
from equipot.kernels.cpu.product import width
from equipot.kernels.cpu.source import num_threads, scalar
from equipot.kernels.operators.atomic_basis import LIBRARY

HEADER = Path(__file__).with_name("atomic_basis.h")


def source(dtype: torch.dtype, lanes: int) -> str:
    """Returns the C++ for numbers of this type and vectors of so many lanes."""
    return f"typedef {scalar(dtype)} T;\nenum {{ W = {lanes} }};\n{HEADER.read_text(encoding='utf-8')}"


def sources(key: str, dtype: torch.dtype, here: Target, training: bool) -> list[str]:
    """Returns the source that a run needs."""
    return [source(dtype, width(CoupledProduct.from_key(key).num_radial, here.lanes(dtype)))]


@lru_cache(maxsize=64)
def _library(dtype: torch.dtype, num_radial: int) -> ctypes.CDLL:
    library = load(source(dtype, width(max(num_radial, 1), target_or_error().lanes(dtype))))
    for function in (library.basis, library.radial, library.angular):
        function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 4 + [ctypes.c_int]
        function.restype = None
    return library


def _run(name: str, inputs: tuple[Tensor, Tensor], edges: tuple[Tensor, Tensor], out: Tensor, sizes: tuple) -> Tensor:
    """Calls the code with sizes (elements, lm, n), after a look at the shapes: it would read whatever lies there."""
    species, starts = (x.contiguous() for x in edges)
    first, second = (x.contiguous() for x in inputs)
    num_species, num_lm, num_n = sizes
    nodes, dim = starts.shape[0] - 1, num_species * num_lm * num_n
    shapes = {"A": (nodes, dim), "R": (species.shape[0], num_n), "Y": (species.shape[0], num_lm)}
    wanted = {"basis": "RYA", "radial": "AYR", "angular": "ARY"}[name]
    if [tuple(x.shape) for x in (first, second, out)] != [shapes[x] for x in wanted]:
        found = tuple(first.shape), tuple(second.shape)
        raise ValueError(
            f"operands of the one-particle basis have shapes {found}; the result needs {tuple(out.shape)}."
        )
    getattr(_library(out.dtype, num_n), name)(
        first.data_ptr(), second.data_ptr(), species.data_ptr(), starts.data_ptr(), out.data_ptr(), nodes, *sizes,
        num_threads(max(species.shape[0] * num_lm * num_n // 4, nodes * dim // 4)),
    )  # fmt: skip
    return out


@torch.library.impl("equipot::atomic_basis", "CPU", lib=LIBRARY)
def atomic_basis(R: Tensor, Y: Tensor, species: Tensor, starts: Tensor, num_species: int) -> Tensor:
    """Returns A [owned, dim]; see `kernels.operators.atomic_basis`."""
    sizes = (num_species, Y.shape[1], R.shape[1])
    A = R.new_empty((starts.shape[0] - 1, num_species * Y.shape[1] * R.shape[1]))
    return _run("basis", (R, Y), (species, starts), A, sizes)


@torch.library.impl("equipot::atomic_basis_radial", "CPU", lib=LIBRARY)
def atomic_basis_radial(gA: Tensor, Y: Tensor, species: Tensor, starts: Tensor, num_species: int) -> Tensor:
    """Returns gR [edge, n]; see `kernels.operators.atomic_basis`."""
    num_n = gA.shape[1] // (num_species * Y.shape[1])
    sizes = (num_species, Y.shape[1], num_n)
    return _run("radial", (gA, Y), (species, starts), Y.new_empty((Y.shape[0], num_n)), sizes)


@torch.library.impl("equipot::atomic_basis_angular", "CPU", lib=LIBRARY)
def atomic_basis_angular(gA: Tensor, R: Tensor, species: Tensor, starts: Tensor, num_species: int) -> Tensor:
    """Returns gY [edge, lm]; see `kernels.operators.atomic_basis`."""
    num_lm = gA.shape[1] // (num_species * R.shape[1])
    sizes = (num_species, num_lm, R.shape[1])
    return _run("angular", (gA, R), (species, starts), R.new_empty((R.shape[0], num_lm)), sizes)
