"""The linear maps per irrep on the GPU, in torch's own matrix products.

cuBLAS takes the components of an irrep as a batch with strides, straight from the flat rows and into them, and is as
fast as the GPU allows in float32 and float64, so there is nothing for a kernel of ours to win. Nodes of one species
are gathered first; where each species begins must be known on the CPU, and is asked for once for each grouping. A CUDA
graph cannot ask: there every species' matrix meets all nodes, those of others set to zero.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from equipot.kernels.linear_map import Block, LinearMap
from equipot.kernels.operators import linear as _  # noqa: F401  defines them
from equipot.kernels.triton.memory import Memory
from equipot.kernels.triton.registry import implements

_begins: Memory[list[int]] = Memory()


class _Share(NamedTuple):
    """The nodes of one species.

    Attributes:
        species: Index of the matrix.
        first: First of the nodes, sorted by species.
        last: The one after the last.
        mask: Which of them have that species, 1 or 0; None for all.
    """

    species: int
    first: int
    last: int
    mask: Tensor | None

    def rows(self, x: Tensor) -> Tensor:
        """Returns the rows of these nodes, zero for those of other species."""
        some = x[self.first : self.last]
        return some if self.mask is None else some * self.mask.to(x.dtype)


def _shares(starts: Tensor | None, nodes: int) -> list[_Share]:
    """The nodes of each species; while a CUDA graph is captured nothing may wait for the GPU, so there are masks."""
    if starts is None or nodes == 0:
        return [_Share(0, 0, nodes, None)] if nodes else []
    if _capturing(starts):
        position = torch.arange(nodes, device=starts.device).unsqueeze(1)
        ends = starts.unbind()
        pairs = enumerate(pairwise(ends))
        return [_Share(s, 0, nodes, (position >= begin) & (position < end)) for s, (begin, end) in pairs]
    begins = _begins.get(starts, 0, starts.tolist)
    return [_Share(s, a, b, None) for s, (a, b) in enumerate(pairwise(begins)) if b > a]


def _capturing(x: Tensor) -> bool:
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def _part(x: Tensor, start: int, mul: int, block: Block) -> Tensor:
    """One irrep of flat rows as a view [m, node, channel]."""
    return x[:, start : start + mul * block.ir.dim].unflatten(1, (block.ir.dim, mul)).transpose(0, 1)


def _matrix(W: Tensor, species: int, block: Block) -> Tensor:
    flat = W[species, block.start_weights : block.start_weights + block.mul_in * block.mul_out]
    return flat.view(block.mul_in, block.mul_out)


def _map(x: Tensor, W: Tensor, groups: tuple[Tensor | None, Tensor | None], key: str, *, transposed: bool) -> Tensor:
    d = LinearMap.from_key(key)
    order, starts = groups
    width = (d.irreps_in if transposed else d.irreps_out).dim
    covered = sum((b.mul_in if transposed else b.mul_out) * b.ir.dim for b in d.blocks)
    shares = _shares(starts, x.shape[0])
    masked = any(share.mask is not None for share in shares)
    y = x.new_zeros((x.shape[0], width)) if masked or covered < width else x.new_empty((x.shape[0], width))
    rows = x if order is None else x.index_select(0, order)
    for share in shares:
        own = share.rows(rows)
        for b in d.blocks:
            there, back = (b.start_in, b.mul_in), (b.start_out, b.mul_out)
            source, target = (back, there) if transposed else (there, back)
            matrix = _matrix(W, share.species, b)
            matrix = (matrix.t() if transposed else matrix).expand(b.ir.dim, -1, -1)
            out = _part(y[share.first : share.last], *target, b)
            torch.baddbmm(out, _part(own, *source, b), matrix, beta=int(masked), alpha=b.scale, out=out)
    return y if order is None else torch.empty_like(y).index_copy_(0, order, y)


@implements("irreps_linear")
def irreps_linear(x: Tensor, W: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    """Returns y [node, dim_out]; see `kernels.operators.linear`."""
    return _map(x, W, (order, starts), key, transposed=False)


@implements("irreps_linear_transposed")
def irreps_linear_transposed(gy: Tensor, W: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    """Returns gx [node, dim_in]; see `kernels.operators.linear`."""
    return _map(gy, W, (order, starts), key, transposed=True)


@implements("irreps_linear_outer")
def irreps_linear_outer(x: Tensor, gy: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    """Returns gW [species or 1, weights]; see `kernels.operators.linear`."""
    d = LinearMap.from_key(key)
    gW = x.new_zeros((1 if starts is None else starts.shape[0] - 1, d.num_weights))
    rows_x, rows_y = (z if order is None else z.index_select(0, order) for z in (x, gy))
    for share in _shares(starts, x.shape[0]):
        own = share.rows(rows_x)
        for b in d.blocks:
            left = _part(own, b.start_in, b.mul_in, b).reshape(-1, b.mul_in)
            right = _part(rows_y[share.first : share.last], b.start_out, b.mul_out, b).reshape(-1, b.mul_out)
            out = _matrix(gW, share.species, b)
            torch.addmm(out, left.t(), right, beta=0, alpha=b.scale, out=out)
    return gW
