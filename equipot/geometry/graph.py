"""The graph of atoms and edges on which every layer works."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """One structure, or a batch of structures that cannot see each other.

    Attributes:
        positions: Positions r_i, Å, float64.
        cell: Rows are the lattice vectors, Å, float64; zeros where a direction has none.
        pbc: Periodic directions.
        atomic_numbers: Atomic numbers Z_i.
        senders: Sender j of each edge j → i; it may be a ghost (index ≥ num_owned).
        receivers: Receiver i of each edge, ascending; never a ghost.
        shifts: Integer multiples S of the cell's rows that take j to the image that i sees.
        system: Structure that each atom belongs to.
        num_systems: Number of structures.
        num_owned: Number of atoms whose energies count; ghosts come after them.
    """

    positions: Float[Tensor, "node xyz"]
    cell: Float[Tensor, "system 3 xyz"]
    pbc: Bool[Tensor, "system 3"]
    atomic_numbers: Int[Tensor, " node"]
    senders: Int[Tensor, " edge"]
    receivers: Int[Tensor, " edge"]
    shifts: Float[Tensor, "edge 3"]
    system: Int[Tensor, " node"]
    num_systems: int
    num_owned: int

    @property
    def num_nodes(self) -> int:
        """Number of atoms, ghosts included."""
        return self.positions.shape[0]

    @property
    def num_edges(self) -> int:
        """Number of directed edges."""
        return self.senders.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.positions.device

    def vectors(self) -> Float[Tensor, "edge xyz"]:
        """Returns r_ij = r_j + S·cell − r_i for every edge j → i, Å, float64."""
        r_j = self.positions.index_select(0, self.senders)
        r_i = self.positions.index_select(0, self.receivers)
        one = self.num_systems == 1
        cell = self.cell if one else self.cell.index_select(0, self.system.index_select(0, self.receivers))
        return r_j - r_i + (self.shifts.unsqueeze(-1) * cell).sum(dim=1)

    def volumes(self) -> Float[Tensor, " system"]:
        """Returns |a · (b × c)| of each system's cell, Å³."""
        a, b, c = self.cell.unbind(1)
        return (a * torch.linalg.cross(b, c)).sum(dim=1).abs()

    def to(self, device: torch.device | str) -> "Graph":
        """Returns the graph with its tensors on `device`."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.type is not int}
        return replace(self, **moved)


def batch_graphs(graphs: Sequence[Graph]) -> Graph:
    """Returns one graph of all structures; no edge joins two of them.

    Args:
        graphs: Graphs without ghosts (num_owned = number of atoms).
    """
    nodes = torch.tensor([0, *(g.num_nodes for g in graphs)]).cumsum(0).tolist()
    systems = torch.tensor([0, *(g.num_systems for g in graphs)]).cumsum(0).tolist()
    return Graph(
        positions=torch.cat([g.positions for g in graphs]),
        cell=torch.cat([g.cell for g in graphs]),
        pbc=torch.cat([g.pbc for g in graphs]),
        atomic_numbers=torch.cat([g.atomic_numbers for g in graphs]),
        senders=torch.cat([g.senders + n for g, n in zip(graphs, nodes[:-1], strict=True)]),
        receivers=torch.cat([g.receivers + n for g, n in zip(graphs, nodes[:-1], strict=True)]),
        shifts=torch.cat([g.shifts for g in graphs]),
        system=torch.cat([g.system + s for g, s in zip(graphs, systems[:-1], strict=True)]),
        num_systems=systems[-1],
        num_owned=nodes[-1],
    )
