"""The linear maps per irrep on the CPU: matrix products of our own (gemm.h), each map in one call.

A library of matrix products would be called once per irrep and species, after gathering, and before joining. The code
takes all shapes at run time, so it is compiled once for each dtype.
"""

import ctypes
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from equipot.kernels.cpu.compiler import Target, load, target_or_error
from equipot.kernels.cpu.source import address, scalar
from equipot.kernels.linear_map import Block, LinearMap
from equipot.kernels.operators.linear import LIBRARY
from equipot.kernels.threads import num_threads

HEADER = Path(__file__).with_name("gemm.h")


def linear_source(dtype: torch.dtype, target: Target) -> str:
    """C++ of all maps of one dtype; a tile of results fills the registers, but for what is multiplied."""
    rows = 14 if target.registers == 32 else 6
    head = f"typedef {scalar(dtype)} T;\nenum {{ W = {target.lanes(dtype)}, MR = {rows}, NV = 2 }};\n"
    return head + HEADER.read_text(encoding="utf-8")


class _Functions(NamedTuple):
    forward: Callable
    transposed: Callable
    outer: Callable


@lru_cache(maxsize=4)
def _functions(dtype: torch.dtype) -> _Functions:
    library = load(linear_source(dtype, target_or_error()))
    functions = _Functions(library.forward, library.transposed, library.outer)
    for function in functions:
        function.argtypes = [ctypes.c_void_p] * 7 + [ctypes.c_int64] * 2 + [ctypes.c_int]  # type: ignore[attr-defined]
        function.restype = None  # type: ignore[attr-defined]
    return functions


class _Layout:
    """The numbers that the code needs of a map, as C arrays."""

    def __init__(self, key: str) -> None:
        d = LinearMap.from_key(key)
        self.width_in, self.width_out, self.num_weights = d.irreps_in.dim, d.irreps_out.dim, d.num_weights
        there = [(b.start_in, b.mul_in, b.start_out, b.mul_out, b.ir.dim, b.start_weights) for b in d.blocks]
        back = [(b.start_out, b.mul_out, b.start_in, b.mul_in, b.ir.dim, b.start_weights) for b in d.blocks]
        self._arrays = (
            self._array(d.irreps_in.dim, d.irreps_out.dim, there, _absent(d.irreps_out.dim, d.blocks, out=True)),
            self._array(d.irreps_out.dim, d.irreps_in.dim, back, _absent(d.irreps_in.dim, d.blocks, out=False)),
            (ctypes.c_double * len(d.scales))(*d.scales),
        )
        self.there, self.back, self.scales = (ctypes.addressof(array) for array in self._arrays)

    def _array(self, width_in: int, width_out: int, blocks: list[tuple], spans: list[tuple]) -> ctypes.Array:
        numbers = [len(blocks), width_in, width_out, self.num_weights, len(spans)]
        numbers += [n for group in (*blocks, *spans) for n in group]
        return (ctypes.c_int64 * len(numbers))(*numbers)


def _absent(width: int, blocks: tuple[Block, ...], *, out: bool) -> list[tuple[int, int]]:
    """Spans (begin, length) of a row that no block covers."""
    covered = sorted(
        (b.start_out, b.mul_out * b.ir.dim) if out else (b.start_in, b.mul_in * b.ir.dim) for b in blocks
    )  # fmt: skip
    spans, at = [], 0
    for begin, length in [*covered, (width, 0)]:
        if begin > at:
            spans.append((at, begin - at))
        at = begin + length
    return spans


_layout = lru_cache(maxsize=1024)(_Layout)


def _call(
    function: Callable,
    operands: tuple[tuple[Tensor, int], ...],
    places: tuple[int, int],
    order: Tensor | None,
    starts: Tensor | None,
) -> None:
    """Calls the code, after a look at the widths of the operands: it would read whatever lies there."""
    nodes = operands[0][0].shape[0]
    groups = 1 if starts is None else starts.shape[0] - 1
    if any(x.shape[-1] != width for x, width in operands) or (order is not None and order.shape[0] != nodes):
        found = [tuple(x.shape) for x, _ in operands]
        raise ValueError(f"operands of a linear map have shapes {found}; widths {[w for _, w in operands]} are needed.")
    function(
        *[x.data_ptr() for x, _ in operands], *places, address(order), address(starts), groups, nodes,
        num_threads(),
    )  # fmt: skip


@torch.library.impl("equipot::irreps_linear", "CPU", lib=LIBRARY)
def irreps_linear(x: Tensor, W: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    """Returns y [node, dim_out]; see `kernels.operators.linear`."""
    at, x, W = _layout(key), x.contiguous(), W.contiguous()
    y = x.new_empty((x.shape[0], at.width_out))
    operands = ((x, at.width_in), (W, at.num_weights), (y, at.width_out))
    _call(_functions(x.dtype).forward, operands, (at.there, at.scales), order, starts)
    return y


@torch.library.impl("equipot::irreps_linear_transposed", "CPU", lib=LIBRARY)
def irreps_linear_transposed(gy: Tensor, W: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    """Returns gx [node, dim_in]; see `kernels.operators.linear`."""
    at, gy, W = _layout(key), gy.contiguous(), W.contiguous()
    gx = gy.new_empty((gy.shape[0], at.width_in))
    operands = ((gy, at.width_out), (W, at.num_weights), (gx, at.width_in))
    _call(_functions(gy.dtype).transposed, operands, (at.back, at.scales), order, starts)
    return gx


@torch.library.impl("equipot::irreps_linear_outer", "CPU", lib=LIBRARY)
def irreps_linear_outer(x: Tensor, gy: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    """Returns gW [species or 1, weights]; see `kernels.operators.linear`."""
    at, x, gy = _layout(key), x.contiguous(), gy.contiguous()
    gW = x.new_empty((1 if starts is None else starts.shape[0] - 1, at.num_weights))
    operands = ((x, at.width_in), (gy, at.width_out), (gW, at.num_weights))
    _call(_functions(x.dtype).outer, operands, (at.there, at.scales), order, starts)
    return gW


def sources(key: str, dtype: torch.dtype, target: Target, training: bool) -> list[str]:
    """Returns the sources that a run needs: the same for all maps."""
    return [linear_source(dtype, target)]
