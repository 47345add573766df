"""Generalised Clebsch–Gordan coefficients: products of several one-particle functions, coupled to one irrep.

Two bases of the same equivariant polynomials: *chained* (overcomplete; the published MACE weights refer to
it) and *symmetric* (minimal and orthonormal, as linear ACE wants).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, permutations
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equipot.errors import EquipotError
from equipot.o3.clebsch_gordan import wigner_3j_array
from equipot.o3.irreps import Irrep, Irreps

_INDEPENDENT = 1e-6
"""A coupling whose part outside the span of the earlier ones is smaller than this, relative to itself before
symmetrisation, is a combination of them. True zeros are of order 1e-15, true remainders of order 0.1."""


@dataclass(frozen=True)
class CouplingPath:
    """One chain of couplings, (((l1 l2) l12, l3) l123, ...) -> L.

    Args:
        factors: position of each factor's irrep in the given direct sum.
        coupled: irrep after each factor: the first factor's own, then every intermediate, then the result.
    """

    factors: tuple[int, ...]
    coupled: tuple[Irrep, ...]


def coupling_paths(
    irreps: Irreps, out: Irrep, correlation: int, *, natural_intermediates: bool = False
) -> tuple[CouplingPath, ...]:
    """The chains of couplings from `correlation` factors to one irrep, in the order of the published models.

    All chains of ν-1 factors are taken in their order; each is coupled with every irrep of the sum, and to
    every irrep that the pair allows (l ascending); from two factors on, the result is then sorted by its
    irrep (l, p), stably. Chains that end in `out` keep this order. So the irrep before the last coupling
    varies slowest, then (recursively) the chain that led to it, and the last factor fastest.

    Args:
        irreps: one copy each of the irreps of a factor.
        out: irrep of the result.
        correlation: number of factors ν.
        natural_intermediates: keep only chains whose intermediates, from two factors on and without the
            result, have the parity (-1)^l. The published models do so for ν = 4.

    Raises:
        EquipotError: an irrep has not one copy, or the correlation is below 1.
    """
    _check(irreps, correlation)
    chains = [CouplingPath((i,), (ir,)) for i, (_, ir) in enumerate(irreps)]
    for remaining in range(correlation - 2, -1, -1):
        chains = sorted(_extend(chains, irreps), key=lambda chain: chain.coupled[-1])
        reach = out.l + remaining * irreps.lmax  # a degree beyond it cannot come back to L
        chains = [chain for chain in chains if chain.coupled[-1].l <= reach]
        if natural_intermediates and remaining > 0:
            chains = [chain for chain in chains if chain.coupled[-1].is_natural]
    return tuple(chain for chain in chains if chain.coupled[-1] == out)


def chained_couplings(
    irreps: Irreps, out: Irrep, correlation: int, *, natural_intermediates: bool = False
) -> Float[Tensor, "M *lm path"]:
    """Coefficients of every chain of couplings, as in the published MACE models (their matrices U).

        U[M, m1 ... mν, η] = Σ C^{L2 M2}_{l1 m1, l2 m2} C^{L3 M3}_{L2 M2, l3 m3} ... C^{L M}_{... , lν mν}

    with C^{L M}_{L' M', l m} = √(2L+1) · wigner_3j(L, L', l)[M, M', m]. The paths η are those of
    coupling_paths, in that order, and so published weights map one to one. They are complete, but not
    independent once contracted with equal factors. For 0e+1o+2e+3o and ν = 1, 2, 3 there are 1, 4, 23 (L=0),
    1, 6, 51 (L=1) and 1, 7, 65 (L=2) paths.

    The tensor is dense, (2L+1) · lm^ν · paths numbers: 83 MB for 0e+1o+2e+3o, L=0 and ν = 4.

    Args:
        irreps: one copy each of the irreps of a factor, e.g. ``0e + 1o + 2e + 3o``.
        out: irrep of the result.
        correlation: number of factors ν.
        natural_intermediates: see coupling_paths.

    Returns:
        A new float64 tensor on the CPU; the path axis has length 0 where no chain leads to `out`.

    Raises:
        EquipotError: an irrep has not one copy, or the correlation is below 1.

    Source: MACE (arXiv 2206.07697), generalised Clebsch–Gordan coefficients of the product basis.
    """
    paths = coupling_paths(irreps, out, correlation, natural_intermediates=natural_intermediates)
    slices = irreps.slices()
    U = np.zeros((out.dim, *[irreps.dim] * correlation, len(paths)))
    for index, path in enumerate(paths):
        degrees = tuple(irreps[i][1].l for i in path.factors)
        block = coupling_chain(degrees, tuple(ir.l for ir in path.coupled))
        where: tuple[slice | int, ...] = (slice(None), *(slices[i] for i in path.factors), index)
        U[where] = block
    return torch.from_numpy(U)


def symmetric_couplings(irreps: Irreps, out: Irrep, correlation: int) -> Float[Tensor, "M *lm path"]:
    """A minimal basis of the couplings that are symmetric under every permutation of the factors.

    Contracted with equal factors, these span what chained_couplings spans, without redundancy. The basis is
    orthonormal: Σ_{M m1 ... mν} B[M, m1 ... mν, η] B[M, m1 ... mν, η'] = δ(η, η'). The paths are ordered by
    their irreps (positions ascending, lexicographically), then by intermediates; within one choice of irreps
    the chains are symmetrised and orthogonalised one after the other.

    Args:
        irreps: one copy each of the irreps of a factor.
        out: irrep of the result.
        correlation: number of factors ν.

    Returns:
        A new float64 tensor on the CPU; the path axis has length 0 where nothing couples to `out`.

    Raises:
        EquipotError: an irrep has not one copy, or the correlation is below 1.

    Source: Dusson et al., J. Comput. Phys. 454, 110946 (2022), the symmetrised basis of linear ACE.
    """
    _check(irreps, correlation)
    slices = irreps.slices()
    bases = {
        labels: _couplings_of(tuple(irreps[i][1] for i in labels), labels, out)
        for labels in combinations_with_replacement(range(len(irreps)), correlation)
    }
    B = np.zeros((out.dim, *[irreps.dim] * correlation, sum(len(basis) for basis in bases.values())))
    start = 0
    for labels, basis in bases.items():
        paths = slice(start, start + len(basis))
        start = paths.stop
        orders = {tuple(labels[k] for k in order): order for order in permutations(range(correlation))}
        for arranged, order in orders.items():
            block = basis.transpose(1, *(2 + k for k in order), 0) / sqrt(len(orders))
            B[(slice(None), *(slices[i] for i in arranged), paths)] = block
    return torch.from_numpy(B)


def couplings_of(factors: tuple[Irrep, ...], labels: tuple[int, ...], out: Irrep) -> Float[Tensor, "path M *m"]:
    """A minimal orthonormal basis of the couplings of given factors, symmetric among factors of equal label.

    The building block of symmetric_couplings, and of bases whose factors carry more than (l, m), such as the
    (n, l, z) of linear ACE: factors with equal labels are the same function, others are independent.

    Args:
        factors: irrep of each factor.
        labels: one label per factor; factors of equal label have equal irreps.
        out: irrep of the result.

    Returns:
        A new float64 tensor on the CPU, one axis m of length 2l+1 per factor.

    Raises:
        EquipotError: the labels do not fit the factors.
    """
    if not factors or len(factors) != len(labels):
        raise EquipotError(f"{len(labels)} labels for {len(factors)} factors: give one label per factor.")
    if len(set(zip(labels, factors, strict=True))) != len(set(labels)):
        raise EquipotError(
            f"labels {labels} do not fit factors {factors}: factors of equal label must have equal irreps."
        )
    return torch.from_numpy(_couplings_of(factors, labels, out).copy())


def _check(irreps: Irreps, correlation: int) -> None:
    """Refuse what the couplings are not defined for."""
    if correlation < 1:
        raise EquipotError(f"correlation {correlation} is not a number of factors: give 1 or more.")
    if not irreps or any(mul != 1 for mul, _ in irreps) or len(irreps.unique) != len(irreps):
        raise EquipotError(f"'{irreps}' cannot be coupled: give each irrep once, e.g. '0e + 1o + 2e + 3o'.")


def _extend(chains: list[CouplingPath], irreps: Irreps) -> Iterator[CouplingPath]:
    """Couple one more factor to every chain, in every way."""
    for chain in chains:
        for i, (_, ir) in enumerate(irreps):
            for coupled in chain.coupled[-1] * ir:
                yield CouplingPath((*chain.factors, i), (*chain.coupled, coupled))


@lru_cache(maxsize=4096)
def coupling_chain(degrees: tuple[int, ...], coupled: tuple[int, ...]) -> np.ndarray:
    """Coefficients [M, m1 ... mν] of one chain; shared."""
    if len(degrees) == 1:
        return np.eye(2 * degrees[0] + 1)
    left = coupling_chain(degrees[:-1], coupled[:-1])
    C = sqrt(2 * coupled[-1] + 1) * wigner_3j_array(coupled[-1], coupled[-2], degrees[-1])
    return np.moveaxis(np.tensordot(C, left, axes=(1, 0)), 1, -1)


@lru_cache(maxsize=4096)
def _couplings_of(factors: tuple[Irrep, ...], labels: tuple[int, ...], out: Irrep) -> np.ndarray:
    """As couplings_of; the array is shared."""
    orders = [
        order for order in permutations(range(len(labels))) if all(labels[k] == labels[i] for i, k in enumerate(order))
    ]
    basis = np.zeros((0, out.dim * int(np.prod([ir.dim for ir in factors]))))
    for coupled in _intermediates(factors, out):
        chain = coupling_chain(tuple(ir.l for ir in factors), tuple(ir.l for ir in coupled))
        arranged = [chain.transpose(0, *(1 + k for k in order)) for order in orders]
        vector = np.mean(arranged, axis=0).reshape(-1)
        for _ in range(2):  # twice is enough to be orthogonal to round-off
            vector = vector - (basis @ vector) @ basis
        norm = np.linalg.norm(vector)
        if norm > _INDEPENDENT * np.linalg.norm(chain):
            basis = np.concatenate([basis, vector[None] / norm])
    return basis.reshape(-1, out.dim, *(ir.dim for ir in factors))


def _intermediates(factors: tuple[Irrep, ...], out: Irrep) -> list[tuple[Irrep, ...]]:
    """The chains of coupled irreps that lead from these factors to `out`."""
    chains: list[tuple[Irrep, ...]] = [factors[:1]]
    for ir in factors[1:]:
        chains = [(*chain, coupled) for chain in chains for coupled in chain[-1] * ir]
    return [chain for chain in chains if chain[-1] == out]
