"""Harmonics of edges in generated C++ against their definition: value, gradient, second gradient."""

import pytest
import torch

from equipot.kernels import backend
from equipot.kernels.operations import EdgeHarmonicsOperation
from equipot.o3 import harmonic_recursion, spherical_harmonics
from tests.kernels.fused import needs_compiler, random, relative_error


def both(lmax: int, dtype: torch.dtype) -> tuple[EdgeHarmonicsOperation, EdgeHarmonicsOperation]:
    fused, exact = EdgeHarmonicsOperation(lmax, -1.0, dtype), EdgeHarmonicsOperation(lmax, -1.0, torch.float64)
    assert backend.use_backend(fused, "cpu").name == "cpu"
    return fused, exact


def derivatives(operation: EdgeHarmonicsOperation, count: int) -> list[torch.Tensor]:
    """Lengths and Y, gradient, and gradients of a random function of it in both cotangents and the vectors."""
    v = (2.0 * random(count, 3)).requires_grad_()
    lengths, Y = operation(v)
    gl, gY = random(count, seed=1).requires_grad_(), random(*Y.shape, seed=2, dtype=Y.dtype).requires_grad_()
    (gv,) = torch.autograd.grad([lengths, Y], v, [gl, gY], create_graph=True)
    second = torch.autograd.grad(gv, [gl, gY, v], random(count, 3, seed=3))
    return [x.detach() for x in (lengths, Y, gv, *second)]


@needs_compiler
@pytest.mark.parametrize(
    ("lmax", "dtype", "limit"), [(3, torch.float64, 1e-14), (3, torch.float32, 1e-6), (8, torch.float64, 1e-14)]
)
def test_value_and_derivatives_are_those_of_the_definition(lmax: int, dtype: torch.dtype, limit: float) -> None:
    fused, exact = both(lmax, dtype)
    for count in (0, 1, 37):
        pairs = list(zip(derivatives(fused, count), derivatives(exact, count), strict=True))
        assert max(relative_error(a, b) for a, b in pairs) < limit
    assert [a.dtype for a, _ in pairs] == [torch.float64, dtype, torch.float64, torch.float64, dtype, torch.float64]


@needs_compiler
def test_gradients_asked_for_alone_are_the_same() -> None:
    fused, _ = both(3, torch.float64)
    v = random(20, 3).requires_grad_()
    lengths, Y = fused(v)
    gl, gY = random(20, seed=1), random(20, 16, seed=2)
    (every,) = torch.autograd.grad([lengths, Y], v, [gl, gY], retain_graph=True)
    alone = [torch.autograd.grad(x, v, g, create_graph=True)[0] for x, g in ((lengths, gl), (Y, gY))]
    assert relative_error((alone[0] + alone[1]).detach(), every) < 1e-14
    of_lengths, of_Y = (torch.autograd.grad((g**2).sum(), v)[0] for g in alone)
    exact = EdgeHarmonicsOperation(3, -1.0, torch.float64)
    for n, (made, g) in enumerate(((of_lengths, gl), (of_Y, gY))):
        (first,) = torch.autograd.grad(exact(v)[n], v, g, create_graph=True)
        assert (made - torch.autograd.grad((first**2).sum(), v)[0]).abs().max() < 1e-12


@needs_compiler
def test_constant_harmonics_have_no_gradient() -> None:
    fused, _ = both(0, torch.float64)
    v = random(5, 3).requires_grad_()
    _, Y = fused(v)
    assert torch.equal(Y, torch.ones(5, 1, dtype=torch.float64))
    assert float(torch.autograd.grad(Y.sum(), v)[0].abs().max()) == 0.0


@needs_compiler
def test_derivatives_are_derivatives() -> None:
    fused, _ = both(3, torch.float64)
    v = random(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(fused, (v,))
    assert torch.autograd.gradgradcheck(fused, (v,))


@needs_compiler
def test_operators_keep_torchs_rules() -> None:
    both(3, torch.float32)
    v = random(5, 3).requires_grad_()
    rest = (v, 3, 1.0, torch.float32)
    torch.library.opcheck(torch.ops.equipot.edge_harmonics.default, rest)
    gl, gY = random(5).requires_grad_(), random(5, 16, dtype=torch.float32).requires_grad_()
    torch.library.opcheck(torch.ops.equipot.edge_harmonics_backward.default, (gl, gY, *rest))


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_recursion_gives_harmonics_and_their_gradients(degree: int) -> None:
    r = random(4, 3).requires_grad_()
    Y = spherical_harmonics(r, degree)
    low, high = Y[:, (degree - 1) ** 2 : degree**2], Y[:, degree**2 :]
    made, gradient = torch.zeros_like(high), torch.zeros(4, 2 * degree + 1, 3, dtype=torch.float64)
    for m, n, a, c in harmonic_recursion(degree):
        made[:, m] += c * low[:, n] * r[:, a]
        gradient[:, m, a] += degree * c * low[:, n]
    assert relative_error(made.detach(), high.detach()) < 1e-13
    for m in range(2 * degree + 1):
        (exact,) = torch.autograd.grad(high[:, m].sum(), r, retain_graph=True)
        assert relative_error(gradient[:, m].detach(), exact) < 1e-12
