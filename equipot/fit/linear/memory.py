"""How large the matrices of a linear fit may be, and how the structures are cut to fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipot.errors import EquipotError
from equipot.fit.linear.blocked import beside

_GB = 1e9
_SHARE = 0.6
"""Of the memory that is available, what matrices take where the user says nothing."""
_LARGEST_BLOCK = 2.5e8
"""Bytes of a block of rows: large enough for the speed of matrix products, whatever the number of columns."""
_MOST_ROWS = 16384
"""Rows of the largest block; those that a model forms at once are half as many."""
_FEWEST_ROWS = 32
"""Rows of the smallest block."""
_PER_ROW = 2
"""Copies of a block of rows while a model forms it."""


@dataclass(frozen=True)
class Plan:
    """Sizes of a fit.

    Attributes:
        block_rows: Rows that are collected before they are worked in.
        model_rows: Most rows that a model is asked for at once, but for a structure that has more.
        bytes: Of all matrices together.
        kept_in_memory: Whether rows that are kept are in memory, not in a file.
    """

    block_rows: int
    model_rows: int
    bytes: float
    kept_in_memory: bool = True


def available_memory() -> float:
    """Returns how many bytes this machine has free for new work; 8 GB where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 8 * _GB
    kilobytes = {line.split(":")[0]: line.split()[1] for line in lines if ":" in line}
    return 1024.0 * float(kilobytes.get("MemAvailable", 8 * _GB / 1024))


def plan(columns: int, squares: int, rows: Sequence[int], max_memory_GB: float | None, keep: bool = False) -> Plan:
    """Returns how large blocks are.

    Args:
        columns: Number P of weights.
        squares: How many matrices of P + 1 by P + 1 the solver holds.
        rows: Number of rows of each structure.
        max_memory_GB: Memory for matrices, GB; None for a share of what is available.
        keep: Whether all rows are to be kept too.

    Raises:
        EquipotError: The matrices do not fit.
    """
    allowed = _SHARE * available_memory() if max_memory_GB is None else max_memory_GB * _GB
    row = 8.0 * (columns + 1)
    fixed = squares * row * (columns + 1) + (8.0 * beside(columns + 1) if squares else 0)
    largest = max(rows)
    left = allowed - fixed
    least = row * (_FEWEST_ROWS + _PER_ROW * largest)
    if left < least:
        raise EquipotError(
            f"a fit of {columns} weights needs {(fixed + least) / _GB:.2f} GB for {squares} matrices of {columns} × "
            f"{columns} and the rows of the largest structure ({largest}), and may take {allowed / _GB:.2f} GB; raise "
            "max_memory_GB if the machine has more, choose a smaller basis, solver: normal_equations with prior: "
            "evidence (one such matrix), or solver: lsqr (none; the rows on disk)"
        )
    in_memory = keep and left - least > row * sum(rows)
    if in_memory:
        left -= row * sum(rows)
    spare = left - least
    wanted = min(_LARGEST_BLOCK / row, _MOST_ROWS)
    model_rows = int(max(largest, min(wanted / _PER_ROW, largest + spare / 2 / row / _PER_ROW)))
    block_rows = int(min(max(wanted, _FEWEST_ROWS), _FEWEST_ROWS + spare / 2 / row, sum(rows)))
    total = fixed + row * (block_rows + _PER_ROW * model_rows) + (row * sum(rows) if in_memory else 0)
    return Plan(block_rows, model_rows, total, in_memory or not keep)


def cut(indices: Sequence[int], rows: Sequence[int], most: int) -> list[list[int]]:
    """Returns structures in their order, in groups of at most so many rows; a larger structure is alone.

    Args:
        indices: Of the structures; those without rows are left out.
        rows: Number of rows, or of atoms, of each structure of the set.
        most: In a group.
    """
    groups: list[list[int]] = []
    size = 0
    for index in indices:
        if rows[index] == 0:
            continue
        if not groups or size + rows[index] > most:
            groups.append([])
            size = 0
        groups[-1].append(index)
        size += rows[index]
    return groups
