"""The gradients of the convolution in C++, each in one pass over the edges (equations in `convolution_source`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from equipot.kernels.cpu.compiler import Target
from equipot.kernels.cpu.convolution_source import Layout, PathCode, arguments_of_R, head, layout, spline_pieces
from equipot.kernels.cpu.source import Code, number, vector, widths
from equipot.kernels.polynomial import Convolution


@dataclass(frozen=True)
class Gradient:
    """Which gradients a backward pass makes, of which cotangents.

    Attributes:
        second: Whether it is the double backward.
        given: Which of the cotangents of gh, gY, gR there are (double backward only).
        need: Which of a', h', Y', R' are wanted (the first is never wanted in a plain backward).
        splined: Whether R is given as splines; then their argument's gradient takes the place of R's (plain backward).
    """

    second: bool
    given: tuple[bool, bool, bool]
    need: tuple[bool, bool, bool, bool]
    splined: bool = False

    @property
    def weights_of_h(self) -> list[tuple[str, str]]:
        """Terms (weight, projection of ga) of gh."""
        if not self.second:
            return [("w", "s")]
        return [("w", "t")] * self.given[1] + [("ww", "s")] * self.given[2]

    @property
    def terms_of_R(self) -> list[tuple[str, str]]:
        """Terms (projection of ga, features) of gR."""
        if not self.second:
            return [("s", "x")]
        return [("s", "xx")] * self.given[0] + [("t", "x")] * self.given[1]

    @property
    def terms_of_c(self) -> list[tuple[str, str]]:
        """Terms (weight, features) that are coupled with c."""
        if not self.second:
            return [("w", "x")]
        return [("w", "xx")] * self.given[0] + [("ww", "x")] * self.given[2]

    @property
    def projections(self) -> list[str]:
        """The projections of ga that are needed: s = cᵀ ga, t = c'ᵀ ga."""
        used = [s for _, s in self.weights_of_h] * self.need[1] + [s for s, _ in self.terms_of_R] * self.need[3]
        return sorted(set(used))


def backward_source(d: Convolution, dtype: torch.dtype, target: Target, g: Gradient) -> str:
    """C++ of one pass over the edges that makes the gradients asked for."""
    L = layout(d)
    code = head(L, target, dtype)
    lanes = target.lanes(dtype)
    most = max(target.registers - 8, 4)
    written: set[int] = set()
    for n, path in enumerate(L.paths):
        code(
            f"static inline void path{n}(const T* ga, const T* h, const T* R, const T* hh, const T* RR, const T* c, "
            "const T* d, T* oa, T* gh, T* gR, T* gc) {"
        )
        groups = list(path.parts(most)) if g.need[2] else [path.m1s]
        for index, m1s in enumerate(groups):
            for loop in widths(path.mul, lanes):
                _gradient_loop(code, path, g, m1s, index == 0, loop, written)
        code("}")
    if g.splined:
        spline_pieces(code)
    _edge(code, L, g, lanes)
    _driver(code, g)
    return str(code)


def _gradient_loop(
    code: Code,
    path: PathCode,
    g: Gradient,
    m1s: Sequence[int],
    fresh: bool,
    loop: tuple[int, int, int],
    written: set[int],
) -> None:
    """One loop over channels: some components of the input, all couplings to them."""
    width, first, last = loop
    entries = [entry for entry in path.entries if entry[1] in m1s]
    m3s = sorted({m3 for m3, _, _ in entries})
    code("{")
    code(f"typedef {vector(width)} V;")
    if g.need[2]:
        code("V " + ", ".join(f"g{n} = {{}}" for n in range(len(entries))) + ";")
    code(f"for (int k = {first}; k < {last}; k += {width}) {{")
    _loads(code, path, g, m3s)
    if g.need[0]:
        code("V " + ", ".join(f"o{m3} = load<V>(oa + {path.a + m3 * path.stride} + k)" for m3 in m3s) + ";")
    if g.need[3]:
        code("V r = " + ("V{};" if fresh else f"load<V>(gR + {path.R} + k);"))
    for m1 in m1s:
        _component(code, path, g, m1, [(n, e) for n, e in enumerate(entries) if e[1] == m1])
    if g.need[0]:
        for m3 in m3s:
            code(f"store(oa + {path.a + m3 * path.stride} + k, o{m3});")
    if g.need[3]:
        code(f"store(gR + {path.R} + k, r);")
    code("}")
    if g.need[2]:
        _keep_couplings(code, [q for _, _, q in entries], written)
    code("}")


