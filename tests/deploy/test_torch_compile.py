"""torch.compile and torch.export see fused operations as operators, with their derivatives."""

import copy
import importlib.util

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from equipot.kernels.backend import use_backend
from equipot.kernels.coupled import CoupledProduct
from equipot.kernels.coupled_operations import AtomicBasisOperation, CoupledEnergyOperation
from equipot.kernels.operations import ConvolutionOperation, EdgeIndex, edge_index
from equipot.kernels.polynomial import convolution
from equipot.kernels.reference import group_by_species
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


class _LinearAce(torch.nn.Module):
    """Energies of atoms from radial functions and harmonics."""

    def __init__(self) -> None:
        super().__init__()
        d = CoupledProduct(2, 2, 3, (5.0, 5.0, 5.0, 5.0), 1.0)
        self.basis, self.energy = AtomicBasisOperation(d, torch.float64), CoupledEnergyOperation(d, torch.float64)
        self.weights = torch.nn.Parameter(random(2, d.num_functions, seed=7), requires_grad=False)
        use_backend(self, "cpu")

    def forward(self, R: torch.Tensor, Y: torch.Tensor, species: torch.Tensor, e: EdgeIndex) -> torch.Tensor:
        A = self.basis(R, Y, species.index_select(0, e.senders), e)
        return self.energy(A, self.weights, group_by_species(species, 2))


def _linear_ace(nodes: int, count: int) -> tuple:
    receivers = torch.randint(nodes, (count,), generator=torch.Generator().manual_seed(1)).sort().values
    edges = edge_index(receivers.flip(0), receivers, nodes)
    return random(count, 3).requires_grad_(), random(count, 9, seed=1).requires_grad_(), torch.arange(nodes) % 2, edges


def test_linear_ace_compiles_whole_with_its_derivatives() -> None:
    model = _LinearAce()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for nodes, count in ((5, 12), (7, 30)):
        x = _linear_ace(nodes, count)
        made, wanted = compiled(*x), model(*x)
        assert torch.equal(made, wanted)
        pairs = zip(torch.autograd.grad(made.sum(), x[:2]), torch.autograd.grad(wanted.sum(), x[:2]), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-14, atol=1e-14) for a, b in pairs)


def test_linear_ace_and_its_gradient_are_one_graph() -> None:
    """As potentials are exported: traced with the derivative, for any number of atoms; both come from one call."""
    model = _LinearAce()

    def evaluate(
        R: torch.Tensor, Y: torch.Tensor, species: torch.Tensor, senders: torch.Tensor, receivers: torch.Tensor
    ):
        R, Y = R.detach().requires_grad_(), Y.detach().requires_grad_()
        energy = model(R, Y, species, edge_index(senders, receivers, species.shape[0]))
        return energy.detach(), *torch.autograd.grad(energy.sum(), (R, Y))

    def inputs(nodes: int, count: int) -> tuple:
        R, Y, species, edges = _linear_ace(nodes, count)
        return R.detach(), Y.detach(), species, edges.senders, edges.receivers

    exact = evaluate(*inputs(7, 30))
    model = copy.deepcopy(model)
    graph = make_fx(evaluate, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs(5, 12))
    calls = [str(n.target) for n in graph.graph.nodes if n.op == "call_function" and "coupled" in str(n.target)]
    assert calls == ["equipot.coupled_energy.default"]
    for a, b in zip(graph(*inputs(7, 30)), exact, strict=True):
        assert torch.equal(a, b)


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
