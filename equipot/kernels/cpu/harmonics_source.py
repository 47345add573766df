"""Harmonics of edges in C++: the recursion and its derivatives as straight lines, a vector's width of edges at a time.

With M_l the coefficients of `harmonic_recursion`,

    harmonics  Y_l[m] = Σ M_l[m; m' a] Y_{l-1}[m'] u_a
    gradient   gu_a = Σ_l l Σ M_l[m; m' a] gY_l[m] Y_{l-1}[m']
    tangent    Y'_l[m] = l Σ M_l[m; m' a] Y_{l-1}[m'] w_a
    lower      g_{l-1}[m'] = l Σ M_l[m; m' a] gY_l[m] w_a,   whose gradient is that of w·gu
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch

from equipot.kernels.cpu.compiler import Target
from equipot.kernels.cpu.source import Code, number, scalar
from equipot.o3 import harmonic_recursion

DRIVER = Path(__file__).with_name("harmonics.h")
Entry = tuple[int, int, int, float]


@lru_cache(maxsize=64)
def source(lmax: int, dtype: torch.dtype, target: Target) -> str:
    """C++ of value, gradient and second gradient, for degrees up to `lmax`."""
    code = Code()
    code(f"typedef {scalar(dtype)} T;")
    code(f"enum {{ W = {target.lanes(dtype)}, LM = {(lmax + 1) ** 2} }};")
    code("typedef Vec<T, W> V;")
    _function(code, "harmonics(const V* u, V* y)")
    code("y[0] = V{} + T(1);")
    for degree in range(1, lmax + 1):
        _sums(code, "y", ((m, (n, "y"), (a, "u"), c) for m, n, a, c in _entries(degree, 1)))
    code("}")
    _function(code, "gradient(const V* y, const V* g, V* out)")
    code("V d[3] = {};")
    for degree in range(1, lmax + 1):
        for n, a in dict.fromkeys((n, a) for _, n, a, _ in _entries(degree, degree)):
            inner = " + ".join(
                f"{number(c)} * g[{m}]" for m, n2, a2, c in _entries(degree, degree) if (n2, a2) == (n, a)
            )
            code(f"d[{a}] += ({inner}) * y[{n}];")
    code("for (int a = 0; a < 3; ++a) out[a] = d[a];")
    code("}")
    _function(code, "tangent(const V* y, const V* w, V* out)")
    code("out[0] = V{};")
    for degree in range(1, lmax + 1):
        _sums(code, "out", ((m, (n, "y"), (a, "w"), c) for m, n, a, c in _entries(degree, degree)))
    code("}")
    _function(code, "lower(const V* g, const V* w, V* out)")
    for degree in range(1, lmax + 1):
        _sums(code, "out", ((n, (m, "g"), (a, "w"), c) for m, n, a, c in _entries(degree, degree)))
    code(f"for (int m = {lmax**2}; m < LM; ++m) out[m] = V{{}};")
    code("}")
    return str(code) + DRIVER.read_text()


def _function(code: Code, signature: str) -> None:
    code(f"static inline void {signature} {{")


def _entries(degree: int, factor: int) -> Iterable[Entry]:
    """(row of Y_l, row of Y_{l-1}, axis, coefficient times a factor), with rows counted over all degrees."""
    return [(degree**2 + m, (degree - 1) ** 2 + n, a, factor * c) for m, n, a, c in harmonic_recursion(degree)]


def _sums(code: Code, out: str, terms: Iterable[tuple]) -> None:
    """out[i] = Σ c x[j] y[a], gathered by the axis a."""
    rows: dict[int, dict[tuple, list[str]]] = {}
    for i, (j, x), axis, c in terms:
        rows.setdefault(i, {}).setdefault(axis, []).append(f"{number(c)} * {x}[{j}]")
    for i, axes in rows.items():
        total = " + ".join(f"({' + '.join(inner)}) * {y}[{a}]" for (a, y), inner in axes.items())
        code(f"{out}[{i}] = {total};")