def _keep_couplings(code: Code, couplings: Sequence[int], written: set[int]) -> None:
    """Adds the gradients of couplings to those of earlier loops over channels; the first one finds old values."""
    for n, q in enumerate(couplings):
        if q not in written:
            code(f"store(gc + {q} * W, Vec<T, W>{{}});")
        code(f"add<V>(gc + {q} * W, g{n});")
        written.add(q)


def _loads(code: Code, path: PathCode, g: Gradient, m3s: Sequence[int]) -> None:
    for m3 in m3s:
        code(f"const V a{m3} = load<V>(ga + {path.a + m3 * path.stride} + k);")
    code(f"const V w = load<V>(R + {path.R} + k);")
    if g.second and g.given[2]:
        code(f"const V ww = load<V>(RR + {path.R} + k);")


def _component(code: Code, path: PathCode, g: Gradient, m1: int, entries: Sequence[tuple]) -> None:
    """All terms of one component of the input."""
    at = f"{path.h + m1 * path.mul} + k"
    code("{")
    code(f"const V x = load<V>(h + {at});")
    if g.second and g.given[0]:
        code(f"const V xx = load<V>(hh + {at});")
    for name in g.projections:
        total = " + ".join(f"{'c' if name == 's' else 'd'}[{q} * W] * a{m3}" for _, (m3, _, q) in entries)
        code(f"const V {name} = {total};")
    if g.need[3] and g.terms_of_R:
        code("r += " + " + ".join(f"{s} * {x}" for s, x in g.terms_of_R) + ";")
    if g.need[1] and g.weights_of_h:
        total = " + ".join(f"{w} * {s}" for w, s in g.weights_of_h)
        code(f"store(gh + {at}, V({'' if path.first else f'load<V>(gh + {at}) + '}{total}));")
    _coupled(code, g, entries)
    code("}")


def _coupled(code: Code, g: Gradient, entries: Sequence[tuple]) -> None:
    """What is coupled with c and c': gradients of the couplings and of ga."""
    if (g.need[2] or g.need[0]) and g.terms_of_c:
        code("const V u = " + " + ".join(f"{w} * {x}" for w, x in g.terms_of_c) + ";")
        for n, (m3, _, q) in entries:
            if g.need[2]:
                code(f"g{n} += a{m3} * u;")
            if g.need[0]:
                code(f"o{m3} += c[{q} * W] * u;")
    if g.need[0] and g.given[1]:
        code("const V v = w * x;")
        for _, (m3, _, q) in entries:
            code(f"o{m3} += d[{q} * W] * v;")


