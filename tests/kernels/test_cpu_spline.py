"""The splines' operators in C++ against the same in plain torch."""

import pytest
import torch

from equipot.kernels.cpu.spline import COMPILED
from equipot.kernels.operators.spline import PLAIN
from tests.kernels.fused import needs_compiler, random, relative_error

pytestmark = needs_compiler
f64 = torch.float64


def operands(edges: int, width: int, rows: int = 25, dtype=f64):
    u = torch.rand(edges, dtype=f64, generator=torch.Generator().manual_seed(5)) * (rows - 6)
    T, TT = (random(rows, width, seed=seed, dtype=dtype) for seed in (1, 2))
    return T, TT, u, random(edges, width, seed=3, dtype=dtype), random(edges, seed=4)


def everything(parts, T, TT, u, g, uu):
    """Value, gradients, and second derivatives for every set of cotangents."""
    need = [True, True, True]
    double = [parts.double_backward(*c, g, T, u, need) for c in ((TT, uu), (None, uu), (TT, None))]
    return [parts.forward(T, u), *parts.backward(g, T, u, need[:2]), *(x for d in double for x in d)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (f64, 1e-13)])
@pytest.mark.parametrize("width", [1, 7, 64, 131])
def test_equal_to_plain_torch(dtype, tolerance, width):
    exact = everything(PLAIN, *operands(300, width))
    for found, known in zip(everything(COMPILED, *operands(300, width, dtype=dtype)), exact, strict=True):
        assert relative_error(found, known) < tolerance


@pytest.mark.parametrize(("edges", "width"), [(0, 8), (1, 8), (5, 0)])
def test_nothing_to_do(edges, width):
    given = operands(edges, width)
    for found, known in zip(everything(COMPILED, *given), everything(PLAIN, *given), strict=True):
        assert found.shape == known.shape
        assert torch.allclose(found, known)


def test_the_same_bits_with_any_number_of_threads():
    given, before = operands(3000, 160, dtype=torch.float32), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(everything(COMPILED, *given))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("parts", [PLAIN, COMPILED], ids=["plain", "compiled"])
def test_slopes_of_float32_tables_are_as_precise_as_their_coefficients(parts):
    """Six large terms that nearly cancel would leave rounding of 1e-4 of the slope; differences of rows leave none."""
    columns = torch.arange(1, 20, dtype=f64)
    T = (1000.0 + torch.arange(25, dtype=f64).unsqueeze(1) / 8 * columns).float()
    u = torch.linspace(0.05, 18.9, 50, dtype=f64)
    g, uu = torch.ones(50, 19), torch.ones(50, dtype=f64)
    slope = columns.expand(50, -1) / 8
    assert relative_error(parts.double_backward(None, uu, g, T, u, [True, False, False])[0], slope) < 1e-6
    assert relative_error(parts.backward(g, T, u, [False, True])[1], slope.sum(dim=1)) < 1e-6


def test_distances_that_are_no_numbers_touch_no_other_memory():
    T, _, u, g, _ = operands(6, 8)
    u[0], u[1], u[2] = torch.nan, 1e300, -torch.inf
    assert COMPILED.forward(T, u)[0].isnan().all()
    assert COMPILED.forward(T, u)[3:].isfinite().all()
    assert COMPILED.backward(g, T, u, [True, True])[0].shape == T.shape
