"""Reference forward pass of MACE's released code: interactions, products by explicit chains of couplings, readouts."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from oracle.parts import (
    Atoms,
    BiasedReadout,
    Energy,
    HiddenReadout,
    OneHotEmbedding,
    bessel,
    edge_product,
    enn,
    envelope,
    o3,
    scatter,
    zbl,
)
from torch import Tensor, nn

Chain = tuple[o3.Irrep, Tensor]
"""The result of coupling some factors: its irrep and values [node, m, channel]."""


def couple(left: list[Chain], A: list[Chain], wanted: Callable[[o3.Irrep], bool]) -> list[Chain]:
    """One more factor: every pair to every wanted irrep it allows, √(2l+1) w3j, results sorted by irrep."""
    coupled = []
    for ir_left, x in left:
        for ir, a in A:
            for ir_out in filter(wanted, ir_left * ir):
                C = math.sqrt(ir_out.dim) * o3.wigner_3j(ir_out.l, ir_left.l, ir.l, dtype=torch.float64)
                coupled.append((ir_out, torch.einsum("mpq,npc,nqc->nmc", C, x, a)))
    return sorted(coupled, key=lambda chain: chain[0])


def chains(A: list[Chain], nu: int, target: o3.Irreps) -> list[Chain]:
    """All ways to couple ν factors to the target; chains of four pass irreps of natural parity only."""
    left = A
    for n in range(2, nu + 1):
        last = n == nu
        left = couple(left, A, lambda ir, last=last: ir in target if last else nu != 4 or ir.p == (-1) ** ir.l)
    return left


class Product(nn.Module):
    """B_i = Σ_ν w^(ν)_{z_i} (A_i coupled ν times), then a linear map, without any coefficient tensor U."""

    def __init__(self, target: o3.Irreps, correlation: int, A: o3.Irreps) -> None:
        super().__init__()
        self.A, self.target, self.correlation = A, target, correlation
        self.weights: dict[tuple[str, int], Tensor] = {}  # (irrep, ν): [species, path, channel]
        self.linear = o3.Linear(target, target)

    def forward(self, A: Tensor, one_hot: Tensor) -> Tensor:
        slices = zip(self.A, self.A.slices(), strict=True)
        factors = [(ir, A[:, s].reshape(len(A), mul, ir.dim).transpose(1, 2)) for (mul, ir), s in slices]
        B = {ir: torch.zeros(len(A), ir.dim, mul) for mul, ir in self.target}
        for nu in range(1, self.correlation + 1):
            coupled = chains(factors, nu, self.target)
            for ir in B:
                paths = [x for ir_out, x in coupled if ir_out == ir]
                w = torch.einsum("nz,zpc->npc", one_hot, self.weights[str(ir), nu])
                B[ir] = B[ir] + torch.einsum("npc,npmc->nmc", w, torch.stack(paths, dim=1))
        return self.linear(torch.cat([B[ir].transpose(1, 2).flatten(1) for _, ir in self.target], dim=1))


class Layer(nn.Module):
    """Interaction and product; `residual` or element weights on A, n̄ or a learned density."""

    def __init__(
        self, irreps_in: o3.Irreps, edge: o3.Irreps, A: o3.Irreps, target: o3.Irreps, *, residual: bool,
        density: bool, radial: type[nn.Module], correlation: int, max_ell: int, num_species: int, num_radial: int,
        radial_mlp: tuple[int, ...], mean_neighbours: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.residual, self.mean_neighbours, self.num_species = residual, mean_neighbours, num_species
        self.linear_up = o3.Linear(irreps_in, edge)
        self.conv_tp = edge_product(edge, max_ell, A, by_output=True)
        self.radial = radial(num_radial, radial_mlp, self.conv_tp.weight_numel, num_species)
        self.linear = o3.Linear(self.conv_tp.irreps_out, A)
        self.density_fn = enn.FullyConnectedNet([num_radial, 1], nn.functional.silu) if density else None
        one_hot = f"{num_species}x0e"
        self.skip_tp = o3.FullyConnectedTensorProduct(*((irreps_in, one_hot, target) if residual else (A, one_hot, A)))
        self.product = Product(target, correlation, A)

    def forward(self, h: Tensor, atoms: Atoms, Y: Tensor, e: Tensor, cutoff: Tensor) -> Tensor:
        R = self.radial(e, atoms.one_hot[atoms.j]) * cutoff
        m = self.linear(scatter(self.conv_tp(self.linear_up(h)[atoms.j], Y, R), atoms.i, len(h)))
        if self.density_fn is None:
            m = m / self.mean_neighbours
        else:
            m = m / (1 + scatter(torch.tanh(self.density_fn(e) ** 2) * cutoff, atoms.i, len(h)))
        if self.residual:
            return self.product(m, atoms.one_hot) + self.skip_tp(h, atoms.one_hot)
        return self.product(self.skip_tp(m, atoms.one_hot), atoms.one_hot)


class NonLinearLayer(nn.Module):
    """RealAgnosticResidualNonLinearInteractionBlock and its product: gate on the message, elements in R and density."""

    def __init__(
        self, irreps_in: o3.Irreps, edge: o3.Irreps, A: o3.Irreps, target: o3.Irreps, *, correlation: int,
        max_ell: int, num_species: int, num_radial: int, radial_mlp: tuple[int, ...], density_width: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_species = num_species
        channels = irreps_in.count("0e")
        self.source, self.target = (o3.Linear(f"{num_species}x0e", f"{channels}x0e") for _ in range(2))
        self.linear_up = o3.Linear(irreps_in, edge)
        self.conv_tp = edge_product(edge, max_ell, A, by_output=True)
        inputs = num_radial + 2 * channels
        self.radial = layer_norm_network([inputs, *radial_mlp, self.conv_tp.weight_numel])
        self.density_fn = layer_norm_network([inputs, density_width, 1])
        self.alpha, self.beta = (nn.Parameter(torch.zeros(())) for _ in range(2))
        scalars = o3.Irreps([(mul, ir) for mul, ir in A if ir.l == 0])
        gated = o3.Irreps([(mul, ir) for mul, ir in A if ir.l > 0])
        gates = o3.Irreps([(mul, "0e") for mul, _ in gated])
        silu, sigmoid = nn.functional.silu, torch.sigmoid
        self.gate = enn.Gate(scalars, [silu] * len(scalars), gates, [sigmoid] * len(gates), gated)
        self.linear_1 = o3.Linear(self.conv_tp.irreps_out, self.gate.irreps_in.simplify())
        self.linear_res = o3.Linear(edge, self.gate.irreps_in.simplify())
        self.linear_2 = o3.Linear(A, A)
        self.skip = o3.Linear(irreps_in, target)
        self.product = Product(target, correlation, A)

    def forward(self, h: Tensor, atoms: Atoms, Y: Tensor, e: Tensor, cutoff: Tensor) -> Tensor:
        up = self.linear_up(h)
        pair = torch.cat([e, self.source(atoms.one_hot)[atoms.j], self.target(atoms.one_hot)[atoms.i]], dim=1)
        m = self.linear_1(scatter(self.conv_tp(up[atoms.j], Y, self.radial(pair) * cutoff), atoms.i, len(h)))
        rho = scatter(torch.tanh(self.density_fn(pair) ** 2) * cutoff, atoms.i, len(h))
        m = self.gate(m / (self.alpha + self.beta * rho) + self.linear_res(up))
        return self.product(self.linear_2(m), atoms.one_hot) + self.skip(h)


def layer_norm_network(widths: list[int]) -> nn.Sequential:
    """Linear → LayerNorm → SiLU for hidden layers, and a last Linear, all with biases."""
    modules: list[nn.Module] = []
    for a, b in pairwise(widths[:-1]):
        modules += [nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU()]
    return nn.Sequential(*modules, nn.Linear(*widths[-2:]))


class MACE(nn.Module):
    """The whole model.

    Args:
        hidden: Irreps of the features, e.g. 8x0e+8x1o.
        energy: E0, scale and shift.
        readout_hidden: Width of the last readout, Linear → SiLU → Linear, or 0 if it is linear (one layer).
        edge: Irreps of U h in all layers but the first, or in all if `edge_first`; none for those of h.
        nonlinear: Layers with RealAgnosticResidualNonLinearInteractionBlock.
        biased: NonLinearBiasReadoutBlock as last readout.
        every: Every layer is read out, else the last one only.
        residual_first: RealAgnosticResidualInteractionBlock in the first layer too, else RealAgnosticInteractionBlock.
        transform: Transform of the distance before the basis, of (r, Z_i, Z_j), or none.
        cutoff_on_basis: Else the envelope multiplies the radial weights (and the density).
    """

    def __init__(
        self, hidden: str, energy: Energy, *, num_layers: int, residual_first: bool, density: bool, correlation: int,
        transform: Callable[[Tensor, Tensor, Tensor], Tensor] | None, repulsion: bool, cutoff_on_basis: bool,
        radial: type[nn.Module], r_max: float, p: int, readout_hidden: int, max_ell: int, num_species: int,
        num_radial: int, edge: str | None = None, edge_first: bool = False, nonlinear: Sequence[int] = (),
        biased: bool = False, every: bool = True, mean_neighbours: float = 1.0, **size,
    ) -> None:  # fmt: skip
        super().__init__()
        self.energy, self.r_max, self.p, self.num_radial = energy, r_max, p, num_radial
        self.transform, self.repulsion, self.cutoff_on_basis = transform, repulsion, cutoff_on_basis
        irreps = o3.Irreps(hidden)
        channels = irreps.count("0e")
        scalars = o3.Irreps(f"{channels}x0e")
        harmonics = o3.Irreps.spherical_harmonics(max_ell)
        self.node_embedding = OneHotEmbedding(num_species, channels)
        self.harmonics = o3.SphericalHarmonics(harmonics, True, "component")
        A = o3.Irreps([(channels, ir) for _, ir in harmonics])
        self.layers, self.readouts, last = nn.ModuleList(), nn.ModuleList(), scalars
        for t in range(num_layers):
            target = scalars if t == num_layers - 1 else irreps
            up = o3.Irreps(edge) if edge and t > 0 else last
            if edge and edge_first and t == 0:
                up = o3.Irreps([(o3.Irreps(edge).count("0e"), "0e")])
            ordinary = {
                "residual": residual_first or t > 0, "density": density, "radial": radial,
                "mean_neighbours": mean_neighbours,
            }  # fmt: skip
            make, own = (NonLinearLayer, {}) if t in nonlinear else (Layer, ordinary)
            self.layers.append(
                make(
                    last, up, A, target, correlation=correlation, max_ell=max_ell, num_species=num_species,
                    num_radial=num_radial, **own, **size,
                )
            )  # fmt: skip
            last = target
        self.readouts = nn.ModuleList([o3.Linear(irreps, "0e") for _ in range(num_layers - 1) if every])
        self.last_readout: nn.Module = o3.Linear(scalars, "0e")
        if readout_hidden:
            self.last_readout = (
                BiasedReadout(scalars, readout_hidden) if biased else HiddenReadout(scalars, readout_hidden, silu=True)
            )

    def forward(self, atoms: Atoms) -> tuple[Tensor, list[Tensor]]:
        r, Z_i, Z_j = atoms.vectors.norm(dim=1), atoms.Z[atoms.i], atoms.Z[atoms.j]
        Y = self.harmonics(-atoms.vectors)
        cutoff = envelope(r / self.r_max, self.p)[:, None]
        x = self.transform(r, Z_i, Z_j) if self.transform else r
        e = bessel(x, torch.arange(1, self.num_radial + 1).double(), self.r_max, math.sqrt(2 / self.r_max))
        if self.cutoff_on_basis:
            e, cutoff = e * cutoff, torch.ones_like(cutoff)
        h, features = self.node_embedding(atoms.one_hot), []
        for layer in self.layers:
            h = layer(h, atoms, Y, e, cutoff)
            features.append(h)
        read = [readout(h)[:, 0] for readout, h in zip(self.readouts, features[:-1], strict=False)]
        read.append(self.last_readout(h)[:, 0])
        E = self.energy(atoms.one_hot, sum(read))
        return E + scatter(zbl(r, Z_i, Z_j, self.p), atoms.i, len(h)) if self.repulsion else E, features
