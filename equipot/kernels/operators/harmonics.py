"""Edge vectors to lengths and harmonics, as torch operators.

    edge_harmonics                  l = |v|,  Y = Y(s v / |v|)
    edge_harmonics_backward         gv = ∇ (⟨gl, l⟩ + ⟨gY, Y⟩)
    edge_harmonics_double_backward  ∇ ⟨v', gv⟩ with respect to gl, gY, v

Vectors and lengths are float64, Y is of the given type; directions are rounded to it, everything else about the
vectors is float64. What is not wanted is an empty tensor.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from equipot.kernels.operators.library import LIBRARY, differentiate, no_third_derivative, wanted

_REST = "Tensor vectors, int lmax, float sign, ScalarType dtype"
LIBRARY.define(f"edge_harmonics({_REST}) -> (Tensor, Tensor)")
LIBRARY.define(f"edge_harmonics_backward(Tensor? gl, Tensor? gY, {_REST}) -> Tensor")
LIBRARY.define(
    f"edge_harmonics_double_backward(Tensor vv, Tensor? gl, Tensor? gY, {_REST}, bool[] need) "
    "-> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("equipot::edge_harmonics", lib=LIBRARY)
def _(vectors: Tensor, lmax: int, sign: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    count = vectors.shape[0]
    return vectors.new_empty((count,)), vectors.new_empty((count, (lmax + 1) ** 2), dtype=dtype)


@torch.library.register_fake("equipot::edge_harmonics_backward", lib=LIBRARY)
def _(
    gl: Tensor | None, gY: Tensor | None, vectors: Tensor, lmax: int, sign: float, dtype: torch.dtype
) -> Tensor:  # fmt: skip
    return vectors.new_empty(vectors.shape)


@torch.library.register_fake("equipot::edge_harmonics_double_backward", lib=LIBRARY)
def _(
    vv: Tensor, gl: Tensor | None, gY: Tensor | None, vectors: Tensor, lmax: int, sign: float, dtype: torch.dtype,
    need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    return double_backward_outputs(vectors, lmax, dtype, need)


def double_backward_outputs(
    vectors: Tensor, lmax: int, dtype: torch.dtype, need: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns memory for gl', gY', v'; empty where not needed."""
    count = vectors.shape[0]
    return (
        vectors.new_empty((count,) if need[0] else (0,)),
        vectors.new_empty((count, (lmax + 1) ** 2) if need[1] else (0,), dtype=dtype),
        vectors.new_empty(vectors.shape if need[2] else (0,)),
    )


def _remember(ctx: FunctionCtx, inputs: tuple, output: tuple) -> None:
    vectors, *ctx.rest = inputs  # type: ignore[attr-defined]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(vectors)


def _backward(ctx: FunctionCtx, gl: Tensor | None, gY: Tensor | None) -> tuple[Tensor | None, ...]:
    if (gl is None and gY is None) or not wanted(ctx, 1)[0]:
        return (None,) * 4
    given = [None if g is None else g.contiguous() for g in (gl, gY)]
    gv = torch.ops.equipot.edge_harmonics_backward(*given, *ctx.saved_tensors, *ctx.rest)  # type: ignore[attr-defined]
    return gv, None, None, None


def _remember_backward(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    gl, gY, vectors, *ctx.rest = inputs  # type: ignore[attr-defined]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(gl, gY, vectors)


def _double_backward(ctx: FunctionCtx, vv: Tensor | None) -> tuple[Tensor | None, ...]:
    need = wanted(ctx, 3)
    if vv is None or not any(need):
        return (None,) * 6
    gradients = torch.ops.equipot.edge_harmonics_double_backward(
        vv.contiguous(), *ctx.saved_tensors, *ctx.rest, need  # type: ignore[attr-defined]
    )  # fmt: skip
    return *(g if n else None for g, n in zip(gradients, need, strict=True)), None, None, None


differentiate("equipot::edge_harmonics", _backward, _remember)
differentiate("equipot::edge_harmonics_backward", _double_backward, _remember_backward)
no_third_derivative("equipot::edge_harmonics_double_backward")
