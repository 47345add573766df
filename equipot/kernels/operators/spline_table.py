"""The coefficients of splines as torch operators: a linear map of values at the knots, and its transpose.

    spline_table             T = S f
    spline_table_transposed  gf = Sᵀ gT

One is the derivative of the other. f is [tables · n, column], T [tables · rows, column] with `rows_of(n)` rows for each
table: those of `UniformSpline`, and rows of zeros for what lies beyond the cutoff.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from equipot.kernels.operators.library import LIBRARY, differentiate
from equipot.kernels.spline import rows_of

LIBRARY.define("spline_table(Tensor f, int knots) -> Tensor")
LIBRARY.define("spline_table_transposed(Tensor gT, int knots) -> Tensor")


@torch.library.register_fake("equipot::spline_table", lib=LIBRARY)
def _(f: Tensor, knots: int) -> Tensor:
    return f.new_empty((f.shape[0] // knots * rows_of(knots), f.shape[1]))


@torch.library.register_fake("equipot::spline_table_transposed", lib=LIBRARY)
def _(gT: Tensor, knots: int) -> Tensor:
    return gT.new_empty((gT.shape[0] // rows_of(knots) * knots, gT.shape[1]))


def _remember(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.knots = inputs[1]  # type: ignore[attr-defined]


differentiate(
    "equipot::spline_table",
    lambda ctx, gT: (torch.ops.equipot.spline_table_transposed(gT.contiguous(), ctx.knots), None),
    _remember,
)
differentiate(
    "equipot::spline_table_transposed",
    lambda ctx, g: (torch.ops.equipot.spline_table(g.contiguous(), ctx.knots), None),
    _remember,
)
