"""torch.compile and torch.export see fused operations as operators, with their derivatives."""

import importlib.util

import pytest
import torch

from equipot.kernels.backend import use_backend
from equipot.kernels.operations import ConvolutionOperation, edge_index
from equipot.kernels.polynomial import convolution
from equipot.o3 import Irrep, Irreps
from tests.kernels.fused import needs_compiler, random

pytestmark = needs_compiler


def test_compiled_graph_is_whole_and_has_the_same_derivatives() -> None:
    """No break of the graph (fullgraph), other sizes without another compilation, backward through it."""
    d = convolution(Irreps("4x0e + 3x1o"), 1, [Irrep(0, 1), Irrep(1, -1)])
    operation = ConvolutionOperation(d, torch.float64)
    use_backend(operation, "cpu", training=False)
    compiled = torch.compile(operation, fullgraph=True, dynamic=True, backend="aot_eager")
    for nodes, count in ((5, 12), (7, 30)):
        receivers = torch.randint(nodes, (count,), generator=torch.Generator().manual_seed(1)).sort().values
        e = edge_index(receivers.flip(0), receivers, nodes)
        shapes = [(nodes, d.irreps_in.dim), (count, 4), (count, d.num_weights)]
        x = [random(*shape, seed=n).requires_grad_() for n, shape in enumerate(shapes)]
        made, wanted = compiled(*x, e), operation(*x, e)
        assert torch.equal(made, wanted)
        pairs = zip(torch.autograd.grad((made**2).sum(), x), torch.autograd.grad((wanted**2).sum(), x), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-14, atol=1e-14) for a, b in pairs)


def test_exported_operation_names_its_description() -> None:
    d = convolution(Irreps("4x0e"), 1, [Irrep(0, 1), Irrep(1, -1)])
    operation = ConvolutionOperation(d, torch.float64)
    use_backend(operation, "cpu", training=False)
    e = edge_index(torch.tensor([1, 0, 2]), torch.tensor([0, 1, 1]), 3)
    x = (random(3, 4), random(3, 4, seed=1), random(3, d.num_weights, seed=2))
    program = torch.export.export(operation, (*x, e))
    (call,) = [n for n in program.graph.nodes if n.op == "call_function" and "equipot" in str(n.target)]
    assert call.args[-1] == d.key
    assert torch.equal(program.module()(*x, e), operation(*x, e))


@pytest.mark.skipif(importlib.util.find_spec("cuequivariance_torch") is None, reason="no cuequivariance-torch")
def test_plain_torch_is_seen_in_place_of_cuequivariance() -> None:
    d = convolution(Irreps("4x0e + 2x1o"), 1, [Irrep(0, 1), Irrep(1, -1)])
    operation = ConvolutionOperation(d, torch.float64)
    e = edge_index(torch.tensor([1, 0, 2]), torch.tensor([0, 1, 1]), 3)
    x = (random(3, 10), random(3, 4, seed=1), random(3, d.num_weights, seed=2))
    exact = operation(*x, e)
    use_backend(operation, "cuequivariance")
    assert torch.equal(torch.compile(operation, fullgraph=True, backend="eager")(*x, e), exact)
    assert torch.equal(torch.export.export(operation, (*x, e)).module()(*x, e), exact)
