"""The convolution in Triton: two kernels, each deterministic, without a temporary of the size edge × channel × lm.

The terms are those of `kernels.cpu.convolution_source`. One program of one warp works on one node and one block of
channels of a few paths (a unit); it runs through the node's edges and keeps sums in registers:

    over the edges of a receiver   a or a' (sums), gR, and gY's share of these channels
    over the edges of a sender     gh (sum), in the order of the permutation that sorts the edges by sender

Channels lie side by side, so loads are coalesced; couplings with Y are scalars, the same for all channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from equipot.kernels.cpu.convolution_gradient import Gradient
from equipot.kernels.cpu.convolution_source import Layout, PathCode, layout
from equipot.kernels.polynomial import Convolution
from equipot.kernels.triton.source import Code, Function, Kernel, Tile, assemble, channels, combination, scalar, tile

VECTORS = 40
"""Vectors of channels that a program keeps over its loop; a thread has room for about 60 of two float32."""


@dataclass(frozen=True)
class Unit:
    """Paths of one input segment that one program works on.

    Attributes:
        paths: Index and offsets of each.
        tile: How their channels are shared out.
    """

    paths: tuple[tuple[int, PathCode], ...]
    tile: Tile

    @property
    def mul(self) -> int:
        """Channels."""
        return self.paths[0][1].mul

    @property
    def m1s(self) -> list[int]:
        """Components of the input that take part."""
        return sorted({m1 for _, path in self.paths for m1 in path.m1s})

    @property
    def couplings(self) -> list[int]:
        """Couplings that take part."""
        return sorted({q for _, path in self.paths for _, _, q in path.entries})

    def lms(self, L: Layout) -> list[int]:
        """Components of Y that take part."""
        return sorted({m2 for q in self.couplings for m2, _ in L.couplings[q]})


def m3s(path: PathCode) -> list[int]:
    """Components of the output that take part."""
    return sorted({m3 for m3, _, _ in path.entries})


def units(L: Layout, dtype: torch.dtype, most: int) -> list[Unit]:
    """Returns the paths in groups of one segment with at most so many components of the output."""
    groups: list[list[tuple[int, PathCode]]] = []
    for offset in dict.fromkeys(path.h for path in L.paths):
        group: list[tuple[int, PathCode]] = []
        for n, path in enumerate(L.paths):
            if path.h != offset:
                continue
            if group and sum(len(m3s(p)) for _, p in group) + len(m3s(path)) > most:
                groups.append(group)
                group = []
            group.append((n, path))
        groups.append(group)
    return [Unit(tuple(group), tile(group[0][1].mul, dtype)) for group in groups]


def forward_kernels(d: Convolution, dtype: torch.dtype) -> tuple[Kernel, ...]:
    """The forward sum: a += c (R h)."""
    L, functions = layout(d), []
    arguments = ("h", "Y", "R", "senders", "starts", "a")
    for n, unit in enumerate(units(L, dtype, VECTORS)):
        code = Code("")
        with code.function(f"paths{n}", (*arguments, "i", "block")):
            loop = _Loop(code, L, unit, dtype)
            for at, name in loop.outputs("a"):
                code(f"{name} = tl.zeros(({unit.tile.block},), {scalar(dtype)})  # {at}")
            with loop.edges("starts", "i"):
                loop.couplings("Y", "y", "c")
                loop.features("h", "x")
                for p, path in unit.paths:
                    _forward_path(loop, p, path)
            for at, name in loop.outputs("a"):
                loop.store(f"a + i * {L.a} + {at}", name)
        functions.append(Function(f"paths{n}", code, unit.tile.blocks))
    return assemble("forward", functions, arguments, "i", (*arguments, "i"))


def _forward_path(loop: "_Loop", p: int, path: PathCode) -> None:
    loop.weights(path, "R", "w")
    for m1 in path.m1s:
        loop.code(f"u{m1} = w * x{m1}")
    for m3 in m3s(path):
        terms = [f"c{q} * u{m1}" for n3, m1, q in path.entries if n3 == m3]
        loop.code(f"a{p}_{m3} += {' + '.join(terms)}")


def receivers_kernels(d: Convolution, dtype: torch.dtype, g: Gradient) -> tuple[Kernel, ...]:
    """The gradients with respect to ga, Y and R: over the edges of each receiver."""
    L, functions = layout(d), []
    kept = 1 + int(g.need[0])
    groups = units(L, dtype, max(VECTORS // kept, 9))
    arguments = ("ga", "h", "Y", "R", "hh", "YY", "RR", "senders", "starts", "oa", "gY", "gR")
    parts = sum(unit.tile.blocks for unit in groups)
    for n, unit in enumerate(groups):
        code = Code("")
        with code.function(f"paths{n}", (*arguments, "i", "part", "block")):
            _Receiver(_Loop(code, L, unit, dtype), g, parts).write()
        functions.append(Function(f"paths{n}", code, unit.tile.blocks))
    return assemble("over_receivers", functions, arguments, "i", (*arguments, "i", "part"))


@dataclass(frozen=True)
class _Receiver:
    """Writes the loop over a receiver's edges."""

    loop: "_Loop"
    g: Gradient
    parts: int

    @property
    def terms_of_Y(self) -> bool:
        """Whether gY is made."""
        return self.g.need[2] and bool(self.g.terms_of_c)

    @property
    def projections(self) -> list[str]:
        return sorted({s for s, _ in self.g.terms_of_R}) if self.g.need[3] else []

    def write(self) -> None:
        loop, g, code = self.loop, self.g, self.loop.code
        block, L = loop.unit.tile.block, loop.L
        if self.terms_of_Y or self.projections:
            for at, name in loop.outputs("a"):
                loop.load(name, f"ga + i * {L.a} + {at}")
        for at, name in loop.outputs("o") if g.need[0] else []:
            code(f"{name} = tl.zeros(({block},), {scalar(loop.dtype)})  # {at}")
        with loop.edges("starts", "i"):
            self._edge()
        for at, name in loop.outputs("o") if g.need[0] else []:
            loop.store(f"oa + i * {L.a} + {at}", name)

    def _edge(self) -> None:
        loop, g = self.loop, self.g
        coupled = g.need[0] and bool(g.terms_of_c)
        if coupled or "s" in self.projections:
            loop.couplings("Y", "y", "c")
        if "t" in self.projections or (g.need[0] and g.second and g.given[1]):
            loop.couplings("YY", "yy", "d")
        loop.features("h", "x")
        if g.second and g.given[0]:
            loop.features("hh", "xx")
        for p, path in loop.unit.paths:
            loop.weights(path, "R", "w")
            if g.second and g.given[2]:
                loop.weights(path, "RR", "ww")
            self._path(p, path)
        if self.terms_of_Y:
            self._finish_Y()

    def _path(self, p: int, path: PathCode) -> None:
        g, code = self.g, self.loop.code
        if self.projections:
            self._weights(p, path)
        if (self.terms_of_Y or g.need[0]) and g.terms_of_c:
            for m1 in path.m1s:
                code(f"u{m1} = {' + '.join(f'{w} * {x}{m1}' for w, x in g.terms_of_c)}")
        if self.terms_of_Y:
            self._couplings(p, path)
        if g.need[0] and g.terms_of_c:
            self._outputs(p, path, "c", "u")
        if g.need[0] and g.second and g.given[1]:
            for m1 in path.m1s:
                code(f"v{m1} = w * x{m1}")
            self._outputs(p, path, "d", "v")

    def _weights(self, p: int, path: PathCode) -> None:
        """Gradient of the weights of one path: products of projections and features."""
        products = []
        for m1 in path.m1s:
            for s in self.projections:
                _project(self.loop.code, p, path, m1, s)
            products += [f"{s}{m1} * {x}{m1}" for s, x in self.g.terms_of_R]
        self.loop.code(f"r = {' + '.join(products)}")
        self.loop.store(f"gR + e * {self.loop.L.R} + {path.R}", "r")

    def _couplings(self, p: int, path: PathCode) -> None:
        """The gradient of each coupling, and from it that of Y, still for each channel."""
        for q in sorted({q for _, _, q in path.entries}):
            terms = [f"a{p}_{m3} * u{m1}" for m3, m1, n in path.entries if n == q]
            self.loop.code(f"gc = {' + '.join(terms)}")
            for m2, C in self.loop.L.couplings[q]:
                known = f"gy{m2} + " if self.loop.known(f"gy{m2}") else ""
                self.loop.code(f"gy{m2} = {known}{combination([(C, 'gc')])}")

    def _outputs(self, p: int, path: PathCode, c: str, u: str) -> None:
        for m3 in m3s(path):
            terms = [f"{c}{q} * {u}{m1}" for n3, m1, q in path.entries if n3 == m3]
            self.loop.code(f"o{p}_{m3} += {' + '.join(terms)}")

    def _finish_Y(self) -> None:
        lm = self.loop.L.lm
        used = self.loop.unit.lms(self.loop.L)
        self.loop.code(f"share = gY + (e * {self.parts} + part) * {lm}")
        for m2 in range(lm):
            self.loop.code(f"tl.store(share + {m2}, {f'tl.sum(gy{m2}, axis=0)' if m2 in used else '0.0'})")


