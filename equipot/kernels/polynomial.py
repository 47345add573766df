"""The few operations that cost time, described as data: sparse multilinear maps and polynomials per channel.

A description fixes meaning (which index is gathered, coupled, pooled, with which coefficient); a backend
evaluates it. `equipot.kernels.reference` is the definition.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from equipot.o3 import Irrep, Irreps, chained_couplings, clebsch_gordan, symmetric_couplings


class Path(NamedTuple):
    """One coupling h_{l1} ⊗ Y_{l2} → l3 of a convolution, with weights of its own per channel.

    Attributes:
        segment: Index of the input irrep in `irreps_in`.
        ir_in: Input irrep, of multiplicity `mul`.
        ell: Degree of the edge's harmonics.
        ir_out: Output irrep.
        mul: Channels.
    """

    segment: int
    ir_in: Irrep
    ell: int
    ir_out: Irrep
    mul: int


@dataclass(frozen=True)
class Convolution:
    r"""The pooled tensor product of neighbours' features and edge harmonics, channel by channel.

        a[i, p, m₃, k] = Σ_{e: j→i} R[e, p, k] Σ_{m₁ m₂} C^p[m₁, m₂, m₃] h[j, m₁, k] Y[e, m₂]

    Linear in h, Y and R separately.

    Attributes:
        irreps_in: Irreps of h, in any order, one segment each.
        max_ell: Highest degree of Y; Y is [edge, (max_ell+1)²].
        paths: All paths, sorted by output irrep; R's columns are [path][channel] in this order.
    """

    irreps_in: Irreps
    max_ell: int
    paths: tuple[Path, ...]

    @property
    def irreps_out(self) -> Irreps:
        """Irreps of a: per output irrep all paths' channels, in the order of the paths."""
        return Irreps([(path.mul, path.ir_out) for path in self.paths]).simplify()

    @property
    def num_weights(self) -> int:
        """Columns of R."""
        return sum(path.mul for path in self.paths)

    @property
    def key(self) -> str:
        """The description as one string, for operators: irreps, max_ell, then segment.ell.output of each path."""
        paths = ",".join(f"{path.segment}.{path.ell}.{path.ir_out}" for path in self.paths)
        return f"{self.irreps_in}|{self.max_ell}|{paths}"

    @staticmethod
    @lru_cache(maxsize=1024)
    def from_key(key: str) -> "Convolution":
        """Returns the description of a key."""
        irreps, max_ell, paths = key.split("|")
        irreps_in = Irreps(irreps)
        split = [path.split(".") for path in paths.split(",")] if paths else []
        return Convolution(
            irreps_in,
            int(max_ell),
            tuple(
                Path(int(s), irreps_in[int(s)][1], int(ell), Irrep.from_string(out), irreps_in[int(s)][0])
                for s, ell, out in split
            ),
        )

    @property
    def num_terms(self) -> int:
        """Non-zero coefficients over all paths, each costing one multiply-add per channel and edge."""
        return sum(int((clebsch_gordan(p.ir_in.l, p.ell, p.ir_out.l).abs() > 1e-12).sum()) for p in self.paths)


def convolution(irreps_in: Irreps, max_ell: int, targets: Iterable[Irrep], *, polar: bool = True) -> Convolution:
    """Returns the convolution with every path from `irreps_in` and Y to the targets.

    Args:
        irreps_in: Irreps of h.
        max_ell: Highest degree of Y.
        targets: Output irreps that are wanted.
        polar: Y has natural parity, (−1)^ℓ; otherwise 1, so that parity forbids no path.
    """
    wanted = set(targets)
    paths = [
        Path(segment, ir_in, ell, ir_out, mul)
        for segment, (mul, ir_in) in enumerate(irreps_in)
        for ell in range(max_ell + 1)
        for ir_out in ir_in * Irrep(ell, (-1) ** ell if polar else 1)
        if ir_out in wanted
    ]
    return Convolution(irreps_in, max_ell, tuple(sorted(paths, key=lambda path: path.ir_out)))


@dataclass(frozen=True)
class Monomials:
    """The products of ν components of A that occur, each built from one of ν − 1 and one more component.

    Attributes:
        prefix: Index of the product of the first ν − 1 components, in the list of degree ν − 1.
        last: Index of the last component.
    """

    prefix: np.ndarray
    last: np.ndarray


class Term(NamedTuple):
    """A monomial in one component of B.

    Attributes:
        output: Component M, over all output irreps one after the other.
        factors: Components of A, ascending, with repetitions.
    """

    output: int
    factors: tuple[int, ...]


