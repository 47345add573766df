"""The convolution's operators on the CPU: memory for the results, and calls of compiled code."""

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from equipot.kernels.cpu.compiler import Target, load, target_or_error
from equipot.kernels.cpu.convolution_gradient import Gradient, backward_source
from equipot.kernels.cpu.convolution_source import forward_source
from equipot.kernels.cpu.source import address, num_threads
from equipot.kernels.operators.convolution import LIBRARY
from equipot.kernels.polynomial import Convolution


@lru_cache(maxsize=1024)
def _forward_function(key: str, dtype: torch.dtype) -> tuple[Callable, int]:
    description = Convolution.from_key(key)
    function = load(forward_source(description, dtype, target_or_error())).forward
    function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64, ctypes.c_void_p, ctypes.c_int]
    function.restype = None
    return function, description.irreps_out.dim


@lru_cache(maxsize=4096)
def _backward_function(key: str, dtype: torch.dtype, gradient: Gradient) -> Callable:
    function = load(backward_source(Convolution.from_key(key), dtype, target_or_error(), gradient)).backward
    function.argtypes = [ctypes.c_void_p] * 10 + [ctypes.c_int64] + [ctypes.c_void_p] * 4 + [ctypes.c_int]
    function.restype = None
    return function


@torch.library.impl("equipot::convolution", "CPU", lib=LIBRARY)
def convolution(
    h: Tensor, Y: Tensor, R: Tensor, senders: Tensor, receivers: Tensor, starts: Tensor, key: str
) -> Tensor:
    """Returns a [owned, dim_out]; see `kernels.operators.convolution`."""
    function, width = _forward_function(key, h.dtype)
    h, Y, R = h.contiguous(), Y.contiguous(), R.contiguous()
    num_owned = starts.shape[0] - 1
    a = h.new_empty((num_owned, width))
    function(
        h.data_ptr(), Y.data_ptr(), R.data_ptr(), senders.data_ptr(), starts.data_ptr(), num_owned, a.data_ptr(),
        num_threads(R.numel()),
    )  # fmt: skip
    return a


@torch.library.impl("equipot::convolution_backward", "CPU", lib=LIBRARY)
def convolution_backward(
    ga: Tensor, h: Tensor, Y: Tensor, R: Tensor, senders: Tensor, receivers: Tensor, starts: Tensor, key: str,
    need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns gh, gY, gR; see `kernels.operators.convolution`."""
    gradient = Gradient(False, (False, False, False), (False, *need))  # type: ignore[arg-type]
    return _gradients(gradient, (None, None, None), (ga, h, Y, R), (senders, receivers, starts), key)[1:]


@torch.library.impl("equipot::convolution_double_backward", "CPU", lib=LIBRARY)
def convolution_double_backward(
    hh: Tensor | None, YY: Tensor | None, RR: Tensor | None, ga: Tensor, h: Tensor, Y: Tensor, R: Tensor,
    senders: Tensor, receivers: Tensor, starts: Tensor, key: str, need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns the gradients with respect to ga, h, Y, R; see `kernels.operators.convolution`."""
    cotangents = (hh, YY, RR)
    gradient = Gradient(True, tuple(c is not None for c in cotangents), tuple(need))  # type: ignore[arg-type]
    return _gradients(gradient, cotangents, (ga, h, Y, R), (senders, receivers, starts), key)


def _gradients(
    gradient: Gradient,
    cotangents: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
    edges: Sequence[Tensor],
    key: str,
) -> tuple[Tensor, ...]:
    function = _backward_function(key, inputs[0].dtype, gradient)
    given = [x.contiguous() for x in inputs]
    primed = [None if c is None else c.contiguous() for c in cotangents]
    summed = (True, True, False, False)  # over edges, so they start from zero
    out = tuple(
        (torch.zeros_like(x) if start else torch.empty_like(x)) if need else x.new_empty(0)
        for x, need, start in zip(given, gradient.need, summed, strict=True)
    )
    function(
        *(x.data_ptr() for x in given), *(address(c) for c in primed), *(x.data_ptr() for x in edges),
        edges[2].shape[0] - 1, *(x.data_ptr() for x in out), num_threads(given[3].numel()),
    )  # fmt: skip
    return out


def sources(key: str, dtype: torch.dtype, target: Target, training: bool) -> list[str]:
    """Returns the sources that a run usually needs: energies and forces, and what a loss on forces adds."""
    d = Convolution.from_key(key)
    nothing = (False, False, False)
    gradients = [Gradient(False, nothing, (False, h, True, True)) for h in (True, False)]
    if training:
        gradients += [Gradient(False, nothing, (False, True, False, True))]
        gradients += [Gradient(True, (h, True, True), (True, True, False, True)) for h in (True, False)]
    return [forward_source(d, dtype, target), *(backward_source(d, dtype, target, g) for g in gradients)]
