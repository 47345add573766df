"""Sums over groups of rows in a fixed order, in two steps: chunks of each group side by side, then the chunks.

No group is worked on by one program alone, however large, and no sum depends on who comes first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from equipot.kernels.triton.source import Kernel, launch

BLOCK = 128


class Chunks(NamedTuple):
    """Rows begin[c] … end[c] of each chunk; some chunks at the end may be empty, so that no size depends on data.

    Attributes:
        begin: First row.
        end: The row after the last.
        first: First chunk of each group, and the number of chunks that are not empty.
    """

    begin: Tensor
    end: Tensor
    first: Tensor


def chunks(starts: Tensor, rows: int, size: int) -> Chunks:
    """Returns the chunks of groups; nothing waits for the GPU.

    Args:
        starts: First row of each group, and the number of rows.
        rows: Number of rows.
        size: Rows of one chunk, at most.
    """
    groups = starts.shape[0] - 1
    count = -(-rows // size) + min(groups, rows)
    per_group = (starts[1:] - starts[:-1] + size - 1) // size
    first = torch.cat([starts.new_zeros(1), per_group.cumsum(0)])
    chunk = torch.arange(count, device=starts.device)
    group = torch.searchsorted(first, chunk, right=True) - 1
    empty = group >= groups
    group = group.clamp(max=groups - 1)
    begin = (starts[group] + (chunk - first[group]) * size).masked_fill(empty, 0)
    end = torch.minimum(begin + size, starts[group + 1]).masked_fill(empty, 0)
    return Chunks(begin, end, first)


SUM = f"""import triton
import triton.language as tl


@triton.jit(do_not_specialize=["columns"])
def sum_chunks(parts, first, out, columns):
    group = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * {BLOCK} + tl.arange(0, {BLOCK})
    inside = k < columns
    total = tl.zeros(({BLOCK},), out.dtype.element_ty)
    begin = tl.load(first + group)
    end = tl.load(first + group + 1)
    for c in range(begin, end):
        total += tl.load(parts + c * columns + k, mask=inside, other=0.0)
    tl.store(out + group * columns + k, total, mask=inside)
"""


def sum_chunks(parts: Tensor, given: Chunks) -> Tensor:
    """Returns the sum of each group's chunks: parts [chunk, …] → [group, …]."""
    groups = given.first.shape[0] - 1
    out = parts.new_empty((groups, *parts.shape[1:]))
    columns = out[:1].numel()
    kernel = Kernel(SUM, "sum_chunks", ("parts", "first", "out", "columns"), -(-columns // BLOCK))
    launch(kernel, groups, {"parts": parts, "first": given.first, "out": out, "columns": columns})
    return out