@dataclass(frozen=True)
class Product:
    r"""The symmetrised product basis of one atom, channel by channel, as polynomials with weighted paths.

        B[i, L, M, k] = Σ_ν Σ_η w^(ν)[z_i, η, k] Σ_{monomials} U^(ν)[M, η, monomial] Π_{ξ=1…ν} A[i, v_ξ, k]

    Equal monomials of a symmetric product are merged, so each is formed once.

    Attributes:
        irreps_in: One of each irrep of A.
        irreps_out: One of each irrep of B.
        correlation: Highest ν.
        form: "mace" (chained couplings as published) or "symmetric" (minimal).
    """

    irreps_in: tuple[Irrep, ...]
    irreps_out: tuple[Irrep, ...]
    correlation: int
    form: str

    def num_paths(self, out: Irrep, nu: int) -> int:
        """Number of weighted paths η of order ν that make this irrep."""
        return _merged(self.form, self.irreps_in, out, nu)[1]

    @cached_property
    def monomials(self) -> tuple[Monomials, ...]:
        """The products of degree 1 … correlation."""
        tuples = [set(self._table(out, nu)) for nu in self._orders for out in self.irreps_out]
        needed: list[set[tuple[int, ...]]] = [set() for _ in self._orders]
        for group in tuples:
            for index in group:
                for nu in range(1, len(index) + 1):
                    needed[nu - 1].add(index[:nu])
        lists = [sorted(group) for group in needed]
        position = [{index: n for n, index in enumerate(group)} for group in lists]
        out = [Monomials(np.zeros(0, int), np.array([index[0] for index in lists[0]], int))]
        for nu in range(1, self.correlation):
            prefix = np.array([position[nu - 1][index[:-1]] for index in lists[nu]], int)
            out.append(Monomials(prefix, np.array([index[-1] for index in lists[nu]], int)))
        self.__dict__["_positions"] = position
        return tuple(out)

    def coefficients(self, out: Irrep, nu: int) -> tuple[np.ndarray, Tensor]:
        """Returns the monomials that an irrep uses (indices) and U, float64 [M, path, monomial]."""
        _ = self.monomials
        table = self._table(out, nu)
        used = sorted(table)
        shape = (2 * out.l + 1, self.num_paths(out, nu), len(used))
        U = torch.zeros(shape, dtype=torch.float64)
        for n, index in enumerate(used):
            U[:, :, n] = table[index]
        position = self.__dict__["_positions"][nu - 1]
        return np.array([position[index] for index in used], int), U

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The monomials of every output component, in the rows' order of the `folding` matrices."""
        return tuple(term for terms, _ in self._folded for term in terms)

    @property
    def folding(self) -> list[Tensor]:
        r"""Matrices that turn weighted paths into one coefficient for each term, float64 [term, path].

            C[z, t, k] = Σ_η folding[t, η] w^(ν)[η, z, k]

        One for each (irrep, ν) that has paths, irreps outermost; their rows, one after the other, are `terms`.
        """
        return [matrix for _, matrix in self._folded]

    @cached_property
    def _folded(self) -> list[tuple[list[Term], Tensor]]:
        blocks: list[tuple[list[Term], Tensor]] = []
        start = 0
        for out in self.irreps_out:
            for nu in self._orders:
                table, num_paths = _merged(self.form, self.irreps_in, out, nu)
                if num_paths > 0:
                    rows = [
                        (Term(start + m, index), U[m])
                        for index, U in sorted(table.items())
                        for m in range(out.dim)
                        if float(U[m].abs().max()) > 1e-12
                    ]
                    matrix = [U for _, U in rows] or [torch.zeros(0, num_paths, dtype=torch.float64)]
                    blocks.append(([term for term, _ in rows], torch.stack(matrix) if rows else matrix[0]))
            start += out.dim
        return blocks

    @property
    def key(self) -> str:
        """The description as one string, for operators."""
        irreps = ("+".join(str(ir) for ir in some) for some in (self.irreps_in, self.irreps_out))
        return "|".join([*irreps, str(self.correlation), self.form])

    @staticmethod
    @lru_cache(maxsize=1024)
    def from_key(key: str) -> "Product":
        """Returns the description of a key; the number of channels may follow it, for those that need it."""
        irreps_in, irreps_out, correlation, form = key.split("|")[:4]
        made, of = (tuple(Irrep.from_string(ir) for ir in some.split("+")) for some in (irreps_out, irreps_in))
        return Product(of, made, int(correlation), form)

    @property
    def _orders(self) -> range:
        return range(1, self.correlation + 1)

    def _table(self, out: Irrep, nu: int) -> dict[tuple[int, ...], Tensor]:
        return _merged(self.form, self.irreps_in, out, nu)[0]


def _couplings(form: str, irreps_in: tuple[Irrep, ...], out: Irrep, nu: int) -> Tensor:
    """U [M, lm × ν, path]; chains of four factors and more pass natural intermediates only, as published."""
    irreps = Irreps([(1, ir) for ir in irreps_in])
    if form == "symmetric":
        return symmetric_couplings(irreps, out, nu)
    return chained_couplings(irreps, out, nu, natural_intermediates=nu >= 4)


@lru_cache(maxsize=256)
def _merged(form: str, irreps_in: tuple[Irrep, ...], out: Irrep, nu: int) -> tuple[dict[tuple[int, ...], Tensor], int]:
    """Sums couplings over the orders of equal factors: {sorted components: [M, path]}, and the number of paths.

    U itself is large (0.9 GB for ν = 4, L = 2) and not kept.
    """
    U = _couplings(form, irreps_in, out, nu)
    num_paths = U.shape[-1]
    if num_paths == 0:
        return {}, 0
    flat = U.movedim(0, -2).flatten(0, nu - 1)
    nonzero = torch.nonzero(flat.abs().amax(dim=(1, 2)) > 1e-12).flatten()
    index = np.stack(np.unravel_index(nonzero.numpy(), U.shape[1 : nu + 1]), axis=1)
    keys, group = np.unique(np.sort(index, axis=1), axis=0, return_inverse=True)
    merged = torch.zeros((len(keys), *flat.shape[1:]), dtype=torch.float64)
    merged.index_add_(0, torch.from_numpy(group.reshape(-1)), flat[nonzero])
    kept = torch.nonzero(merged.abs().amax(dim=(1, 2)) > 1e-12).flatten().tolist()
    return {tuple(int(c) for c in keys[n]): merged[n] for n in kept}, num_paths


def reachable(irreps_in: tuple[Irrep, ...], out: Irrep, correlation: int, form: str) -> bool:
    """Whether a product of at most `correlation` factors makes this irrep."""
    return any(_merged(form, irreps_in, out, nu)[0] for nu in range(1, correlation + 1))


def offsets(sizes: Iterable[int]) -> list[slice]:
    """Returns the consecutive slices of these sizes."""
    ends = np.cumsum([0, *sizes]).tolist()
    return [slice(a, b) for a, b in pairwise(ends)]
