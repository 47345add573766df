"""The operators of spline tables on the CPU: substitutions in a band, where a matrix product would cost n² a column."""

import ctypes
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from equipot.kernels.cpu.compiler import Target, load, target_or_error
from equipot.kernels.cpu.source import num_threads, scalar
from equipot.kernels.operators.spline_table import LIBRARY
from equipot.kernels.spline import DEGREE, UniformSpline, rows_of

HEADER = Path(__file__).with_name("spline_table.h")


def source(dtype: torch.dtype, here: Target) -> str:
    """Returns the C++ for numbers of this type."""
    return (
        f"typedef {scalar(dtype)} T;\nenum {{ LANES = {here.lanes(dtype)} }};\n"
        f"constexpr int DEGREE = {DEGREE};\n{HEADER.read_text(encoding='utf-8')}"
    )


def sources(key: str, dtype: torch.dtype, here: Target, training: bool) -> list[str]:
    """Returns the source that a run needs."""
    return [source(dtype, here)]


@lru_cache(maxsize=2)
def _function(dtype: torch.dtype) -> Callable:
    function = load(source(dtype, target_or_error())).run
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer, *[integer] * 3, *[pointer] * 3, ctypes.c_int, ctypes.c_int]
    function.restype = None
    return function


@lru_cache(maxsize=8)
def _factors(knots: int) -> tuple[Tensor, Tensor]:
    below, above = UniformSpline(knots).factors
    return torch.from_numpy(below), torch.from_numpy(above)


def _run(x: Tensor, knots: int, rows_in: int, rows_out: int, transposed: bool) -> Tensor:
    x = x.contiguous()
    tables, width = x.shape[0] // rows_in, x.shape[1]
    out = x.new_empty((tables * rows_out, width))
    below, above = _factors(knots)
    _function(x.dtype)(
        x.data_ptr(), tables, knots, width, below.data_ptr(), above.data_ptr(), out.data_ptr(), transposed,
        num_threads(x.numel()),
    )  # fmt: skip
    return out


@torch.library.impl("equipot::spline_table", "CPU", lib=LIBRARY)
def spline_table(f: Tensor, knots: int) -> Tensor:
    """Returns T; see `kernels.operators.spline_table`."""
    return _run(f, knots, knots, rows_of(knots), False)


@torch.library.impl("equipot::spline_table_transposed", "CPU", lib=LIBRARY)
def spline_table_transposed(gT: Tensor, knots: int) -> Tensor:
    """Returns gf; see `kernels.operators.spline_table`."""
    return _run(gT, knots, rows_of(knots), knots, True)
