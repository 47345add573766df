"""The splines' operators on the CPU: C++ that knows only the type of the numbers, and its calls.

Columns are taken a few vectors at a time, so that the part of a table in use lies in the first cache; an edge's value
then costs six loads and multiply-adds. Sums over edges are shared out by columns, so they have the same bits with any
number of threads.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from equipot.kernels.cpu.compiler import Target, load, target, target_or_error
from equipot.kernels.cpu.source import address, num_threads, scalar
from equipot.kernels.operators.spline import LIBRARY, PLAIN, Parts
from equipot.kernels.spline import DEGREE, derivative_pieces

_CODE = r"""
constexpr int Q = DEGREE + 1;
constexpr int BLOCK = 4 * L;
constexpr int64_t CHUNK = 128;

extern "C" void weights(const double* u, const double* factor, int64_t edges, int64_t rows, int derivative,
                        int64_t* first, T* w, int threads) {
    const double last = rows > Q ? double(rows - Q) : 0.0;
    const double (*piece)[Q] = PIECES[derivative];
    in_even_pieces(threads, edges, 1, [&](int64_t from, int64_t to) {
        for (int64_t e = from; e < to; ++e) {
            double begin = __builtin_floor(u[e]);
            if (!(begin >= 0.0)) begin = 0.0;
            if (begin > last) begin = last;
            const double t = u[e] - begin, scale = factor ? factor[e] : 1.0;
            first[e] = int64_t(begin);
            for (int q = 0; q < Q; ++q) {
                double value = piece[Q - 1][q];
                for (int k = Q - 2; k >= 0; --k) value = value * t + piece[k][q];
                w[e * Q + q] = T(scale * value);
            }
        }
    });
}

// Values of N vectors of W columns, from column c on, of one edge.
template <int N, int W>
static inline __attribute__((always_inline)) void interpolate(const T* row, int64_t width, const T* w, Vec<T, W>* y) {
    #pragma GCC unroll 8
    for (int n = 0; n < N; ++n) y[n] = w[0] * load<Vec<T, W>>(row + n * W);
    #pragma GCC unroll 8
    for (int q = 1; q < Q; ++q)
        #pragma GCC unroll 8
        for (int n = 0; n < N; ++n) y[n] += w[q] * load<Vec<T, W>>(row + q * width + n * W);
}

// The same for weights that add up to zero, those of derivatives: by parts, with the differences of neighbouring rows,
// which are small and nearly exact.
template <int N, int W>
static inline __attribute__((always_inline)) void by_parts(const T* row, int64_t width, const T* w, Vec<T, W>* y) {
    Vec<T, W> last[N];
    #pragma GCC unroll 8
    for (int n = 0; n < N; ++n) y[n] = Vec<T, W>{}, last[n] = load<Vec<T, W>>(row + n * W);
    T sum = T(0);
    #pragma GCC unroll 8
    for (int q = 1; q < Q; ++q) {
        sum -= w[q - 1];
        #pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            const Vec<T, W> next = load<Vec<T, W>>(row + q * width + n * W);
            y[n] += sum * (next - last[n]);
            last[n] = next;
        }
    }
}

template <bool Slope>
struct Gather {
    const T* table; const int64_t* first; const T* w; int64_t width; T* out;
    template <int N, int W> void columns(int64_t begin, int64_t end, int64_t c) const {
        for (int64_t e = begin; e < end; ++e) {
            Vec<T, W> y[N];
            if constexpr (Slope) by_parts<N, W>(table + first[e] * width + c, width, w + e * Q, y);
            else interpolate<N, W>(table + first[e] * width + c, width, w + e * Q, y);
            #pragma GCC unroll 8
            for (int n = 0; n < N; ++n) store(out + e * width + c + n * W, y[n]);
        }
    }
};

