"""Neighbour lists: all pairs within the cutoff, by vesin."""

import ase
import numpy as np
import torch
from vesin import NeighborList

from equipot.errors import EquipotError
from equipot.geometry.graph import Graph

MOST_CELLS = 1e7
"""vesin sorts atoms into cells of the size of the cutoff; it needs memory for each, and fails above some 5e7."""

FEW_CELLS = 1e5
"""Up to so many cells a structure without periodicity is searched as it is, which takes the least time."""


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
    i, j, shifts = _pairs(positions, cell, pbc, r_max)
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
    """Returns receivers, senders and shifts of all pairs nearer than r_max, in time linear in the atoms."""
    if len(positions) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3))
    if not pbc.any() and np.prod(np.ptp(positions, axis=0) / r_max + 1.0) < FEW_CELLS:
        return _search(positions, np.zeros((3, 3)), pbc, r_max)
    points, box = _boxed(positions, cell, pbc, r_max)
    radius = max(r_max, (abs(np.linalg.det(box)) / MOST_CELLS) ** (1 / 3))
    i, j, shifts = _search(points, box, np.ones(3, dtype=bool), radius)
    if radius > r_max:
        near = np.linalg.norm(points[j] - points[i] + shifts @ box, axis=1) < r_max
        i, j, shifts = i[near], j[near], shifts[near]
    shifts[:, ~pbc] = 0.0
    return i, j, shifts


def _search(
    points: np.ndarray, box: np.ndarray, periodic: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = NeighborList(cutoff=radius, full_list=True)
    i, j, shifts = found.compute(points=points, box=box, periodic=periodic, quantities="ijS")
    return np.asarray(i, np.int64), np.asarray(j, np.int64), np.asarray(shifts, np.float64)


def _boxed(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, r_max: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions and a cell, periodic in three directions, that have the same pairs nearer than r_max.

    Directions that are not periodic are made so with 2 r_max of space between the images, and empty space of more
    than 2 r_max between atoms is taken out: pairs across it are further apart than r_max before and after, and all
    others keep their vector. Atoms that have flown away thus cost nothing.
    """
    points, box = positions.copy(), cell.copy()
    periodic, free = np.flatnonzero(pbc), np.flatnonzero(~pbc)
    normals = np.linalg.qr(cell[periodic].T, mode="complete")[0].T[len(periodic) :] if len(periodic) else np.eye(3)
    for axis, normal in zip(free, normals, strict=True):
        along = positions @ normal
        packed = _packed(along, 2 * r_max)
        points += np.outer(packed - along, normal)
        box[axis] = (packed.max() + 2 * r_max) * normal
    return points, box


def _packed(x: np.ndarray, gap: float) -> np.ndarray:
    """Returns coordinates that begin at 0, with every gap between neighbouring ones that is larger made `gap`."""
    order = np.argsort(x)
    excess = np.cumsum(np.maximum(np.diff(x[order]) - gap, 0.0))
    packed = x - x.min()
    packed[order[1:]] -= excess
    return packed


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
