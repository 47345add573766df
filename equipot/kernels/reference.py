"""Plain-torch evaluation of the operations: their definition, and the oracle of every other backend."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.geometry import pool
from equipot.kernels.linear_map import LinearMap
from equipot.kernels.polynomial import Convolution, Product
from equipot.o3 import Irrep, Irreps, clebsch_gordan, spherical_harmonics


class SpeciesGroups(NamedTuple):
    """Atoms grouped by element, so that each element's matrix is applied in one product.

    Attributes:
        species: Index of each atom's element.
        order: Atoms sorted by element.
        starts: Where each element begins in that order, and the number of atoms.
    """

    species: Int[Tensor, " node"]
    order: Int[Tensor, " node"]
    starts: Int[Tensor, " species+1"]


def group_by_species(species: Int[Tensor, " node"], num_species: int) -> SpeciesGroups:
    """Returns the atoms grouped by element index (0 … num_species − 1)."""
    order = torch.argsort(species, stable=True)
    elements = torch.arange(num_species + 1, device=order.device)
    return SpeciesGroups(species, order, torch.searchsorted(species.index_select(0, order), elements))


def species_matmul(
    x: Float[Tensor, "node m channel_in"],
    W: Float[Tensor, "species channel_in channel_out"],
    groups: SpeciesGroups,
) -> Float[Tensor, "node m channel_out"]:
    """Returns y_i = x_i W_{z_i}, one matrix product per element present."""
    parts = x.index_select(0, groups.order).split(groups.starts.diff().tolist())
    y = torch.cat([part @ W[s] for s, part in enumerate(parts)])
    return y.index_select(0, torch.argsort(groups.order))


class ReferenceLinear(nn.Module):
    """Evaluates a `LinearMap`: split, one matrix product per irrep (and species), join."""

    def __init__(self, description: LinearMap) -> None:
        super().__init__()
        self.description = description

    def forward(
        self,
        x: Float[Tensor, "node dim_in"],
        matrices: Sequence[Tensor],
        groups: SpeciesGroups | None,
    ) -> Float[Tensor, "node dim_out"]:
        """Returns y; the matrices are [K, K'], or [species, K, K'] where there are groups."""
        d = self.description
        parts = {ir: part for (_, ir), part in zip(d.irreps_in, irreps_split(x, d.irreps_in), strict=True)}
        mixed = {}
        for (ir, *_, scale), W in zip(d.blocks, matrices, strict=True):
            mixed[ir] = parts[ir] @ (W * scale) if groups is None else species_matmul(parts[ir], W * scale, groups)
        zeros = {ir: x.new_zeros((x.shape[0], ir.dim, mul)) for mul, ir in d.irreps_out if ir not in mixed}
        return irreps_join([zeros[ir] if ir in zeros else mixed[ir] for _, ir in d.irreps_out])


class ReferenceConvolution(nn.Module):
    """Evaluates a `Convolution`: couple with Y, multiply by R, pool (see the description for the formula)."""

    def __init__(self, description: Convolution, dtype: torch.dtype) -> None:
        super().__init__()
        self.description = description
        self.num_lm = (description.max_ell + 1) ** 2
        self.dims_in = [mul * ir.dim for mul, ir in description.irreps_in]
        self.blocks = _blocks(description)
        columns = []
        for segment, blocks in enumerate(self.blocks):
            dim_in = description.irreps_in[segment][1].dim
            columns += [
                _coupling(dim_in, ell, ir_out.l, self.num_lm)
                for ir_out, ells, _ in blocks
                for ell in ells
            ]  # fmt: skip
        couplings = torch.cat(columns, dim=1) if columns else torch.zeros(self.num_lm, 0)
        self.register_buffer("couplings", couplings.to(dtype), persistent=False)
        self.coupling_sizes = [
            sum(len(ells) * ir_out.dim for ir_out, ells, _ in blocks) * description.irreps_in[segment][1].dim
            for segment, blocks in enumerate(self.blocks)
        ]
        self.weight_sizes = _weight_sizes(description)
        self.made = sorted({ir_out for blocks in self.blocks for ir_out, *_ in blocks})

    couplings: Tensor

    def forward(
        self,
        h: Float[Tensor, "node dim_in"],
        Y: Float[Tensor, "edge lm"],
        R: Float[Tensor, "edge weights"],
        senders: Int[Tensor, " edge"],
        receivers: Int[Tensor, " edge"],
        num_nodes: int,
    ) -> Float[Tensor, "receiver dim_out"]:
        """Returns the pooled products a_i for the first `num_nodes` nodes."""
        weights = iter(R.split(self.weight_sizes, dim=1))
        weight_of = {key: next(weights) for key in _weight_order(self.description)}
        C = (Y @ self.couplings).split(self.coupling_sizes, dim=1)
        pooled: dict[Irrep, list[Tensor]] = {}
        segments = h.index_select(0, senders).split(self.dims_in, dim=1)
        for segment, (blocks, (mul, ir_in)) in enumerate(zip(self.blocks, self.description.irreps_in, strict=True)):
            if not blocks:
                continue
            coupled = torch.bmm(
                C[segment].unflatten(1, (-1, ir_in.dim)), segments[segment].unflatten(1, (ir_in.dim, mul))
            )
            parts = coupled.split([len(ells) * ir_out.dim for ir_out, ells, _ in blocks], dim=1)
            for (ir_out, ells, _), part in zip(blocks, parts, strict=True):
                R_block = weight_of[segment, ir_out].unflatten(1, (len(ells), 1, mul))
                edges = part.unflatten(1, (len(ells), ir_out.dim)) * R_block
                node = pool(edges, receivers, num_nodes).transpose(1, 2).flatten(2)
                pooled.setdefault(ir_out, []).append(node)
        flat = [torch.cat(pooled[ir], dim=2).flatten(1) for ir in self.made]
        return torch.cat(flat, dim=1)


def _blocks(description: Convolution) -> list[list[tuple]]:
    """Per input segment: (output irrep, degrees ℓ of its paths, channels)."""
    blocks: list[list[tuple]] = []
    for segment, (mul, _) in enumerate(description.irreps_in):
        paths = [path for path in description.paths if path.segment == segment]
        outs = sorted({path.ir_out for path in paths})
        blocks.append([(ir, [path.ell for path in paths if path.ir_out == ir], mul) for ir in outs])
    return blocks


def _weight_order(description: Convolution) -> list[tuple]:
    """The (segment, output irrep) blocks in the order of R's columns."""
    return list(dict.fromkeys((path.segment, path.ir_out) for path in description.paths))


