"""Interpolation of tables by quintic B-splines, `equipot.kernels.spline`, as torch operators.

    spline                  y = S₀(T, u)
    spline_backward         gT = S₀ᵀ(g, u),   gu = Σ_k g_k S₁(T, u)_k
    spline_double_backward  ∇ (⟨T', gT⟩ + ⟨u', gu⟩) with respect to g, T, u:
                            S₀(T', u) + u' S₁(T, u),   S₁ᵀ(u' g, u),   Σ_k g_k (S₁(T', u)_k + u' S₂(T, u)_k)

u is float64 (its fraction is what counts); the table may be float32. What is not wanted is an empty tensor. All three
are made of few parts: six weights for each edge, and `gather`, `scatter` and `dot` with them; here in plain torch for
every device.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from equipot.kernels import spline as reference
from equipot.kernels.operators.library import LIBRARY, differentiate, no_third_derivative, wanted

LIBRARY.define("spline(Tensor T, Tensor u) -> Tensor")
LIBRARY.define("spline_backward(Tensor g, Tensor T, Tensor u, bool[] need) -> (Tensor, Tensor)")
LIBRARY.define(
    "spline_double_backward(Tensor? TT, Tensor? uu, Tensor g, Tensor T, Tensor u, bool[] need) "
    "-> (Tensor, Tensor, Tensor)"
)


class Parts(NamedTuple):
    """What the operators are made of; see `equipot.kernels.spline` for the meaning.

    Attributes:
        weights: u, rows, derivative, factor of each edge or None, dtype → first, weights.
        gather: table, first, weights, whether these add up to zero (those of derivatives) → values at the edges.
        scatter: values, first, weights, rows → table.
        dot: values, table, first, weights that add up to zero → one number for each edge, float64.
    """

    weights: Callable[[Tensor, int, int, Tensor | None, torch.dtype], tuple[Tensor, Tensor]]
    gather: Callable[[Tensor, Tensor, Tensor, bool], Tensor]
    scatter: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    dot: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

    def forward(self, T: Tensor, u: Tensor) -> Tensor:
        """Returns y."""
        return self.gather(T, *self.weights(u, T.shape[0], 0, None, T.dtype), False)

    def backward(self, g: Tensor, T: Tensor, u: Tensor, need: Sequence[bool]) -> tuple[Tensor, Tensor]:
        """Returns gT, gu."""
        rows = T.shape[0]
        gT = self.scatter(g, *self.weights(u, rows, 0, None, T.dtype), rows) if need[0] else T.new_empty(0)
        gu = self.dot(g, T, *self.weights(u, rows, 1, None, T.dtype)) if need[1] else u.new_empty(0)
        return gT, gu

    def double_backward(
        self, TT: Tensor | None, uu: Tensor | None, g: Tensor, T: Tensor, u: Tensor, need: Sequence[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients with respect to g, T, u."""
        rows, of_g, of_T, of_u = T.shape[0], [], [], []
        if TT is not None:
            of_g += [self.gather(TT, *self.weights(u, rows, 0, None, T.dtype), False)] if need[0] else []
            of_u += [self.dot(g, TT, *self.weights(u, rows, 1, None, T.dtype))] if need[2] else []
        if uu is not None:
            slope = self.weights(u, rows, 1, uu, T.dtype)
            of_g += [self.gather(T, *slope, True)] if need[0] else []
            of_T += [self.scatter(g, *slope, rows)] if need[1] else []
            of_u += [self.dot(g, T, *self.weights(u, rows, 2, uu, T.dtype))] if need[2] else []
        return _sum(of_g, g, need[0]), _sum(of_T, T, need[1]), _sum(of_u, u, need[2])


def _sum(terms: list[Tensor], like: Tensor, needed: bool) -> Tensor:
    if not needed:
        return like.new_empty(0)
    return torch.stack(terms).sum(dim=0) if len(terms) > 1 else terms[0] if terms else torch.zeros_like(like)


def _weights(u: Tensor, rows: int, derivative: int, factor: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    first, weights = reference.interval_weights(u, rows, derivative)
    return first, weights if factor is None else weights * factor.unsqueeze(-1)


def _gather(table: Tensor, first: Tensor, weights: Tensor, slope: bool) -> Tensor:
    return reference.gather(table, first, weights)


PLAIN = Parts(_weights, _gather, reference.scatter, reference.dot)
"""In plain torch, for any device."""

torch.library.impl("equipot::spline", "CompositeExplicitAutograd", PLAIN.forward, lib=LIBRARY)
torch.library.impl("equipot::spline_backward", "CompositeExplicitAutograd", PLAIN.backward, lib=LIBRARY)
torch.library.impl("equipot::spline_double_backward", "CompositeExplicitAutograd", PLAIN.double_backward, lib=LIBRARY)


@torch.library.register_fake("equipot::spline", lib=LIBRARY)
def _(T: Tensor, u: Tensor) -> Tensor:
    return T.new_empty((u.shape[0], T.shape[1]))


@torch.library.register_fake("equipot::spline_backward", lib=LIBRARY)
def _(g: Tensor, T: Tensor, u: Tensor, need: Sequence[bool]) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape if n else 0) for x, n in zip((T, u), need, strict=True))


@torch.library.register_fake("equipot::spline_double_backward", lib=LIBRARY)
def _(
    TT: Tensor | None, uu: Tensor | None, g: Tensor, T: Tensor, u: Tensor, need: Sequence[bool]
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape if n else 0) for x, n in zip((g, T, u), need, strict=True))


def _remember(ctx: FunctionCtx, inputs: tuple, output: Tensor | tuple) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))


def _backward(ctx: FunctionCtx, g: Tensor | None) -> tuple[Tensor | None, ...]:
    need = wanted(ctx, 2)
    if g is None or not any(need):
        return None, None
    gradients = torch.ops.equipot.spline_backward(g.contiguous(), *ctx.saved_tensors, need)  # type: ignore[attr-defined]
    return tuple(x if n else None for x, n in zip(gradients, need, strict=True))


def _double_backward(ctx: FunctionCtx, TT: Tensor | None, uu: Tensor | None) -> tuple[Tensor | None, ...]:
    need = wanted(ctx, 3)
    if (TT is None and uu is None) or not any(need):
        return None, None, None, None
    given = [None if x is None or x.numel() == 0 else x.contiguous() for x in (TT, uu)]
    gradients = torch.ops.equipot.spline_double_backward(*given, *ctx.saved_tensors, need)  # type: ignore[attr-defined]
    return *(x if n else None for x, n in zip(gradients, need, strict=True)), None


differentiate("equipot::spline", _backward, _remember)
differentiate("equipot::spline_backward", _double_backward, _remember)
no_third_derivative("equipot::spline_double_backward")
