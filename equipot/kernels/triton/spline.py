"""The parts of the spline's operators in Triton: no temporary of the size edge × column, and sums in a fixed order.

A table's gradient is summed over the edges of each interval of knots, chunk by chunk, then over the six intervals that
a row takes part in. Values are summed by parts, as in `equipot.kernels.spline.gather`.
"""

import torch
from torch import Tensor

from equipot.kernels.operators.spline import PLAIN, Parts
from equipot.kernels.spline import DEGREE, cumulated
from equipot.kernels.triton.chunks import chunks, sum_chunks
from equipot.kernels.triton.registry import implements
from equipot.kernels.triton.source import Code, Kernel, launch

BLOCK = 128
ROWS = DEGREE + 1
MOST_CHUNKS, SMALLEST_CHUNK = 1024, 32


def _source() -> str:
    code = Code()
    blended = "w0 * t0 + " + " + ".join(f"w{q} * (t{q} - t{q - 1})" for q in range(1, ROWS))
    with code.function("gather", ("table", "first", "weights", "y", "columns")):
        code("e = tl.program_id(0).to(tl.int64)")
        code(f"k = tl.program_id(1) * {BLOCK} + tl.arange(0, {BLOCK})")
        _weights(code)
        _rows(code)
        code(f"tl.store(y + e * columns + k, {blended}, mask=k < columns)")
    with code.function("dot", ("g", "table", "first", "weights", "out", "columns")):
        code("e = tl.program_id(0).to(tl.int64)")
        _weights(code)
        code(f"total = tl.zeros(({BLOCK},), g.dtype.element_ty)")
        with code.block(f"for k0 in range(0, columns, {BLOCK}):"):
            code(f"k = k0 + tl.arange(0, {BLOCK})")
            _rows(code)
            code("x = tl.load(g + e * columns + k, mask=k < columns, other=0.0)")
            code(f"total += x * ({blended})")
        code("tl.store(out + e, tl.sum(total, axis=0).to(tl.float64))")
    with code.function("scatter", ("g", "order", "weights", "begins", "ends", "parts", "columns")):
        code("chunk = tl.program_id(0).to(tl.int64)")
        code(f"k = tl.program_id(1) * {BLOCK} + tl.arange(0, {BLOCK})")
        for q in range(ROWS):
            code(f"t{q} = tl.zeros(({BLOCK},), g.dtype.element_ty)")
        code("begin = tl.load(begins + chunk)")
        code("end = tl.load(ends + chunk)")
        with code.block("for n in range(begin, end):"):
            code("e = tl.load(order + n)")
            code("x = tl.load(g + e * columns + k, mask=k < columns, other=0.0)")
            for q in range(ROWS):
                code(f"t{q} += tl.load(weights + e * {ROWS} + {q}) * x")
        for q in range(ROWS):
            code(f"tl.store(parts + (chunk * {ROWS} + {q}) * columns + k, t{q}, mask=k < columns)")
    return str(code)


def _weights(code: Code) -> None:
    code("row = table + tl.load(first + e) * columns")
    for q in range(ROWS):
        code(f"w{q} = tl.load(weights + e * {ROWS} + {q})")


def _rows(code: Code) -> None:
    for q in range(ROWS):
        code(f"t{q} = tl.load(row + {q} * columns + k, mask=k < columns, other=0.0)")


SOURCE = _source()


def _kernel(name: str, arguments: str, columns: int) -> Kernel:
    return Kernel(SOURCE, name, tuple(arguments.split()), -(-columns // BLOCK))


def gather(table: Tensor, first: Tensor, weights: Tensor, slope: bool) -> Tensor:
    """Returns Σ_q w_q T[first + q]."""
    y = table.new_empty((first.shape[0], table.shape[1]))
    values: dict[str, Tensor | int] = {
        "table": table,
        "first": first,
        "weights": cumulated(weights).to(table.dtype),
        "y": y,
        "columns": table.shape[1],
    }
    launch(_kernel("gather", "table first weights y columns", table.shape[1]), first.shape[0], values)
    return y


def dot(g: Tensor, table: Tensor, first: Tensor, weights: Tensor) -> Tensor:
    """Returns ⟨g_e, Σ_q w_q T[first + q]⟩, float64."""
    out = g.new_empty(first.shape[0], dtype=torch.float64)
    values: dict[str, Tensor | int] = {
        "g": g, "table": table, "first": first, "weights": cumulated(weights).to(g.dtype), "out": out,
        "columns": table.shape[1],
    }  # fmt: skip
    launch(Kernel(SOURCE, "dot", ("g", "table", "first", "weights", "out", "columns"), 1), first.shape[0], values)
    return out


def scatter(g: Tensor, first: Tensor, weights: Tensor, rows: int) -> Tensor:
    """Returns the table Σ_e w_eq g_e in rows first_e + q: the transpose of `gather`."""
    intervals, columns = rows - DEGREE, g.shape[1]
    sorted_first, order = torch.sort(first, stable=True)
    starts = torch.searchsorted(sorted_first, torch.arange(intervals + 1, device=g.device))
    size = max(SMALLEST_CHUNK, -(-g.shape[0] // MOST_CHUNKS))
    parts_of = chunks(starts, g.shape[0], size)
    parts = g.new_empty((parts_of.begin.shape[0], ROWS, columns))
    values: dict[str, Tensor | int] = {
        "g": g, "order": order, "weights": weights.to(g.dtype), "begins": parts_of.begin, "ends": parts_of.end,
        "parts": parts, "columns": columns,
    }  # fmt: skip
    launch(_kernel("scatter", "g order weights begins ends parts columns", columns), parts.shape[0], values)
    table = g.new_zeros((rows, columns))
    for q, share in enumerate(sum_chunks(parts, parts_of).unbind(1)):
        table[q : q + intervals] += share
    return table


PARTS = Parts(PLAIN.weights, gather, scatter, dot)
implements("spline")(PARTS.forward)
implements("spline_backward")(PARTS.backward)
implements("spline_double_backward")(PARTS.double_backward)
