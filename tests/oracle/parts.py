"""What the reference models share: edges, forces by positions and strain, radial functions, e3nn's product paths.

Independent of equipot: neighbours come from ASE, forces from a derivative with respect to the positions.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import ase
import numpy as np
import torch
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # e3nn's own deprecations, at import
    import e3nn
    from e3nn import nn as enn
    from e3nn import o3


class Atoms(NamedTuple):
    """One structure as the reference models see it."""

    Z: Tensor  # [node] atomic numbers
    one_hot: Tensor  # [node, species]
    i: Tensor  # [edge] central atom
    j: Tensor  # [edge] neighbour
    vectors: Tensor  # [edge, 3] r_j + S·cell − r_i


class Answer(NamedTuple):
    energy: Tensor  # []
    node_energy: Tensor  # [node]
    forces: Tensor  # [node, 3]
    virial: Tensor  # [3, 3]
    features: list[Tensor]  # after each layer, in e3nn's layout


@contextmanager
def double_precision():
    """e3nn bakes its coefficients in the default dtype of construction; TorchScript only costs time here."""
    dtype, scripted = torch.get_default_dtype(), e3nn.get_optimization_defaults()["jit_script_fx"]
    torch.set_default_dtype(torch.float64)
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(dtype)
        e3nn.set_optimization_defaults(jit_script_fx=scripted)


def predict(
    model: Callable[[Atoms], tuple[Tensor, list[Tensor]]], atoms: ase.Atoms, species: tuple[int, ...], r_max: float
) -> Answer:
    """Energies, forces and virial of one structure, by derivatives with respect to positions and strain."""
    i, j, S = (torch.from_numpy(np.asarray(x)) for x in neighbor_list("ijS", atoms, r_max))
    positions = torch.tensor(atoms.positions, dtype=torch.float64, requires_grad=True)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    cell = torch.tensor(atoms.cell.array, dtype=torch.float64)
    vectors = (positions[j] - positions[i] + S.double() @ cell) @ (torch.eye(3, dtype=torch.float64) + strain)
    Z = torch.tensor(atoms.numbers)
    one_hot = (Z[:, None] == torch.tensor(species)).double()
    node_energy, features = model(Atoms(Z, one_hot, i, j, vectors))
    gradient, strain_gradient = torch.autograd.grad(node_energy.sum(), [positions, strain])
    virial = -(strain_gradient + strain_gradient.T) / 2
    node_energy = node_energy.detach()
    return Answer(node_energy.sum(), node_energy, -gradient, virial, [h.detach() for h in features])


def scatter(values: Tensor, index: Tensor, num: int) -> Tensor:
    return torch.zeros(num, *values.shape[1:], dtype=values.dtype).index_add(0, index, values)


def envelope(x: Tensor, p: int) -> Tensor:
    f = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    return f * (x < 1)


def bessel(r: Tensor, roots: Tensor, r_max: float, prefactor: float) -> Tensor:
    """prefactor · sin(w π r / r_max) / r for each root w."""
    return prefactor * torch.sin(roots * math.pi * r[:, None] / r_max) / r[:, None]


def agnesi(r: Tensor, Z_i: Tensor, Z_j: Tensor) -> Tensor:
    q, p, a = 0.9183, 4.5791, 1.0805
    x = 2 * r / _sum_of_radii(Z_i, Z_j)
    return 1 / (1 + a * x**q / (1 + x ** (q - p)))


def soft(r: Tensor, Z_i: Tensor, Z_j: Tensor) -> Tensor:
    r0 = _sum_of_radii(Z_i, Z_j)
    low, high = 3 / 4 * r0, 4 / 3 * r0
    s = torch.sigmoid(2 * 4 / (high - low) * (r - (low + high) / 2))  # ½ (1 + tanh x) = sigmoid(2 x)
    return low * (1 - s) + r * s


def zbl(r: Tensor, Z_i: Tensor, Z_j: Tensor, p: int) -> Tensor:
    """Half the screened repulsion of each directed pair."""
    a = 0.4543 * 0.529 / (Z_i.double() ** 0.3 + Z_j.double() ** 0.3)
    terms = [(0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4028), (0.02817, 0.2016)]
    phi = sum(c * torch.exp(-b * r / a) for c, b in terms)
    return 0.5 * 14.3996 * Z_i.double() * Z_j.double() / r * phi * envelope(r / _sum_of_radii(Z_i, Z_j), p)


def _sum_of_radii(Z_i: Tensor, Z_j: Tensor) -> Tensor:
    radii = torch.tensor(covalent_radii, dtype=torch.float64)
    return radii[Z_i] + radii[Z_j]


def edge_product(irreps_in: o3.Irreps, max_ell: int, target: o3.Irreps, *, by_output: bool) -> o3.TensorProduct:
    """The `uvu` product of features and harmonics: every path to the target, outputs sorted.

    Weights are ordered as the loop (input, ℓ, output) finds the paths (nequip, BOTNet), or by sorted output (MACE).
    """
    edge = o3.Irreps.spherical_harmonics(max_ell)
    found = [
        (n, m, mul, ir_out)
        for n, (mul, ir) in enumerate(irreps_in)
        for m, (_, ir_edge) in enumerate(edge)
        for ir_out in ir * ir_edge
        if ir_out in target
    ]
    middle, slot, _ = o3.Irreps([(mul, ir) for _, _, mul, ir in found]).sort()
    instructions = [(n, m, slot[k], "uvu", True) for k, (n, m, _, _) in enumerate(found)]
    if by_output:
        instructions.sort(key=lambda instruction: instruction[2])
    return o3.TensorProduct(irreps_in, edge, middle, instructions, shared_weights=False, internal_weights=False)


def made_by(irreps_in: o3.Irreps, max_ell: int, target: o3.Irreps) -> o3.Irreps:
    """The target irreps that some path makes."""
    edge = o3.Irreps.spherical_harmonics(max_ell)
    made = {ir_out for _, ir in irreps_in for _, ir_edge in edge for ir_out in ir * ir_edge}
    return o3.Irreps([(mul, ir) for mul, ir in target if ir in made])


class OneHotEmbedding(nn.Module):
    """h⁰ = Linear(onehot z)."""

    def __init__(self, num_species: int, channels: int) -> None:
        super().__init__()
        self.linear = o3.Linear(f"{num_species}x0e", f"{channels}x0e")

    def forward(self, one_hot: Tensor) -> Tensor:
        return self.linear(one_hot)


class HiddenReadout(nn.Module):
    """Linear → act → Linear, with act SiLU scaled by e3nn or nothing."""

    def __init__(self, irreps: o3.Irreps, hidden: int, *, silu: bool) -> None:
        super().__init__()
        self.linear_1 = o3.Linear(irreps, f"{hidden}x0e")
        self.act = enn.Activation(f"{hidden}x0e", [nn.functional.silu if silu else None])
        self.linear_2 = o3.Linear(f"{hidden}x0e", "0e")

    def forward(self, h: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(h)))


class BiasedReadout(nn.Module):
    """Linear → SiLU → Linear with bias → SiLU → Linear with bias, SiLU scaled by e3nn."""

    def __init__(self, irreps: o3.Irreps, hidden: int) -> None:
        super().__init__()
        self.linear_1 = o3.Linear(irreps, f"{hidden}x0e")
        self.act = enn.Activation(f"{hidden}x0e", [nn.functional.silu])
        self.linear_mid = o3.Linear(f"{hidden}x0e", f"{hidden}x0e", biases=True)
        self.linear_2 = o3.Linear(f"{hidden}x0e", "0e", biases=True)

    def forward(self, h: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_mid(self.act(self.linear_1(h)))))


class AgnosticRadial(nn.Module):
    """Radial MLP, the same for all elements."""

    def __init__(self, num_radial: int, hidden: tuple[int, ...], num_weights: int, num_species: int) -> None:
        super().__init__()
        self.net = enn.FullyConnectedNet([num_radial, *hidden, num_weights], nn.functional.silu)

    def forward(self, e: Tensor, sender: Tensor) -> Tensor:
        return self.net(e)


class ElementRadial(nn.Module):
    """Linear in the basis, with weights for each element of the sender."""

    def __init__(self, num_radial: int, hidden: tuple[int, ...], num_weights: int, num_species: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_species, num_radial, num_weights))

    def forward(self, e: Tensor, sender: Tensor) -> Tensor:
        return torch.einsum("en,ea,ank->ek", e, sender, self.weights)


def gate(irreps: o3.Irreps) -> enn.Gate:
    """SiLU on even scalars and gates, tanh on odd scalars; one even gate for each channel of degree ≥ 1."""
    scalars = o3.Irreps([(mul, ir) for mul, ir in irreps if ir.l == 0])
    gated = o3.Irreps([(mul, ir) for mul, ir in irreps if ir.l > 0])
    activations = [nn.functional.silu if ir.p == 1 else torch.tanh for _, ir in scalars]
    gates = o3.Irreps([(mul, "0e") for mul, _ in gated])
    return enn.Gate(scalars, activations, gates, [nn.functional.silu] * len(gates), gated)


class Energy(NamedTuple):
    """Constants of the energy: per species E0, and scale and shift of the interaction energy."""

    E0: Tensor
    scale: Tensor
    shift: Tensor

    def __call__(self, one_hot: Tensor, interaction: Tensor) -> Tensor:
        return one_hot @ self.E0 + (one_hot @ self.scale) * interaction + one_hot @ self.shift
