"""Interpolation by uniform B-splines: the definition, and the operators with their derivatives."""

import numpy as np
import pytest
import torch

import equipot.kernels.operators.spline  # noqa: F401
from equipot.kernels.operators.library import wanted
from equipot.kernels.spline import UniformSpline, derivative_pieces
from equipot.kernels.spline import spline as reference

f64 = torch.float64
spline, spline_backward = torch.ops.equipot.spline.default, torch.ops.equipot.spline_backward.default
spline_double_backward = torch.ops.equipot.spline_double_backward.default


def decaying(x: torch.Tensor, n: int) -> torch.Tensor:
    """Three functions that vanish at n with two derivatives, as an envelope of order 2 makes them."""
    envelope = (1 - x / n) ** 3
    return torch.stack([torch.sin(x / 3) * envelope, torch.exp(-x / 7) * envelope, envelope], dim=1)


def table(n: int, degree: int = 5) -> torch.Tensor:
    knots = torch.arange(1, n + 1, dtype=f64)
    return torch.from_numpy(UniformSpline(n, degree).solution) @ decaying(knots, n)


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_splines_reproduce_polynomials_of_their_degree(degree):
    """Partition of unity, and with coefficients at the centres the identity: Σ B_q = 1, Σ (q − (d−1)/2) B_q(t) = t."""
    M = derivative_pieces(0, degree)
    assert np.allclose(M.sum(axis=0), np.eye(degree + 1)[0], atol=1e-14)
    first = (np.arange(degree + 1) - (degree - 1) / 2) @ M
    assert np.allclose(first, np.eye(degree + 1)[1], atol=1e-14)


@pytest.mark.parametrize(("degree", "order"), [(3, 4), (5, 6)])
def test_the_error_falls_with_the_order_of_the_spline(degree, order):
    errors = []
    for n in (32, 64):
        u = torch.linspace(0.1 * n, n - 1e-6, 997, dtype=f64)
        scale = 32 / n
        knots = torch.arange(1, n + 1, dtype=f64) * scale
        T = torch.from_numpy(UniformSpline(n, degree).solution) @ decaying(knots, 32)
        errors.append(float((reference(T, u, degree=degree) - decaying(u * scale, 32)).abs().max()))
    assert np.log2(errors[0] / errors[1]) > order - 0.7


def test_four_derivatives_are_continuous_across_knots():
    T = table(24)
    knots = torch.arange(2, 24, dtype=f64)
    below = torch.nextafter(knots, torch.zeros_like(knots))
    for k in range(5):
        at, before = reference(T, knots, k), reference(T, below, k)
        assert torch.allclose(at, before, atol=1e-11), k
    jump = (reference(T, knots, 5) - reference(T, below, 5)).abs().max()
    assert jump > 1e-6, "the fifth derivative of a quintic spline jumps, or this test sees nothing"


def test_value_slope_and_curvature_vanish_at_the_cutoff():
    end = torch.tensor([24.0], dtype=f64)
    for k in range(3):
        assert reference(table(24), end, k).abs().max() < 1e-15
    assert reference(table(24), end, 3).abs().max() > 1e-6


def arguments(edges: int = 9, rows: int = 14, columns: int = 5, dtype=f64, grad: bool = True):
    generator = torch.Generator().manual_seed(3)
    T = torch.randn(rows, columns, generator=generator, dtype=dtype)
    u = torch.rand(edges, generator=generator, dtype=f64) * (rows - 5.01)
    return T.requires_grad_(grad), u.requires_grad_(grad)


@pytest.mark.parametrize("edges", [0, 1, 9])
def test_operator_is_the_reference(edges):
    T, u = arguments(edges)
    assert torch.allclose(spline(T, u), reference(T, u), atol=1e-14)
    grads = []
    for operation in (spline, reference):
        y = operation(T, u)
        (force,) = torch.autograd.grad(y.pow(3).sum(), u, create_graph=True)
        grads.append(torch.autograd.grad(y.sum() + force.square().sum(), (T, u)))
    for found, known in zip(*grads, strict=True):
        assert torch.allclose(found, known, rtol=1e-12, atol=1e-12)


def test_first_and_second_derivatives_by_differences():
    T, u = arguments()
    torch.autograd.gradcheck(spline, (T, u))
    torch.autograd.gradgradcheck(spline, (T, u))


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_operators_are_well_formed(dtype):
    T, u = arguments(dtype=dtype)
    g = torch.randn(len(u), T.shape[1], dtype=dtype)
    torch.library.opcheck(spline, (T, u))
    some = ("test_schema", "test_autograd_registration", "test_faketensor")
    for need in ([True, True], [True, False], [False, True]):
        torch.library.opcheck(spline_backward, (g, T.detach(), u.detach(), need), test_utils=some)
    for bars in ((T.detach(), u.detach()), (None, u.detach()), (T.detach(), None)):
        args = (*bars, g, T.detach(), u.detach(), [True, True, True])
        torch.library.opcheck(spline_double_backward, args, test_utils=some)


def test_what_is_not_needed_is_not_computed():
    T, u = arguments(grad=False)
    g = torch.ones(len(u), T.shape[1], dtype=f64)
    g_table, g_u = spline_backward(g, T, u, [False, True])
    assert (g_table.numel(), g_u.shape) == (0, u.shape)
    g_g, g_table, g_u = spline_double_backward(None, u, g, T, u, [True, False, False])
    assert (g_g.shape, g_table.numel(), g_u.numel()) == (g.shape, 0, 0)


def test_a_backward_knows_which_gradients_are_asked_for():
    seen = []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b, c):
            return a + b + c

        @staticmethod
        def backward(ctx, g):
            seen.append(wanted(ctx, 3))
            return g, g, g

    a, b = (torch.ones(1, requires_grad=True) for _ in range(2))
    inner = a * 2
    torch.autograd.grad(Probe.apply(inner, b * 3, torch.ones(1)), inner)
    torch.autograd.grad(Probe.apply(a * 2, b * 3, torch.ones(1)), b)
    Probe.apply(a, b * 3, torch.ones(1)).backward()
    assert seen[1] == [False, True, False]
    assert seen[2] == [True, True, False]
    assert seen[0][1:] == [False, False]


def test_third_derivatives_are_refused():
    T, u = arguments()
    (first,) = torch.autograd.grad(spline(T, u).pow(3).sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(second.sum(), u)


def test_distances_that_are_no_numbers_stay_so():
    T, u = arguments(grad=False)
    u[0], u[1], u[2] = torch.nan, 1e9, -3.0
    y = spline(T, u)
    assert y[0].isnan().all()
    assert y[3:].isfinite().all()
