"""Reference forward passes of NequIP: as published (nequip 0.5) and as released today (nequip 0.19).

Edge vectors point from the centre to its neighbour; sums are divided by √n̄.
"""

import math

import torch
from oracle.parts import (
    Atoms,
    Energy,
    HiddenReadout,
    OneHotEmbedding,
    bessel,
    edge_product,
    enn,
    envelope,
    gate,
    made_by,
    o3,
    scatter,
)
from torch import Tensor, nn


class Published(nn.Module):
    """nequip 0.5: trainable Bessel roots, gate in every layer, self-connection in every layer, two linear maps."""

    def __init__(
        self, hidden: str, energy: Energy, *, num_layers: int, r_max: float, p: int, readout_hidden: int,
        mean_neighbours: float, num_species: int, max_ell: int, num_radial: int, radial_mlp: tuple[int, ...],
    ) -> None:  # fmt: skip
        super().__init__()
        self.energy, self.r_max, self.p = energy, r_max, p
        self.bessel_weights = nn.Parameter(torch.arange(1, num_radial + 1).double())
        irreps = o3.Irreps(hidden)
        self.chemical_embedding = OneHotEmbedding(num_species, irreps.count("0e"))
        self.harmonics = o3.SphericalHarmonics(o3.Irreps.spherical_harmonics(max_ell), True, "component")
        self.layers = nn.ModuleList()
        last = o3.Irreps(f"{irreps.count('0e')}x0e")
        for _ in range(num_layers):
            layer = _PublishedLayer(last, irreps, max_ell, num_species, [num_radial, *radial_mlp], mean_neighbours)
            self.layers.append(layer)
            last = layer.irreps_out
        self.readout = HiddenReadout(last, readout_hidden, silu=False)

    def forward(self, atoms: Atoms) -> tuple[Tensor, list[Tensor]]:
        r = atoms.vectors.norm(dim=1)
        e = bessel(r, self.bessel_weights, self.r_max, 2 / self.r_max) * envelope(r / self.r_max, self.p)[:, None]
        Y = self.harmonics(atoms.vectors)
        h, features = self.chemical_embedding(atoms.one_hot), []
        for layer in self.layers:
            h = layer(h, atoms, Y, e)
            features.append(h)
        return self.energy(atoms.one_hot, self.readout(h)[:, 0]), features


class _PublishedLayer(nn.Module):
    def __init__(
        self, irreps_in: o3.Irreps, hidden: o3.Irreps, max_ell: int, num_species: int, radial: list[int], n: float
    ) -> None:
        super().__init__()
        self.mean_neighbours = n
        self.gate = gate(made_by(irreps_in, max_ell, hidden))
        self.linear_1 = o3.Linear(irreps_in, irreps_in)
        self.tp = edge_product(irreps_in, max_ell, self.gate.irreps_in, by_output=False)
        self.fc = enn.FullyConnectedNet([*radial, self.tp.weight_numel], nn.functional.silu)
        self.linear_2 = o3.Linear(self.tp.irreps_out.simplify(), self.gate.irreps_in)
        self.sc = o3.FullyConnectedTensorProduct(irreps_in, f"{num_species}x0e", self.gate.irreps_in)
        self.irreps_out = self.gate.irreps_out

    def forward(self, h: Tensor, atoms: Atoms, Y: Tensor, e: Tensor) -> Tensor:
        x = scatter(self.tp(self.linear_1(h)[atoms.j], Y, self.fc(e)), atoms.i, len(h))
        x = self.linear_2(x / math.sqrt(self.mean_neighbours))
        return self.gate(x + self.sc(h, atoms.one_hot))


class Current(nn.Module):
    """nequip 0.19: table of types, own scaling of the radial network, self-connection by type embedding.

    Args:
        hidden: Irreps of all layers but the last, in the order of the released code (0e, 0o, 1e, 1o, …).
        mean_neighbours: One number, or one for each species; then it is that of the sender.
    """

    def __init__(
        self, hidden: str, energy: Energy, *, num_layers: int, r_max: float, p: int, mean_neighbours: list[float],
        num_species: int, max_ell: int, num_radial: int, radial_mlp: tuple[int, ...], type_embed: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.energy, self.r_max, self.p, self.num_radial = energy, r_max, p, num_radial
        self.type_embed = nn.Embedding(num_species, type_embed)
        self.harmonics = o3.SphericalHarmonics(o3.Irreps.spherical_harmonics(max_ell), True, "component")
        irreps = o3.Irreps(hidden)
        scalars = o3.Irreps(f"{irreps.count('0e')}x0e")
        last = o3.Irreps(f"{type_embed}x0e")
        self.layers = nn.ModuleList()
        for t in range(num_layers):
            target = scalars if t == num_layers - 1 else irreps
            widths = [num_radial, *radial_mlp]
            self.layers.append(_CurrentLayer(last, target, max_ell, widths, type_embed if t else None))
            last = self.layers[-1].irreps_out
        self.readout = nn.Parameter(torch.zeros(irreps.count("0e"), 1))
        self.norm = torch.tensor([1 / math.sqrt(n) for n in mean_neighbours])

    def forward(self, atoms: Atoms) -> tuple[Tensor, list[Tensor]]:
        r = atoms.vectors.norm(dim=1)
        w, x = torch.arange(1, self.num_radial + 1).double(), r[:, None] / self.r_max
        e = torch.sinc(x * w) * w * envelope(x, self.p) * 2 * math.pi / self.r_max**2
        Y = self.harmonics(atoms.vectors)
        types = atoms.one_hot.argmax(dim=1)
        attrs = h = self.type_embed(types)
        norm = self.norm[types if len(self.norm) > 1 else torch.zeros_like(types), None]
        features = []
        for layer in self.layers:
            h = layer(h, attrs, norm, atoms, Y, e)
            features.append(h)
        read = (h @ self.readout)[:, 0] / math.sqrt(len(self.readout))
        return self.energy(atoms.one_hot, read), features


class _CurrentLayer(nn.Module):
    def __init__(
        self, irreps_in: o3.Irreps, hidden: o3.Irreps, max_ell: int, widths: list[int], attrs: int | None
    ) -> None:
        super().__init__()
        self.gate = gate(made_by(irreps_in, max_ell, hidden))
        self.linear_1 = o3.Linear(irreps_in, irreps_in)
        self.tp = edge_product(irreps_in, max_ell, self.gate.irreps_in, by_output=False)
        shapes = zip(widths, [*widths[1:], self.tp.weight_numel], strict=True)
        self.mlp = nn.ParameterList([nn.Parameter(torch.zeros(a, b)) for a, b in shapes])
        self.linear_2 = o3.Linear(self.tp.irreps_out.simplify(), self.gate.irreps_in)
        self.sc = o3.FullyConnectedTensorProduct(irreps_in, f"{attrs}x0e", self.gate.irreps_in) if attrs else None
        self.irreps_out = self.gate.irreps_out

    def forward(self, h: Tensor, attrs: Tensor, norm: Tensor, atoms: Atoms, Y: Tensor, e: Tensor) -> Tensor:
        R = e @ self.mlp[0] / math.sqrt(len(self.mlp[0]))
        for W in self.mlp[1:]:
            R = nn.functional.silu(R) @ W * math.sqrt(2 / len(W))
        x = self.linear_2(scatter(self.tp((self.linear_1(h) * norm)[atoms.j], Y, R), atoms.i, len(h)))
        return self.gate(x if self.sc is None else x + self.sc(h, attrs))
