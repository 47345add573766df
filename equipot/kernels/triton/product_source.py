"""The product basis in Triton: one program for a few atoms and channels, all components of A in registers.

The terms are those of `kernels.cpu.product_source`: brackets p = C_I + Σ_c C_{Ic} A_c of shared prefixes P, and
tangents Ṗ, ṗ in the double backward. Lanes are (atom, channel); atoms come sorted by species, so lanes of a program
read the same coefficients. Gradients of C are summed over chunks of one species' atoms, some brackets at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from equipot.kernels.cpu.product_source import Pass, nested
from equipot.kernels.nesting import Bracket, Prefix
from equipot.kernels.polynomial import Product
from equipot.kernels.triton.source import LANES, MOST_LINES, Code, Function, Kernel, assemble, scalar, tile

MOST_TERMS = 32
"""Gradients of coefficients that a program sums."""
ARGUMENTS = ("A", "h", "g", "C", "c", "oB", "oA", "order", "species")


@dataclass
class Polynomial:
    """Writes the evaluation of a product, and its reverse, for one vector of lanes.

    Attributes:
        code: Where to write.
        work: What is given and what is wanted.
        channels: K.
        sums: Names that have been given a value, for sums that begin with their first term.
    """

    code: Code
    work: Pass
    channels: int
    sums: set[str] = field(default_factory=set)

    def add(self, name: str, terms: Sequence[str]) -> None:
        """Adds to a sum."""
        if terms:
            known = [name] if name in self.sums else []
            self.sums.add(name)
            self.code(f"{name} = {' + '.join([*known, *terms])}")

    def prefix(self, n: int, prefix: Prefix) -> None:
        """P and Ṗ of a prefix."""
        factors = prefix.factors
        if prefix.parent >= 0:
            m, b = prefix.parent, prefix.last
            self.code(f"P{n} = P{m} * A{b}")
            if self.work.given[1]:
                self.code(f"D{n} = D{m} * A{b} + P{m} * h{b}")
        elif len(factors) == 2:
            a, b = factors
            self.code(f"P{n} = A{a} * A{b}")
            if self.work.given[1]:
                self.code(f"D{n} = h{a} * A{b} + A{a} * h{b}")
        elif factors:
            self.code(f"P{n} = A{factors[0]}")
            if self.work.given[1]:
                self.code(f"D{n} = h{factors[0]}")

    def bracket(self, bracket: Bracket) -> None:
        """p, and ṗ in a double backward; each coefficient is loaded once."""
        p, d = [], []
        for t, component in [(bracket.constant, -1)] * (bracket.constant >= 0) + list(bracket.linear):
            self.code(f"C{t} = tl.load(C + {t * self.channels})")
            p.append(f"C{t}" if component < 0 else f"C{t} * A{component}")
            if self.work.given[2]:
                self.code(f"c{t} = tl.load(c + {t * self.channels})")
                d.append(f"c{t}" if component < 0 else f"c{t} * A{component}")
            if self.work.given[1] and component >= 0:
                d.append(f"C{t} * h{component}")
        self.code(f"p = {' + '.join(p)}")
        if d:
            self.code(f"d = {' + '.join(d)}")

    def values(self, n: int, prefix: Prefix) -> None:
        """B, or the gradient of its cotangent, of the brackets of a prefix."""
        one = not prefix.factors
        for bracket in prefix.brackets:
            self.bracket(bracket)
            if not self.work.second:
                self.add(f"B{bracket.output}", ["p" if one else f"P{n} * p"])
                continue
            terms = [f"D{n} * p"] if self.work.given[1] and not one else []
            terms += ["d" if one else f"P{n} * d"] if self._tangent(bracket) else []
            if self.work.need[0]:
                self.add(f"B{bracket.output}", terms)
            if self.work.need[1]:
                self.reverse_bracket(n, prefix, bracket)

    def reverse_bracket(self, n: int, prefix: Prefix, bracket: Bracket) -> None:
        """What a bracket gives to the gradients of A and of its prefix (p and ṗ are there)."""
        g, second, one = f"g{bracket.output}", self.work.second, not prefix.factors
        q, r = self.cotangents(n, prefix, bracket)
        for t, component in bracket.linear:
            terms = [f"{q} * C{t}"] if not second else [f"{r} * C{t}"] if r else []
            terms += [f"{q} * c{t}"] if self.work.given[2] else []
            self.add(f"a{component}", terms)
        if one:
            return
        if not second:
            self.add(f"p{n}", [f"{g} * p"])
            return
        self.add(f"p{n}", [f"{g} * d"] if self._tangent(bracket) else [])
        self.add(f"d{n}", [f"{g} * p"] if self.work.given[1] else [])

    def cotangents(self, n: int, prefix: Prefix, bracket: Bracket) -> tuple[str, str]:
        """The cotangents of ṗ (of p in a first derivative) and of p (none where there is no tangent of A)."""
        g = f"g{bracket.output}"
        if not prefix.factors:
            return g, ""
        self.code(f"q = {g} * P{n}")
        if not self.work.given[1]:
            return "q", ""
        self.code(f"r = {g} * D{n}")
        return "q", "r"

    def _tangent(self, bracket: Bracket) -> bool:
        """Whether a bracket's ṗ is not zero."""
        return self.work.given[2] or (self.work.given[1] and bool(bracket.linear))

    def reverse_prefix(self, n: int, prefix: Prefix) -> None:
        """From the gradients of P and Ṗ to those of its factors."""
        p, d = f"p{n}" in self.sums, f"d{n}" in self.sums
        if prefix.parent >= 0:
            m, b = prefix.parent, prefix.last
            self.add(f"a{b}", [f"p{n} * P{m}"] * p + [f"d{n} * D{m}"] * d)
            self.add(f"p{m}", [f"p{n} * A{b}"] * p + [f"d{n} * h{b}"] * d)
            self.add(f"d{m}", [f"d{n} * A{b}"] * d)
        elif len(prefix.factors) == 2:
            for a, b in (prefix.factors, prefix.factors[::-1]):
                self.add(f"a{a}", [f"p{n} * A{b}"] * p + [f"d{n} * h{b}"] * d)
        elif prefix.factors:
            self.add(f"a{prefix.factors[0]}", [f"p{n}"] * p)


