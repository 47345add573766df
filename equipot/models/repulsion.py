"""Repulsion at short range: screened nuclear, or a core below the shortest distances in training."""

from collections.abc import Callable

import torch
from ase.data import covalent_radii
from jaxtyping import Float
from torch import Tensor, nn

from equipot.basis import polynomial_envelope, wall_distances
from equipot.design import Design
from equipot.geometry import Graph, pool
from equipot.statistics import Statistics


class ZBL(nn.Module):
    r"""The Ziegler–Biersack–Littmark pair repulsion, half of each pair to each atom.

        V_ij = ½ · 14.3996 Z_i Z_j / r · φ(r/a) · f(r / R),   a = 0.4543 · 0.529 / (Z_i^0.3 + Z_j^0.3)
        φ(x) = 0.1818 e^{−3.2x} + 0.5099 e^{−0.9423x} + 0.2802 e^{−0.4028x} + 0.02817 e^{−0.2016x}

    f is the polynomial envelope of order p, R = min(R_i + R_j, r_max) with covalent radii R_i (Å).

    Args:
        p: Order of the envelope.
        r_max: Cutoff of the neighbour list, Å; the repulsion of larger atoms ends there, not beyond.

    Source: Ziegler, Biersack & Littmark (1985); envelope and constants as in mace-torch.
    """

    radii: Tensor
    weights: Tensor
    exponents: Tensor

    def __init__(self, p: int, r_max: float) -> None:
        super().__init__()
        self.p, self.r_max = p, r_max
        self.register_buffer("radii", torch.as_tensor(covalent_radii, dtype=torch.float64), persistent=False)
        weights, exponents = [0.1818, 0.5099, 0.2802, 0.02817], [3.2, 0.9423, 0.4028, 0.2016]
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64), persistent=False)
        self.register_buffer("exponents", torch.tensor(exponents, dtype=torch.float64), persistent=False)

    def forward(self, graph: Graph, lengths: Float[Tensor, " edge"]) -> Float[Tensor, " owned"]:
        """Returns the repulsion energy of each owned atom, eV."""
        z_i, z_j = graph.atomic_numbers[graph.receivers], graph.atomic_numbers[graph.senders]
        Z_i, Z_j = z_i.double(), z_j.double()
        a = 0.4543 * 0.529 / (Z_i.pow(0.3) + Z_j.pow(0.3))
        phi = (self.weights * torch.exp(-self.exponents * (lengths / a).unsqueeze(-1))).sum(dim=-1)
        R = (self.radii[z_i] + self.radii[z_j]).clamp(max=self.r_max)
        f = polynomial_envelope(lengths / R, self.p)
        return pool(0.5 * 14.3996 * Z_i * Z_j / lengths * phi * f, graph.receivers, graph.num_owned)


class LammpsZBL(nn.Module):
    r"""The Ziegler–Biersack–Littmark pair repulsion with LAMMPS's constants, half of each pair to each atom.

        V_ij = ½ · 14.399645 Z_i Z_j / r · φ(r/a) · f(r / r_max),   a = 0.46850 / (Z_i^0.23 + Z_j^0.23)
        φ(x) = 0.18175 e^{−3.1998x} + 0.50986 e^{−0.94229x} + 0.28022 e^{−0.4029x} + 0.02817 e^{−0.20162x}

    f is the polynomial envelope of order p.

    Args:
        p: Order of the envelope.
        r_max: Cutoff, Å.

    Source: Ziegler, Biersack & Littmark (1985); LAMMPS, pair_style zbl; nequip ≥ 0.6.
    """

    weights: Tensor
    exponents: Tensor

    def __init__(self, p: int, r_max: float) -> None:
        super().__init__()
        self.p, self.r_max = p, r_max
        weights, exponents = [0.18175, 0.50986, 0.28022, 0.02817], [3.1998, 0.94229, 0.4029, 0.20162]
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64), persistent=False)
        self.register_buffer("exponents", torch.tensor(exponents, dtype=torch.float64), persistent=False)

    def forward(self, graph: Graph, lengths: Float[Tensor, " edge"]) -> Float[Tensor, " owned"]:
        """Returns the repulsion energy of each owned atom, eV."""
        Z_i, Z_j = graph.atomic_numbers[graph.receivers].double(), graph.atomic_numbers[graph.senders].double()
        a = 0.46850 / (Z_i.pow(0.23) + Z_j.pow(0.23))
        phi = (self.weights * torch.exp(-self.exponents * (lengths / a).unsqueeze(-1))).sum(dim=-1)
        f = polynomial_envelope(lengths / self.r_max, self.p)
        return pool(0.5 * 14.399645 * Z_i * Z_j / lengths * phi * f, graph.receivers, graph.num_owned)


class Core(nn.Module):
    r"""A repulsion below the shortest distance a of each pair of elements in training, half of each pair to each atom.

        V_ij = ½ K (a/r − 1)³ for r < a, else 0,   K = 500 eV

    It is twice continuously differentiable, and rises without bound. Fits do not see it: there are no such distances.
    K makes it as hard as bonds are: 0.07 eV at 0.95 a, 0.7 eV at 0.9 a, 8 eV at 0.8 a.

    Args:
        r_max: Cutoff of the neighbour list, Å.
        statistics: Elements and shortest distances; those of pairs that were never seen are 0.7 times the sum of their
            covalent radii.
    """

    K = 500.0
    shortest: Tensor

    def __init__(self, r_max: float, statistics: Statistics | None) -> None:
        super().__init__()
        self.register_buffer("shortest", wall_distances(statistics).clamp(max=r_max), persistent=False)

    def forward(self, graph: Graph, lengths: Float[Tensor, " edge"]) -> Float[Tensor, " owned"]:
        """Returns the repulsion energy of each owned atom, eV."""
        a = self.shortest[graph.atomic_numbers[graph.receivers], graph.atomic_numbers[graph.senders]]
        V = 0.5 * self.K * (a / lengths - 1.0).clamp(min=0.0) ** 3
        return pool(V, graph.receivers, graph.num_owned)


class NoRepulsion(nn.Module):
    """No pair term."""

    def forward(self, graph: Graph, lengths: Float[Tensor, " edge"]) -> Float[Tensor, " owned"]:
        """Returns zeros."""
        return lengths.new_zeros(graph.num_owned)


def repulsion(design: Design, statistics: Statistics | None = None) -> nn.Module:
    """Returns the repulsion of a design, with the distances that were measured."""
    p = design.repulsion_p or design.envelope_p
    make: dict[str, Callable[[], nn.Module]] = {
        "none": NoRepulsion,
        "zbl": lambda: ZBL(p, design.r_max),
        "zbl_lammps": lambda: LammpsZBL(p, design.r_max),
        "core": lambda: Core(design.r_max, statistics),
    }
    return make[design.pair_repulsion]()
