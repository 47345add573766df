"""The gate's operators on the CPU: memory for the results, and calls of compiled code."""

import ctypes
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from equipot.kernels.cpu.compiler import Target, load, target_or_error
from equipot.kernels.cpu.gate_source import source
from equipot.kernels.cpu.source import num_threads
from equipot.kernels.gate_map import GateMap
from equipot.kernels.operators.gate import LIBRARY

POINTERS = {"forward": 2, "backward": 3, "double_backward": 5}
"""Number of tensors of each function."""


@lru_cache(maxsize=256)
def _library(key: str, dtype: torch.dtype) -> ctypes.CDLL:
    library = load(source(GateMap.from_key(key), dtype, target_or_error()))
    for name, count in POINTERS.items():
        function = getattr(library, name)
        function.argtypes = [ctypes.c_void_p] * count + [ctypes.c_int64, ctypes.c_int]
        function.restype = None
    return library


@torch.library.impl("equipot::gate", "CPU", lib=LIBRARY)
def gate(x: Tensor, key: str) -> Tensor:
    """Returns y; see `kernels.operators.gate`."""
    x = x.contiguous()
    y = x.new_empty((x.shape[0], GateMap.from_key(key).irreps_out.dim))
    _library(key, x.dtype).forward(x.data_ptr(), y.data_ptr(), x.shape[0], num_threads(x.numel()))
    return y


@torch.library.impl("equipot::gate_backward", "CPU", lib=LIBRARY)
def gate_backward(gy: Tensor, x: Tensor, key: str) -> Tensor:
    """Returns gx; see `kernels.operators.gate`."""
    gy, x = gy.contiguous(), x.contiguous()
    gx = torch.empty_like(x)
    _library(key, x.dtype).backward(
        gy.data_ptr(), x.data_ptr(), gx.data_ptr(), x.shape[0], num_threads(x.numel())
    )  # fmt: skip
    return gx


@torch.library.impl("equipot::gate_double_backward", "CPU", lib=LIBRARY)
def gate_double_backward(
    xx: Tensor, gy: Tensor, x: Tensor, key: str, need: Sequence[bool]
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns the gradients with respect to gy and x; see `kernels.operators.gate`."""
    given = [t.contiguous() for t in (xx, gy, x)]
    out = [torch.empty_like(t) if n else t.new_empty(0) for t, n in zip(given[1:], need, strict=True)]
    _library(key, x.dtype).double_backward(
        *(t.data_ptr() for t in given), *(t.data_ptr() if n else 0 for t, n in zip(out, need, strict=True)),
        x.shape[0], num_threads(x.numel()),
    )  # fmt: skip
    return out[0], out[1]


def sources(key: str, dtype: torch.dtype, target: Target, training: bool) -> list[str]:
    """Returns the one source of a key."""
    return [source(GateMap.from_key(key), dtype, target)]
