"""The convolution that evaluates its splines on the way, against spline and convolution one after the other."""

import pytest
import torch

import equipot.kernels.backend  # noqa: F401  (registers the operators)
from equipot.kernels.operations import ConvolutionOperation, EdgeIndex, Splined, SplineOperation, edge_index
from equipot.kernels.polynomial import Convolution, convolution
from equipot.o3 import Irrep, Irreps
from tests.kernels.fused import needs_compiler, random, relative_error

pytestmark = needs_compiler
TARGETS = [Irrep(ell, p) for ell in range(3) for p in (-1, 1)]
ROWS = 20
CASES = {
    "scalars": convolution(Irreps("16x0e"), 2, TARGETS),
    "unequal multiplicities": convolution(Irreps("3x0o + 17x0e + 8x1o"), 2, TARGETS),
}


def edges(count: int = 120) -> EdgeIndex:
    generator = torch.Generator().manual_seed(3)
    senders = torch.randint(9, (count,), generator=generator)
    return edge_index(senders, torch.randint(1, 6, (count,), generator=generator).sort().values, 7)


def inputs(d: Convolution, e: EdgeIndex, dtype: torch.dtype) -> list[torch.Tensor]:
    count = len(e.senders)
    u = (ROWS - 4) * torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u[0], u[1] = 0.0, float(ROWS - 5)  # the first and the last row of the table
    return [
        random(9, d.irreps_in.dim, dtype=dtype), random(count, (d.max_ell + 1) ** 2, seed=1, dtype=dtype),
        random(ROWS, d.num_weights, seed=2, dtype=dtype), u,
    ]  # fmt: skip


def evaluate(d: Convolution, dtype: torch.dtype, backend: str, x: list[torch.Tensor], e: EdgeIndex) -> torch.Tensor:
    operation, spline = ConvolutionOperation(d, dtype), SplineOperation(dtype)
    operation.backend = spline.backend = backend
    h, Y, table, u = x
    return operation(h, Y, Splined(table, u, spline), e)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients(name: str, threads: int, dtype: torch.dtype, limit: float) -> None:
    d, e = CASES[name], edges(120 if threads == 1 else 4000)
    before = torch.get_num_threads()
    results = []
    try:
        torch.set_num_threads(threads)
        for backend, kind in (("cpu", dtype), ("reference", torch.float64)):
            x = [y.double() if kind == torch.float64 else y for y in inputs(d, e, dtype)]
            wanted = [x[n].requires_grad_() for n in (0, 1, 3)]
            a = evaluate(d, kind, backend, x, e)
            results.append([a.detach(), *torch.autograd.grad((a**2).sum(), wanted)])
    finally:
        torch.set_num_threads(before)
    assert max(relative_error(a, b) for a, b in zip(*results, strict=True)) < limit


def test_second_derivatives_and_those_of_the_table_exist() -> None:
    d, e = CASES["scalars"], edges()
    results = []
    for backend in ("cpu", "reference"):
        x = inputs(d, e, torch.float64)
        wanted = [x[n].requires_grad_() for n in (0, 1, 3)]
        a = evaluate(d, torch.float64, backend, x, e)
        first = torch.autograd.grad((a**2).sum(), wanted, create_graph=True)
        results.append(torch.autograd.grad(sum((g**2).sum() for g in first), wanted))
        x[2].requires_grad_()
        a = evaluate(d, torch.float64, backend, x, e)
        results[-1] += torch.autograd.grad((a**2).sum(), x[2])
    assert max(relative_error(a, b) for a, b in zip(*results, strict=True)) < 1e-12


def test_operator_keeps_torchs_rules() -> None:
    d, e = CASES["scalars"], edges(30)
    h, Y, table, u = inputs(d, e, torch.float64)
    arguments = (h.requires_grad_(), Y.requires_grad_(), table, u.requires_grad_(), *e, d.key)
    torch.library.opcheck(torch.ops.equipot.splined_convolution.default, arguments)
