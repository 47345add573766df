"""The product basis's operators on the GPU: memory for the results, and launches of generated kernels."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from equipot.kernels.cpu.product_source import Pass
from equipot.kernels.operators.product import shape
from equipot.kernels.polynomial import Product
from equipot.kernels.triton.chunks import chunks, sum_chunks
from equipot.kernels.triton.product_source import values_kernels, weights_kernels
from equipot.kernels.triton.registry import implements
from equipot.kernels.triton.source import Kernel, launch_all

FORWARD = Pass((False, False, False), (True, False, False))
MOST_CHUNKS, SMALLEST_CHUNK = 64, 16
Groups = tuple[Tensor | None, Tensor | None]


@lru_cache(maxsize=4096)
def _values(key: str, channels: int, dtype: torch.dtype, work: Pass, grouped: bool) -> tuple[tuple[Kernel, ...], int]:
    return values_kernels(Product.from_key(key), channels, dtype, work, grouped)


@lru_cache(maxsize=4096)
def _weights(key: str, channels: int, dtype: torch.dtype, work: Pass, grouped: bool) -> tuple[Kernel, ...]:
    return weights_kernels(Product.from_key(key), channels, dtype, work, grouped)


def _run(work: Pass, tensors: dict[str, Tensor], groups: Groups, key: str) -> Tensor | None:
    """Fills oB and oA, and returns the gradient of C where it is wanted."""
    A, C = tensors["A"], tensors["C"]
    order, starts = groups
    if A.shape[0] == 0:
        return torch.zeros_like(C) if work.need[2] else None
    grouped = order is not None
    position = torch.arange(A.shape[0], device=A.device)
    if order is not None and starts is not None:
        tensors = tensors | {"order": order, "species": torch.searchsorted(starts[1:], position, right=True)}
    if work.need[0] or work.need[1]:
        kernels, atoms = _values(key, C.shape[2], A.dtype, Pass(work.given, (*work.need[:2], False)), grouped)
        launch_all(kernels, -(-A.shape[0] // atoms), tensors | {"nodes": A.shape[0]})
    if not work.need[2]:
        return None
    starts = A.shape[0] * torch.arange(2, device=A.device) if starts is None else starts
    size = max(SMALLEST_CHUNK, -(-A.shape[0] // MOST_CHUNKS))
    parts_of = chunks(starts, A.shape[0], size)
    parts = C.new_empty((parts_of.begin.shape[0], *C.shape[1:]))
    kernels = _weights(key, C.shape[2], A.dtype, Pass(work.given, (False, False, True)), grouped)
    launch_all(kernels, parts.shape[0], tensors | {"begins": parts_of.begin, "ends": parts_of.end, "parts": parts})
    return sum_chunks(parts, parts_of)


@implements("product")
def product(A: Tensor, C: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    """Returns B [node, dim_out]; see `kernels.operators.product`."""
    B = A.new_empty((A.shape[0], shape(key).num_m * C.shape[2]))
    _run(FORWARD, {"A": A, "C": C, "oB": B}, (order, starts), key)
    return B


@implements("product_backward")
def product_backward(
    gB: Tensor, A: Tensor, C: Tensor, order: Tensor | None, starts: Tensor | None, key: str, need: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Returns gA, gC; see `kernels.operators.product`."""
    gA = torch.empty_like(A) if need[0] else A.new_empty(0)
    work = Pass((True, False, False), (False, *need))  # type: ignore[arg-type]
    gC = _run(work, {"A": A, "C": C, "g": gB, "oA": gA}, (order, starts), key)
    return gA, C.new_empty(0) if gC is None else gC


@implements("product_double_backward")
def product_double_backward(
    AA: Tensor | None, CC: Tensor | None, gB: Tensor, A: Tensor, C: Tensor, order: Tensor | None,
    starts: Tensor | None, key: str, need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns the gradients with respect to gB, A, C; see `kernels.operators.product`."""
    oB, oA = (torch.empty_like(x) if n else x.new_empty(0) for x, n in zip((gB, A), need[:2], strict=True))
    work = Pass((True, AA is not None, CC is not None), tuple(need))  # type: ignore[arg-type]
    tensors = {"A": A, "C": C, "g": gB, "oB": oB, "oA": oA}
    tensors |= {name: x for name, x in (("h", AA), ("c", CC)) if x is not None}
    oC = _run(work, tensors, (order, starts), key)
    return oB, oA, C.new_empty(0) if oC is None else oC