def _project(code: Code, p: int, path: PathCode, m1: int, s: str) -> None:
    c = "c" if s == "s" else "d"
    code(f"{s}{m1} = {' + '.join(f'{c}{q} * a{p}_{m3}' for m3, n1, q in path.entries if n1 == m1)}")


def senders_kernels(d: Convolution, dtype: torch.dtype, g: Gradient) -> tuple[Kernel, ...]:
    """The gradient with respect to h: over the edges of each sender."""
    L, functions = layout(d), []
    arguments = ("ga", "Y", "R", "YY", "RR", "receivers", "order", "sent", "gh")
    for n, unit in enumerate(units(L, dtype, 1_000_000)):
        code = Code("")
        with code.function(f"paths{n}", (*arguments, "j", "block")):
            loop = _Loop(code, L, unit, dtype)
            offset = unit.paths[0][1].h
            for m1 in unit.m1s:
                code(f"x{m1} = tl.zeros(({unit.tile.block},), {scalar(dtype)})")
            with loop.edges("sent", "j"):
                _sent_edge(loop, g)
            for m1 in unit.m1s:
                loop.store(f"gh + j * {L.h} + {offset + m1 * unit.mul}", f"x{m1}")
        functions.append(Function(f"paths{n}", code, unit.tile.blocks))
    return assemble("over_senders", functions, arguments, "j", (*arguments, "j"))


