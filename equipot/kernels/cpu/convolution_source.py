"""The convolution in C++: forward, backward and double backward, each in one pass over the edges.

Per edge the couplings with Y do not depend on the channel: c^p[m₃, m₁] = Σ_{m₂} C^p[m₁, m₂, m₃] Y[m₂]. They are found
for a vector's width of edges at a time; all other work runs along the channels, in registers:

    forward          a += c (R h)
    backward         s = cᵀ ga,   gh += R s,   gR = Σ_{m₁} s h,   gc = Σ_k ga (R h)
    double backward  a' += c (R h' + R' h) + c' (R h),   s' = c'ᵀ ga
                     oh += R s' + R' s,   oR = Σ_{m₁} s h' + s' h,   oc = Σ_k ga (R h' + R' h)

with primes for the cotangents of gh, gY, gR. Gradients of Y come from those of c.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from equipot.kernels.cpu.compiler import Target
from equipot.kernels.cpu.source import Code, number, scalar, vector, widths
from equipot.kernels.polynomial import Convolution
from equipot.kernels.spline import pieces
from equipot.o3 import clebsch_gordan


@dataclass(frozen=True)
class PathCode:
    """Where one path's numbers lie.

    Attributes:
        mul: Channels.
        h: Offset of its input irrep in a row of h.
        R: Offset of its weights in a row of R.
        a: Offset of its first component in a row of a.
        stride: Distance of components in a row of a.
        entries: (m₃, m₁, which coupling c) of every coupling that is not zero.
        first: Whether no earlier path has this input.
    """

    mul: int
    h: int
    R: int
    a: int
    stride: int
    entries: tuple[tuple[int, int, int], ...]
    first: bool

    @property
    def m1s(self) -> list[int]:
        """Components of the input that take part."""
        return sorted({m1 for _, m1, _ in self.entries})

    def parts(self, most: int) -> Iterator[list[int]]:
        """Components of the input in groups whose couplings and outputs fit into so many registers."""
        group: list[int] = []
        for m1 in self.m1s:
            if group and sum(e[1] in (*group, m1) for e in self.entries) > most:
                yield group
                group = []
            group.append(m1)
        yield group


@dataclass(frozen=True)
class Layout:
    """A convolution as offsets.

    Attributes:
        paths: All paths.
        couplings: Each distinct coupling as ((m₂, coefficient), …).
        h: Columns of h.
        a: Columns of a.
        R: Columns of R.
        lm: Columns of Y.
    """

    paths: tuple[PathCode, ...]
    couplings: tuple[tuple[tuple[int, float], ...], ...]
    h: int
    a: int
    R: int
    lm: int


@lru_cache(maxsize=256)
def layout(d: Convolution) -> Layout:
    """Returns the offsets of a description."""
    couplings: dict[tuple[tuple[int, float], ...], int] = {}
    starts_h = [part.start for part in d.irreps_in.slices()]
    start_a = {ir: (part.start, mul) for (mul, ir), part in zip(d.irreps_out, d.irreps_out.slices(), strict=True)}
    within: dict[object, int] = {}
    paths: list[PathCode] = []
    seen: set[int] = set()
    R = 0
    for path in d.paths:
        C = clebsch_gordan(path.ir_in.l, path.ell, path.ir_out.l)
        entries = []
        for m3 in range(path.ir_out.dim):
            for m1 in range(path.ir_in.dim):
                terms = tuple(
                    (path.ell**2 + m2, round(float(C[m1, m2, m3]), 16))
                    for m2 in range(2 * path.ell + 1)
                    if abs(float(C[m1, m2, m3])) > 1e-12
                )
                if terms:
                    entries.append((m3, m1, couplings.setdefault(terms, len(couplings))))
        start, stride = start_a[path.ir_out]
        offset = within.get(path.ir_out, 0)
        within[path.ir_out] = offset + path.mul
        first = path.segment not in seen
        seen.add(path.segment)
        paths.append(PathCode(path.mul, starts_h[path.segment], R, start + offset, stride, tuple(entries), first))
        R += path.mul
    return Layout(tuple(paths), tuple(couplings), d.irreps_in.dim, d.irreps_out.dim, R, (d.max_ell + 1) ** 2)


def head(L: Layout, target: Target, dtype: torch.dtype) -> Code:
    """Types, sizes, and the couplings with Y of a tile of edges."""
    code = Code()
    W = target.lanes(dtype)
    code(f"typedef {scalar(dtype)} T;")
    code(f"enum {{ W = {W}, LM = {L.lm}, Q = {len(L.couplings)}, DH = {L.h}, DA = {L.a}, DR = {L.R} }};")
    code("// c[q][lane] of the edges of one tile from their rows of Y")
    code("static inline void couple(const T* Y, int edges, T* c) {")
    code("T Yt[LM * W];")
    code("for (int e = 0; e < W; ++e) for (int m = 0; m < LM; ++m) Yt[m * W + e] = e < edges ? Y[e * LM + m] : T(0);")
    code("typedef Vec<T, W> V;")
    for q, terms in enumerate(L.couplings):
        total = " + ".join(f"{number(C)} * load<V>(Yt + {m} * W)" for m, C in terms)
        code(f"store(c + {q} * W, V({total}));")
    code("}")
    return code


def forward_source(d: Convolution, dtype: torch.dtype, target: Target, splined: bool = False) -> str:
    """C++ of the forward sum: edges innermost, so that each component of a is summed in a register.

    Args:
        d: What to compute.
        dtype: Of all values.
        target: The processor.
        splined: Whether R is given as splines, to be evaluated for a few edges at a time.
    """
    L = layout(d)
    code = head(L, target, dtype)
    for n, path in enumerate(L.paths):
        code("template <typename V>")
        code(f"static inline void path{n}(const T* const* h, const T* R, const T* c, int edges, T* a, int k) {{")
        m3s = sorted({m3 for m3, _, _ in path.entries})
        code("V " + ", ".join(f"a{m3} = load<V>(a + {path.a + m3 * path.stride} + k)" for m3 in m3s) + ";")
        code("for (int e = 0; e < edges; ++e) {")
        code("const T* ce = c + (e / W) * (Q * W) + e % W;")
        code(f"const V w = load<V>(R + e * int64_t(DR) + {path.R} + k);")
        for m1 in path.m1s:
            code(f"const V x{m1} = w * load<V>(h[e] + {path.h + m1 * path.mul} + k);")
        for m3, m1, q in path.entries:
            code(f"a{m3} += ce[{q} * W] * x{m1};")
        code("}")
        for m3 in m3s:
            code(f"store(a + {path.a + m3 * path.stride} + k, a{m3});")
        code("}")
    _forward_driver(code, L, target.lanes(dtype), splined)
    return str(code)


TILE, SPLINED_TILE = 64, 16
"""Edges of one receiver that are worked on together; fewer where their R is made on the way."""


def arguments_of_R(splined: bool) -> tuple[str, str]:
    """Returns how R comes in: parameters of functions, and the arguments that pass them on."""
    if splined:
        return "const T* table, const double* u, int64_t rows", "table, u, rows"
    return "const T* R", "R"


def spline_pieces(code: Code) -> None:
    """The polynomials of the B-splines."""
    rows = ", ".join("{" + ", ".join(f"{float(x)!r}" for x in row) + "}" for row in pieces(5))
    code(f"static const double PIECES[6][6] = {{{rows}}};")


def _forward_driver(code: Code, L: Layout, lanes: int, splined: bool) -> None:
    tile = SPLINED_TILE if splined else TILE
    parameters, passed = arguments_of_R(splined)
    if splined:
        spline_pieces(code)
    code(f"static void receiver(const T* h, const T* Y, {parameters}, const int64_t* senders,")
    code("    int64_t begin, int64_t end, T* a) {")
    code("std::memset(a, 0, DA * sizeof(T));")
    code(f"T c[{tile} * Q + W]; const T* from[{tile}];")
    if splined:
        code(f"T w[{tile} * DR + 1];")
    code(f"for (int64_t e0 = begin; e0 < end; e0 += {tile}) {{")
    code(f"const int edges = end - e0 < {tile} ? int(end - e0) : {tile};")
    code("for (int e = 0; e < edges; ++e) from[e] = h + senders[e0 + e] * DH;")
    code("for (int e = 0; e < edges; e += W)")
    code("    couple(Y + (e0 + e) * LM, edges - e < W ? edges - e : W, c + (e / W) * (Q * W));")
    if splined:
        code("for (int e = 0; e < edges; ++e) {")
        code("const Spline<T> spline(table, rows, DR, u[e0 + e], PIECES);")
        code("spline.template blend<W>(spline.value, DR, w + e * DR);")
        code("}")
    else:
        code("const T* w = R + e0 * DR;")
    for n, path in enumerate(L.paths):
        for width, first, last in widths(path.mul, lanes):
            code(f"for (int k = {first}; k < {last}; k += {width})")
            code(f"    path{n}<{vector(width)}>(from, w, c, edges, a, k);")
    code("}")
    code("}")
    code(f'extern "C" void forward(const T* h, const T* Y, {parameters}, const int64_t* senders,')
    code("    const int64_t* starts, int64_t num_nodes, T* a, int threads) {")
    code("in_pieces(threads, num_nodes, 8, [&](int64_t first, int64_t last) {")
    code("for (int64_t i = first; i < last; ++i)")
    code(f"    receiver(h, Y, {passed}, senders, starts[i], starts[i + 1], a + i * DA);")
    code("});")
    code("}")
