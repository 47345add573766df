"""The convolution in generated C++ against its definition: value, gradient, second gradient, every input."""

import pytest
import torch

from equipot.kernels import backend
from equipot.kernels.operations import ConvolutionOperation, EdgeIndex, edge_index
from equipot.kernels.polynomial import Convolution, convolution
from equipot.o3 import Irrep, Irreps
from tests.kernels.fused import derivatives, needs_compiler, random, relative_error

pytestmark = needs_compiler
ALL = [Irrep(ell, p) for ell in range(4) for p in (-1, 1)]
CASES = {
    "scalars": convolution(Irreps("16x0e"), 3, ALL),
    "unequal multiplicities, both parities": convolution(Irreps("3x0o + 17x0e + 8x1o + 5x1e"), 2, ALL[:6]),
    "one irrep in two segments, any order": convolution(Irreps("2x2e + 3x0e + 6x2e"), 2, ALL[:6]),
    "a segment without paths": convolution(Irreps("2x0e + 3x2e"), 0, [Irrep(0, 1)]),
    "more couplings than registers": convolution(Irreps("4x3o"), 3, ALL),
}


def edges(nodes: int = 9, owned: int = 7, count: int = 60) -> EdgeIndex:
    generator = torch.Generator().manual_seed(3)
    senders = torch.randint(nodes, (count,), generator=generator)
    receivers = torch.randint(1, owned - 1, (count,), generator=generator).sort().values  # first and last have no edges
    return edge_index(senders, receivers, owned)


def inputs(d: Convolution, e: EdgeIndex, dtype: torch.dtype, nodes: int = 9) -> list[torch.Tensor]:
    count = len(e.senders)
    shapes = [(nodes, d.irreps_in.dim), (count, (d.max_ell + 1) ** 2), (count, d.num_weights)]
    return [random(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]


def both(d: Convolution, dtype: torch.dtype) -> tuple[ConvolutionOperation, ConvolutionOperation]:
    fused, exact = ConvolutionOperation(d, dtype), ConvolutionOperation(d, torch.float64)
    fused.backend = "cpu"
    return fused, exact


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
@pytest.mark.parametrize("name", CASES)
def test_value_and_derivatives_are_those_of_the_definition(name: str, dtype: torch.dtype, limit: float) -> None:
    d, e = CASES[name], edges()
    fused, exact = both(d, dtype)
    x = inputs(d, e, dtype)
    made = derivatives(lambda *x: fused(*x, e), x)
    wanted = derivatives(lambda *x: exact(*x, e), [y.double() for y in x])
    assert [relative_error(a, b) < limit for a, b in zip(made, wanted, strict=True)] == [True] * 8


def test_threads_change_rounding_at_most_and_are_repeatable() -> None:
    d, e = CASES["scalars"], edges(40, 40, 3000)
    fused, exact = both(d, torch.float64)
    x = inputs(d, e, torch.float64, 40)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        first, second = (derivatives(lambda *x: fused(*x, e), x) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    wanted = derivatives(lambda *x: exact(*x, e), x)
    assert max(relative_error(a, b) for a, b in zip(first, wanted, strict=True)) < 1e-13


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2)])
def test_gradients_asked_for_alone_are_the_same(needed: tuple[int, ...]) -> None:
    d, e = CASES["scalars"], edges()
    fused, _ = both(d, torch.float64)
    x = [y.requires_grad_() for y in inputs(d, e, torch.float64)]
    value = (fused(*[y * 1.0 for y in x], e) ** 2).sum()
    every = torch.autograd.grad(value, x, retain_graph=True)
    some = torch.autograd.grad(value, [x[n] for n in needed])
    assert all(torch.equal(every[n], g) for n, g in zip(needed, some, strict=True))


def test_no_edges_and_no_nodes() -> None:
    d = CASES["scalars"]
    fused, _ = both(d, torch.float64)
    for owned in (0, 3):
        e = edge_index(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), owned)
        x = [y.requires_grad_() for y in inputs(d, e, torch.float64, owned)]
        a = fused(*x, e)
        assert a.shape == (owned, d.irreps_out.dim)
        assert all(float(g.abs().sum()) == 0.0 for g in torch.autograd.grad(a.sum(), x))


def test_third_derivative_says_what_to_do() -> None:
    d, e = CASES["scalars"], edges()
    fused, _ = both(d, torch.float64)
    h, Y, R = (y.requires_grad_() for y in inputs(d, e, torch.float64))
    (first,) = torch.autograd.grad((fused(h, Y, R, e) ** 2).sum(), Y, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), R, create_graph=True)
    with pytest.raises(RuntimeError, match="backend 'reference'"):
        torch.autograd.grad((second**2).sum(), h)


def test_operator_keeps_torchs_rules() -> None:
    d, e = CASES["one irrep in two segments, any order"], edges()
    x = [y.requires_grad_() for y in inputs(d, e, torch.float64)]
    torch.library.opcheck(torch.ops.equipot.convolution.default, (*x, *e, d.key))
    ga = random(7, d.irreps_out.dim, seed=9).requires_grad_()
    need = [True, False, True]
    torch.library.opcheck(torch.ops.equipot.convolution_backward.default, (ga, *x, *e, d.key, need))


@pytest.mark.parametrize("name", CASES)
def test_key_names_the_description(name: str) -> None:
    d = CASES[name]
    assert Convolution.from_key(d.key) == d


def test_backend_is_chosen_for_all_operations_at_once() -> None:
    module = torch.nn.ModuleList([ConvolutionOperation(CASES["scalars"], torch.float32) for _ in range(2)])
    assert backend.backend_of(module) == "reference"
    choice = backend.use_backend(module, "auto", training=False)
    assert choice.name == "cpu" and backend.backend_of(module) == "cpu"
    assert "C++" in str(choice)
    assert backend.use_backend(module, "reference").name == "reference" and not module[0].fused
