"""The convolution with R as a spline, R = S₀(T, u), evaluated on the way and never stored.

    splined_convolution           a = F(h, Y, S₀(T, u))
    splined_convolution_backward  gh, gY, gu;  gu = Σ_k gR_k S₁(T, u)_k

For evaluations: memory and time of [edge, path, channel] arrays are saved. Where gradients of the table or second
derivatives are asked for, the derivative is written with `spline` and `convolution`, which have them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

import equipot.kernels.operators.spline  # noqa: F401  (registers what the derivative uses)
from equipot.kernels.operators.library import LIBRARY, differentiate, remember, wanted
from equipot.kernels.polynomial import Convolution

_EDGES = "Tensor senders, Tensor receivers, Tensor starts, str key"
LIBRARY.define(f"splined_convolution(Tensor h, Tensor Y, Tensor T, Tensor u, {_EDGES}) -> Tensor")
LIBRARY.define(
    f"splined_convolution_backward(Tensor ga, Tensor h, Tensor Y, Tensor T, Tensor u, {_EDGES}, bool[] need) "
    "-> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("equipot::splined_convolution", lib=LIBRARY)
def _(
    h: Tensor, Y: Tensor, T: Tensor, u: Tensor, senders: Tensor, receivers: Tensor, starts: Tensor, key: str
) -> Tensor:
    return h.new_empty((starts.shape[0] - 1, Convolution.from_key(key).irreps_out.dim))


@torch.library.register_fake("equipot::splined_convolution_backward", lib=LIBRARY)
def _(
    ga: Tensor, h: Tensor, Y: Tensor, T: Tensor, u: Tensor, senders: Tensor, receivers: Tensor, starts: Tensor,
    key: str, need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    return tuple(x.new_empty(x.shape if n else 0) for x, n in zip((h, Y, u), need, strict=True))


def _backward(ctx: FunctionCtx, ga: Tensor | None) -> tuple[Tensor | None, ...]:
    of_h, of_Y, of_T, of_u = need = wanted(ctx, 4)
    h, Y, T, u, *edges = ctx.saved_tensors  # type: ignore[attr-defined]
    key = ctx.key  # type: ignore[attr-defined]
    if ga is None or not any(need):
        return (None,) * 8
    if torch.is_grad_enabled() or of_T:
        R = torch.ops.equipot.spline(T, u)
        asked = [of_h, of_Y, of_T or of_u]
        gh, gY, gR = torch.ops.equipot.convolution_backward(ga.contiguous(), h, Y, R, *edges, key, asked)
        gT, gu = torch.ops.equipot.spline_backward(gR, T, u, [of_T, of_u]) if asked[2] else (gR, gR)
    else:
        asked = [of_h, of_Y, of_u]
        gh, gY, gu = torch.ops.equipot.splined_convolution_backward(ga.contiguous(), h, Y, T, u, *edges, key, asked)
        gT = gu
    gradients = zip((gh, gY, gT, gu), need, strict=True)
    return *(g if n else None for g, n in gradients), None, None, None, None


differentiate("equipot::splined_convolution", _backward, remember)
