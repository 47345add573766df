"""Pieces of generated C++ that all operations share."""

import torch
from torch import Tensor

from equipot.kernels import threads


def widths(mul: int, lanes: int) -> list[tuple[int, int, int]]:
    """Returns (lanes, begin, end) of loops that cover so many channels: whole vectors first, then halves of them."""
    loops, begin = [], 0
    while lanes >= 1:
        end = begin + (mul - begin) // lanes * lanes
        if end > begin:
            loops.append((lanes, begin, end))
        begin, lanes = end, lanes // 2
    return loops


def number(x: float) -> str:
    """A coefficient as a literal of type T."""
    return f"T({x!r})"


class Code:
    """Lines of C++ with indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, line: str) -> None:
        """Adds a line; braces at its ends change the indentation."""
        self.depth -= line.startswith("}")
        self.lines.append("    " * self.depth + line)
        self.depth += line.endswith("{")

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def scalar(dtype: torch.dtype) -> str:
    """The C++ type of one value."""
    return {torch.float32: "float", torch.float64: "double"}[dtype]


def vector(width: int) -> str:
    """The C++ type of so many values."""
    return f"Vec<T, {width}>"


WORK_PER_THREAD = 20_000
"""Values of the largest operand below which a second thread costs more than it brings."""


def num_threads(work: int) -> int:
    """Returns how many threads so much work is worth."""
    return max(1, min(threads.num_threads(), work // WORK_PER_THREAD))


def address(x: Tensor | None) -> int:
    """Where a tensor's numbers lie; 0 for none."""
    return 0 if x is None else x.data_ptr()
