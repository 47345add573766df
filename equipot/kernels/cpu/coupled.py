"""The operators of linear ACE's functions on the CPU: tables for the code, memory for the results, and calls.

The code takes the program as tables, so it is compiled once per dtype.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equipot.kernels.coupled import CoupledProduct
from equipot.kernels.cpu.compiler import Target, load, target_or_error
from equipot.kernels.cpu.source import address, num_threads, scalar
from equipot.kernels.operators.coupled import LIBRARY

HEADER = Path(__file__).with_name("coupled.h")
WORK_PER_PAIR = 2
"""Work for each pair of an atom, against that for a value of other operations."""
_NUMBERS = ("dim", "slots", "pairs", "heads", "functions")
_ARRAYS = ("starts", "a", "b", "c", "head", "first", "mate", "rows", "left", "right", "value")


def source(dtype: torch.dtype, here: Target) -> str:
    """Returns the C++ for numbers of this type."""
    return f"typedef {scalar(dtype)} T;\nenum {{ W = {here.lanes(dtype)} }};\n{HEADER.read_text(encoding='utf-8')}"


def sources(key: str, dtype: torch.dtype, here: Target, training: bool) -> list[str]:
    """Returns the source that a run needs: the same for all descriptions."""
    return [source(dtype, here)]


class _Program(ctypes.Structure):
    """`Program` of the code."""

    _fields_ = [(name, ctypes.c_int64) for name in _NUMBERS] + [(name, ctypes.c_void_p) for name in _ARRAYS]


class Tables:
    """The program of a description as the code reads it.

    Attributes:
        program: Address of the structure.
    """

    def __init__(self, description: CoupledProduct, dtype: torch.dtype, lanes: int) -> None:
        p = description.program
        heads, first = np.unique(p.pair_a, return_index=True)
        made = np.arange(description.dim, p.num_slots + 1)
        self.dim, self.num_pairs, self.num_functions = description.dim, p.num_pairs, description.num_functions
        number = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
        arrays = {
            "starts": np.searchsorted(p.dst, made), "a": p.a * lanes, "b": p.b * lanes, "head": heads * lanes,
            "first": np.append(first, p.num_pairs), "mate": p.pair_b * lanes,
            "rows": np.searchsorted(p.function, np.arange(self.num_functions + 1)),
            "left": p.pair_a[p.pair] * lanes, "right": p.pair_b[p.pair] * lanes,
        }  # fmt: skip
        self._arrays = {name: np.ascontiguousarray(x, dtype=np.int32) for name, x in arrays.items()}
        self._arrays |= {"c": p.coefficient.astype(number), "value": p.value.astype(number)}
        numbers = (self.dim, p.num_slots, p.num_pairs, len(heads), self.num_functions)
        self._structure = _Program(*numbers, *(self._arrays[name].ctypes.data for name in _ARRAYS))
        self.program = ctypes.addressof(self._structure)


@lru_cache(maxsize=64)
def tables(key: str, dtype: torch.dtype) -> Tables:
    """Returns the tables of a description."""
    return Tables(CoupledProduct.from_key(key), dtype, target_or_error().lanes(dtype))


@lru_cache(maxsize=4)
def _library(dtype: torch.dtype) -> ctypes.CDLL:
    library = load(source(dtype, target_or_error()))
    for name, pointers in (("energy", 7), ("hessian", 7), ("weights", 7)):
        getattr(library, name).argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * 2 + [ctypes.c_int]
    for name, pointers in (("basis", 3), ("basis_backward", 4)):
        getattr(library, name).argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64, ctypes.c_int]
    for name in ("energy", "hessian", "weights", "basis", "basis_backward"):
        getattr(library, name).restype = None
    return library


class _Call:
    """A call of the code for atoms in groups, after a look at the shapes: it would read whatever lies there."""

    def __init__(self, key: str, A: Tensor, groups: tuple[Tensor | None, Tensor | None]) -> None:
        self.tables, self.dtype = tables(key, A.dtype), A.dtype
        self.groups, self.nodes = groups, A.shape[0]
        order, starts = groups
        self.rows = 1 if starts is None else starts.shape[0] - 1
        self.check(A, (self.nodes, self.tables.dim))
        if order is not None:
            self.check(order, (self.nodes,))

    def check(self, x: Tensor | None, shape: tuple[int, ...]) -> None:
        if x is not None and tuple(x.shape) != shape:
            raise ValueError(f"an operand of the coupled functions has shape {tuple(x.shape)}; {shape} is needed.")

    def run(self, name: str, operands: Sequence[Tensor | None]) -> None:
        order, starts = self.groups
        getattr(_library(self.dtype), name)(
            self.tables.program, *(address(x) for x in operands), address(order), address(starts), self.rows,
            self.nodes, num_threads(self.nodes * self.tables.num_pairs * WORK_PER_PAIR),
        )  # fmt: skip


@torch.library.impl("equipot::coupled_energy", "CPU", lib=LIBRARY)
def coupled_energy(
    A: Tensor, W: Tensor, order: Tensor | None, starts: Tensor | None, gradient: bool, key: str
) -> tuple[Tensor, Tensor]:
    """Returns e [owned] and D; see `kernels.operators.coupled`."""
    A, W = A.contiguous(), W.contiguous()
    call = _Call(key, A, (order, starts))
    call.check(W, (call.rows, call.tables.num_pairs))
    e, D = A.new_empty(A.shape[0]), A.new_empty(A.shape if gradient else (0,))
    call.run("energy", (A, W, e, D if gradient else None))
    return e, D


@torch.library.impl("equipot::coupled_energy_weights", "CPU", lib=LIBRARY)
def coupled_energy_weights(
    g: Tensor | None, h: Tensor | None, A: Tensor, order: Tensor | None, starts: Tensor | None, key: str
) -> Tensor:  # fmt: skip
    """Returns gW [species or 1, pair]; see `kernels.operators.coupled`."""
    A, g, h = A.contiguous(), g if g is None else g.contiguous(), h if h is None else h.contiguous()
    call = _Call(key, A, (order, starts))
    call.check(g, (call.nodes,))
    call.check(h, (call.nodes, call.tables.dim))
    gW = A.new_zeros((call.rows, call.tables.num_pairs))
    call.run("weights", (g, h, A, gW))
    return gW


@torch.library.impl("equipot::coupled_energy_hessian", "CPU", lib=LIBRARY)
def coupled_energy_hessian(
    h: Tensor, A: Tensor, W: Tensor, order: Tensor | None, starts: Tensor | None, key: str
) -> Tensor:  # fmt: skip
    """Returns the second derivative along h; see `kernels.operators.coupled`."""
    h, A, W = h.contiguous(), A.contiguous(), W.contiguous()
    call = _Call(key, A, (order, starts))
    call.check(h, (call.nodes, call.tables.dim))
    call.check(W, (call.rows, call.tables.num_pairs))
    out = torch.empty_like(A)
    call.run("hessian", (h, A, W, out))
    return out


@torch.library.impl("equipot::coupled_basis", "CPU", lib=LIBRARY)
def coupled_basis(A: Tensor, key: str) -> Tensor:
    """Returns B [owned, function]; see `kernels.operators.coupled`."""
    A = A.contiguous()
    call = _Call(key, A, (None, None))
    B = A.new_empty((A.shape[0], call.tables.num_functions))
    _library(A.dtype).basis(
        call.tables.program, A.data_ptr(), B.data_ptr(), A.shape[0], num_threads(B.numel() * WORK_PER_PAIR)
    )  # fmt: skip
    return B


@torch.library.impl("equipot::coupled_basis_backward", "CPU", lib=LIBRARY)
def coupled_basis_backward(gB: Tensor, A: Tensor, key: str) -> Tensor:
    """Returns gA; see `kernels.operators.coupled`."""
    gB, A = gB.contiguous(), A.contiguous()
    call = _Call(key, A, (None, None))
    call.check(gB, (A.shape[0], call.tables.num_functions))
    gA = torch.empty_like(A)
    _library(A.dtype).basis_backward(
        call.tables.program, gB.data_ptr(), A.data_ptr(), gA.data_ptr(), A.shape[0],
        num_threads(gB.numel() * WORK_PER_PAIR),
    )  # fmt: skip
    return gA
