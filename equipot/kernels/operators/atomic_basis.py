"""The one-particle basis as torch operators: a trilinear form of R, Y and gA, and its three derivatives.

    atomic_basis          A[i, z, lm, n] = Σ_{e → i, z_e = z} R[e, n] Y[e, lm]
    atomic_basis_radial   gR[e, n]  = Σ_lm gA[i, z_e, lm, n] Y[e, lm]
    atomic_basis_angular  gY[e, lm] = Σ_n  gA[i, z_e, lm, n] R[e, n]

Their derivatives are each other, to any order. `species` is the sender's of each edge, `starts` the first edge of each
owned node and the number of edges; `num_species` is the number of elements.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from equipot.kernels.operators.library import LIBRARY, differentiate, wanted

_EDGES = "Tensor species, Tensor starts, int num_species"
LIBRARY.define(f"atomic_basis(Tensor R, Tensor Y, {_EDGES}) -> Tensor")
LIBRARY.define(f"atomic_basis_radial(Tensor gA, Tensor Y, {_EDGES}) -> Tensor")
LIBRARY.define(f"atomic_basis_angular(Tensor gA, Tensor R, {_EDGES}) -> Tensor")


@torch.library.register_fake("equipot::atomic_basis", lib=LIBRARY)
def _(R: Tensor, Y: Tensor, species: Tensor, starts: Tensor, num_species: int) -> Tensor:
    return R.new_empty((starts.shape[0] - 1, num_species * Y.shape[1] * R.shape[1]))


@torch.library.register_fake("equipot::atomic_basis_radial", lib=LIBRARY)
def _(gA: Tensor, Y: Tensor, species: Tensor, starts: Tensor, num_species: int) -> Tensor:
    return Y.new_empty((Y.shape[0], gA.shape[1] // (num_species * Y.shape[1])))


@torch.library.register_fake("equipot::atomic_basis_angular", lib=LIBRARY)
def _(gA: Tensor, R: Tensor, species: Tensor, starts: Tensor, num_species: int) -> Tensor:
    return R.new_empty((R.shape[0], gA.shape[1] // (num_species * R.shape[1])))


def _basis(first: Tensor, second: Tensor, edges: tuple) -> Tensor:
    return torch.ops.equipot.atomic_basis(first, second, *edges)


def _radial(first: Tensor, second: Tensor, edges: tuple) -> Tensor:
    return torch.ops.equipot.atomic_basis_radial(first, second, *edges)


def _angular(first: Tensor, second: Tensor, edges: tuple) -> Tensor:
    return torch.ops.equipot.atomic_basis_angular(first, second, *edges)


def _remember(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
    *tensors, num_species = inputs
    ctx.num_species = num_species  # type: ignore[attr-defined]
    ctx.save_for_backward(*tensors)


def _operands(ctx: FunctionCtx) -> tuple[Tensor, Tensor, tuple]:
    first, second, species, starts = ctx.saved_tensors  # type: ignore[attr-defined]
    return first, second, (species, starts, ctx.num_species)  # type: ignore[attr-defined]


def _basis_backward(ctx: FunctionCtx, gA: Tensor) -> tuple[Tensor | None, ...]:
    R, Y, edges = _operands(ctx)
    need_R, need_Y = wanted(ctx, 2)
    gR = _radial(gA, Y, edges) if need_R else None
    gY = _angular(gA, R, edges) if need_Y else None
    return gR, gY, None, None, None


def _radial_backward(ctx: FunctionCtx, RR: Tensor) -> tuple[Tensor | None, ...]:
    gA, Y, edges = _operands(ctx)
    need_A, need_Y = wanted(ctx, 2)
    ggA = _basis(RR, Y, edges) if need_A else None
    gY = _angular(gA, RR, edges) if need_Y else None
    return ggA, gY, None, None, None


def _angular_backward(ctx: FunctionCtx, YY: Tensor) -> tuple[Tensor | None, ...]:
    gA, R, edges = _operands(ctx)
    need_A, need_R = wanted(ctx, 2)
    ggA = _basis(R, YY, edges) if need_A else None
    gR = _radial(gA, YY, edges) if need_R else None
    return ggA, gR, None, None, None


for _name, _backward in (
    ("atomic_basis", _basis_backward),
    ("atomic_basis_radial", _radial_backward),
    ("atomic_basis_angular", _angular_backward),
):
    differentiate(f"equipot::{_name}", _backward, _remember)
