"""A neighbour list with a skin (Verlet list), reused while atoms move little."""

from dataclasses import replace

import numpy as np
import torch
from ase import Atoms

from equipot.errors import EquipotError
from equipot.geometry.graph import Graph
from equipot.geometry.neighbors import build_graph

MAX_NEIGHBOURS = 20_000
"""Neighbours per atom above which a periodic structure counts as collapsed (dense matter has 100 at 5 Å)."""


class SkinNeighbours:
    """Graphs of a moving structure from one neighbour search with radius r_max + skin.

    A search stays valid while no atom has moved further than skin/2 from where it was searched, and cell,
    periodicity and elements are the same: then two atoms have come closer by at most the skin, so no pair within
    r_max is missing. Each graph keeps only the edges that are shorter than r_max *now*, in the order (receiver,
    sender, shift), so that the answer does not depend on when the search was made, not even in its last bit.

    Args:
        r_max: cutoff of the potential, Å.
        skin: extra search radius, Å; 0 searches at every call.
        device: where the graphs are put.

    Raises:
        EquipotError: the skin is negative; later, a periodic cell has collapsed.

    Source: Verlet, Phys. Rev. 159, 98 (1967).
    """

    def __init__(self, r_max: float, skin: float = 0.5, *, device: torch.device | str = "cpu") -> None:
        if not (np.isfinite(skin) and skin >= 0):
            raise EquipotError(f"skin = {skin} Å: give a finite length ≥ 0 (0.5 is usual, 0 switches it off).")
        self.r_max = r_max
        self.skin = skin
        self.device = torch.device(device)
        self.searches = 0
        self._atoms: Atoms | None = None
        self._wide: Graph | None = None

    def graph(self, atoms: Atoms) -> tuple[Graph, torch.Tensor]:
        """The graph of `atoms` with every edge shorter than r_max, and the edges' lengths in Å."""
        wide = self._wide if self._wide is not None and self._valid(atoms) else self._search(atoms)
        moved = replace(wide, positions=torch.tensor(atoms.positions, dtype=torch.float64, device=self.device))
        lengths = moved.vectors().norm(dim=1)
        near = (lengths < self.r_max).nonzero().squeeze(1)
        return (
            replace(
                moved,
                senders=moved.senders.index_select(0, near),
                receivers=moved.receivers.index_select(0, near),
                shifts=moved.shifts.index_select(0, near),
            ),
            lengths.index_select(0, near),
        )

    def _valid(self, atoms: Atoms) -> bool:
        known = self._atoms
        if (
            known is None
            or len(known) != len(atoms)
            or not np.array_equal(known.numbers, atoms.numbers)
            or not np.array_equal(known.pbc, atoms.pbc)
            or not np.array_equal(known.cell.array, atoms.cell.array)
        ):
            return False
        moved = np.square(atoms.positions - known.positions).sum(axis=1)
        return bool(moved.size == 0 or moved.max() <= (0.5 * self.skin) ** 2)

    def _search(self, atoms: Atoms) -> Graph:
        self._wide = self._atoms = None
        self._refuse_collapse(atoms)
        wide = build_graph(atoms.positions, atoms.cell.array, atoms.pbc, atoms.numbers, self.r_max + self.skin)
        shifts = wide.shifts.numpy()
        order = np.lexsort((*shifts.T[::-1], wide.senders.numpy(), wide.receivers.numpy()))
        index = torch.from_numpy(order)
        self._wide = replace(
            wide, senders=wide.senders[index], receivers=wide.receivers[index], shifts=wide.shifts[index]
        ).to(self.device)
        self._atoms = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        self.searches += 1
        return self._wide

    def _refuse_collapse(self, atoms: Atoms) -> None:
        """A cell that shrinks to nothing has more neighbours than any memory."""
        if not atoms.pbc.all() or not np.isfinite(atoms.cell.array).all():
            return
        volume = max(atoms.cell.volume, 1e-300)
        neighbours = len(atoms) / volume * 4.0 / 3.0 * np.pi * (self.r_max + self.skin) ** 3
        if neighbours > MAX_NEIGHBOURS:
            raise EquipotError(
                f"the cell has {volume:.3g} Å³ for {len(atoms)} atoms, which gives about {neighbours:.3g} neighbours "
                f"per atom within {self.r_max + self.skin:g} Å: it has collapsed, or its units are not Å."
            )
