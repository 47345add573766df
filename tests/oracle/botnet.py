"""Reference forward pass of BOTNet's released code: its interaction blocks, NequIP's as written there, readouts.

Edges point from the sender to the receiver; messages are divided by n̄ after the linear map.
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
    envelope,
    gate,
    made_by,
    o3,
    scatter,
)
from torch import Tensor, nn


class Block(nn.Module):
    """One interaction block. `form`: "first" (element weights on the message), "residual", "no_sc" or "gate"."""

    def __init__(self, form: str, radial: type[nn.Module], irreps_in: o3.Irreps, hidden: o3.Irreps, **size) -> None:
        super().__init__()
        self.form, self.mean_neighbours = form, size["mean_neighbours"]
        num_species, max_ell = size["num_species"], size["max_ell"]
        self.linear_up = o3.Linear(irreps_in, irreps_in)
        made = made_by(irreps_in, max_ell, hidden)
        self.gate = gate(made) if form == "gate" else None
        target = self.gate.irreps_in.simplify() if self.gate else made
        self.conv_tp = edge_product(irreps_in, max_ell, hidden, by_output=False)
        self.radial = radial(size["num_radial"], size["radial_mlp"], self.conv_tp.weight_numel, num_species)
        self.linear = o3.Linear(self.conv_tp.irreps_out.simplify(), target)
        if form != "no_sc":
            source = target if form == "first" else irreps_in
            self.skip_tp = o3.FullyConnectedTensorProduct(source, f"{num_species}x0e", target)
        self.irreps_out = self.gate.irreps_out.simplify() if self.gate else target

    def forward(self, h: Tensor, one_hot: Tensor, Y: Tensor, e: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
        R = self.radial(e, one_hot[sender])
        m = scatter(self.conv_tp(self.linear_up(h)[sender], Y, R), receiver, len(h))
        m = self.linear(m) / self.mean_neighbours
        if self.form == "first":
            return self.skip_tp(m, one_hot)
        if self.form == "no_sc":
            return m
        m = m + self.skip_tp(h, one_hot)
        return self.gate(m) if self.form == "gate" else m


class BOTNet(nn.Module):
    """The whole model: `forms` of the blocks, readouts of all layers or of the last one only."""

    def __init__(
        self, forms: list[str], radial: type[nn.Module], hidden: str, energy: Energy, *,
        every: bool, silu: bool, mlp: int, r_max: float, p: int, **size,
    ) -> None:  # fmt: skip
        super().__init__()
        self.energy, self.r_max, self.p, self.every = energy, r_max, p, every
        self.num_radial = size["num_radial"]
        irreps = o3.Irreps(hidden)
        self.embedding = OneHotEmbedding(size["num_species"], irreps.count("0e"))
        self.harmonics = o3.SphericalHarmonics(
            o3.Irreps.spherical_harmonics(size["max_ell"]), normalize=True, normalization="component"
        )
        self.blocks = nn.ModuleList()
        last = o3.Irreps(f"{irreps.count('0e')}x0e")
        for form in forms:
            self.blocks.append(Block(form, radial, last, irreps, **size))
            last = self.blocks[-1].irreps_out
        self.readouts = nn.ModuleList([o3.Linear(block.irreps_out, "0e") for block in self.blocks[:-1] if every])
        self.last_readout = HiddenReadout(last, mlp, silu=silu)

    def forward(self, atoms: Atoms) -> tuple[Tensor, list[Tensor]]:
        sender, receiver, vectors = atoms.j, atoms.i, -atoms.vectors
        r = vectors.norm(dim=1)
        Y = self.harmonics(vectors)
        roots = torch.arange(1, self.num_radial + 1).double()
        e = bessel(r, roots, self.r_max, math.sqrt(2 / self.r_max)) * envelope(r / self.r_max, self.p)[:, None]
        h, features = self.embedding(atoms.one_hot), []
        for block in self.blocks:
            h = block(h, atoms.one_hot, Y, e, sender, receiver)
            features.append(h)
        read = [readout(h)[:, 0] for readout, h in zip(self.readouts, features[:-1], strict=False)]
        read.append(self.last_readout(h)[:, 0])
        return self.energy(atoms.one_hot, sum(read)), features
