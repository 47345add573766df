"""Rows of the design matrix of linear ACE on the CPU: tables of the linearised functions, and the call of the code."""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from equipot.kernels.coupled import CoupledProduct
from equipot.kernels.cpu.compiler import Target, load, target_or_error
from equipot.kernels.cpu.source import address
from equipot.kernels.operators.coupled_rows import LIBRARY
from equipot.kernels.threads import num_threads

HEADER = Path(__file__).with_name("coupled_rows.h")
RUN = 64
"""Most functions of a run, as in the code."""


def source(here: Target) -> str:
    """Returns the C++."""
    lanes = here.lanes(torch.float64)
    return f"enum {{ W = {lanes} }};\n{HEADER.read_text(encoding='utf-8')}"


def sources(key: str, dtype: torch.dtype, here: Target, training: bool) -> list[str]:
    """Returns the source that a run needs."""
    return [source(here)]


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = load(source(target_or_error()))
    library.rows.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_int64, ctypes.c_int]
    library.rows.restype = None
    return library


class Linearised(NamedTuple):
    """Functions linearised: dv[dst] = Σ m[k] dv[source] with m[k] = Σ scale v[other]; functions are the last slots.

    Attributes:
        dst: Slot of each entry, ascending.
        source: What it is made of.
        first: Where the summands of each coefficient begin, and the end.
        other: Slot of each summand.
        scale: Its coefficient.
    """

    dst: np.ndarray
    source: np.ndarray
    first: np.ndarray
    other: np.ndarray
    scale: np.ndarray


def linearised(description: CoupledProduct) -> Linearised:
    """Returns the derivative of a program."""
    p = description.program
    a, b = p.pair_a[p.pair], p.pair_b[p.pair]
    made = p.num_slots + p.function
    dst = np.concatenate([p.dst, p.dst, made, made])
    of = np.concatenate([p.a, p.b, a, b])
    other = np.concatenate([p.b, p.a, b, a])
    scale = np.concatenate([p.coefficient, p.coefficient, p.value, p.value])
    order = np.lexsort((of, dst))
    keys, first = np.unique(np.stack([dst, of])[:, order], axis=1, return_index=True)
    return Linearised(keys[0], keys[1], np.append(first, len(order)), other[order], scale[order])


class Part(NamedTuple):
    """The entries that depend on neighbours of one species.

    Attributes:
        intermediates: Number of rows before those of functions.
        rows: First entry of each row, and the end.
        k: Coefficient of each entry.
        source: Slot, counted among those that depend on the species.
        functions: The function of each row behind the intermediates.
    """

    intermediates: int
    rows: np.ndarray
    k: np.ndarray
    source: np.ndarray
    functions: np.ndarray


def part(description: CoupledProduct, entries: Linearised, species: int) -> Part:
    """Returns what depends on neighbours of a species."""
    num_slots, block = description.program.num_slots, description.num_lm * description.num_radial
    depends = np.zeros(num_slots + description.num_functions, dtype=bool)
    depends[species * block : (species + 1) * block] = True
    for _ in range(description.correlation):  # longer than any chain of intermediates
        depends[entries.dst[depends[entries.source]]] = True
    k = np.nonzero(depends[entries.source])[0]
    place = np.cumsum(depends) - 1
    dst = entries.dst[k]
    rows = np.nonzero(depends)[0][block:]
    starts = np.append(np.searchsorted(dst, rows), len(k))
    functions = rows[rows >= num_slots] - num_slots
    return Part(len(rows) - len(functions), starts, k, place[entries.source[k]], functions)


class Runs(NamedTuple):
    """Functions whose columns are consecutive.

    Attributes:
        column: Where each run begins.
        size: How many it has.
        first: Where its rows begin.
        row: Row in the part of each function.
    """

    column: np.ndarray
    size: np.ndarray
    first: np.ndarray
    row: np.ndarray


def runs(of: Part, columns: np.ndarray) -> Runs:
    """Returns the runs of one species' functions in the columns of a centre, −1 for those that are not wanted."""
    column = columns[of.functions]
    rows = np.nonzero(column >= 0)[0]
    rows = rows[np.argsort(column[rows], kind="stable")]
    column = column[rows]
    breaks = np.nonzero(np.diff(column, prepend=-2) != 1)[0]
    ends = np.append(breaks[1:], len(column))
    first = np.concatenate([np.arange(a, b, RUN) for a, b in zip(breaks, ends, strict=False)] or [breaks])
    return Runs(column[first], np.diff(np.append(first, len(column))), first, rows + of.intermediates)


def _structure(numbers: Sequence[str], arrays: Sequence[str]) -> type[ctypes.Structure]:
    fields = [(name, ctypes.c_int64) for name in numbers] + [(name, ctypes.c_void_p) for name in arrays]
    return type("Structure", (ctypes.Structure,), {"_fields_": fields})


_PART = _structure(["intermediates"], ["rows", "k", "source"])
_RUNS = _structure(["count"], ["column", "size", "first", "row"])
_PROGRAM = _structure(
    ["dim", "slots", "entries", "num_species", "num_lm", "num_n"],
    ["starts", "a", "b", "c", "first", "other", "scale", "parts", "runs"],
)
_EDGES = _structure([], ["R", "dR", "Y", "dY", "vectors", "senders", "starts", "species"])
_ROWS = _structure([], ["forces", "virial", "system", "width"])


