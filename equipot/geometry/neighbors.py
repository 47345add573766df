"""Neighbour lists: all pairs within the cutoff, by vesin."""

import ase
import numpy as np
import torch
from vesin import NeighborList

from equipot.errors import EquipotError
from equipot.geometry.graph import Graph


def build_graph(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, atomic_numbers: np.ndarray, r_max: float
) -> Graph:
    """Returns the graph of one structure with every edge of length < r_max.

    The cell may be smaller than the cutoff, triclinic, or periodic in some directions only; atoms may lie
    outside it. Edges are sorted by receiver, then by sender.

    Args:
        positions: [node 3], Å.
        cell: [3 3], rows are the lattice vectors, Å.
        pbc: [3], periodic directions.
        atomic_numbers: [node].
        r_max: Cutoff, Å.

    Raises:
        EquipotError: Positions or cell are not finite, or a periodic direction has no lattice vector.
    """
    positions = np.ascontiguousarray(positions, dtype=np.float64).reshape(-1, 3)
    cell = np.ascontiguousarray(cell, dtype=np.float64).reshape(3, 3)
    pbc = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,)).copy()
    _check(positions, cell, pbc)
    i, j, shifts = _pairs(positions, _search_cell(cell, pbc), pbc, r_max)
    order = np.lexsort((j, i))
    return Graph(
        positions=torch.from_numpy(positions.copy()),
        cell=torch.from_numpy(cell.copy()).reshape(1, 3, 3),
        pbc=torch.from_numpy(pbc).reshape(1, 3),
        atomic_numbers=torch.from_numpy(np.asarray(atomic_numbers, dtype=np.int64).copy()),
        senders=torch.from_numpy(j[order]),
        receivers=torch.from_numpy(i[order]),
        shifts=torch.from_numpy(shifts[order]),
        system=torch.zeros(len(positions), dtype=torch.int64),
        num_systems=1,
        num_owned=len(positions),
    )


def graph_from_atoms(atoms: ase.Atoms, r_max: float) -> Graph:
    """Returns the graph of an ASE structure (see `build_graph`)."""
    return build_graph(atoms.positions, atoms.cell.array, atoms.pbc, atoms.numbers, r_max)


def _pairs(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, r_max: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if len(positions) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3))
    search = NeighborList(cutoff=r_max, full_list=True)
    i, j, shifts = search.compute(points=positions, box=cell, periodic=pbc, quantities="ijS")
    return np.asarray(i, np.int64), np.asarray(j, np.int64), np.asarray(shifts, np.float64)


def _search_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Completes lattice vectors of non-periodic directions, so that the cell has a volume.

    The shifts along them are zero, so the graph's own cell stays what the user gave.
    """
    if pbc.all():
        return cell
    if not pbc.any():
        return np.zeros((3, 3))
    full = cell.copy()
    periodic = list(np.flatnonzero(pbc))
    free = list(np.flatnonzero(~pbc))
    basis = np.linalg.qr(cell[periodic].T, mode="complete")[0].T
    for axis, direction in zip(free, basis[len(periodic) :], strict=True):
        full[axis] = direction
    return full


def _check(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
    if not np.isfinite(positions).all():
        atom = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise EquipotError(f"the position of atom {atom} is {positions[atom].tolist()}; it must be finite (Å).")
    if not np.isfinite(cell).all():
        raise EquipotError(f"the cell is {cell.tolist()}; its rows must be finite lattice vectors (Å).")
    if pbc.any() and np.linalg.matrix_rank(cell[pbc], tol=1e-6) < pbc.sum():
        raise EquipotError(
            f"pbc is {pbc.tolist()} but the cell {cell.tolist()} has no volume along the periodic directions; "
            "give the lattice vectors (rows, Å) or set pbc to false there."
        )
