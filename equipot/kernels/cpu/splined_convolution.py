"""The convolution over splines on the CPU: memory for the results, and calls of compiled code."""

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from equipot.kernels.cpu.compiler import Target, load, target_or_error
from equipot.kernels.cpu.convolution_gradient import Gradient, backward_source
from equipot.kernels.cpu.convolution_source import forward_source
from equipot.kernels.cpu.source import num_threads
from equipot.kernels.operators.splined_convolution import LIBRARY
from equipot.kernels.polynomial import Convolution

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64


@lru_cache(maxsize=1024)
def _forward_function(key: str, dtype: torch.dtype) -> tuple[Callable, int]:
    d = Convolution.from_key(key)
    function = load(forward_source(d, dtype, target_or_error(), splined=True)).forward
    function.argtypes = [*[_POINTER] * 4, _COUNT, _POINTER, _POINTER, _COUNT, _POINTER, ctypes.c_int]
    function.restype = None
    return function, d.irreps_out.dim


@lru_cache(maxsize=1024)
def _backward_function(key: str, dtype: torch.dtype, need: tuple[bool, bool, bool]) -> Callable:
    function = load(backward_source(Convolution.from_key(key), dtype, target_or_error(), gradient(need))).backward
    function.argtypes = [*[_POINTER] * 5, _COUNT, *[_POINTER] * 6, _COUNT, *[_POINTER] * 4, ctypes.c_int]
    function.restype = None
    return function


def gradient(need: Sequence[bool]) -> Gradient:
    """Returns the backward pass for gradients of h, Y, u."""
    return Gradient(False, (False, False, False), (False, *need), splined=True)  # type: ignore[arg-type]


@torch.library.impl("equipot::splined_convolution", "CPU", lib=LIBRARY)
def splined_convolution(
    h: Tensor, Y: Tensor, T: Tensor, u: Tensor, senders: Tensor, receivers: Tensor, starts: Tensor, key: str
) -> Tensor:
    """Returns a [owned, dim_out]; see `kernels.operators.splined_convolution`."""
    function, width = _forward_function(key, h.dtype)
    h, Y, T, u = h.contiguous(), Y.contiguous(), T.contiguous(), u.contiguous()
    num_owned = starts.shape[0] - 1
    a = h.new_empty((num_owned, width))
    function(
        h.data_ptr(), Y.data_ptr(), T.data_ptr(), u.data_ptr(), T.shape[0], senders.data_ptr(), starts.data_ptr(),
        num_owned, a.data_ptr(), num_threads(len(u) * T.shape[1]),
    )  # fmt: skip
    return a


@torch.library.impl("equipot::splined_convolution_backward", "CPU", lib=LIBRARY)
def splined_convolution_backward(
    ga: Tensor, h: Tensor, Y: Tensor, T: Tensor, u: Tensor, senders: Tensor, receivers: Tensor, starts: Tensor,
    key: str, need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns gh, gY, gu; see `kernels.operators.splined_convolution`."""
    function = _backward_function(key, h.dtype, tuple(need))  # type: ignore[arg-type]
    ga, h, Y, T, u = (x.contiguous() for x in (ga, h, Y, T, u))
    gh = torch.zeros_like(h) if need[0] else h.new_empty(0)
    gY, gu = (torch.empty_like(x) if n else x.new_empty(0) for x, n in ((Y, need[1]), (u, need[2])))
    function(
        ga.data_ptr(), h.data_ptr(), Y.data_ptr(), T.data_ptr(), u.data_ptr(), T.shape[0], 0, 0, 0,
        senders.data_ptr(), receivers.data_ptr(), starts.data_ptr(), starts.shape[0] - 1,
        0, gh.data_ptr(), gY.data_ptr(), gu.data_ptr(), num_threads(len(u) * T.shape[1]),
    )  # fmt: skip
    return gh, gY, gu


def sources(key: str, dtype: torch.dtype, target: Target) -> list[str]:
    """Returns the sources for energies and forces."""
    d = Convolution.from_key(key)
    gradients = [gradient((h, True, True)) for h in (True, False)]
    return [forward_source(d, dtype, target, splined=True), *(backward_source(d, dtype, target, g) for g in gradients)]
