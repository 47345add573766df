"""The convolution as torch operators, trilinear in h, Y and R.

    convolution                  a = F(h, Y, R)
    convolution_backward         gh, gY, gR = ∇ ⟨ga, F⟩
    convolution_double_backward  ∇ (⟨h', gh⟩ + ⟨Y', gY⟩ + ⟨R', gR⟩) with respect to ga, h, Y, R

What is not wanted is an empty tensor. On the CPU they run as generated C++ (`kernels.cpu`), or in plain torch where no
compiler is found.
"""

from collections.abc import Sequence

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
from equipot.kernels.polynomial import Convolution

_EDGES = "Tensor senders, Tensor receivers, Tensor starts, str key"
LIBRARY.define(f"convolution(Tensor h, Tensor Y, Tensor R, {_EDGES}) -> Tensor")
LIBRARY.define(
    f"convolution_backward(Tensor ga, Tensor h, Tensor Y, Tensor R, {_EDGES}, bool[] need) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "convolution_double_backward(Tensor? hh, Tensor? YY, Tensor? RR, Tensor ga, Tensor h, Tensor Y, Tensor R, "
    f"{_EDGES}, bool[] need) -> (Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("equipot::convolution", lib=LIBRARY)
def _(h: Tensor, Y: Tensor, R: Tensor, senders: Tensor, receivers: Tensor, starts: Tensor, key: str) -> Tensor:
    return h.new_empty((starts.shape[0] - 1, Convolution.from_key(key).irreps_out.dim))


@torch.library.register_fake("equipot::convolution_backward", lib=LIBRARY)
def _(
    ga: Tensor, h: Tensor, Y: Tensor, R: Tensor, senders: Tensor, receivers: Tensor, starts: Tensor, key: str,
    need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    return tuple(like_if(x, n) for x, n in zip((h, Y, R), need, strict=True))


@torch.library.register_fake("equipot::convolution_double_backward", lib=LIBRARY)
def _(
    hh: Tensor | None, YY: Tensor | None, RR: Tensor | None, ga: Tensor, h: Tensor, Y: Tensor, R: Tensor,
    senders: Tensor, receivers: Tensor, starts: Tensor, key: str, need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    return tuple(like_if(x, n) for x, n in zip((ga, h, Y, R), need, strict=True))


def _backward(ctx: FunctionCtx, ga: Tensor | None) -> tuple[Tensor | None, ...]:
    need = wanted(ctx, 3)
    if ga is None or not any(need):
        return (None,) * 7
    gradients = torch.ops.equipot.convolution_backward(ga.contiguous(), *ctx.saved_tensors, ctx.key, need)  # type: ignore[attr-defined]
    return *chosen(gradients, need), None, None, None, None


def _double_backward(ctx: FunctionCtx, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    need = wanted(ctx, 4)
    if all(c is None for c in cotangents) or not any(need):
        return (None,) * 9
    given = [None if c is None or c.numel() == 0 else c.contiguous() for c in cotangents]
    gradients = torch.ops.equipot.convolution_double_backward(*given, *ctx.saved_tensors, ctx.key, need)  # type: ignore[attr-defined]
    return *chosen(gradients, need), None, None, None, None, None


differentiate("equipot::convolution", _backward, remember)
differentiate("equipot::convolution_backward", _double_backward, remember_backward)
no_third_derivative("equipot::convolution_double_backward")
