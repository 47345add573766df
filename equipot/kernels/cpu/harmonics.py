"""The operators of edge harmonics on the CPU: memory for the results, and calls of compiled code."""

import ctypes
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from equipot.kernels.cpu.compiler import Target, load, target_or_error
from equipot.kernels.cpu.harmonics_source import source
from equipot.kernels.cpu.source import address, num_threads
from equipot.kernels.operators.harmonics import LIBRARY, double_backward_outputs

POINTER, COUNT, DOUBLE, INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int
SIGNATURES = {
    "forward": (POINTER, COUNT, DOUBLE, POINTER, POINTER, INT),
    "backward": (POINTER, POINTER, POINTER, COUNT, DOUBLE, POINTER, INT),
    "double_backward": (POINTER, POINTER, POINTER, POINTER, COUNT, DOUBLE, POINTER, POINTER, POINTER, INT),
}


@lru_cache(maxsize=256)
def _library(lmax: int, dtype: torch.dtype) -> ctypes.CDLL:
    library = load(source(lmax, dtype, target_or_error()))
    for name, types in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return library


def _threads(vectors: Tensor, lmax: int) -> int:
    return num_threads(vectors.shape[0] * (lmax + 1) ** 2)


@torch.library.impl("equipot::edge_harmonics", "CPU", lib=LIBRARY)
def edge_harmonics(vectors: Tensor, lmax: int, sign: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns lengths and Y; see `kernels.operators.harmonics`."""
    vectors = vectors.contiguous()
    count = vectors.shape[0]
    lengths, Y = vectors.new_empty(count), vectors.new_empty((count, (lmax + 1) ** 2), dtype=dtype)
    _library(lmax, dtype).forward(
        vectors.data_ptr(), count, sign, lengths.data_ptr(), Y.data_ptr(), _threads(vectors, lmax)
    )
    return lengths, Y


@torch.library.impl("equipot::edge_harmonics_backward", "CPU", lib=LIBRARY)
def edge_harmonics_backward(
    gl: Tensor | None, gY: Tensor | None, vectors: Tensor, lmax: int, sign: float, dtype: torch.dtype
) -> Tensor:
    """Returns gv; see `kernels.operators.harmonics`."""
    vectors = vectors.contiguous()
    given = [None if g is None else g.contiguous() for g in (gl, gY)]
    gv = torch.empty_like(vectors)
    _library(lmax, dtype).backward(
        *(address(g) for g in given), vectors.data_ptr(), vectors.shape[0], sign, gv.data_ptr(), _threads(vectors, lmax)
    )
    return gv


@torch.library.impl("equipot::edge_harmonics_double_backward", "CPU", lib=LIBRARY)
def edge_harmonics_double_backward(
    vv: Tensor, gl: Tensor | None, gY: Tensor | None, vectors: Tensor, lmax: int, sign: float, dtype: torch.dtype,
    need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns the gradients with respect to gl, gY, v; see `kernels.operators.harmonics`."""
    given = [None if g is None else g.contiguous() for g in (vv, gl, gY, vectors)]
    out = double_backward_outputs(vectors, lmax, dtype, need)
    _library(lmax, dtype).double_backward(
        *(address(g) for g in given), vectors.shape[0], sign,
        *(x.data_ptr() if n else 0 for x, n in zip(out, need, strict=True)), _threads(vectors, lmax),
    )  # fmt: skip
    return out


def sources(key: str, dtype: torch.dtype, target: Target, training: bool) -> list[str]:
    """Returns the one source of a key, the highest degree."""
    return [source(int(key), dtype, target)]
