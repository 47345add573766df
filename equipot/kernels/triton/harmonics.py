"""Edge vectors to lengths and harmonics in Triton: one thread for each edge, the recursion as a straight line.

With n = v/|v|, u = s n, P = 1 − n nᵀ, and gu, H the gradient and the second derivative of gY·Y in u:

    forward          l = |v|,   Y = Y(u)
    backward         gv = gl n + s P gu / l
    double backward  w = s P v' / l:   gl' = n·v',   gY' = w·∇Y
                     v'' = gl P v' / l + s P H w / l − ((gu·w) n + s ((n·v') P gu + (gu·n) P v') / l) / l

What concerns Y is of its type, what concerns the vectors float64, as in `kernels.cpu.harmonics_source`.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache

import torch
from torch import Tensor

from equipot.kernels.operators.harmonics import double_backward_outputs
from equipot.kernels.triton.registry import implements
from equipot.kernels.triton.source import Code, Kernel, launch, scalar
from equipot.o3 import harmonic_recursion

BLOCK = 64
AXES = range(3)
Entry = tuple[int, int, int, float]


def _entries(degree: int) -> list[Entry]:
    """(row of Y_l, row of Y_{l-1}, axis, coefficient), with rows counted over all degrees."""
    return [(degree**2 + m, (degree - 1) ** 2 + n, a, c) for m, n, a, c in harmonic_recursion(degree)]


class _Writer:
    """Writes what all passes have in common."""

    def __init__(self, code: Code, lmax: int, sign: float, dtype: torch.dtype) -> None:
        self.code, self.lmax, self.dtype = code, lmax, scalar(dtype)
        self.lm = (lmax + 1) ** 2
        code(f"e = tl.program_id(0).to(tl.int64) * {BLOCK} + tl.arange(0, {BLOCK})")
        code("inside = e < edges")
        code(f"sign = {sign!r}")
        self.load("v", "vectors", range(3), 3, other=1.0)
        code("l = tl.sqrt(v0 * v0 + v1 * v1 + v2 * v2)")
        for a in AXES:
            code(f"n{a} = v{a} / l")
            code(f"u{a} = (sign * n{a}).to({self.dtype})")

    def load(self, name: str, source: str, items: Iterable[int], stride: int, other: float = 0.0) -> None:
        """Loads some numbers of each edge."""
        for m in items:
            self.code(f"{name}{m} = tl.load({source} + e * {stride} + {m}, mask=inside, other={other})")

    def store(self, target: str, stride: int, m: int, value: str) -> None:
        """Stores a number of each edge."""
        self.code(f"tl.store({target} + e * {stride} + {m}, {value}, mask=inside)")

    def sums(self, out: str, terms: Iterable[tuple[int, str]]) -> None:
        """Writes out{i} = the sum of its terms."""
        rows: dict[int, list[str]] = {}
        for i, term in terms:
            rows.setdefault(i, []).append(term)
        for i, total in rows.items():
            self.code(f"{out}{i} = {' + '.join(total)}")

    def zero(self, name: str, dtype: str = "") -> None:
        """Writes a zero for each edge."""
        self.code(f"{name} = tl.zeros(({BLOCK},), {dtype or self.dtype})")

    def harmonics(self, most: int) -> None:
        """Y up to a degree, y{m}."""
        self.zero("y0")
        self.code("y0 = y0 + 1.0")
        for degree in range(1, most + 1):
            self.sums("y", ((m, f"{c!r} * y{n} * u{a}") for m, n, a, c in _entries(degree)))

    def gradient(self, out: str, g: str, most: int) -> None:
        """The gradient of Σ g{m} Y_m in u, float64."""
        terms = [(a, f"{d * c!r} * {g}{m} * y{n}") for d in range(1, most + 1) for m, n, a, c in _entries(d)]
        if not terms:
            for a in AXES:
                self.zero(f"{out}{a}", "tl.float64")
            return
        self.sums(out, terms)
        for a in AXES:
            self.code(f"{out}{a} = {out}{a}.to(tl.float64)")

    def project(self, out: str, x: str) -> None:
        """P x, and n·x as {out}n."""
        self.code(f"{out}n = {_dot('n', x)}")
        for a in AXES:
            self.code(f"{out}{a} = {x}{a} - {out}n * n{a}")


def _dot(x: str, y: str) -> str:
    return " + ".join(f"{x}{a} * {y}{a}" for a in AXES)


@lru_cache(maxsize=256)
def forward_kernel(lmax: int, sign: float, dtype: torch.dtype) -> Kernel:
    """Lengths and harmonics."""
    code, arguments = Code(), ("vectors", "lengths", "Y", "edges")
    with _function(code, arguments):
        writer = _Writer(code, lmax, sign, dtype)
        writer.store("lengths", 1, 0, "l")
        writer.harmonics(lmax)
        for m in range(writer.lm):
            writer.store("Y", writer.lm, m, f"y{m}")
    return Kernel(str(code), "harmonics", arguments, 1)


@lru_cache(maxsize=256)
def backward_kernel(lmax: int, sign: float, dtype: torch.dtype, given: tuple[bool, bool]) -> Kernel:
    """The gradient with respect to the vectors, of gl and gY where they are given."""
    code, arguments = Code(), ("vectors", "gl", "gY", "gv", "edges")
    with _function(code, arguments):
        writer = _Writer(code, lmax, sign, dtype)
        terms: list[list[str]] = [[] for _ in AXES]
        if given[0]:
            writer.load("gl", "gl", [0], 1)
            terms = [[f"gl0 * n{a}"] for a in AXES]
        if given[1]:
            _gradient_of_Y(writer)
            writer.project("p", "d")
            terms = [[*some, f"sign * p{a} / l"] for a, some in enumerate(terms)]
        for a in AXES:
            writer.store("gv", 3, a, " + ".join(terms[a]))
    return Kernel(str(code), "harmonics", arguments, 1)


@lru_cache(maxsize=256)
def double_backward_kernel(
    lmax: int, sign: float, dtype: torch.dtype, given: tuple[bool, bool], need: tuple[bool, bool, bool]
) -> Kernel:
    """The gradients with respect to gl, gY and the vectors."""
    code, arguments = Code(), ("vectors", "vv", "gl", "gY", "ol", "oY", "ov", "edges")
    with _function(code, arguments):
        writer = _Writer(code, lmax, sign, dtype)
        writer.load("x", "vv", range(3), 3)
        writer.project("p", "x")
        if need[0]:
            writer.store("ol", 1, 0, "pn")
        for a in AXES:
            code(f"w{a} = sign * p{a} / l")
            code(f"t{a} = w{a}.to({writer.dtype})")
        writer.harmonics(max(lmax - 1, 0))
        if need[1]:
            _tangent(writer)
        if need[2]:
            _second(writer, given)
    return Kernel(str(code), "harmonics", arguments, 1)


def _function(code: Code, arguments: Sequence[str]) -> AbstractContextManager[None]:
    return code.function("harmonics", arguments, number="edges")


def _gradient_of_Y(writer: _Writer) -> None:
    writer.load("g", "gY", range(writer.lm), writer.lm)
    writer.harmonics(max(writer.lmax - 1, 0))
    writer.gradient("d", "g", writer.lmax)


def _tangent(writer: _Writer) -> None:
    """The gradient with respect to gY, w·∇Y."""
    writer.zero("z0")
    for d in range(1, writer.lmax + 1):
        writer.sums("z", ((m, f"{d * c!r} * y{n} * t{a}") for m, n, a, c in _entries(d)))
    for m in range(writer.lm):
        writer.store("oY", writer.lm, m, f"z{m}")


def _second(writer: _Writer, given: tuple[bool, bool]) -> None:
    """The gradient with respect to the vectors."""
    code = writer.code
    terms: list[list[str]] = [[] for _ in AXES]
    if given[0]:
        writer.load("gl", "gl", [0], 1)
        terms = [[f"gl0 * p{a} / l"] for a in AXES]
    if given[1]:
        _gradient_of_Y(writer)
        writer.project("q", "d")
        for degree in range(1, writer.lmax + 1):
            writer.sums("h", ((n, f"{degree * c!r} * g{m} * t{a}") for m, n, a, c in _entries(degree)))
        writer.gradient("k", "h", writer.lmax - 1)
        writer.project("r", "k")
        code(f"along = {_dot('d', 'w')}")
        for a in AXES:
            code(f"s{a} = sign * r{a} / l - (along * n{a} + sign * (pn * q{a} + qn * p{a}) / l) / l")
            terms[a].append(f"s{a}")
    for a in AXES:
        writer.store("ov", 3, a, " + ".join(terms[a]))


def _launch(kernel: Kernel, vectors: Tensor, values: dict[str, Tensor]) -> None:
    edges = vectors.shape[0]
    launch(kernel, -(-edges // BLOCK), {"vectors": vectors, **values, "edges": edges})


@implements("edge_harmonics")
def edge_harmonics(vectors: Tensor, lmax: int, sign: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns lengths and Y; see `kernels.operators.harmonics`."""
    count = vectors.shape[0]
    lengths, Y = vectors.new_empty(count), vectors.new_empty((count, (lmax + 1) ** 2), dtype=dtype)
    _launch(forward_kernel(lmax, sign, dtype), vectors, {"lengths": lengths, "Y": Y})
    return lengths, Y


