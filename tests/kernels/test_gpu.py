"""The operators on a CUDA device against their definitions on the CPU: run by hand where there is a GPU (-m gpu)."""

from collections.abc import Callable

import pytest
import torch

from equipot.kernels import backend
from equipot.kernels.linear_map import linear_map
from equipot.kernels.operations import (
    ConvolutionOperation,
    EdgeHarmonicsOperation,
    LinearOperation,
    ProductOperation,
    SplineOperation,
    edge_index,
)
from equipot.kernels.reference import group_by_species
from equipot.o3 import Irreps
from tests.kernels import test_triton_convolution, test_triton_product
from tests.kernels.fused import derivatives, random, relative_error

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")]
Case = tuple[torch.nn.Module, torch.nn.Module, Callable, list[torch.Tensor]]


def convolution(name: str, dtype: torch.dtype, count: int = 2000) -> Case:
    d = test_triton_convolution.CASES[name]
    generator = torch.Generator().manual_seed(3)
    senders = torch.randint(90, (count,), generator=generator)
    receivers = torch.randint(1, 79, (count,), generator=generator).sort().values

    def call(operation: ConvolutionOperation, *x: torch.Tensor) -> torch.Tensor:
        return operation(*x, edge_index(senders.to(x[0].device), receivers.to(x[0].device), 80))

    shapes = [(90, d.irreps_in.dim), (count, (d.max_ell + 1) ** 2), (count, d.num_weights)]
    x = [random(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]
    return ConvolutionOperation(d, dtype), ConvolutionOperation(d, torch.float64), call, x


def product(name: str, dtype: torch.dtype) -> Case:
    d, channels = test_triton_product.CASES[name]
    species = torch.arange(211) % 3

    def call(operation: ProductOperation, A: torch.Tensor, *w: torch.Tensor) -> torch.Tensor:
        return operation(A, w, group_by_species(species.to(A.device), 4))

    fused, exact = ProductOperation(d, channels, dtype), ProductOperation(d, channels, torch.float64)
    paths = [d.num_paths(d.irreps_out[n], nu) for n, nu in exact.terms]
    x = [random(211, channels * sum(ir.dim for ir in d.irreps_in), dtype=dtype)]
    return fused, exact, call, x + [random(p, 4, channels, seed=n + 1, dtype=dtype) for n, p in enumerate(paths)]


def linear(name: str, dtype: torch.dtype) -> Case:
    d = linear_map(Irreps("37x0e + 16x1o"), Irreps("5x0e + 33x1o + 2x2e"))
    species = torch.arange(211) % 3

    def call(operation: LinearOperation, x: torch.Tensor, *W: torch.Tensor) -> torch.Tensor:
        return operation(x, W, group_by_species(species.to(x.device), 4) if name == "per element" else None)

    lead = (4,) if name == "per element" else ()
    shapes = [(211, d.irreps_in.dim), *((*lead, b.mul_in, b.mul_out) for b in d.blocks)]
    x = [random(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]
    return LinearOperation(d, dtype), LinearOperation(d, torch.float64), call, x


def spline(name: str, dtype: torch.dtype) -> Case:
    u = 100.0 * torch.rand(3000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = [random(110, 70, dtype=dtype), u]
    return SplineOperation(dtype), SplineOperation(torch.float64), lambda operation, *x: operation(*x), x


def harmonics(name: str, dtype: torch.dtype) -> Case:
    def call(operation: EdgeHarmonicsOperation, v: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.double().flatten() for part in operation(v)])

    exact = EdgeHarmonicsOperation(3, 1.0, torch.float64)
    return EdgeHarmonicsOperation(3, 1.0, dtype), exact, call, [random(300, 3)]


CASES = [
    *((convolution, name) for name in test_triton_convolution.CASES),
    *((product, name) for name in test_triton_product.CASES),
    (linear, "one matrix"), (linear, "per element"), (spline, "spline"), (harmonics, "harmonics"),
]  # fmt: skip


def compare(case: Case, device: str, limit: float, *, repeatable: bool = True) -> None:
    fused, exact, call, x = case
    fused = fused.to(device)
    wanted = derivatives(lambda *x: call(exact, *x), [y.double() for y in x])
    made, again = (derivatives(lambda *x: call(fused, *x), [y.to(device) for y in x]) for _ in range(2))
    assert max(relative_error(a.cpu(), b) for a, b in zip(made, wanted, strict=True)) < limit
    if repeatable:
        assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))


@pytest.mark.parametrize(("make", "name"), CASES)
def test_cases_agree_with_themselves_on_the_cpu(make: Callable, name: str) -> None:
    """What the tests on a GPU compare is sound: plain torch passes them."""
    compare(make(name, torch.float64, *([50] if make is convolution else [])), "cpu", 1e-13)


class TestOnGPU:
    pytestmark = gpu

    @pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    @pytest.mark.parametrize(("make", "name"), CASES)
    def test_value_and_derivatives_are_those_of_the_definition(self, make, name, dtype, limit) -> None:
        case = make(name, dtype)
        assert backend.use_backend(case[0].to("cuda"), "triton").name == "triton"
        case[0].backend = "triton"
        compare(case, "cuda", limit)

    @pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    @pytest.mark.parametrize(("make", "name"), [case for case in CASES if case[0] in (convolution, product)])
    def test_cuequivariance_too(self, make, name, dtype, limit) -> None:
        pytest.importorskip("cuequivariance_ops_torch", reason="cuEquivariance's GPU kernels are not installed")
        case = make(name, dtype)
        assert "uniform_1d" in backend.use_backend(case[0].to("cuda"), "cuequivariance").reason
        compare(case, "cuda", limit, repeatable=False)

    def test_auto_takes_triton(self) -> None:
        assert backend.choose("auto", "cuda").name == "triton"