struct Dot {
    const T* g; const T* table; const int64_t* first; const T* w; int64_t width; T* sums;
    template <int N, int W> void columns(int64_t begin, int64_t end, int64_t c) const {
        for (int64_t e = begin; e < end; ++e) {
            Vec<T, W> y[N];
            by_parts<N, W>(table + first[e] * width + c, width, w + e * Q, y);
            Vec<T, W> sum = load<Vec<T, W>>(sums + (e - begin) * L);
            #pragma GCC unroll 8
            for (int n = 0; n < N; ++n) sum += y[n] * load<Vec<T, W>>(g + e * width + c + n * W);
            store(sums + (e - begin) * L, sum);
        }
    }
};

struct Scatter {
    const T* g; const int64_t* first; const T* w; int64_t width; T* out;
    template <int N, int W> void columns(int64_t begin, int64_t end, int64_t c) const {
        for (int64_t e = begin; e < end; ++e) {
            T* row = out + first[e] * width + c;
            Vec<T, W> y[N];
            #pragma GCC unroll 8
            for (int n = 0; n < N; ++n) y[n] = load<Vec<T, W>>(g + e * width + c + n * W);
            #pragma GCC unroll 8
            for (int q = 0; q < Q; ++q)
                #pragma GCC unroll 8
                for (int n = 0; n < N; ++n) add(row + q * width + n * W, Vec<T, W>(w[e * Q + q] * y[n]));
        }
    }
};

template <int W, typename Work>
static void narrow(const Work& work, int64_t begin, int64_t end, int64_t c, int64_t stop) {
    for (; c + W <= stop; c += W) work.template columns<1, W>(begin, end, c);
    if constexpr (W > 1) narrow<W / 2>(work, begin, end, c, stop);
}

// Columns c .. stop of edges begin .. end, in blocks and then in ever narrower vectors.
template <typename Work>
static void all_columns(const Work& work, int64_t begin, int64_t end, int64_t c, int64_t stop) {
    for (; c + BLOCK <= stop; c += BLOCK) work.template columns<4, L>(begin, end, c);
    narrow<L>(work, begin, end, c, stop);
}

// Calls share(begin, end) for chunks of the edges.
template <typename F>
static void in_chunks(int threads, int64_t edges, const F& share) {
    in_pieces(threads, (edges + CHUNK - 1) / CHUNK, 1, [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) share(n * CHUNK, (n + 1) * CHUNK < edges ? (n + 1) * CHUNK : edges);
    });
}

template <bool Slope>
static void gather_all(const T* table, const int64_t* first, const T* w, int64_t edges, int64_t width, T* out,
                       int threads) {
    const Gather<Slope> work{table, first, w, width, out};
    in_chunks(threads, edges, [&](int64_t begin, int64_t end) { all_columns(work, begin, end, 0, width); });
}

extern "C" void gather(const T* table, const int64_t* first, const T* w, int64_t edges, int64_t width, T* out,
                       int slope, int threads) {
    (slope ? gather_all<true> : gather_all<false>)(table, first, w, edges, width, out, threads);
}

extern "C" void dot(const T* g, const T* table, const int64_t* first, const T* w, int64_t edges, int64_t width,
                    double* out, int threads) {
    in_chunks(threads, edges, [&](int64_t begin, int64_t end) {
        T sums[CHUNK * L] = {};
        all_columns(Dot{g, table, first, w, width, sums}, begin, end, 0, width);
        for (int64_t e = begin; e < end; ++e) {
            double sum = 0.0;
            for (int l = 0; l < L; ++l) sum += sums[(e - begin) * L + l];
            out[e] = sum;
        }
    });
}

extern "C" void scatter(const T* g, const int64_t* first, const T* w, int64_t edges, int64_t width, T* out,
                        int threads) {
    const Scatter work{g, first, w, width, out};
    in_even_pieces(threads, width, BLOCK, [&](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; c += BLOCK) all_columns(work, 0, edges, c, c + BLOCK < end ? c + BLOCK : end);
    });
}
"""

_ARGUMENTS = {
    "weights": "ppiinppn",
    "gather": "pppiipnn",
    "dot": "ppppiipn",
    "scatter": "pppiipn",
}
"""Kinds of the functions' arguments: pointers, 64-bit and plain integers."""
_KINDS = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "n": ctypes.c_int}


