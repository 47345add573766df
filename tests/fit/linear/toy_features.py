"""A small model that is linear in its weights, its rows formed by hand, and data that it can or cannot describe."""

import math

import numpy as np
import torch
from ase import Atoms

from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.geometry import Prediction
from equipot.models.linear_features import Rows

R_MAX = 3.0


class PairFeatures:
    """E = Σ_z n_z E0_z + ½ Σ_{j→i} Σ_n c[pair, n] f_n(r),   f_n = (1 − r/r_c)³ cos(nπ r/r_c)."""

    def __init__(self, functions: int, elements=(1, 8), penalties=None, E0=(-3.0, -7.0)):
        self.functions, self.elements, self.E0 = functions, elements, dict(zip(elements, E0, strict=False))
        self.pairs = [(a, b) for a in elements for b in elements if a <= b]
        self.num_columns = len(self.pairs) * functions
        ones = torch.ones(self.num_columns, dtype=torch.float64)
        self.penalties = ones if penalties is None else penalties.double()
        self.orders = torch.ones(self.num_columns, dtype=torch.int64)
        self.w = torch.zeros(self.num_columns, dtype=torch.float64)
        self.atoms_at_once = 10**9
        self.asked: list[int] = []

    def weights(self):
        return self.w

    def set_weights(self, weights):
        self.w = weights.clone()

    def _edges(self, graph):
        """Columns, values and derivatives of every edge, both over functions."""
        vectors = graph.vectors()
        r = vectors.norm(dim=1)
        k = torch.arange(self.functions, dtype=torch.float64) * math.pi / R_MAX
        u = (1 - r / R_MAX)[:, None]
        kr = k * r[:, None]
        f = 0.5 * u**3 * kr.cos()
        df = 0.5 * (-3 / R_MAX * u**2 * kr.cos() - u**3 * k * kr.sin())
        zi, zj = graph.atomic_numbers[graph.receivers], graph.atomic_numbers[graph.senders]
        low, high = torch.minimum(zi, zj).tolist(), torch.maximum(zi, zj).tolist()
        pair = torch.tensor([self.pairs.index(p) for p in zip(low, high, strict=True)], dtype=torch.int64)
        first = pair.clone().long() * self.functions
        columns = first[:, None] + torch.arange(self.functions)
        return vectors, r, columns, f, df

    def _spread(self, columns, values):
        return torch.zeros(len(columns), self.num_columns, dtype=torch.float64).scatter(1, columns, values)

    def node_rows(self, graph):
        _, _, columns, f, _ = self._edges(graph)
        rows = torch.zeros(graph.num_owned, self.num_columns, dtype=torch.float64)
        return rows.index_add(0, graph.receivers, self._spread(columns, f))

    def rows(self, graph, *, forces, stress):
        vectors, r, columns, _, df = self._edges(graph)
        energy = torch.zeros(graph.num_systems, self.num_columns, dtype=torch.float64)
        energy = energy.index_add(0, graph.system, self.node_rows(graph))
        empty = energy[:0]
        slopes = self._spread(columns, df)
        directions = vectors / r[:, None]
        self.asked.append(graph.num_systems * (1 + 6 * stress) + 3 * graph.num_nodes * forces)
        F = self._forces(graph, directions, slopes) if forces else empty
        S = self._stress(graph, vectors, directions, slopes) if stress else empty
        return Rows(energy, F, S)

    def _forces(self, graph, directions, slopes):
        g = directions[:, :, None] * slopes[:, None, :]
        zero = torch.zeros(graph.num_nodes, 3, self.num_columns, dtype=torch.float64)
        return zero.index_add(0, graph.receivers, g).index_add(0, graph.senders, -g).flatten(0, 1)

    def _stress(self, graph, vectors, directions, slopes):
        a, b = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
        per_edge = (vectors[:, a] * directions[:, b])[:, :, None] * slopes[:, None, :]
        zero = torch.zeros(graph.num_systems, 6, self.num_columns, dtype=torch.float64)
        total = zero.index_add(0, graph.system[graph.receivers], per_edge)
        return (total / graph.volumes()[:, None, None]).flatten(0, 1)

    def offset(self, graph):
        E0 = torch.tensor([self.E0[z] for z in graph.atomic_numbers.tolist()], dtype=torch.float64)
        energy = torch.zeros(graph.num_systems, dtype=torch.float64).index_add(0, graph.system, E0)
        zero = torch.zeros(graph.num_systems, 3, 3, dtype=torch.float64)
        return Prediction(energy, E0, torch.zeros(graph.num_nodes, 3, dtype=torch.float64), zero, zero)

    def prediction(self, graph):
        offset, rows = self.offset(graph), self.rows(graph, forces=True, stress=True)
        xx, yy, zz, yz, xz, xy = (rows.stress @ self.w).view(-1, 6).T
        stress = torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], dim=1).view(-1, 3, 3)
        stress = torch.where(graph.pbc.all(dim=1)[:, None, None], stress, torch.nan)
        return Prediction(
            offset.energy + rows.energy @ self.w,
            offset.node_energy + self.node_rows(graph) @ self.w,
            (rows.forces @ self.w).view(-1, 3),
            -stress * graph.volumes()[:, None, None],
            stress,
        )


def structures(count: int, seed: int = 0) -> list[Atoms]:
    """Clusters and crystals of hydrogen and oxygen, in turn; of six atoms, and of eight."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        if index % 2:
            grid = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), -1).reshape(-1, 3) * 1.5
            atoms = Atoms("H4O4", positions=grid, cell=[3.1, 3.2, 3.0], pbc=True)
        else:
            grid = np.stack(np.meshgrid([0, 1, 2], [0, 1], [0]), -1).reshape(-1, 3) * 1.3
            atoms = Atoms("HO" * 3, positions=grid)
        atoms.positions += rng.normal(scale=0.15, size=atoms.positions.shape)
        made.append(atoms)
    return made


def made_by(
    features: PairFeatures, count: int, seed: int = 0, noise: tuple[float, float, float] = (0, 0, 0), **changes
) -> Dataset:
    """Data that the features' weights give, with noise of E/√N [eV], F [eV/Å] and −Vσ/√N [eV]."""
    rng = np.random.default_rng(seed + 1000)
    frames = []
    for index, atoms in enumerate(structures(count, seed)):
        graph = Dataset([Frame(atoms=atoms)], R_MAX).batch([0]).graph
        p = features.prediction(graph)
        N = len(atoms)
        σ = rng.normal(scale=noise[2] * N**0.5, size=(3, 3)) / max(abs(np.linalg.det(atoms.cell.array)), 1e-12)
        σ = np.triu(σ) + np.triu(σ, 1).T
        frames.append(
            Frame(
                **{
                    "atoms": atoms,
                    "energy": float(p.energy) + rng.normal(scale=noise[0] * N**0.5 + 1e-300),
                    "forces": p.forces.numpy() + rng.normal(scale=noise[1] + 1e-300, size=(N, 3)),
                    "stress": p.stress[0].numpy() + σ if atoms.pbc.all() else None,
                    "config_type": "crystal" if atoms.pbc.all() else "cluster",
                    "index": index,
                    **changes,
                }
            )
        )
    return Dataset(frames, R_MAX)


def hidden(features: PairFeatures, seed: int = 3) -> PairFeatures:
    """The same features with random weights."""
    features.set_weights(torch.randn(features.num_columns, generator=torch.Generator().manual_seed(seed)).double())
    return features
