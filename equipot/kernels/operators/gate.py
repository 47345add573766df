"""The gate as torch operators.

    gate                  y = F(x)
    gate_backward         gx = ∇ ⟨gy, F⟩
    gate_double_backward  ∇ ⟨x', gx⟩ with respect to gy and x

What is not wanted is an empty tensor.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from equipot.kernels.gate_map import GateMap
from equipot.kernels.operators.library import LIBRARY, differentiate, no_third_derivative, wanted

LIBRARY.define("gate(Tensor x, str key) -> Tensor")
LIBRARY.define("gate_backward(Tensor gy, Tensor x, str key) -> Tensor")
LIBRARY.define("gate_double_backward(Tensor xx, Tensor gy, Tensor x, str key, bool[] need) -> (Tensor, Tensor)")


@torch.library.register_fake("equipot::gate", lib=LIBRARY)
def _(x: Tensor, key: str) -> Tensor:
    return x.new_empty((x.shape[0], GateMap.from_key(key).irreps_out.dim))


@torch.library.register_fake("equipot::gate_backward", lib=LIBRARY)
def _(gy: Tensor, x: Tensor, key: str) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("equipot::gate_double_backward", lib=LIBRARY)
def _(xx: Tensor, gy: Tensor, x: Tensor, key: str, need: Sequence[bool]) -> tuple[Tensor, Tensor]:
    return gy.new_empty(gy.shape if need[0] else (0,)), x.new_empty(x.shape if need[1] else (0,))


def _remember(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    *tensors, key = inputs
    ctx.key = key  # type: ignore[attr-defined]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _backward(ctx: FunctionCtx, gy: Tensor | None) -> tuple[Tensor | None, ...]:
    if gy is None or not wanted(ctx, 1)[0]:
        return None, None
    return torch.ops.equipot.gate_backward(gy.contiguous(), *ctx.saved_tensors, ctx.key), None  # type: ignore[attr-defined]


def _double_backward(ctx: FunctionCtx, xx: Tensor | None) -> tuple[Tensor | None, ...]:
    need = wanted(ctx, 2)
    if xx is None or not any(need):
        return None, None, None
    gradients = torch.ops.equipot.gate_double_backward(xx.contiguous(), *ctx.saved_tensors, ctx.key, need)  # type: ignore[attr-defined]
    return *(g if n else None for g, n in zip(gradients, need, strict=True)), None


differentiate("equipot::gate", _backward, _remember)
differentiate("equipot::gate_backward", _double_backward, _remember)
no_third_derivative("equipot::gate_double_backward")