def _walk(prefixes: Sequence[Prefix]) -> Iterator[tuple[int, bool]]:
    """Each prefix before its children (True) and after them (False)."""
    children: dict[int, list[int]] = {}
    for n, prefix in enumerate(prefixes):
        children.setdefault(prefix.parent, []).append(n)

    def visit(n: int) -> Iterator[tuple[int, bool]]:
        yield n, True
        for child in children.get(n, []):
            yield from visit(child)
        yield n, False

    for root in children.get(-1, []):
        yield from visit(root)


def values_kernels(
    d: Product, channels: int, dtype: torch.dtype, work: Pass, grouped: bool
) -> tuple[tuple[Kernel, ...], int]:
    """B; the gradient of A; or the gradients of B's cotangent and of A. Also returns the atoms of a program.

    Each kernel evaluates some families of prefixes; all but the first add to what is there.
    """
    atoms = LANES * 8 // dtype.itemsize // _block(channels, dtype)
    walks = list(_families(nested(d), MOST_LINES // (3 if work.second else 2)))
    return tuple(_values_kernel(d, (channels, dtype, grouped), work, w, w is walks[0]) for w in walks), atoms


def _block(channels: int, dtype: torch.dtype) -> int:
    """Channels of a program."""
    return min(LANES, tile(channels, dtype).block)


def _families(prefixes: Sequence[Prefix], most: int) -> Iterator[list[tuple[int, bool]]]:
    """Whole families of prefixes, each before and after its children, in groups of not too many terms."""
    group: list[tuple[int, bool]] = []
    size = 0
    for n, before in _walk(prefixes):
        if before and prefixes[n].parent < 0 and size > most:
            yield group
            group, size = [], 0
        group.append((n, before))
        size += before * (1 + sum(1 + len(b.linear) for b in prefixes[n].brackets))
    if group or not prefixes:
        yield group


def _values_kernel(
    d: Product, lanes: tuple[int, torch.dtype, bool], work: Pass, walk: Sequence[tuple[int, bool]], first: bool
) -> Kernel:
    channels, dtype, grouped = lanes
    code, block = Code(), _block(channels, dtype)
    width = LANES * 8 // dtype.itemsize
    num_lm, num_m = (sum(ir.dim for ir in irreps) for irreps in (d.irreps_in, d.irreps_out))
    with code.function("product", (*ARGUMENTS, "nodes"), number="nodes"):
        code(f"lane = tl.arange(0, {width})")
        code(f"position = tl.program_id(0) * {width // block} + lane // {block}")
        code(f"k = tl.program_id(1) * {block} + lane % {block}")
        code(f"inside = (position < nodes) & (k < {channels})")
        code("position = tl.minimum(position, nodes - 1)")
        code(f"k = tl.minimum(k, {channels - 1})")
        _rows(code, grouped, len(d.terms) * channels)
        for name, x, size in (("A", "A", num_lm), ("h", "h", num_lm), ("g", "g", num_m)):
            if name == "A" or work.given["gh".index(name)]:
                code(f"row = {x} + i * {size * channels} + k")
                for v in range(size):
                    code(f"{name}{v} = tl.load(row + {v * channels})")
        writer = Polynomial(code, work, channels)
        _values(writer, nested(d), walk)
        zero = f"tl.zeros(({width},), {scalar(dtype)})"
        for out, name, size, need in (("oB", "B", num_m, work.need[0]), ("oA", "a", num_lm, work.need[1])):
            if need:
                code(f"row = {out} + i * {size * channels} + k")
                _store(writer, [f"{name}{v}" for v in range(size)], zero if first else "")
    return Kernel(str(code), "product", (*ARGUMENTS, "nodes"), -(-channels // block))


def _store(writer: Polynomial, names: Sequence[str], zero: str) -> None:
    """Writes sums, or adds them to what is there where no zero is given."""
    for v, name in enumerate(names):
        at = f"row + {v * writer.channels}"
        known = name in writer.sums
        if zero:
            writer.code(f"tl.store({at}, {name if known else zero}, mask=inside)")
        elif known:
            writer.code(f"tl.store({at}, tl.load({at}) + {name}, mask=inside)")


def _rows(code: Code, grouped: bool, size: int) -> None:
    """Which atom a position is, and where its coefficients lie."""
    if grouped:
        code("i = tl.load(order + position)")
        code(f"offset = tl.load(species + position) * {size} + k")
    else:
        code("i = position.to(tl.int64)")
        code("offset = k")
    code("C = C + offset")
    code("c = c + offset")


def _values(writer: Polynomial, prefixes: Sequence[Prefix], walk: Sequence[tuple[int, bool]]) -> None:
    work = writer.work
    reverse = work.need[1]
    for n, before in walk:
        prefix = prefixes[n]
        if not before:
            if reverse:
                writer.reverse_prefix(n, prefix)
            continue
        writer.prefix(n, prefix)
        if work.second or not reverse:
            writer.values(n, prefix)
            continue
        for bracket in prefix.brackets:
            writer.bracket(bracket)
            writer.reverse_bracket(n, prefix, bracket)


def weights_kernels(d: Product, channels: int, dtype: torch.dtype, work: Pass, grouped: bool) -> tuple[Kernel, ...]:
    """The gradient of C, summed over each chunk of atoms: [chunk, term, channel]."""
    t = tile(channels, dtype)
    arguments = ("A", "h", "g", "order", "begins", "ends", "parts")
    functions = []
    for n, group in enumerate(_groups(nested(d))):
        code = Code("")
        with code.function(f"terms{n}", (*arguments, "chunk", "block")):
            code(f"k = block * {t.block} + tl.arange(0, {t.block})")
            code(f"inside = k < {channels}")
            code(f"k = tl.minimum(k, {channels - 1})")
            _terms(code, d, channels, work, group, (grouped, f"tl.zeros(({t.block},), {scalar(dtype)})"))
        functions.append(Function(f"terms{n}", code, t.blocks))
    return assemble("product_weights", functions, arguments, "chunk", (*arguments, "chunk"))


Group = list[tuple[int, Prefix, Bracket]]


def _groups(prefixes: Sequence[Prefix]) -> Iterator[Group]:
    """Brackets in groups of not too many terms; long brackets are cut."""
    group: Group = []
    size = 0
    for n, prefix in enumerate(prefixes):
        for bracket in prefix.brackets:
            for piece in _pieces(bracket):
                count = len(piece.linear) + (piece.constant >= 0)
                if group and size + count > MOST_TERMS:
                    yield group
                    group, size = [], 0
                group.append((n, prefix, piece))
                size += count
    if group:
        yield group


def _pieces(bracket: Bracket) -> Iterator[Bracket]:
    for first in range(0, max(len(bracket.linear), 1), MOST_TERMS - 1):
        constant = bracket.constant if first == 0 else -1
        yield Bracket(bracket.output, constant, bracket.linear[first : first + MOST_TERMS - 1])


def _terms(code: Code, d: Product, channels: int, work: Pass, group: Group, lanes: tuple[bool, str]) -> None:
    """One group: a loop over a chunk's atoms."""
    grouped, zero = lanes
    num_lm, num_m = (sum(ir.dim for ir in irreps) for irreps in (d.irreps_in, d.irreps_out))
    prefixes = nested(d)
    terms = [t for _, _, b in group for t in ([b.constant] if b.constant >= 0 else []) + [t for t, _ in b.linear]]
    needed = _ancestors(prefixes, [n for n, _, _ in group])
    components = {v for n in needed for v in prefixes[n].factors} | {v for _, _, b in group for _, v in b.linear}
    for t in terms:
        code(f"o{t} = {zero}")
    code("begin = tl.load(begins + chunk)")
    code("end = tl.load(ends + chunk)")
    with code.block("for position in range(begin, end):"):
        code("i = tl.load(order + position)" if grouped else "i = position")
        loads = [("A", num_lm, sorted(components)), ("h", num_lm, sorted(components) if work.given[1] else [])]
        for name, size, used in [*loads, ("g", num_m, sorted({b.output for _, _, b in group}))]:
            for v in used:
                code(f"{name}{v} = tl.load({name} + i * {size * channels} + {v * channels} + k)")
        writer = Polynomial(code, work, channels)
        for n in needed:
            writer.prefix(n, prefixes[n])
        for n, prefix, bracket in group:
            _gradient_of_terms(writer, n, prefix, bracket)
    for t in terms:
        code(f"tl.store(parts + (chunk * {len(d.terms)} + {t}) * {channels} + k, o{t}, mask=inside)")


def _gradient_of_terms(writer: Polynomial, n: int, prefix: Prefix, bracket: Bracket) -> None:
    q, r = writer.cotangents(n, prefix, bracket)
    if bracket.constant >= 0 and (r or not writer.work.second):
        writer.code(f"o{bracket.constant} += {r if writer.work.second else q}")
    for t, component in bracket.linear:
        if not writer.work.second:
            writer.code(f"o{t} += {q} * A{component}")
        elif writer.work.given[1]:
            writer.code(f"o{t} += {f'{r} * A{component} + ' if r else ''}{q} * h{component}")


def _ancestors(prefixes: Sequence[Prefix], wanted: Sequence[int]) -> list[int]:
    found: set[int] = set()
    for n in wanted:
        while n >= 0:
            found.add(n)
            n = prefixes[n].parent
    return sorted(found)