def _sent_edge(loop: "_Loop", g: Gradient) -> None:
    projections = sorted({s for _, s in g.weights_of_h})
    for s, Y, y, c in (("s", "Y", "y", "c"), ("t", "YY", "yy", "d")):
        if s in projections:
            loop.couplings(Y, y, c)
    names = [w for w, _ in g.weights_of_h]
    for p, path in loop.unit.paths:
        for R, w in (("R", "w"), ("RR", "ww")):
            if w in names:
                loop.weights(path, R, w)
        for m3 in m3s(path):
            loop.load(f"a{p}_{m3}", f"ga + i * {loop.L.a} + {path.a + m3 * path.stride}")
        for m1 in path.m1s:
            for s in projections:
                _project(loop.code, p, path, m1, s)
            loop.code(f"x{m1} += {' + '.join(f'{w} * {s}{m1}' for w, s in g.weights_of_h)}")


class _Loop:
    """Writes what programs of a unit do with one edge."""

    def __init__(self, code: Code, L: Layout, unit: Unit, dtype: torch.dtype) -> None:
        self.code, self.L, self.unit, self.dtype = code, L, unit, dtype
        self._known: set[str] = set()
        code(
            f"# paths {', '.join(str(p) for p, _ in unit.paths)} of R: {unit.mul} channels, {unit.tile.block} at a time"
        )
        self.mask = channels(code, unit.tile, unit.mul)

    def known(self, name: str) -> bool:
        """Whether a name has been asked for before."""
        before = name in self._known
        self._known.add(name)
        return before

    def outputs(self, name: str) -> list[tuple[int, str]]:
        """Offset in a row of a, and the name of the vector that holds it."""
        return [(path.a + m3 * path.stride, f"{name}{p}_{m3}") for p, path in self.unit.paths for m3 in m3s(path)]

    def load(self, name: str, address: str) -> None:
        """Loads channels."""
        self.code(f"{name} = tl.load({address} + k{self.mask}{', other=0.0' if self.mask else ''})")

    def store(self, address: str, value: str) -> None:
        """Stores channels."""
        self.code(f"tl.store({address} + k, {value}{self.mask})")

    @contextmanager
    def edges(self, starts: str, node: str) -> Iterator[None]:
        """The loop over a node's edges; in it e is the edge, j its sender, i its receiver."""
        self.code(f"begin = tl.load({starts} + {node})")
        self.code(f"end = tl.load({starts} + {node} + 1)")
        if node == "i":
            with self.code.block("for e in range(begin, end):"):
                self.code("j = tl.load(senders + e)")
                yield
        else:
            with self.code.block("for n in range(begin, end):"):
                self.code("e = tl.load(order + n)")
                self.code("i = tl.load(receivers + e)")
                yield

    def couplings(self, Y: str, y: str, c: str) -> None:
        """Loads an edge's harmonics and makes its couplings of them."""
        for m2 in self.unit.lms(self.L):
            self.code(f"{y}{m2} = tl.load({Y} + e * {self.L.lm} + {m2})")
        for q in self.unit.couplings:
            self.code(f"{c}{q} = {combination((C, f'{y}{m2}') for m2, C in self.L.couplings[q])}")

    def features(self, h: str, x: str) -> None:
        """Loads the sender's components."""
        offset = self.unit.paths[0][1].h
        for m1 in self.unit.m1s:
            self.load(f"{x}{m1}", f"{h} + j * {self.L.h} + {offset + m1 * self.unit.mul}")

    def weights(self, path: PathCode, R: str, w: str) -> None:
        """Loads an edge's weights of one path."""
        self.load(w, f"{R} + e * {self.L.R} + {path.R}")
