"""The functions of linear ACE as data: what there is of them, and that the program makes them."""

import itertools
import time
from math import sqrt

import numpy as np
import pytest

from equipot.kernels.coupled import CoupledProduct, Function
from equipot.o3 import invariant_couplings, invariant_dimension, tree_tensor

SMALL = CoupledProduct(2, 2, 3, (5.0, 6.0, 6.0, 5.0, 5.5), 1.0)


def evaluate(d: CoupledProduct, A: np.ndarray) -> np.ndarray:
    """B of one atom, term by term."""
    p = d.program
    v = np.zeros(p.num_slots)
    v[: d.dim] = A
    for dst, a, b, c in zip(p.dst, p.a, p.b, p.coefficient, strict=True):
        assert max(a, b) < dst
        v[dst] += c * v[a] * v[b]
    B = np.zeros(d.num_functions)
    np.add.at(B, p.function, p.value * v[p.pair_a[p.pair]] * v[p.pair_b[p.pair]])
    return B


def direct(d: CoupledProduct, function: Function, A: np.ndarray) -> float:
    """One function from its definition."""
    ells = tuple(ell for *_, ell in function.factors)
    labels = tuple(function.factors.index(factor) for factor in function.factors)
    paths, combinations = invariant_couplings(ells, labels)
    total = 0.0
    for path, x in zip(paths, combinations[function.number], strict=True):
        tensor = tree_tensor(ells, path)
        for factor in function.factors:
            tensor = np.tensordot(A[d.slots(factor)], tensor, axes=(0, 0))
        total += x * float(tensor)
    return total


def test_the_program_makes_the_functions() -> None:
    A = np.random.default_rng(0).normal(size=SMALL.dim)
    exact = [direct(SMALL, function, A) for function in SMALL.functions]
    assert SMALL.counts_by_order[5] > 0
    np.testing.assert_allclose(evaluate(SMALL, A), exact, rtol=1e-11, atol=1e-12)


def test_every_admissible_multiset_is_there_once() -> None:
    d = CoupledProduct(2, 2, 3, (4.0, 5.0, 6.0, 6.5), 1.5)
    found = {}
    for function in d.functions:
        key = tuple(sorted(function.factors))
        assert function.degree == pytest.approx(sum(n + 1.5 * ell for _, n, ell in function.factors))
        found[key] = found.get(key, 0) + 1
    one = list(itertools.product(range(2), range(1, 4), range(3)))
    for nu in (2, 3, 4):
        for factors in itertools.combinations_with_replacement(one, nu):
            degree = sum(n + 1.5 * ell for _, n, ell in factors)
            labels = tuple(factors.index(factor) for factor in factors)
            dimension = invariant_dimension(tuple(ell for *_, ell in factors), labels)
            expected = dimension if degree <= d.degrees[nu - 1] else 0
            assert found.pop(tuple(sorted(factors)), 0) == expected
    assert not found


def test_two_factors_count_as_a_power_spectrum() -> None:
    """N (N + 1) / 2 for each l, of N = species × radial functions: the number of a SOAP power spectrum."""
    d = CoupledProduct(2, 3, 4, (10.0, 100.0), 1.0)
    assert d.counts_by_order == {2: 8 * 9 // 2 * 4}


def test_functions_are_linearly_independent() -> None:
    rng = np.random.default_rng(1)
    d = CoupledProduct(1, 3, 3, (8.0, 8.0, 8.0, 8.0), 1.0)
    B = np.stack([evaluate(d, rng.normal(size=d.dim)) for _ in range(2 * d.num_functions)])
    values = np.linalg.svd(B / np.linalg.norm(B, axis=0), compute_uv=False)
    assert values[-1] > 1e-3 * values[0]


def test_functions_ascend_by_order_elements_and_degree() -> None:
    keys = [(f.order, sorted(z for z, _, _ in f.factors), f.degree) for f in SMALL.functions]
    assert keys == sorted(keys)


def test_a_key_is_the_description() -> None:
    assert CoupledProduct.from_key(SMALL.key) == SMALL
    assert CoupledProduct.from_key(SMALL.key).functions == SMALL.functions


def test_the_two_body_part_alone_has_no_functions() -> None:
    d = CoupledProduct(1, 2, 3, (8.0,), 1.0)
    assert d.num_functions == 0
    assert d.program.num_slots == d.dim
    assert d.program.num_pairs == 0


def test_shared_products_are_made_once_and_nothing_in_vain() -> None:
    p = SMALL.program
    terms = np.stack([p.dst, p.a, p.b])
    assert np.unique(terms, axis=1).shape == terms.shape
    pairs = np.stack([p.pair_a, p.pair_b])
    assert np.unique(pairs, axis=1).shape == pairs.shape
    made = np.unique(p.dst)
    np.testing.assert_array_equal(made, np.arange(SMALL.dim, p.num_slots))
    used = {*p.a.tolist(), *p.b.tolist(), *p.pair_a.tolist(), *p.pair_b.tolist()}
    assert set(made.tolist()) <= used
    for begin, end in itertools.pairwise(p.levels):
        assert max(p.a[begin:end].max(), p.b[begin:end].max()) < p.dst[begin:end].min()


def test_thousands_of_functions_take_no_time() -> None:
    begin = time.process_time()
    d = CoupledProduct(4, 4, 8, (10.0, 12.0, 9.0, 7.0), 1.5)
    assert d.num_functions > 3000
    assert d.program.num_pairs > d.num_functions
    assert time.process_time() - begin < 5


def test_the_coefficients_are_orthonormal() -> None:
    """Contracted with random A, B of different factors have the variance of an orthonormal tensor: 1."""
    d = CoupledProduct(1, 2, 6, (6.0, 8.0), 1.0)
    rng = np.random.default_rng(2)
    different = [k for k, f in enumerate(d.functions) if len(set(f.factors)) == f.order]
    B = np.stack([evaluate(d, rng.normal(size=d.dim)) for _ in range(2000)])[:, different]
    assert (B**2).mean(axis=0) == pytest.approx(np.ones(len(different)), abs=8 * sqrt(8 / 2000))
