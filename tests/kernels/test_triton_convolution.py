"""The convolution's Triton kernels, in Triton's interpreter, against the definition."""

import os
import subprocess
import sys

import pytest
import torch

from equipot.errors import EquipotError
from equipot.kernels import backend
from equipot.kernels.operations import ConvolutionOperation, EdgeIndex, edge_index
from equipot.kernels.polynomial import Convolution, convolution
from equipot.kernels.triton import source
from equipot.kernels.triton.by_sender import by_sender
from equipot.kernels.triton.convolution_source import forward_kernels
from equipot.kernels.triton.source import tile
from equipot.o3 import Irrep, Irreps
from tests.kernels.fused import derivatives, random, relative_error
from tests.kernels.interpreter import needs_interpreter, on_interpreter  # noqa: F401

pytestmark = needs_interpreter
ALL = [Irrep(ell, p) for ell in range(3) for p in (-1, 1)]
NODES, OWNED, COUNT = 6, 5, 9
CASES = {
    "scalars": convolution(Irreps("16x0e"), 2, ALL),
    "unequal multiplicities, both parities": convolution(Irreps("3x0o + 17x0e + 2x1o + 5x1e"), 1, ALL[:4]),
    "one irrep in two segments, any order": convolution(Irreps("2x2e + 3x0e + 6x2e"), 1, ALL[2:4]),
    "a segment without paths": convolution(Irreps("2x0e + 3x2e"), 0, [Irrep(0, 1)]),
    "channels of several programs": convolution(Irreps("70x0e + 33x1o"), 1, ALL[1:2]),
    "more components than one program keeps": convolution(Irreps("1x3o"), 3, [Irrep(3, -1), Irrep(3, 1)]),
}


def edges() -> EdgeIndex:
    generator = torch.Generator().manual_seed(3)
    senders = torch.randint(NODES, (COUNT,), generator=generator)
    receivers = torch.randint(1, OWNED - 1, (COUNT,), generator=generator).sort().values  # the first and last have none
    return edge_index(senders, receivers, OWNED)


def inputs(d: Convolution, dtype: torch.dtype) -> list[torch.Tensor]:
    shapes = [(NODES, d.irreps_in.dim), (COUNT, (d.max_ell + 1) ** 2), (COUNT, d.num_weights)]
    return [random(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]


def fused(d: Convolution, dtype: torch.dtype) -> ConvolutionOperation:
    operation = ConvolutionOperation(d, dtype)
    operation.backend = "triton"
    return operation


@pytest.mark.parametrize(
    ("name", "dtype", "limit"),
    [*((name, torch.float64, 1e-13) for name in CASES), ("scalars", torch.float32, 3e-6)],
)
@pytest.mark.usefixtures("on_interpreter")
def test_value_and_derivatives_are_those_of_the_definition(name: str, dtype: torch.dtype, limit: float) -> None:
    d, e = CASES[name], edges()
    x = inputs(d, dtype)
    operation, exact = fused(d, dtype), ConvolutionOperation(d, torch.float64)
    made = derivatives(lambda *x: operation(*x, e), x)
    wanted = derivatives(lambda *x: exact(*x, e), [y.double() for y in x])
    assert max(relative_error(a, b) for a, b in zip(made, wanted, strict=True)) < limit


@pytest.mark.usefixtures("on_interpreter")
def test_work_shared_out_over_several_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MOST_LINES", 60)
    d, e = convolution(Irreps("3x0e + 2x1o"), 1, ALL[:4]), edges()
    assert len(forward_kernels(d, torch.float64)) > 1
    x = inputs(d, torch.float64)
    operation, exact = fused(d, torch.float64), ConvolutionOperation(d, torch.float64)
    pairs = zip(derivatives(lambda *x: operation(*x, e), x), derivatives(lambda *x: exact(*x, e), x), strict=True)
    assert max(relative_error(a, b) for a, b in pairs) < 1e-13


@pytest.mark.parametrize("needed", [(0,), (1, 2)])
@pytest.mark.usefixtures("on_interpreter")
def test_gradients_asked_for_alone_are_the_same(needed: tuple[int, ...]) -> None:
    d, e = CASES["channels of several programs"], edges()
    x = [y.requires_grad_() for y in inputs(d, torch.float64)]
    value = (fused(d, torch.float64)(*[y * 1.0 for y in x], e) ** 2).sum()
    every = torch.autograd.grad(value, x, retain_graph=True, create_graph=True)
    some = torch.autograd.grad(value, [x[n] for n in needed], create_graph=True)
    assert all(torch.equal(every[n], g) for n, g in zip(needed, some, strict=True))
    first = sum((every[n] ** 2).sum() for n in needed)
    second = torch.autograd.grad(first, x, retain_graph=True)
    alone = torch.autograd.grad(sum((g**2).sum() for g in some), x)
    assert all(torch.equal(a, b) for a, b in zip(second, alone, strict=True))


@pytest.mark.usefixtures("on_interpreter")
def test_no_edges_and_no_nodes() -> None:
    d = CASES["scalars"]
    for owned in (0, 2):
        e = edge_index(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), owned)
        shapes = [(owned, d.irreps_in.dim), (0, (d.max_ell + 1) ** 2), (0, d.num_weights)]
        x = [random(*shape).requires_grad_() for shape in shapes]
        a = fused(d, torch.float64)(*x, e)
        assert a.shape == (owned, d.irreps_out.dim) and float(a.detach().abs().sum()) == 0.0
        assert all(float(g.abs().sum()) == 0.0 for g in torch.autograd.grad(a.sum(), x))


