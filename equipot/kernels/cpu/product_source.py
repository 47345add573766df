"""The product basis in C++: forward, backward and double backward, each a straight line of multiply-adds per atom.

With brackets p = C_I + Σ_c C_{Ic} A_c of prefixes P (see `kernels.nesting`), cotangent g of B, tangent h of A and c' of
C; a dot is the derivative along the tangents:

    forward          B += P p
    backward         q = g P,   gA_c += q C_{Ic},   gC_{Ic} += q A_c,   gP += g p
    double backward  S = Σ g (Ṗ p + P ṗ),   q̇ = g Ṗ
                     g' += Ṗ p + P ṗ,   A'_c += q̇ C_{Ic} + q c'_{Ic},   C'_{Ic} += q̇ A_c + q h_c
                     P' += g ṗ,   Ṗ' += g p

and gradients of P, Ṗ go to their factors. Channels lie along the vector; the coefficients of one block of channels of
one species are packed and stay in the cache while its atoms pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from equipot.kernels.cpu.source import Code, scalar
from equipot.kernels.nesting import Bracket, Prefix, nest
from equipot.kernels.polynomial import Product

DRIVER = Path(__file__).with_name("product.h")
TILE = 64
"""Atoms of one species that pass before the next block of channels."""
PART = 400
"""Multiply-adds of the forward sum in one function, for compilers' sake."""


@dataclass(frozen=True)
class Pass:
    """What one pass over the atoms makes of what.

    Attributes:
        given: Which of g (cotangent of B), h (tangent of A) and c' (tangent of C) there are.
        need: Which of B (or g'), gA (or A') and gC (or C') are wanted.
    """

    given: tuple[bool, bool, bool]
    need: tuple[bool, bool, bool]

    @property
    def second(self) -> bool:
        """Whether it is the double backward."""
        return self.given[1] or self.given[2]


@lru_cache(maxsize=64)
def nested(description: Product) -> tuple[Prefix, ...]:
    """Returns the order of work of a description."""
    return nest(description.terms)


def source(d: Product, dtype: torch.dtype, width: int, work: Pass) -> str:
    """C++ of one pass over the atoms.

    Args:
        d: The product.
        dtype: Type of all tensors.
        width: Channels in one vector.
        work: What is made of what.
    """
    num_lm, num_m = sum(ir.dim for ir in d.irreps_in), sum(ir.dim for ir in d.irreps_out)
    code = Code()
    code(f"typedef {scalar(dtype)} T;")
    code(f"enum {{ W = {width}, LM = {num_lm}, M = {num_m}, TERMS = {len(d.terms)}, TILE = {TILE} }};")
    code("typedef Vec<T, W> V;")
    code("struct Tile {")
    code("T *a[TILE], *h[TILE], *g[TILE], *b[TILE], *d[TILE];")
    code("const T *C, *CC; T* gC; int64_t stride; int atoms;")
    code("};")
    parts = list(_parts(nested(d)))
    fresh: set[str] = set()
    for n, part in enumerate(parts):
        _Part(code, work, nested(d)).write(f"part{n}", part, fresh)
    code("static void tile(const Tile& t) {")
    for name, size, wanted in (("b", num_m, work.need[0]), ("d", num_lm, work.need[1])):
        untouched = [i for i in range(size) if f"{name}{i}" not in fresh]
        if wanted and untouched:
            code("for (int i = 0; i < t.atoms; ++i) {")
            for i in untouched:
                code(f"store(t.{name}[i] + {i} * t.stride, V{{}});")
            code("}")
    for n in range(len(parts)):
        code(f"part{n}(t);")
    code("}")
    return str(code) + DRIVER.read_text()


def _parts(prefixes: Sequence[Prefix]) -> Iterator[range]:
    """Families of prefixes in pieces of limited length."""
    begin, size = 0, 0
    for n, prefix in enumerate(prefixes):
        if prefix.parent < 0 and size >= PART:
            yield range(begin, n)
            begin, size = n, 0
        size += 2 + sum(2 + len(bracket.linear) for bracket in prefix.brackets)
    if begin < len(prefixes):
        yield range(begin, len(prefixes))