def _weight_sizes(description: Convolution) -> list[int]:
    sizes = dict.fromkeys(_weight_order(description), 0)
    for path in description.paths:
        sizes[path.segment, path.ir_out] += path.mul
    return list(sizes.values())


def _coupling(dim_in: int, ell: int, l_out: int, num_lm: int) -> Float[Tensor, "lm out_in"]:
    """C[m₂, (m₃, m₁)] of one path, in the rows of Y's degree ℓ."""
    full = torch.zeros(num_lm, (2 * l_out + 1) * dim_in, dtype=torch.float64)
    C = clebsch_gordan((dim_in - 1) // 2, ell, l_out)
    full[ell**2 : (ell + 1) ** 2] = C.permute(1, 2, 0).reshape(2 * ell + 1, -1)
    return full


class ReferenceProduct(nn.Module):
    """Evaluates a `Product`: form the monomials, apply U, weight the paths (see the description)."""

    def __init__(self, description: Product, dtype: torch.dtype) -> None:
        super().__init__()
        self.description = description
        self.num_lm = sum(ir.dim for ir in description.irreps_in)
        for nu, monomials in enumerate(description.monomials, start=1):
            self.register_buffer(f"prefix_{nu}", torch.from_numpy(monomials.prefix), persistent=False)
            self.register_buffer(f"last_{nu}", torch.from_numpy(monomials.last), persistent=False)
        self.terms: list[tuple[int, int]] = []
        for n, out in enumerate(description.irreps_out):
            for nu in range(1, description.correlation + 1):
                if description.num_paths(out, nu) == 0:
                    continue
                used, U = description.coefficients(out, nu)
                self.terms.append((n, nu))
                self.register_buffer(f"used_{n}_{nu}", torch.from_numpy(used), persistent=False)
                self.register_buffer(f"U_{n}_{nu}", U.flatten(0, 1).to(dtype), persistent=False)

    def forward(
        self,
        A: Float[Tensor, "node lm channel"],
        weights: Sequence[Float[Tensor, "_path species channel"]],
        species: Int[Tensor, " node"],
    ) -> list[Float[Tensor, "node _m channel"]]:
        """Returns B per output irrep; `weights` has one tensor for each of `terms`, in that order."""
        node, _, channel = A.shape
        buffers = dict(self.named_buffers())
        x = A.transpose(0, 1).reshape(self.num_lm, -1)
        products = [x.index_select(0, buffers["last_1"])]
        for nu in range(2, self.description.correlation + 1):
            left = products[-1].index_select(0, buffers[f"prefix_{nu}"])
            products.append(left * x.index_select(0, buffers[f"last_{nu}"]))
        out: list[Tensor | None] = [None] * len(self.description.irreps_out)
        for (n, nu), w in zip(self.terms, weights, strict=True):
            monomials = products[nu - 1].index_select(0, buffers[f"used_{n}_{nu}"])
            dim = self.description.irreps_out[n].dim
            paths = (buffers[f"U_{n}_{nu}"] @ monomials).view(dim, w.shape[0], node, channel)
            term = (paths * w.index_select(1, species)).sum(dim=1)
            previous = out[n]
            out[n] = term if previous is None else previous + term
        zeros = [A.new_zeros((ir.dim, node, channel)) for ir in self.description.irreps_out]
        return [(zeros[n] if B is None else B).transpose(0, 1) for n, B in enumerate(out)]


def edge_harmonics(
    vectors: Float[Tensor, "edge 3"], lmax: int, sign: float, dtype: torch.dtype
) -> tuple[Float[Tensor, " edge"], Float[Tensor, "edge lm"]]:
    """Returns lengths, float64, and Y(s v/|v|) of the given type for degrees up to `lmax` and a sign s."""
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    return lengths, spherical_harmonics((sign * vectors / lengths.unsqueeze(-1)).to(dtype), lmax)


def irreps_split(x: Float[Tensor, "node dim"], irreps: Irreps) -> list[Float[Tensor, "node _m _channel"]]:
    """Returns the segments of a flat tensor, each as [node, m, channel]."""
    parts = x.split([mul * ir.dim for mul, ir in irreps], dim=1)
    return [part.unflatten(1, (ir.dim, mul)) for part, (mul, ir) in zip(parts, irreps, strict=True)]


def irreps_join(parts: list[Float[Tensor, "node _m _channel"]]) -> Float[Tensor, "node dim"]:
    """Returns the flat tensor of segments [node, m, channel]."""
    return torch.cat([part.flatten(1) for part in parts], dim=1)
