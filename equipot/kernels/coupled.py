"""The product basis of linear ACE, described as data: invariant polynomials of channels that are coupled.

    A[i, z, lm, n]                                  one-particle basis of atom i: species z of the neighbours, column n
    B[i, f] = Σ_p folding[f, p] v_{a_p} v_{b_p}     functions; v are slots: A's components, then their couplings

A function is one orthonormal, permutation-symmetric O(3) invariant of a multiset of factors (z, n, l). The same
functions serve every atom, whatever its element; their weights differ. `CoupledProduct.program` says in which order the
slots are made, so that products which functions share are made once.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import sqrt
from typing import NamedTuple

import numpy as np

from equipot.o3 import InvariantCouplings, coupling_chain, half_degrees, halves, invariant_couplings

_TOLERANCE = 1e-9
"""By how much a sum of degrees may exceed the limit through round-off."""
_ZERO = 1e-12
Factor = tuple[int, int, int]


class Function(NamedTuple):
    """One function of the basis.

    Attributes:
        factors: (z, n, l) of each factor, n from 1, in the order in which they are coupled.
        number: Which of the invariants of these factors.
        degree: Σ (n + w l), and the costs of the elements.
    """

    factors: tuple[Factor, ...]
    number: int
    degree: float

    @property
    def order(self) -> int:
        """Number of factors ν; its body order is ν + 1."""
        return len(self.factors)


class Program(NamedTuple):
    """How the functions are made of A's components, as arrays.

        v[dst[k]] += coefficient[k] v[a[k]] v[b[k]],   k = 0, 1 …
        B[function[k]] += value[k] v[pair_a[pair[k]]] v[pair_b[pair[k]]]

    Attributes:
        num_slots: A's components and all intermediates.
        dst: Slot that a term adds to; ascending, and behind every slot that it is made of.
        a: Slot of the first operand.
        b: Slot of the second operand.
        coefficient: Coefficient of each term.
        levels: Where the terms begin whose operands are complete once all terms before are done, and the end.
        pair_a: First slot of each product that functions use, ascending.
        pair_b: Second slot, ascending where the first is equal; not below it.
        function: Function of each entry of the folding, ascending.
        pair: Its pair.
        value: Its coefficient.
    """

    num_slots: int
    dst: np.ndarray
    a: np.ndarray
    b: np.ndarray
    coefficient: np.ndarray
    levels: tuple[int, ...]
    pair_a: np.ndarray
    pair_b: np.ndarray
    function: np.ndarray
    pair: np.ndarray
    value: np.ndarray

    @property
    def num_pairs(self) -> int:
        """Number of products that functions use."""
        return len(self.pair_a)


@dataclass(frozen=True)
class CoupledProduct:
    r"""The functions of orders 2 … correlation with Σ_t (n_t + w l_t + c_{z_t}) ≤ D_ν.

    A is [atom, (z, lm, n)], flat, n contiguous and from 1.

    Attributes:
        num_species: Elements of neighbours.
        max_ell: Highest l.
        num_radial: Highest n.
        degrees: D_1 … D_ν. D_1 is that of the two-body part, which is not made here.
        ell_weight: w.
        costs: What a factor of each element adds to the degree; none where it is empty. A centre adds the same: rare
            elements have fewer functions.
        orders: Highest ν of the functions centred on each element; that of `degrees` where it is empty.
    """

    num_species: int
    max_ell: int
    num_radial: int
    degrees: tuple[float, ...]
    ell_weight: float
    costs: tuple[float, ...] = ()
    orders: tuple[int, ...] = ()

    @property
    def correlation(self) -> int:
        """Highest ν."""
        return len(self.degrees)

    @property
    def num_lm(self) -> int:
        """Components of the harmonics."""
        return (self.max_ell + 1) ** 2

    @property
    def dim(self) -> int:
        """Components of A."""
        return self.num_species * self.num_lm * self.num_radial

    @property
    def key(self) -> str:
        """The description as one string, for operators."""
        sizes = (self.num_species, self.max_ell, self.num_radial)
        degrees, costs = (",".join(repr(float(x)) for x in some) for some in (self.degrees, self.costs))
        orders = ",".join(map(str, self.orders))
        return "|".join([*map(str, sizes), degrees, repr(float(self.ell_weight)), costs, orders])

    @staticmethod
    @lru_cache(maxsize=256)
    def from_key(key: str) -> "CoupledProduct":
        """Returns the description of a key."""
        species, ell, radial, degrees, weight, costs, orders = key.split("|")
        D, c = (tuple(float(x) for x in some.split(",") if x) for some in (degrees, costs))
        highest = tuple(int(x) for x in orders.split(",") if x)
        return CoupledProduct(int(species), int(ell), int(radial), D, float(weight), c, highest)

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """All functions that some centre has: by order, then by the elements of their factors, then by degree."""
        return tuple(
            Function(factors, number, self._degree(factors))
            for factors in self._multisets
            for number in range(len(_couplings(factors).combinations))
        )

    @property
    def num_functions(self) -> int:
        """Number of functions."""
        return len(self.functions)

    @cached_property
    def active(self) -> np.ndarray:
        """Which functions each element has as a centre, bool [species, function]."""
        order = np.array([function.order for function in self.functions], dtype=np.int64)
        degrees = np.array([function.degree for function in self.functions])
        return degrees <= self._limits[:, order - 1] + _TOLERANCE

    @cached_property
    def _limits(self) -> np.ndarray:
        """Highest degree of the functions of each centre and order, [species, order]; −∞ where it has none."""
        costs = np.array(self.costs or (0.0,) * self.num_species)
        highest = np.array(self.orders or (self.correlation,) * self.num_species)
        limits = np.array(self.degrees) - costs[:, None]
        return np.where(np.arange(1, self.correlation + 1) <= highest[:, None], limits, -np.inf)

    @cached_property
    def counts_by_order(self) -> dict[int, int]:
        """Number of functions of each order ν = 2 … correlation."""
        counts = Counter(function.order for function in self.functions)
        return {nu: counts[nu] for nu in range(2, self.correlation + 1)}

    @cached_property
    def program(self) -> Program:
        """The order of work."""
        return _Builder(self).build(self._multisets)

    def slots(self, factor: Factor) -> np.ndarray:
        """Returns where the components m of a factor stand in A."""
        z, n, ell = factor
        return (z * self.num_lm + np.arange(ell**2, (ell + 1) ** 2)) * self.num_radial + n - 1

    def _degree(self, factors: tuple[Factor, ...]) -> float:
        costs = sum(self.costs[z] for z, _, _ in factors) if self.costs else 0.0
        return float(sum(n + self.ell_weight * ell for _, n, ell in factors) + costs)

    def _place(self, factors: tuple[Factor, ...]) -> tuple[list[int], float]:
        return sorted(z for z, _, _ in factors), self._degree(factors)

    @cached_property
    def _multisets(self) -> tuple[tuple[Factor, ...], ...]:
        """The factors of functions: ascending by degree, l, z, n, so that small ones are coupled first."""
        one = [
            (z, n, ell)
            for ell in range(self.max_ell + 1)
            for z in range(self.num_species)
            for n in range(1, self.num_radial + 1)
        ]
        one.sort(key=lambda factor: self._degree((factor,)))  # stable
        found: list[tuple[Factor, ...]] = []
        for nu in range(2, self.correlation + 1):
            group = _chosen(one, [self._degree((factor,)) for factor in one], nu, self._limits[:, nu - 1].max())
            found += sorted((factors for factors in group if _couplings(factors).paths), key=self._place)
        return tuple(found)


def _chosen(one: list[Factor], degrees: list[float], count: int, limit: float) -> Iterator[tuple[Factor, ...]]:
    """Multisets of so many factors of even Σ l whose degrees, which ascend, add up to no more than the limit."""
    chosen: list[Factor] = []

    def extend(start: int, missing: int, room: float) -> Iterator[tuple[Factor, ...]]:
        for k in range(start, len(one)):
            if missing * degrees[k] > room:
                return
            chosen.append(one[k])
            if missing > 1:
                yield from extend(k, missing - 1, room - degrees[k])
            elif sum(ell for _, _, ell in chosen) % 2 == 0:
                yield tuple(chosen)
            chosen.pop()

    yield from extend(0, count, limit + _TOLERANCE)


def _couplings(factors: tuple[Factor, ...]) -> InvariantCouplings:
    label = {factor: n for n, factor in enumerate(dict.fromkeys(factors))}
    return invariant_couplings(tuple(ell for _, _, ell in factors), tuple(label[factor] for factor in factors))


class _Coupled(NamedTuple):
    """Factors coupled one after the other.

    Attributes:
        factors: Which.
        degrees: The first factor's l, then that after every coupling.
    """

    factors: tuple[Factor, ...]
    degrees: tuple[int, ...]

    @property
    def parent(self) -> "_Coupled":
        return _Coupled(self.factors[:-1], self.degrees[:-1])


class _Tree(NamedTuple):
    """The contraction of two halves, one path of a function."""

    function: int
    value: float
    left: _Coupled
    right: _Coupled


class _Builder:
    """Writes the program of a description."""

    def __init__(self, description: CoupledProduct) -> None:
        self.description = description
        self.start: dict[_Coupled, int] = {}
        """First slot of every coupling of two factors or more."""
        self.num_slots = description.dim

    def build(self, multisets: Sequence[tuple[Factor, ...]]) -> Program:
        trees = list(self._trees(multisets))
        couplings = dict.fromkeys(half for tree in trees for half in self._with_parents(tree))
        terms, levels = [np.zeros((4, 0))], [0]
        for size in range(2, halves(self.description.correlation)[0] + 1):
            terms += [self._terms(coupled) for coupled in couplings if len(coupled.factors) == size]
            levels.append(sum(part.shape[1] for part in terms))
        dst, a, b, coefficient = np.concatenate(terms, axis=1)
        steps = (dst.astype(np.int64), a.astype(np.int64), b.astype(np.int64), coefficient)
        return Program(self.num_slots, *steps, tuple(levels), *self._folding(trees))

    def _trees(self, multisets: Sequence[tuple[Factor, ...]]) -> Iterator[_Tree]:
        function = 0
        for factors in multisets:
            paths, combinations = _couplings(factors)
            first = halves(len(factors))[0]
            split = [
                (_Coupled(factors[:first], left), _Coupled(factors[first:], right))
                for left, right in (half_degrees(tuple(ell for *_, ell in factors), path) for path in paths)
            ]
            for row in combinations:
                yield from (_Tree(function, float(x), *split[k]) for k, x in enumerate(row) if abs(x) > _ZERO)
                function += 1

    def _with_parents(self, tree: _Tree) -> Iterator[_Coupled]:
        for coupled in (tree.left, tree.right):
            while len(coupled.factors) > 1:
                yield coupled
                coupled = coupled.parent

    def _slots(self, coupled: _Coupled) -> np.ndarray:
        """Where its components stand."""
        if len(coupled.factors) == 1:
            return self.description.slots(coupled.factors[0])
        return self.start[coupled] + np.arange(2 * coupled.degrees[-1] + 1)

    def _terms(self, coupled: _Coupled) -> np.ndarray:
        """Rows dst, a, b, coefficient of the terms that make it; it gets the next slots."""
        self.start[coupled] = self.num_slots
        self.num_slots += 2 * coupled.degrees[-1] + 1
        components, values = _coefficients(*coupled.degrees[-2:], coupled.factors[-1][2])
        dst = self._slots(coupled)[components[0]]
        a = self._slots(coupled.parent)[components[1]]
        b = self._slots(_Coupled(coupled.factors[-1:], (coupled.factors[-1][2],)))[components[2]]
        keys, values = _merged(np.stack([dst, np.minimum(a, b), np.maximum(a, b)]), values)
        return np.concatenate([keys, values[None]])

    def _folding(self, trees: Sequence[_Tree]) -> tuple[np.ndarray, ...]:
        """pair_a, pair_b, function, pair and value of the program."""
        rows, slots, values = [np.zeros(0, np.int64)], [np.zeros((2, 0), np.int64)], [np.zeros(0)]
        for tree in trees:
            halves_of = np.stack([self._slots(tree.left), self._slots(tree.right)])
            size = halves_of.shape[1]
            slots.append(halves_of)
            rows.append(np.full(size, tree.function))
            values.append(np.full(size, tree.value / sqrt(size)))
        a, b = np.concatenate(slots, axis=1)
        keys, value = _merged(
            np.stack([np.concatenate(rows), np.minimum(a, b), np.maximum(a, b)]), np.concatenate(values)
        )
        pairs, pair = np.unique(keys[1:], axis=1, return_inverse=True)
        return pairs[0], pairs[1], keys[0], pair.reshape(-1), value


def _merged(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adds up values of equal columns of keys; returns the columns, ascending, and the sums that are not zero."""
    unique, inverse = np.unique(keys, axis=1, return_inverse=True)
    sums = np.bincount(inverse.reshape(-1), values, minlength=unique.shape[1])
    kept = np.abs(sums) > _ZERO
    return unique[:, kept], sums[kept]


@lru_cache(maxsize=1024)
def _coefficients(before: int, after: int, ell: int) -> tuple[np.ndarray, np.ndarray]:
    """The components (M, M', m) and values of the coefficients that are not zero."""
    C = coupling_chain((before, ell), (before, after))
    components = np.argwhere(np.abs(C) > _ZERO).T
    return components, C[tuple(components)]
