"""The product basis as torch operators: F(A, C), a polynomial in A and linear in C, atoms grouped by species.

    product                  B = F(A, C)
    product_backward         gA, gC = ∇ ⟨gB, F⟩
    product_double_backward  ∇ (⟨A', gA⟩ + ⟨C', gC⟩) with respect to gB, A, C

A is [node, lm·K], C [species, term, K] with the terms of `Product.terms`, B [node, M·K]. `order` holds the nodes sorted
by species, `starts` where each species begins; None where all nodes have one species. What is not wanted is an empty
tensor.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from equipot.kernels.operators.library import (
    LIBRARY,
    chosen,
    differentiate,
    like_if,
    no_third_derivative,
    remember,
    remember_backward,
    wanted,
)
from equipot.kernels.polynomial import Product

_GROUPS = "Tensor? order, Tensor? starts, str key"
LIBRARY.define(f"product(Tensor A, Tensor C, {_GROUPS}) -> Tensor")
LIBRARY.define(f"product_backward(Tensor gB, Tensor A, Tensor C, {_GROUPS}, bool[] need) -> (Tensor, Tensor)")
LIBRARY.define(
    f"product_double_backward(Tensor? AA, Tensor? CC, Tensor gB, Tensor A, Tensor C, {_GROUPS}, bool[] need) "
    "-> (Tensor, Tensor, Tensor)"
)


class Shape(NamedTuple):
    """Components of A and of B per channel."""

    num_lm: int
    num_m: int


@lru_cache(maxsize=1024)
def shape(key: str) -> Shape:
    """Returns the sizes of a description."""
    d = Product.from_key(key)
    return Shape(sum(ir.dim for ir in d.irreps_in), sum(ir.dim for ir in d.irreps_out))


@torch.library.register_fake("equipot::product", lib=LIBRARY)
def _(A: Tensor, C: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    return A.new_empty((A.shape[0], shape(key).num_m * C.shape[2]))


@torch.library.register_fake("equipot::product_backward", lib=LIBRARY)
def _(
    gB: Tensor, A: Tensor, C: Tensor, order: Tensor | None, starts: Tensor | None, key: str, need: Sequence[bool]
) -> tuple[Tensor, ...]:
    return tuple(like_if(x, n) for x, n in zip((A, C), need, strict=True))


@torch.library.register_fake("equipot::product_double_backward", lib=LIBRARY)
def _(
    AA: Tensor | None, CC: Tensor | None, gB: Tensor, A: Tensor, C: Tensor, order: Tensor | None,
    starts: Tensor | None, key: str, need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    return tuple(like_if(x, n) for x, n in zip((gB, A, C), need, strict=True))


def _backward(ctx: FunctionCtx, gB: Tensor | None) -> tuple[Tensor | None, ...]:
    need = wanted(ctx, 2)
    if gB is None or not any(need):
        return (None,) * 5
    gradients = torch.ops.equipot.product_backward(gB.contiguous(), *ctx.saved_tensors, ctx.key, need)  # type: ignore[attr-defined]
    return *chosen(gradients, need), None, None, None


def _double_backward(ctx: FunctionCtx, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    need = wanted(ctx, 3)
    given = [None if c is None or c.numel() == 0 else c.contiguous() for c in cotangents]
    if all(c is None for c in given) or not any(need):
        return (None,) * 7
    gradients = torch.ops.equipot.product_double_backward(*given, *ctx.saved_tensors, ctx.key, need)  # type: ignore[attr-defined]
    return *chosen(gradients, need), None, None, None, None


differentiate("equipot::product", _backward, remember)
differentiate("equipot::product_backward", _double_backward, remember_backward)
no_third_derivative("equipot::product_double_backward")