def test_order_by_sender_is_found_once_and_again_after_a_change() -> None:
    senders = torch.tensor([2, 0, 2, 1, 0])
    found = by_sender(senders, 4)
    assert found.order.tolist() == [1, 4, 3, 0, 2] and found.starts.tolist() == [0, 2, 3, 5, 5]
    assert by_sender(senders, 4) is found
    senders[0] = 3
    assert by_sender(senders, 4).order.tolist() == [1, 4, 3, 2, 0]
    assert by_sender(senders, 5).starts.tolist() == [0, 2, 3, 4, 5, 5]


@pytest.mark.parametrize(
    ("mul", "dtype", "block", "blocks"),
    [(128, torch.float32, 64, 2), (128, torch.float64, 32, 4), (80, torch.float32, 32, 3), (17, torch.float32, 32, 1),
     (1, torch.float64, 4, 1)],
)  # fmt: skip
def test_channels_are_shared_out_without_much_waste(mul: int, dtype: torch.dtype, block: int, blocks: int) -> None:
    assert tile(mul, dtype) == (block, blocks)


@pytest.mark.usefixtures("on_interpreter")
def test_backend_on_the_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = ConvolutionOperation(CASES["scalars"], torch.float64)
    choice = backend.use_backend(operation, "triton")
    assert choice.name == "triton" and "interpreter" in str(choice) and operation.fused
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(EquipotError, match="TRITON_INTERPRET=1"):
        backend.use_backend(operation, "triton")


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from equipot.kernels.cpu.convolution_gradient import Gradient
from equipot.kernels.polynomial import convolution
from equipot.kernels.triton import convolution_source, source
from equipot.o3 import Irrep, Irreps

d = convolution(Irreps("32x0e + 3x1o"), 1, [Irrep(1, -1)])
second = Gradient(True, (True, True, True), (True, True, True, True))
for dtype, pointer in ((torch.float32, "*fp32"), (torch.float64, "*fp64")):
    for kernel in (
        *convolution_source.forward_kernels(d, dtype),
        *convolution_source.receivers_kernels(d, dtype, second),
        *convolution_source.senders_kernels(d, dtype, second),
    ):
        function = getattr(source.load(kernel.source), kernel.name)
        index = {"senders", "receivers", "starts", "order", "sent"}
        signature = {name: "*i64" if name in index else pointer for name in kernel.arguments}
        for capability in (90,) if pointer == "*fp64" else (75, 90):
            target = GPUTarget("cuda", capability, 32)
            made = triton.compile(ASTSource(function, signature, {}), target=target, options={"num_warps": 1})
            assert len(made.asm["cubin"]) > 0
print("compiled")
"""


def test_kernels_compile_for_gpus_that_are_not_here() -> None:
    """To machine code, without the interpreter: what it forgives, the compiler does not."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.stdout.strip() == "compiled", done.stderr
