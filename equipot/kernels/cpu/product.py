"""The product basis's operators on the CPU: memory for the results, and calls of compiled code."""

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from equipot.kernels.cpu.compiler import Target, load, target_or_error
from equipot.kernels.cpu.product_source import Pass, source
from equipot.kernels.cpu.source import address, num_threads
from equipot.kernels.operations import MAX_TERMS
from equipot.kernels.operators.product import LIBRARY, shape
from equipot.kernels.polynomial import Product

FORWARD = Pass((False, False, False), (True, False, False))
WORK_PER_VALUE = 3
"""Work for each component of A of a middling product, against that for a value of other operations."""


@lru_cache(maxsize=4096)
def _function(key: str, dtype: torch.dtype, channels: int, work: Pass) -> Callable:
    lanes = width(channels, target_or_error().lanes(dtype))
    function = load(source(Product.from_key(key), dtype, lanes, work)).run
    function.argtypes = [ctypes.c_void_p] * 10 + [ctypes.c_int64] * 2 + [ctypes.c_int]
    function.restype = None
    return function


def width(channels: int, lanes: int) -> int:
    """Returns the narrowest vector that needs no more steps for so many channels than the widest one does."""
    steps = -(-channels // lanes)
    while lanes > 1 and -(-channels // (lanes // 2)) <= steps:
        lanes //= 2
    return lanes


def _run(
    work: Pass, inputs: Sequence[Tensor | None], out: Sequence[Tensor], groups: Sequence[Tensor | None], key: str
) -> None:
    """Calls compiled code with A, h, g, C, c' and the results B, gA, gC."""
    A = inputs[0]
    order, starts = groups
    if A is None or A.numel() == 0:
        return
    num_lm = shape(key).num_lm
    channels = A.shape[1] // num_lm
    given = [None if x is None else x.contiguous() for x in inputs]
    if starts is None:
        starts = torch.tensor([0, A.shape[0]])
    _function(key, A.dtype, channels, work)(
        *(address(x) for x in given), *(x.data_ptr() if need else 0 for x, need in zip(out, work.need, strict=True)),
        address(order), starts.data_ptr(), starts.shape[0] - 1, channels, num_threads(A.numel() * WORK_PER_VALUE),
    )  # fmt: skip


@torch.library.impl("equipot::product", "CPU", lib=LIBRARY)
def product(A: Tensor, C: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    """Returns B [node, dim_out]; see `kernels.operators.product`."""
    B = A.new_empty((A.shape[0], shape(key).num_m * C.shape[2]))
    _run(FORWARD, (A, None, None, C, None), (B, A, C), (order, starts), key)
    return B


@torch.library.impl("equipot::product_backward", "CPU", lib=LIBRARY)
def product_backward(
    gB: Tensor, A: Tensor, C: Tensor, order: Tensor | None, starts: Tensor | None, key: str, need: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Returns gA, gC; see `kernels.operators.product`."""
    gA = torch.empty_like(A, memory_format=torch.contiguous_format) if need[0] else A.new_empty(0)
    gC = torch.zeros_like(C, memory_format=torch.contiguous_format) if need[1] else C.new_empty(0)
    work = Pass((True, False, False), (False, *need))  # type: ignore[arg-type]
    _run(work, (A, None, gB, C, None), (gB, gA, gC), (order, starts), key)
    return gA, gC


@torch.library.impl("equipot::product_double_backward", "CPU", lib=LIBRARY)
def product_double_backward(
    AA: Tensor | None, CC: Tensor | None, gB: Tensor, A: Tensor, C: Tensor, order: Tensor | None,
    starts: Tensor | None, key: str, need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns the gradients with respect to gB, A, C; see `kernels.operators.product`."""
    starts_of = (torch.empty_like, torch.empty_like, torch.zeros_like)
    out = tuple(
        start(x, memory_format=torch.contiguous_format) if n else x.new_empty(0)
        for start, x, n in zip(starts_of, (gB, A, C), need, strict=True)
    )
    work = Pass((True, AA is not None, CC is not None), tuple(need))  # type: ignore[arg-type]
    _run(work, (A, AA, gB, C, CC), out, (order, starts), key)
    return out


def sources(key: str, dtype: torch.dtype, target: Target, training: bool) -> list[str]:
    """Returns the sources that a run usually needs: energies and forces, and what a loss on forces adds."""
    if len(Product.from_key(key).terms) > MAX_TERMS:
        return []
    passes = [FORWARD, Pass((True, False, False), (False, True, False))]
    if training:
        passes += [Pass((True, False, False), (False, True, True)), Pass((True, True, False), (True, True, True))]
    lanes = width(int(key.split("|")[4]), target.lanes(dtype))
    return [source(Product.from_key(key), dtype, lanes, work) for work in passes]
