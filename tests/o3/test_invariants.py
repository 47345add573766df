"""Invariants of several factors: their number, their symmetry, and that they are orthonormal and complete."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from equipot.errors import EquipotError
from equipot.o3 import (
    Irrep,
    couplings_of,
    invariant_couplings,
    invariant_dimension,
    tree_tensor,
    wigner_D,
)


def labellings(ells: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All ways in which factors of these degrees can be equal."""

    def extend(labels: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(labels) == len(ells):
            yield labels
            return
        same = {label for label, ell in zip(labels, ells, strict=False) if ell == ells[len(labels)]}
        for label in [*same, max(labels, default=-1) + 1]:
            yield from extend((*labels, label))

    return extend(())


def invariants(ells: tuple[int, ...], labels: tuple[int, ...]) -> np.ndarray:
    """Tensors [invariant, m₁ … mν], symmetrised."""
    paths, combinations = invariant_couplings(ells, labels)
    trees = np.stack([tree_tensor(ells, path) for path in paths])
    orders = [p for p in itertools.permutations(range(len(ells))) if [labels[k] for k in p] == list(labels)]
    symmetric = sum(trees.transpose(0, *(1 + k for k in order)) for order in orders) / len(orders)
    return np.tensordot(combinations, symmetric, axes=1)


@pytest.mark.parametrize(("correlation", "max_ell"), [(2, 5), (3, 4), (4, 4), (5, 2)])
def test_the_rank_is_the_dimension(correlation: int, max_ell: int) -> None:
    for ells in itertools.combinations_with_replacement(range(max_ell + 1), correlation):
        for labels in labellings(ells):
            paths, combinations = invariant_couplings(ells, labels)
            assert len(paths) == len(combinations) == invariant_dimension(ells, labels), (ells, labels)
            assert np.abs(combinations).max(initial=0.0) < 10, (ells, labels)  # well conditioned


@pytest.mark.parametrize(
    ("ell", "dimensions"),
    [  # of degree 2, 3, 4 … : ring generated in degrees 2, 3 (l = 2); 2, 4, 6, 10 (l = 3); 2, 3 … 10 (l = 4)
        (1, (1, 0, 1, 0, 1, 0, 1)),
        (2, (1, 1, 1, 1, 2, 1, 2)),
        (3, (1, 0, 2, 0, 3, 0, 4)),
        (4, (1, 1, 2, 2, 4, 4, 7)),
    ],
)
def test_the_invariants_of_one_function_are_the_classical_ones(ell: int, dimensions: tuple[int, ...]) -> None:
    """Those of binary forms of degree 2l, known since the 19th century."""
    for degree, dimension in enumerate(dimensions, start=2):
        assert invariant_dimension((ell,) * degree, (0,) * degree) == dimension


@pytest.mark.parametrize(
    ("ells", "labels"),
    [
        ((1, 1, 2, 2), (0, 0, 1, 1)),
        ((2, 2, 2, 2), (0, 0, 0, 1)),
        ((1, 2, 3, 2), (0, 1, 2, 3)),
        ((3, 3, 3, 3), (0, 0, 0, 0)),
        ((1, 1, 2, 2, 2), (0, 1, 2, 2, 2)),
        ((1, 1, 1, 1, 2, 2), (0, 0, 0, 0, 1, 1)),
    ],
)
def test_they_are_invariant_orthonormal_and_complete(ells, labels, rotation: torch.Tensor) -> None:
    basis = invariants(ells, labels)
    flat = basis.reshape(len(basis), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=1e-12)
    turned = torch.from_numpy(basis)
    for axis, ell in enumerate(ells, start=1):
        turned = torch.movedim(torch.tensordot(turned, wigner_D(ell, rotation), dims=([axis], [0])), -1, axis)
    np.testing.assert_allclose(turned.numpy(), basis, atol=1e-12)
    other = couplings_of(tuple(Irrep(ell, (-1) ** ell) for ell in ells), labels, Irrep(0, 1)).numpy()
    other = other.reshape(len(other), -1)
    np.testing.assert_allclose(flat.T @ flat, other.T @ other, atol=1e-12)


def test_odd_products_have_no_invariants() -> None:
    assert invariant_couplings((1, 1, 1), (0, 1, 2)).paths == ()
    assert invariant_dimension((1, 1, 1), (0, 1, 2)) == 0


@pytest.mark.parametrize(("ells", "labels"), [((1, 2), (0, 0)), ((1, 1), (0,)), ((0,), (0,))])
def test_labels_that_do_not_fit_are_refused(ells: tuple[int, ...], labels: tuple[int, ...]) -> None:
    for function in (invariant_dimension, invariant_couplings):
        with pytest.raises(EquipotError, match="labels"):
            function(ells, labels)
