"""Coefficients of splines by substitution, against the matrix that defines them."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from equipot.kernels.backend import use_backend
from equipot.kernels.operations import MatrixOperation, SplineTableOperation
from equipot.kernels.spline import UniformSpline, rows_of
from tests.kernels.fused import needs_compiler, random, relative_error

pytestmark = needs_compiler
f64 = torch.float64


@pytest.mark.parametrize("degree", [1, 3, 5])
@pytest.mark.parametrize("n", [6, 16, 300])
def test_the_factors_multiply_to_the_conditions(n: int, degree: int) -> None:
    spline = UniformSpline(n, degree)
    L, U = np.eye(spline.size), np.zeros((spline.size, spline.size))
    below, above = spline.factors
    for i in range(spline.size):
        for k in range(degree):
            if i + k < spline.size:
                U[i, i + k] = above[i, k]
            if 0 <= i - 1 - k and k < degree - 1:
                L[i, i - 1 - k] = below[i, k]
    np.testing.assert_allclose(L @ U, spline.conditions, atol=1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (f64, 1e-14)])
@pytest.mark.parametrize("columns", [1, 8, 19, 128])
@pytest.mark.parametrize("knots", [16, 256])
def test_equal_to_the_matrix(knots: int, columns: int, dtype: torch.dtype, tolerance: float) -> None:
    S = torch.from_numpy(UniformSpline(knots).solution)
    f, g = random(2 * knots, columns, dtype=dtype), random(2 * rows_of(knots), columns, seed=1, dtype=dtype)
    T = torch.ops.equipot.spline_table(f, knots).unflatten(0, (2, -1))
    back = torch.ops.equipot.spline_table_transposed(g, knots).unflatten(0, (2, -1))
    assert relative_error(T[:, : len(S)], S @ f.double().unflatten(0, (2, -1))) < tolerance
    assert (T[:, len(S) :] == 0).all()
    assert relative_error(back, S.T @ g.double().unflatten(0, (2, -1))[:, : len(S)]) < tolerance


def test_the_same_bits_with_any_number_of_threads() -> None:
    f, before = random(256, 1000), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.ops.equipot.spline_table(f, 256))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("make", [lambda: SplineTableOperation(16, f64), lambda: MatrixOperation(f64)])
def test_operations_equal_plain_torch_with_two_derivatives(make) -> None:
    plain, fused = make(), make()
    use_backend(fused, "cpu")
    F, W = random(16, 5).requires_grad_(), random(5, 7, seed=1).requires_grad_()
    assert fused.fused
    assert not plain.fused
    assert relative_error(fused(F, W).detach(), plain(F, W).detach()) < 1e-14
    assert gradcheck(fused, (F, W))
    assert torch.autograd.gradgradcheck(fused, (F, W))


def test_schema_and_shapes() -> None:
    f, T = random(32, 3).requires_grad_(), random(2 * rows_of(16), 3).requires_grad_()
    torch.library.opcheck(torch.ops.equipot.spline_table, (f, 16))
    torch.library.opcheck(torch.ops.equipot.spline_table_transposed, (T, 16))