def _sum(terms: Sequence[str]) -> str:
    return " + ".join(terms) if terms else "V{}"


class _Part:
    """One function: some prefixes of every atom of a tile."""

    def __init__(self, code: Code, work: Pass, prefixes: Sequence[Prefix]) -> None:
        self.code, self.work, self.prefixes = code, work, prefixes
        self.has_g, self.has_h, self.has_cc = work.given
        self.need_b, self.need_a, self.need_c = work.need

    def write(self, name: str, part: range, fresh: set[str]) -> None:
        """Writes the function; `fresh` names the results that an earlier one has begun."""
        code = self.code
        chosen = [self.prefixes[n] for n in part]
        outputs = sorted({bracket.output for prefix in chosen for bracket in prefix.brackets})
        linear = {c for prefix in chosen for b in prefix.brackets for _, c in b.linear}
        used = sorted(linear.union(*(prefix.factors for prefix in chosen)))
        results = [f"b{m}" for m in outputs] * self.need_b + [f"d{c}" for c in used] * self.need_a
        code(f"static void {name}(const Tile& t) {{")
        code("const T* __restrict C = t.C; const T* __restrict CC = t.CC; T* __restrict gC = t.gC;")
        code("const int64_t s = t.stride;")
        code("for (int i = 0; i < t.atoms; ++i) {")
        inputs = [("a", used)] + [("h", used)] * self.has_h + [("g", outputs)] * self.has_g
        for x, rows in inputs:
            for c in rows:
                code(f"const V {x}{c} = load<V>(t.{x}[i] + {c} * s);")
        for x in results:
            code(f"V {x} = {f'load<V>(t.{x[0]}[i] + {x[1:]} * s)' if x in fresh else 'V{}'};")
        self._prefixes(part)
        for x in results:
            code(f"store(t.{x[0]}[i] + {x[1:]} * s, {x});")
        code("}")
        code("}")
        fresh.update(results)

    def _prefixes(self, part: range) -> None:
        """Down the families, with gradients handed up when a family's last member is done."""
        open_: list[int] = []
        for n in part:
            while open_ and open_[-1] != self.prefixes[n].parent:
                self._hand_up(open_.pop())
            open_.append(n)
            self._form(n)
            for bracket in self.prefixes[n].brackets:
                self.code("{")
                self._bracket(n, bracket)
                self.code("}")
        while open_:
            self._hand_up(open_.pop())

    def _add(self, total: str, terms: Sequence[str]) -> None:
        """One by one: a sum of products first would cost an addition more."""
        for term in terms:
            self.code(f"{total} += {term};")

    def _product(self, n: int) -> str | None:
        """The name of P, or None where it is 1."""
        factors = self.prefixes[n].factors
        return None if not factors else f"a{factors[0]}" if len(factors) == 1 else f"P{n}"

    def _tangent(self, n: int) -> str | None:
        """The name of Ṗ, or None where it is 0."""
        factors = self.prefixes[n].factors
        return None if not factors or not self.has_h else f"h{factors[0]}" if len(factors) == 1 else f"Q{n}"

    def _halves(self, n: int) -> tuple[str, str, str, str]:
        """P's two factors x y and their tangents."""
        prefix = self.prefixes[n]
        if prefix.parent >= 0:
            return f"P{prefix.parent}", f"a{prefix.last}", f"Q{prefix.parent}", f"h{prefix.last}"
        left, right = prefix.factors
        return f"a{left}", f"a{right}", f"h{left}", f"h{right}"

    def _form(self, n: int) -> None:
        """P and Ṗ, and zeros for their gradients."""
        size = len(self.prefixes[n].factors)
        if size >= 2:
            x, y, dx, dy = self._halves(n)
            self.code(f"const V P{n} = {x} * {y};")
            if self.has_h:
                self.code(f"const V Q{n} = {dx} * {y} + {x} * {dy};")
        if self.need_a and size >= 1:
            self.code(f"V gP{n} = {{}};")
        if self.need_a and self.has_h and size >= 2:
            self.code(f"V gQ{n} = {{}};")

    def _hand_up(self, n: int) -> None:
        """Gradients of P and Ṗ to their factors."""
        prefix = self.prefixes[n]
        if not self.need_a or not prefix.factors:
            return
        if len(prefix.factors) == 1:
            self.code(f"d{prefix.factors[0]} += gP{n};")
            return
        x, y, dx, dy = self._halves(n)
        left, right = (f"gP{prefix.parent}" if prefix.parent >= 0 else f"d{x[1:]}"), f"d{y[1:]}"
        h = self.has_h
        self._add(left, [f"gP{n} * {y}"] + [f"gQ{n} * {dy}"] * h)
        self._add(right, [f"gP{n} * {x}"] + [f"gQ{n} * {dx}"] * h)
        if prefix.parent >= 0 and h:
            self.code(f"gQ{prefix.parent} += gQ{n} * {y};")

    def _bracket(self, n: int, bracket: Bracket) -> None:
        P, Q, g = self._product(n), self._tangent(n), f"g{bracket.output}"
        at = lambda name, t: f"load<V>({name} + {t} * W)"  # noqa: E731
        constant = [bracket.constant] if bracket.constant >= 0 else []
        inner = self.need_b or (self.need_a and P is not None)
        if inner and (not self.work.second or Q):
            total = [at("C", t) for t in constant] + [f"{at('C', t)} * a{c}" for t, c in bracket.linear]
            self.code(f"const V p = {_sum(total)};")
        if inner and self.work.second:
            total = [at("CC", t) for t in constant] * self.has_cc
            total += [f"{at('CC', t)} * a{c}" for t, c in bracket.linear] * self.has_cc
            total += [f"{at('C', t)} * h{c}" for t, c in bracket.linear] * self.has_h
            self.code(f"const V r = {_sum(total)};")
        if self.need_b:
            along = "r" if self.work.second else "p"
            terms = [f"{P} * {along}" if P else along] + [f"{Q} * p"] * bool(Q)
            self._add(f"b{bracket.output}", terms)
        if self.need_a and P:
            self.code(f"gP{n} += {g} * {'r' if self.work.second else 'p'};")
        if self.need_a and Q and len(self.prefixes[n].factors) >= 2:
            self.code(f"gQ{n} += {g} * p;")
        if self.need_a or self.need_c:
            self._terms(bracket, (P, Q, g))

    def _terms(self, bracket: Bracket, names: tuple[str | None, str | None, str]) -> None:
        """What each coefficient gets and gives, from the weight of its bracket, q, and that along the tangent, u."""
        P, Q, g = names
        self.code(f"const V q = {_sum([f'{g} * {P}' if P else g])};")
        if Q:
            self.code(f"const V u = {g} * {Q};")
        second = self.work.second
        straight = "u" if second and Q else None if second else "q"  # the weight that goes with C and A
        for t, c in bracket.linear:
            to_a = [f"{straight} * load<V>(C + {t} * W)"] * bool(straight) + [
                f"q * load<V>(CC + {t} * W)"
            ] * self.has_cc
            to_c = [f"{straight} * a{c}"] * bool(straight) + [f"q * h{c}"] * self.has_h
            if self.need_a and to_a:
                self._add(f"d{c}", to_a)
            if self.need_c and to_c:
                self.code(f"store(gC + {t} * W, V(load<V>(gC + {t} * W) + {_sum(to_c)}));")
        if self.need_c and straight and bracket.constant >= 0:
            at = f"gC + {bracket.constant} * W"
            self.code(f"store({at}, V(load<V>({at}) + {straight}));")
