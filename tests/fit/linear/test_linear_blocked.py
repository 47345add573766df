"""Sums of products and Cholesky factors in blocks, against those in one piece."""

import numpy as np
import pytest

from equipot.fit.linear.blocked import add_products, factorise_upper

sizes = pytest.mark.parametrize(("size", "width"), [(1, 4), (4, 4), (9, 4), (150, 64), (150, 512)])


def sums(size: int) -> np.ndarray:
    X = np.random.default_rng(size).normal(size=(2 * size, size))
    return X.T @ X


@sizes
def test_products_are_added_below_the_diagonal(size, width):
    X = np.random.default_rng(0).normal(size=(37, size))
    A = np.asfortranarray(sums(size))
    before = A.copy()
    add_products(A, X, width)
    np.testing.assert_allclose(np.tril(A), np.tril(before + X.T @ X), rtol=1e-13, atol=1e-12)


@sizes
def test_the_factor_takes_the_place_of_the_upper_triangle_alone(size, width):
    A = np.asfortranarray(sums(size))
    U = A.copy(order="F")
    U[np.tril_indices(size, -1)] = 7.0
    assert factorise_upper(U, width) == 0
    np.testing.assert_allclose(np.triu(U).T @ np.triu(U), A, rtol=1e-12, atol=1e-10)
    assert (U[np.tril_indices(size, -1)] == 7.0).all()


@pytest.mark.parametrize("pivot", [0, 3, 4, 70, 149])
@pytest.mark.parametrize("width", [4, 64, 512])
def test_the_first_pivot_that_is_not_positive_is_named_and_what_is_before_it_done(pivot, width):
    A = np.asfortranarray(sums(150))
    whole = np.linalg.cholesky(A).T
    A[pivot, pivot] -= whole[pivot, pivot] ** 2 * 1.5
    assert factorise_upper(A, width) == pivot + 1
    np.testing.assert_allclose(np.triu(A)[: pivot + 1, :pivot], whole[: pivot + 1, :pivot], rtol=1e-10)
    np.testing.assert_allclose(A[:pivot, pivot], whole[:pivot, pivot], rtol=1e-8, atol=1e-9)
