"""Invariants of several irreps of natural parity, symmetric among equal factors: how many there are, and which.

The couplings are trees: the first half of the factors is coupled one after the other to degree L, the second half too,
and the two are contracted,

    ν = 2   Σ_m A₁ₘ A₂ₘ                         ν = 4   Σ_M (A₁ A₂)_{LM} (A₃ A₄)_{LM}
    ν = 3   Σ_M (A₁ A₂)_{LM} A₃_M  (L = l₃)     ν = 5   Σ_M ((A₁ A₂)_{L'} A₃)_{LM} (A₄ A₅)_{LM}

so that many invariants share their halves. Trees of different factors are orthogonal; where factors are equal they are
not even independent, and a part of them is taken and made orthonormal.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache, reduce
from itertools import permutations, product
from math import sqrt
from typing import NamedTuple

import numpy as np

from equipot.errors import EquipotError
from equipot.o3.coupling import coupling_chain

_INDEPENDENT = 1e-8
"""Squared norm of what a symmetrised tree of norm 1 has outside the span of the others, below which it is nothing. True
zeros are of order 1e-16, true remainders of order 0.01."""


class InvariantCouplings(NamedTuple):
    """An orthonormal basis of invariants, as combinations of trees.

    Attributes:
        paths: The intermediate degrees of each tree that is used: of the first half from two factors on (the last one
            is L), then of the second half, without L.
        combinations: Lower triangular matrix: the coefficient of each path in each invariant.
    """

    paths: tuple[tuple[int, ...], ...]
    combinations: np.ndarray


def halves(correlation: int) -> tuple[int, int]:
    """Returns how many factors the first and the second half of a tree have."""
    return (correlation + 1) // 2, correlation // 2


@lru_cache(maxsize=16384)
def invariant_dimension(ells: tuple[int, ...], labels: tuple[int, ...]) -> int:
    r"""Counts the independent O(3) invariants of natural-parity factors, symmetric among factors of equal label.

        dim = 1/π ∫₀^π (1 − cos θ) Π_labels χ_{Sym^k(l)}(θ) dθ    for even Σ l, otherwise 0

    which is the number of weights 0 of the product of the symmetric powers less the number of weights 1.

    Args:
        ells: Degree of each factor.
        labels: One label per factor; factors of equal label are equal.

    Raises:
        EquipotError: The labels do not fit the degrees.
    """
    _check(ells, labels)
    if sum(ells) % 2:
        return 0
    powers = [_weights(ells[labels.index(label)], count) for label, count in Counter(labels).items()]
    weights = reduce(np.convolve, powers)
    middle = len(weights) // 2
    return int(weights[middle] - (weights[middle + 1] if len(weights) > 1 else 0))


@lru_cache(maxsize=16384)
def invariant_couplings(ells: tuple[int, ...], labels: tuple[int, ...]) -> InvariantCouplings:
    """Returns a minimal orthonormal basis of the O(3) invariants, symmetric among factors of equal label.

    The trees' tensors are averaged over the permutations of equal factors; a pivoted Cholesky factorisation of their
    Gram matrix finds an independent part of them and orthonormal combinations.

    Args:
        ells: Degree of each factor, two or more.
        labels: One label per factor; factors of equal label are equal.

    Raises:
        EquipotError: The labels do not fit the degrees.

    Source: Dusson et al., J. Comput. Phys. 454, 110946 (2022), the symmetrised basis of linear ACE.
    """
    _check(ells, labels)
    paths = list(_paths(ells)) if sum(ells) % 2 == 0 else []
    if len(set(labels)) == len(labels) or not paths:
        return InvariantCouplings(tuple(paths), np.eye(len(paths)))
    trees = np.stack([tree_tensor(ells, path) for path in paths])
    orders = list(_symmetries(labels))
    symmetric = np.mean([trees.transpose(0, *(1 + k for k in order)) for order in orders], axis=0)
    gram = trees.reshape(len(paths), -1) @ symmetric.reshape(len(paths), -1).T
    chosen = _independent(gram)
    block = gram[np.ix_(chosen, chosen)]
    combinations = np.tril(np.linalg.inv(np.linalg.cholesky((block + block.T) / 2)))
    combinations.flags.writeable = False
    return InvariantCouplings(tuple(paths[k] for k in chosen), combinations)


def half_degrees(ells: tuple[int, ...], path: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the degrees of both halves of a tree: of their first factors, then after every coupling."""
    first, second = halves(len(ells))
    left = (ells[0], *path[: first - 1])
    return left, (ells[first], *path[first - 1 :], left[-1])[:second]


def tree_tensor(ells: tuple[int, ...], path: tuple[int, ...]) -> np.ndarray:
    """Returns the tensor [m₁ … mν] of one tree, of Frobenius norm 1."""
    left, right = half_degrees(ells, path)
    a, b = coupling_chain(ells[: len(left)], left), coupling_chain(ells[len(left) :], right)
    return np.tensordot(a, b, axes=(0, 0)) / sqrt(len(a))


def _paths(ells: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All trees that lead to an invariant."""
    first, _ = halves(len(ells))
    for left in _chains(ells[:first]):
        for right in _chains(ells[first:]):
            if left[-1] == right[-1]:
                yield (*left[1:], *right[1:-1])


def _chains(ells: tuple[int, ...]) -> list[tuple[int, ...]]:
    chains = [ells[:1]]
    for ell in ells[1:]:
        chains = [(*c, L) for c in chains for L in range(abs(c[-1] - ell), c[-1] + ell + 1)]
    return chains


def _symmetries(labels: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The permutations that exchange equal factors."""
    groups = [[k for k, other in enumerate(labels) if other == label] for label in dict.fromkeys(labels)]
    for orders in product(*(permutations(group) for group in groups)):
        order = list(range(len(labels)))
        for group, image in zip(groups, orders, strict=True):
            for k, i in zip(group, image, strict=True):
                order[k] = i
        yield tuple(order)


def _independent(gram: np.ndarray) -> list[int]:
    """The rows that pivoted Cholesky takes, the largest remainder first; returned ascending."""
    left = gram.diagonal().copy()
    columns = np.zeros((0, len(gram)))
    chosen: list[int] = []
    while len(chosen) < len(gram) and left.max() > _INDEPENDENT:
        pivot = int(left.argmax())
        column = (gram[pivot] - columns[:, pivot] @ columns) / sqrt(left[pivot])
        columns = np.concatenate([columns, column[None]])
        chosen.append(pivot)
        left = left - column**2
        left[chosen] = 0.0
    return sorted(chosen)


def _weights(ell: int, count: int) -> np.ndarray:
    """Multiplicities of the weights −k l … k l of the k-th symmetric power of degree l (a Gaussian binomial)."""
    rows = [np.zeros(2 * ell * k + 1, dtype=np.int64) for k in range(count + 1)]
    rows[0][0] = 1
    for m in range(2 * ell + 1):  # components one after the other, each any number of times; weights counted from −l
        for k in range(1, count + 1):
            rows[k][m : m + len(rows[k - 1])] += rows[k - 1]
    return rows[count]


def _check(ells: tuple[int, ...], labels: tuple[int, ...]) -> None:
    if len(ells) < 2 or len(ells) != len(labels):
        raise EquipotError(
            f"{len(labels)} labels for {len(ells)} factors: give two factors or more, one label for each."
        )
    if len(set(zip(labels, ells, strict=True))) != len(set(labels)):
        raise EquipotError(f"labels {labels} do not fit degrees {ells}: factors of equal label have equal degrees.")
