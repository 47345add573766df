"""The order of work in which many monomials share factors, output by output.

    Σ_t C_t Π A = Σ_I P_I (C_I + Σ_c C_{Ic} A_c),    P_I = P_J A_b

Each monomial belongs to one prefix I, a product P_I of all factors but one (or of all of them: C_I). A prefix serves
every output; prefixes are chosen greedily, so that each takes as many monomials as it can.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from equipot.kernels.polynomial import Term

Factors = tuple[int, ...]


class Bracket(NamedTuple):
    """C_I + Σ_c C_{Ic} A_c of one output.

    Attributes:
        output: Which.
        constant: The term of the prefix itself; −1 for none.
        linear: (term, component c) of all the others.
    """

    output: int
    constant: int
    linear: tuple[tuple[int, int], ...]


class Prefix(NamedTuple):
    """A shared product and its brackets.

    Attributes:
        factors: Components of A that are multiplied.
        parent: Index of the prefix that lacks the last factor, where there are three factors or more; otherwise −1.
        last: The factor that the parent lacks; −1 without parent.
        brackets: One for each output that has terms with this prefix.
    """

    factors: Factors
    parent: int
    last: int
    brackets: tuple[Bracket, ...]


def nest(terms: Sequence[Term]) -> tuple[Prefix, ...]:
    """Returns prefixes that hold every term once, parents before their children, each family in one piece."""
    chosen = _cover(terms)
    parents = _parents(chosen)
    children: dict[Factors | None, list[Factors]] = {}
    for factors, parent in parents.items():
        children.setdefault(parent, []).append(factors)
    out: list[Prefix] = []

    def visit(factors: Factors, parent: int, above: Factors) -> None:
        brackets = _brackets(factors, chosen.get(factors, ()), terms)
        last = next(iter((Counter(factors) - Counter(above)).elements())) if parent >= 0 else -1
        here = len(out)
        out.append(Prefix(factors, parent, last, brackets))
        for child in children.get(factors, []):
            visit(child, here, factors)

    for factors in children.get(None, []):
        visit(factors, -1, ())
    return tuple(out)


def _cover(terms: Sequence[Term]) -> dict[Factors, tuple[int, ...]]:
    """For each prefix the terms that it takes."""
    candidates: dict[Factors, set[int]] = {}
    for n, (_, factors) in enumerate(terms):
        for prefix in _prefixes(factors):
            candidates.setdefault(prefix, set()).add(n)

    def worth(prefix: Factors) -> float:
        """Terms taken per multiplication beside theirs."""
        return len(candidates[prefix]) / (1 + len({terms[n].output for n in candidates[prefix]}))

    heap = [(-worth(prefix), prefix) for prefix in candidates]
    heapq.heapify(heap)
    chosen: dict[Factors, tuple[int, ...]] = {}
    while heap:
        before, prefix = heapq.heappop(heap)
        now = worth(prefix)
        if now < -before:
            if now > 0:
                heapq.heappush(heap, (-now, prefix))
            continue
        chosen[prefix] = tuple(sorted(candidates[prefix]))
        for n in chosen[prefix]:
            for other in _prefixes(terms[n].factors):
                candidates[other].discard(n)
    return chosen


def _prefixes(factors: Factors) -> Iterable[Factors]:
    """All products of all factors but one, and the whole."""
    yield from {factors[:n] + factors[n + 1 :] for n in range(len(factors))}
    yield factors


def _parents(chosen: Iterable[Factors]) -> dict[Factors, Factors | None]:
    """For each prefix, chosen or needed by another one, its parent; prefixes of two factors and fewer have none."""
    parents: dict[Factors, Factors | None] = {}
    todo = sorted(chosen, key=lambda factors: (-len(factors), factors))
    known = set(todo)
    for size in range(max((len(factors) for factors in todo), default=0), 0, -1):
        group = sorted(factors for factors in known if len(factors) == size)
        uses = Counter(p for factors in group for p in _prefixes(factors) if len(p) < size)
        for factors in group:
            options = [p for p in _prefixes(factors) if len(p) < size]
            parent = max(options, key=lambda p: (p in known, uses[p], p))
            parents[factors] = parent if size > 2 else None
            if size > 2:
                known.add(parent)
    parents.update({factors: None for factors in known if not factors})
    return parents


def _brackets(factors: Factors, taken: Iterable[int], terms: Sequence[Term]) -> tuple[Bracket, ...]:
    per_output: dict[int, list[int]] = {}
    for n in taken:
        per_output.setdefault(terms[n].output, []).append(n)
    out = []
    for output, group in sorted(per_output.items()):
        constant = [n for n in group if len(terms[n].factors) == len(factors)]
        linear = [
            (n, next(iter((Counter(terms[n].factors) - Counter(factors)).elements())))
            for n in group
            if len(terms[n].factors) > len(factors)
        ]
        out.append(Bracket(output, constant[0] if constant else -1, tuple(linear)))
    return tuple(out)
