"""The linear map per irrep as torch operators: a bilinear form of x, W and gy, and its three derivatives.

    irreps_linear             y  = W x
    irreps_linear_transposed  gx = Wᵀ gy
    irreps_linear_outer       gW = Σ_i x_i ⊗ gy_i, over the nodes of each species

Their derivatives are each other, to any order. `W` is [species or 1, weights], rows as in `LinearMap`; `order` are the
nodes sorted by species and `starts` where each species begins in that order, or both None for one matrix.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from equipot.kernels.linear_map import LinearMap
from equipot.kernels.operators.library import LIBRARY, differentiate, wanted

_GROUPS = "Tensor? order, Tensor? starts, str key"
LIBRARY.define(f"irreps_linear(Tensor x, Tensor W, {_GROUPS}) -> Tensor")
LIBRARY.define(f"irreps_linear_transposed(Tensor gy, Tensor W, {_GROUPS}) -> Tensor")
LIBRARY.define(f"irreps_linear_outer(Tensor x, Tensor gy, {_GROUPS}) -> Tensor")


@torch.library.register_fake("equipot::irreps_linear", lib=LIBRARY)
def _(x: Tensor, W: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    return x.new_empty((x.shape[0], LinearMap.from_key(key).irreps_out.dim))


@torch.library.register_fake("equipot::irreps_linear_transposed", lib=LIBRARY)
def _(gy: Tensor, W: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    return gy.new_empty((gy.shape[0], LinearMap.from_key(key).irreps_in.dim))


@torch.library.register_fake("equipot::irreps_linear_outer", lib=LIBRARY)
def _(x: Tensor, gy: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    groups = 1 if starts is None else starts.shape[0] - 1
    return x.new_empty((groups, LinearMap.from_key(key).num_weights))


def _linear(first: Tensor, second: Tensor, groups: tuple) -> Tensor:
    return torch.ops.equipot.irreps_linear(first, second, *groups)


def _transposed(first: Tensor, second: Tensor, groups: tuple) -> Tensor:
    return torch.ops.equipot.irreps_linear_transposed(first, second, *groups)


def _outer(first: Tensor, second: Tensor, groups: tuple) -> Tensor:
    return torch.ops.equipot.irreps_linear_outer(first, second, *groups)


def _remember(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    first, second, order, starts, key = inputs
    ctx.key = key  # type: ignore[attr-defined]
    ctx.save_for_backward(first, second, order, starts)


def _operands(ctx: FunctionCtx) -> tuple[Tensor, Tensor, tuple]:
    first, second, order, starts = ctx.saved_tensors  # type: ignore[attr-defined]
    return first, second, (order, starts, ctx.key)  # type: ignore[attr-defined]


def _linear_backward(ctx: FunctionCtx, gy: Tensor) -> tuple[Tensor | None, ...]:
    x, W, groups = _operands(ctx)
    need_x, need_W = wanted(ctx, 2)
    gx = _transposed(gy, W, groups) if need_x else None
    gW = _outer(x, gy, groups) if need_W else None
    return gx, gW, None, None, None


def _transposed_backward(ctx: FunctionCtx, xx: Tensor) -> tuple[Tensor | None, ...]:
    gy, W, groups = _operands(ctx)
    need_gy, need_W = wanted(ctx, 2)
    ggy = _linear(xx, W, groups) if need_gy else None
    gW = _outer(xx, gy, groups) if need_W else None
    return ggy, gW, None, None, None


def _outer_backward(ctx: FunctionCtx, WW: Tensor) -> tuple[Tensor | None, ...]:
    x, gy, groups = _operands(ctx)
    need_x, need_gy = wanted(ctx, 2)
    gx = _transposed(gy, WW, groups) if need_x else None
    ggy = _linear(x, WW, groups) if need_gy else None
    return gx, ggy, None, None, None


for _name, _backward in (
    ("irreps_linear", _linear_backward),
    ("irreps_linear_transposed", _transposed_backward),
    ("irreps_linear_outer", _outer_backward),
):
    differentiate(f"equipot::{_name}", _backward, _remember)