def _edge(code: Code, L: Layout, g: Gradient, lanes: int) -> None:
    """One share of the edges: tiles, edges, paths, then sums over channels for Y and over edges for h."""
    parameters, _ = arguments_of_R(g.splined)
    code(f"static void share(const T* ga, const T* h, const T* Y, {parameters}, const T* hh, const T* YY, const T* RR,")
    code("    const int64_t* senders, const int64_t* receivers, int64_t begin, int64_t end,")
    code(f"    T* oa, T* gh, T* gY, {'double' if g.splined else 'T'}* gR, int64_t first_row) {{")
    code("T c[Q * W + 1], d[Q * W + 1], gc[Q * W + 1] = {}, lm[(LM + W) * W], local[DH];")
    code("std::memset(lm, 0, sizeof lm); std::memset(local, 0, sizeof local);")
    if g.splined:
        code("T w[DR + 1], gw[DR + 1];")
    code("for (int64_t e0 = begin; e0 < end; e0 += W) {")
    code("const int edges = end - e0 < W ? int(end - e0) : W;")
    code("couple(Y + e0 * LM, edges, c);")
    if g.second and g.given[1]:
        code("couple(YY + e0 * LM, edges, d);")
    code("for (int e = 0; e < edges; ++e) {")
    code("const int64_t j = senders[e0 + e], i = receivers[e0 + e];")
    hh = "hh + j * DH" if g.second and g.given[0] else "nullptr"
    RR = "RR + (e0 + e) * DR" if g.second and g.given[2] else "nullptr"
    oa = "oa + i * DA" if g.need[0] else "nullptr"
    w, gR = "R + (e0 + e) * DR", "gR + (e0 + e) * DR" if g.need[3] else "nullptr"
    if g.splined:
        w, gR = "w", "gw"
        code("const Spline<T> spline(table, rows, DR, u[e0 + e], PIECES);")
        code("spline.template blend<W>(spline.value, DR, w);")
    for n in range(len(L.paths)):
        code(f"path{n}(ga + i * DA, h + j * DH, {w}, {hh}, {RR}, c + e, d + e, {oa}, local, {gR}, gc);")
    if g.splined and g.need[3]:
        code("gR[e0 + e] = spline.template dot<W>(spline.slope, DR, gw);")
    if g.need[1] and g.weights_of_h:
        _add_row(code, L, lanes)
    if g.need[2]:
        _sum_couplings(code, L)
    code("}")
    code("}")
    code("}")


def _add_row(code: Code, L: Layout, lanes: int) -> None:
    """The edge's gradient of h to that of its sender."""
    code("T* row = gh + (j - first_row) * DH;")
    for width, first, last in widths(L.h, lanes):
        code(f"for (int k = {first}; k < {last}; k += {width})")
        code(f"    add<{vector(width)}>(row + k, load<{vector(width)}>(local + k));")


def _sum_couplings(code: Code, L: Layout) -> None:
    """From the gradients of couplings to those of Y, still a vector each, then over its lanes."""
    code("typedef Vec<T, W> V;")
    for m in range(L.lm):
        terms = [(q, C) for q, coupling in enumerate(L.couplings) for m2, C in coupling if m2 == m]
        if terms:
            total = " + ".join(f"{number(C)} * load<V>(gc + {q} * W)" for q, C in terms)
            code(f"store(lm + {m} * W, V({total}));")
    code("sum_rows<T, W>(lm, LM, gY + (e0 + e) * LM);")


def _driver(code: Code, g: Gradient) -> None:
    """Shares of receivers side by side; each but the first sums gradients of h in rows of its own, added in order."""
    parameters, passed = arguments_of_R(g.splined)
    code(f'extern "C" void backward(const T* ga, const T* h, const T* Y, {parameters},')
    code("    const T* hh, const T* YY, const T* RR,")
    code("    const int64_t* senders, const int64_t* receivers, const int64_t* starts, int64_t num_nodes,")
    code(f"    T* oa, T* gh, T* gY, {'double' if g.splined else 'T'}* gR, int threads) {{")
    code("if (threads == 1) {")
    code(f"share(ga, h, Y, {passed}, hh, YY, RR, senders, receivers, starts[0], starts[num_nodes], oa, gh, gY, gR, 0);")
    code("return;")
    code("}")
    code("Partial<T> partial(threads, DH);")
    code("const int pieces = 16;")
    code("auto begin = [&](int part, int64_t n) {")
    code("return starts[share_begin(starts, num_nodes, part * pieces + n, threads * pieces)];")
    code("};")
    code("in_rows(threads, threads, [&](int) { return pieces; }, [&](int part, int64_t n) {")
    if g.need[1]:
        code("if (n == 0) partial.make(part, senders, begin(part, 0), begin(part, pieces), gh);")
    code(f"share(ga, h, Y, {passed}, hh, YY, RR, senders, receivers, begin(part, n), begin(part, n + 1),")
    code("    oa, partial.rows[part], gY, gR, partial.first[part]);")
    code("});")
    if g.need[1]:
        code("partial.add_to(gh, threads);")
    code("}")