class Tables:
    """The functions in their columns as the code reads them.

    Attributes:
        program: Address of the structure.
    """

    def __init__(self, description: CoupledProduct, columns: np.ndarray) -> None:
        self._kept: list[object] = []
        p, entries = description.program, linearised(description)
        parts = [part(description, entries, z) for z in range(description.num_species)]
        made = [runs(of, of_centre) for of_centre in columns for of in parts]
        part_array = (_PART * len(parts))(
            *(_PART(of.intermediates, *map(self._int, (of.rows, of.k, of.source))) for of in parts)
        )
        runs_array = (_RUNS * len(made))(
            *(_RUNS(len(r.column), self._long(r.column), *map(self._int, (r.size, r.first, r.row))) for r in made)
        )
        starts = np.searchsorted(p.dst, np.arange(description.dim, p.num_slots + 1))
        sizes = (description.dim, p.num_slots, len(entries.dst), description.num_species, description.num_lm)
        structure = _PROGRAM(
            *sizes, description.num_radial, *map(self._int, (starts, p.a, p.b)), self._keep(p.coefficient),
            *map(self._int, (entries.first, entries.other)), self._keep(entries.scale),
            ctypes.addressof(part_array), ctypes.addressof(runs_array),
        )  # fmt: skip
        self._kept += [part_array, runs_array, structure]
        self.program = ctypes.addressof(structure)

    def _keep(self, x: np.ndarray) -> int:
        x = np.ascontiguousarray(x)
        self._kept.append(x)
        return x.ctypes.data

    def _int(self, x: np.ndarray) -> int:
        return self._keep(x.astype(np.int32))

    def _long(self, x: np.ndarray) -> int:
        return self._keep(x.astype(np.int64))


@lru_cache(maxsize=8)
def _tables(key: str, columns: bytes) -> tuple[Tables, int, bool]:
    """The tables of a description in some columns, the number of columns, and whether centres share any."""
    description = CoupledProduct.from_key(key)
    table = np.frombuffer(columns, dtype=np.int64).reshape(description.num_species, description.num_functions)
    wanted = table[table >= 0]
    return Tables(description, table), int(table.max(initial=-1)) + 1, len(np.unique(wanted)) < len(wanted)


def units(owned: Tensor, system: Tensor, species: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns owned atoms in order, and where in it those begin that add to the same numbers.

    Rows of forces belong to a system, columns to a species of centres.

    Args:
        owned: Indices of the atoms.
        system: System of each node.
        species: Element of each node; None where centres share columns.
    """
    group = system[owned]
    if species is not None:
        group = group * (int(species.max()) + 1 if len(species) else 1) + species[owned]
    order = torch.argsort(group, stable=True)
    counts = torch.unique_consecutive(group[order], return_counts=True)[1]
    return order, torch.cat([counts.new_zeros(1), counts.cumsum(0)])


@torch.library.impl("equipot::coupled_rows", "CPU", lib=LIBRARY)
def coupled_rows(
    forces: Tensor | None, virial: Tensor | None, A: Tensor, R: Tensor, dR: Tensor, Y: Tensor, dY: Tensor,
    vectors: Tensor, senders: Tensor, starts: Tensor, species: Tensor, system: Tensor, columns: Tensor, key: str,
) -> None:  # fmt: skip
    """Adds rows of forces and of the virial; see `kernels.coupled_rows`."""
    tables, num_columns, shared = _tables(key, columns.numpy().tobytes())
    d, edges, nodes, owned = CoupledProduct.from_key(key), len(senders), len(species), len(starts) - 1
    given = [x.contiguous() for x in (A, R, dR, Y, dY, vectors, senders, starts, species, system)]
    n, lm = d.num_radial, d.num_lm
    shapes = [(owned, d.dim), (edges, n), (edges, n), (edges, lm), (edges, lm, 3), (edges, 3), (edges,), (owned + 1,)]
    out = [x for x in (forces, virial) if x is not None]
    width = out[0].shape[-1] if out else 0
    fit = [tuple(x.shape) for x in given] == [*shapes, (nodes,), (nodes,)]
    rows_fit = all(x.is_contiguous() and x.shape[-1] == width >= num_columns for x in out)
    if not fit or not rows_fit or any(x.dtype != torch.float64 for x in (*given[:6], *out)):
        raise ValueError("operands of the rows of coupled functions do not fit together, or are not float64.")
    order, begins = units(torch.arange(owned), system, None if shared else species)
    of_edges = _EDGES(*(x.data_ptr() for x in given[1:9]))
    rows = _ROWS(address(forces), address(virial), given[9].data_ptr(), width)
    _library().rows(
        tables.program, given[0].data_ptr(), ctypes.addressof(of_edges), ctypes.addressof(rows), order.data_ptr(),
        begins.data_ptr(), len(begins) - 1, num_threads(),
    )  # fmt: skip