@implements("edge_harmonics_backward")
def edge_harmonics_backward(
    gl: Tensor | None, gY: Tensor | None, vectors: Tensor, lmax: int, sign: float, dtype: torch.dtype
) -> Tensor:
    """Returns gv; see `kernels.operators.harmonics`."""
    gv = torch.empty_like(vectors)
    kernel = backward_kernel(lmax, sign, dtype, (gl is not None, gY is not None))
    _launch(kernel, vectors, _given(gl=gl, gY=gY, gv=gv))
    return gv


@implements("edge_harmonics_double_backward")
def edge_harmonics_double_backward(
    vv: Tensor, gl: Tensor | None, gY: Tensor | None, vectors: Tensor, lmax: int, sign: float, dtype: torch.dtype,
    need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns the gradients with respect to gl, gY, v; see `kernels.operators.harmonics`."""
    ol, oY, ov = double_backward_outputs(vectors, lmax, dtype, need)
    kernel = double_backward_kernel(lmax, sign, dtype, (gl is not None, gY is not None), tuple(need))  # type: ignore[arg-type]
    _launch(kernel, vectors, _given(vv=vv, gl=gl, gY=gY, ol=ol, oY=oY, ov=ov))
    return ol, oY, ov


def _given(**tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: x for name, x in tensors.items() if x is not None}