def source(dtype: torch.dtype, here: Target) -> str:
    """Returns the C++ for numbers of this type."""
    pieces = [derivative_pieces(k).T for k in range(3)]
    rows = ", ".join("{" + ", ".join(_row(row) for row in piece) + "}" for piece in pieces)
    return (
        f"typedef {scalar(dtype)} T;\nconstexpr int L = {here.lanes(dtype)};\nconstexpr int DEGREE = {DEGREE};\n"
        f"static const double PIECES[3][DEGREE + 1][DEGREE + 1] = {{{rows}}};\n{_CODE}"
    )


def _row(numbers: np.ndarray) -> str:
    return "{" + ", ".join(repr(float(x)) for x in numbers) + "}"


def sources(key: str, dtype: torch.dtype, here: Target, training: bool) -> list[str]:
    """Returns the source that a run needs."""
    return [source(dtype, here)]


@lru_cache(maxsize=2)
def _library(dtype: torch.dtype) -> ctypes.CDLL:
    library = load(source(dtype, target_or_error()))
    for name, kinds in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [_KINDS[kind] for kind in kinds], None
    return library


def _weights(u: Tensor, rows: int, derivative: int, factor: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    u, factor = u.contiguous(), None if factor is None else factor.contiguous()
    first = torch.empty(u.shape[0], dtype=torch.int64)
    w = torch.empty((u.shape[0], DEGREE + 1), dtype=dtype)
    _library(dtype).weights(
        u.data_ptr(), address(factor), u.shape[0], rows, derivative, first.data_ptr(), w.data_ptr(),
        num_threads(u.shape[0]),
    )  # fmt: skip
    return first, w


def _gather(table: Tensor, first: Tensor, w: Tensor, slope: bool) -> Tensor:
    table = table.contiguous()
    out = table.new_empty((first.shape[0], table.shape[1]))
    _library(table.dtype).gather(
        table.data_ptr(), first.data_ptr(), w.data_ptr(), *out.shape, out.data_ptr(), slope, num_threads(out.numel())
    )
    return out


def _scatter(g: Tensor, first: Tensor, w: Tensor, rows: int) -> Tensor:
    g = g.contiguous()
    out = g.new_zeros((rows, g.shape[1]))
    _library(g.dtype).scatter(
        g.data_ptr(), first.data_ptr(), w.data_ptr(), *g.shape, out.data_ptr(), num_threads(g.numel())
    )
    return out


def _dot(g: Tensor, table: Tensor, first: Tensor, w: Tensor) -> Tensor:
    g, table = g.contiguous(), table.contiguous()
    out = torch.empty(first.shape[0], dtype=torch.float64)
    _library(g.dtype).dot(
        g.data_ptr(), table.data_ptr(), first.data_ptr(), w.data_ptr(), *g.shape, out.data_ptr(),
        num_threads(g.numel()),
    )  # fmt: skip
    return out


COMPILED = Parts(_weights, _gather, _scatter, _dot)
"""As generated C++."""


def _parts() -> Parts:
    return PLAIN if target() is None else COMPILED


@torch.library.impl("equipot::spline", "CPU", lib=LIBRARY)
def spline(T: Tensor, u: Tensor) -> Tensor:
    """Returns y; see `kernels.operators.spline`."""
    return _parts().forward(T, u)


@torch.library.impl("equipot::spline_backward", "CPU", lib=LIBRARY)
def spline_backward(g: Tensor, T: Tensor, u: Tensor, need: Sequence[bool]) -> tuple[Tensor, ...]:
    """Returns gT, gu; see `kernels.operators.spline`."""
    return _parts().backward(g, T, u, need)


@torch.library.impl("equipot::spline_double_backward", "CPU", lib=LIBRARY)
def spline_double_backward(
    TT: Tensor | None, uu: Tensor | None, g: Tensor, T: Tensor, u: Tensor, need: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Returns the gradients with respect to g, T, u; see `kernels.operators.spline`."""
    return _parts().double_backward(TT, uu, g, T, u, need)
