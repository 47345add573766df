"""Reference forward pass of Nequix (nequix 0.4): what differs from today's NequIP, with e3nn's modules.

One-hot features, a radial network without scaling, an RMS layer norm before the gate, one self-connection for all
elements or one for each (with weights times 1/√K).
"""

import math

import torch
from oracle.parts import Atoms, Energy, bessel, edge_product, envelope, made_by, o3, scatter
from torch import Tensor, nn

SILU_SECOND_MOMENT = 0.5964586854233045
"""The square root of it: over the quantiles i / 1,000,002 of the normal distribution, as e3nn-jax computes it."""


class Nequix(nn.Module):
    def __init__(
        self, hidden: str, energy: Energy, *, num_layers: int, r_max: float, p: int, mean_neighbours: float,
        num_species: int, max_ell: int, num_radial: int, radial_mlp: tuple[int, ...], indexed: bool, norm: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.energy, self.r_max, self.p = energy, r_max, p
        self.roots = torch.arange(1, num_radial + 1).double()
        self.harmonics = o3.SphericalHarmonics(o3.Irreps.spherical_harmonics(max_ell), True, "component")
        irreps = o3.Irreps(hidden)
        last = o3.Irreps(f"{num_species}x0e")
        self.layers = nn.ModuleList()
        for t in range(num_layers):
            target = o3.Irreps(f"{irreps.count('0e')}x0e") if t == num_layers - 1 else irreps
            widths = [num_radial, *radial_mlp]
            species = num_species if indexed else 1
            self.layers.append(_Layer(last, target, max_ell, widths, mean_neighbours, species, norm))
            last = target
        self.readout = nn.Parameter(torch.zeros(irreps.count("0e"), 1))

    def forward(self, atoms: Atoms) -> tuple[Tensor, list[Tensor]]:
        r = atoms.vectors.norm(dim=1)
        e = bessel(r, self.roots, self.r_max, 2 / self.r_max) * envelope(r / self.r_max, self.p)[:, None]
        Y, h, features = self.harmonics(atoms.vectors), atoms.one_hot, []
        for layer in self.layers:
            h = layer(h, atoms, Y, e)
            features.append(h)
        return self.energy(atoms.one_hot, (h @ self.readout)[:, 0] / math.sqrt(len(self.readout))), features


class _Layer(nn.Module):
    def __init__(
        self, irreps_in: o3.Irreps, hidden: o3.Irreps, max_ell: int, widths: list[int], n: float, species: int,
        norm: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        assert made_by(irreps_in, max_ell, hidden) == hidden
        self.mean_neighbours, self.irreps_out = n, hidden
        gates = sum(mul for mul, ir in hidden if ir.l > 0)
        self.before = o3.Irreps([(mul + (gates if ir.l == 0 else 0), ir) for mul, ir in hidden])
        self.linear_1 = o3.Linear(irreps_in, irreps_in)
        self.tp = edge_product(irreps_in, max_ell, hidden, by_output=True)
        shapes = zip(widths, [*widths[1:], self.tp.weight_numel], strict=True)
        self.mlp = nn.ParameterList([nn.Parameter(torch.zeros(a, b)) for a, b in shapes])
        self.linear_2 = o3.Linear(self.tp.irreps_out.simplify(), self.before)
        self.skip = nn.ModuleList([o3.Linear(irreps_in, self.before) for _ in range(species)])
        self.affine = nn.ParameterList([nn.Parameter(torch.ones(mul)) for mul, _ in self.before]) if norm else None

    def forward(self, h: Tensor, atoms: Atoms, Y: Tensor, e: Tensor) -> Tensor:
        R = e
        for W in self.mlp[:-1]:
            R = nn.functional.silu(R @ W)
        x = self.linear_2(scatter(self.tp(self.linear_1(h)[atoms.j], Y, R @ self.mlp[-1]), atoms.i, len(h)))
        species = atoms.one_hot.argmax(dim=1) if len(self.skip) > 1 else torch.zeros(len(h), dtype=torch.int64)
        skip = torch.stack([linear(h) for linear in self.skip])[species, torch.arange(len(h))]
        return self._gate(self._norm(x / math.sqrt(self.mean_neighbours) + skip))

    def _norm(self, x: Tensor) -> list[Tensor]:
        """The blocks [channel, m] of each irrep, divided by one number, as the released code sums it."""
        blocks = [
            x[:, where].reshape(len(x), mul, ir.dim)
            for (mul, ir), where in zip(self.before, self.before.slices(), strict=True)
        ]
        if self.affine is None:
            return blocks
        shares = [(b**2 / (b.shape[2] * len(blocks))).sum(dim=1).mean(dim=1) for b in blocks]
        factor = (sum(shares) + 1e-12) ** -0.5
        return [b * g[:, None] * factor[:, None, None] for b, g in zip(blocks, self.affine, strict=True)]

    def _gate(self, blocks: list[Tensor]) -> Tensor:
        scalars = nn.functional.silu(blocks[0][:, :, 0]) / SILU_SECOND_MOMENT
        kept, *gates = scalars.split([self.irreps_out[0].mul, *(b.shape[1] for b in blocks[1:])], dim=1)
        gated = [b * g[:, :, None] for b, g in zip(blocks[1:], gates, strict=True)]
        return torch.cat([kept, *(b.flatten(1) for b in gated)], dim=1)
