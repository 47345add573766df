"""The functions of linear ACE as torch operators (`kernels.coupled.CoupledProduct`), weighted and expanded.

    coupled_energy          e_i = Σ_p W[z_i, p] v_a v_b, and with it D = ∂e/∂A; v are the slots of the program
    coupled_energy_weights  gW = ∇_W Σ_i (g_i e_i + ⟨h_i, D_i⟩)
    coupled_energy_hessian  ∇_A Σ_i ⟨h_i, D_i⟩: the second derivative along h
    coupled_basis           B[i, f] = Σ_p folding[f, p] v_a v_b
    coupled_basis_backward  gA

The energy and its gradient share nearly all of their work and are made together; because e is linear in W, all second
derivatives are operators of this list. W is [species, pair], `order` the nodes sorted by species, `starts` where each
species begins; both None where W has one row. D is empty unless `gradient` asks for it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from equipot.kernels.coupled import CoupledProduct
from equipot.kernels.operators.library import LIBRARY, differentiate, no_third_derivative, wanted

_GROUPS = "Tensor? order, Tensor? starts"
LIBRARY.define(f"coupled_energy(Tensor A, Tensor W, {_GROUPS}, bool gradient, str key) -> (Tensor, Tensor)")
LIBRARY.define(f"coupled_energy_weights(Tensor? g, Tensor? h, Tensor A, {_GROUPS}, str key) -> Tensor")
LIBRARY.define(f"coupled_energy_hessian(Tensor h, Tensor A, Tensor W, {_GROUPS}, str key) -> Tensor")
LIBRARY.define("coupled_basis(Tensor A, str key) -> Tensor")
LIBRARY.define("coupled_basis_backward(Tensor gB, Tensor A, str key) -> Tensor")


@torch.library.register_fake("equipot::coupled_energy", lib=LIBRARY)
def _(
    A: Tensor, W: Tensor, order: Tensor | None, starts: Tensor | None, gradient: bool, key: str
) -> tuple[Tensor, Tensor]:
    return A.new_empty(A.shape[0]), A.new_empty(A.shape if gradient else (0,))


@torch.library.register_fake("equipot::coupled_energy_weights", lib=LIBRARY)
def _(
    g: Tensor | None, h: Tensor | None, A: Tensor, order: Tensor | None, starts: Tensor | None, key: str
) -> Tensor:  # fmt: skip
    rows = 1 if starts is None else starts.shape[0] - 1
    return A.new_empty((rows, CoupledProduct.from_key(key).program.num_pairs))


@torch.library.register_fake("equipot::coupled_energy_hessian", lib=LIBRARY)
def _(h: Tensor, A: Tensor, W: Tensor, order: Tensor | None, starts: Tensor | None, key: str) -> Tensor:
    return A.new_empty(A.shape)


@torch.library.register_fake("equipot::coupled_basis", lib=LIBRARY)
def _(A: Tensor, key: str) -> Tensor:
    return A.new_empty((A.shape[0], CoupledProduct.from_key(key).num_functions))


@torch.library.register_fake("equipot::coupled_basis_backward", lib=LIBRARY)
def _(gB: Tensor, A: Tensor, key: str) -> Tensor:
    return A.new_empty(A.shape)


def _sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return None if not given else given[0] if len(given) == 1 else given[0] + given[1]


def _energy_gradient(
    g: Tensor | None, h: Tensor | None, A: Tensor, groups: tuple, slope: Callable[[], Tensor], W: Tensor
) -> Tensor | None:
    """∇_A Σ_i (g_i e_i + ⟨h_i, D_i⟩), with D as `slope` gives it."""
    along = None if g is None else g.unsqueeze(1) * slope()
    return _sum([along, None if h is None else torch.ops.equipot.coupled_energy_hessian(h, A, W, *groups)])


def _remember_energy(ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    A, W, order, starts, gradient, key = inputs
    ctx.key, ctx.gradient = key, gradient  # type: ignore[attr-defined]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(A, W, order, starts, output[1])


def _energy_backward(ctx: FunctionCtx, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    A, W, order, starts, D = ctx.saved_tensors  # type: ignore[attr-defined]
    groups = (order, starts, ctx.key)  # type: ignore[attr-defined]
    need_A, need_W = wanted(ctx, 2)
    g, h = (None if c is None else c.contiguous() for c in cotangents)
    if not ctx.gradient:  # type: ignore[attr-defined]
        h = None  # there is no D
    gA = gW = None
    if need_A:

        def slope() -> Tensor:
            made = ctx.gradient  # type: ignore[attr-defined]
            return D if made else torch.ops.equipot.coupled_energy(A, W, order, starts, True, ctx.key)[1]  # type: ignore[attr-defined]

        gA = _energy_gradient(g, h, A, groups, slope, W)
    if need_W and not (g is None and h is None):
        gW = torch.ops.equipot.coupled_energy_weights(g, h, A, *groups)
    return gA, gW, None, None, None, None


def _remember_weights(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    *tensors, key = inputs
    ctx.key = key  # type: ignore[attr-defined]
    ctx.save_for_backward(*tensors)


def _weights_backward(ctx: FunctionCtx, WW: Tensor) -> tuple[Tensor | None, ...]:
    g, h, A, order, starts = ctx.saved_tensors  # type: ignore[attr-defined]
    groups = (order, starts, ctx.key)  # type: ignore[attr-defined]
    need_A = wanted(ctx, 3)[2]
    e, D = torch.ops.equipot.coupled_energy(A, WW, order, starts, need_A or h is not None, ctx.key)  # type: ignore[attr-defined]
    gA = _energy_gradient(g, h, A, groups, lambda: D, WW) if need_A else None
    return (None if g is None else e), (None if h is None else D), gA, None, None, None


def _basis_backward(ctx: FunctionCtx, gB: Tensor) -> tuple[Tensor | None, ...]:
    (A,) = ctx.saved_tensors  # type: ignore[attr-defined]
    return torch.ops.equipot.coupled_basis_backward(gB.contiguous(), A, ctx.key), None  # type: ignore[attr-defined]


differentiate("equipot::coupled_energy", _energy_backward, _remember_energy)
differentiate("equipot::coupled_energy_weights", _weights_backward, _remember_weights)
no_third_derivative("equipot::coupled_energy_hessian")
differentiate("equipot::coupled_basis", _basis_backward, _remember_weights)
no_third_derivative("equipot::coupled_basis_backward")
