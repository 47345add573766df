"""Generalised couplings: equivariance, published counts and order, minimality and completeness."""

import itertools
from collections import Counter
from math import prod

import pytest
import torch

from equipot.errors import EquipotError
from equipot.o3 import (
    Irrep,
    Irreps,
    chained_couplings,
    coupling_paths,
    couplings_of,
    symmetric_couplings,
    wigner_3j,
    wigner_D,
)

NATURAL = Irreps.spherical_harmonics(3)
CASES = [
    ("0e+1o+2e+3o", "0e", 3),
    ("0e+1o+2e+3o", "1o", 3),
    ("0e+1o+2e+3o", "1e", 3),
    ("0e+1o+2e", "2e", 4),
    ("0e+0o+1o+1e", "0o", 3),
    ("0o+1e+2e", "2o", 2),
]


def number_of_symmetric_couplings(irreps: Irreps, out: Irrep, correlation: int) -> int:
    """Multiplicity of `out` in the symmetric power, by counting monomials of weight M = L and L+1.

    Independent of any coupling coefficient: a weight M occurs once in every irrep of degree >= M.
    """
    letters = [(m, ir.p) for _, ir in irreps for m in range(-ir.l, ir.l + 1)]
    weights: Counter[int] = Counter()
    for chosen in itertools.combinations_with_replacement(letters, correlation):
        if prod(p for _, p in chosen) == out.p:
            weights[sum(m for m, _ in chosen)] += 1
    return weights[out.l] - weights[out.l + 1]


def rotate_factors(couplings: torch.Tensor, irreps: Irreps, R: torch.Tensor) -> torch.Tensor:
    """Apply O(3) to every factor axis; R is proper or improper."""
    det = torch.linalg.det(R).sign()
    parity = [1.0 if det > 0 else float(ir.p) for _, ir in irreps]
    D = torch.block_diag(*(p * wigner_D(ir.l, det * R) for p, (_, ir) in zip(parity, irreps, strict=True)))
    for axis in range(1, couplings.ndim - 1):
        couplings = torch.tensordot(couplings, D, dims=([axis], [0])).movedim(-1, axis)
    return couplings


@pytest.mark.parametrize("basis", [chained_couplings, symmetric_couplings])
@pytest.mark.parametrize(("irreps", "out", "correlation"), CASES)
@pytest.mark.parametrize("inversion", [1, -1])
def test_equivariance(basis, irreps, out, correlation, inversion, rotation):
    irreps, out = Irreps(irreps), Irrep.from_string(out)
    couplings = basis(irreps, out, correlation)
    assert couplings.shape[-1] > 0
    rotated_factors = rotate_factors(couplings, irreps, inversion * rotation)
    D_out = (out.p if inversion < 0 else 1) * wigner_D(out.l, rotation)
    rotated_result = torch.tensordot(D_out, couplings, dims=([1], [0]))
    torch.testing.assert_close(rotated_factors, rotated_result, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("L", "counts"), [(0, (1, 4, 23)), (1, (1, 6, 51)), (2, (1, 7, 65))])
def test_published_path_counts(L, counts):
    found = tuple(chained_couplings(NATURAL, Irrep.natural(L), nu).shape[-1] for nu in (1, 2, 3))
    assert found == counts


def test_two_factors_are_the_3j_symbols_in_published_order(e3nn_o3):
    """For ν = 2, path by path: (l1, l2) with l1 slowest, √(2L+1) w3j(L, l1, l2)."""
    paths = coupling_paths(NATURAL, Irrep(2, 1), 2)
    assert [path.factors for path in paths] == [(0, 2), (1, 1), (1, 3), (2, 0), (2, 2), (3, 1), (3, 3)]
    U, slices = chained_couplings(NATURAL, Irrep(2, 1), 2), NATURAL.slices()
    for index, (l1, l2) in enumerate(path.factors for path in paths):
        expected = torch.zeros(5, 16, 16, dtype=torch.float64)
        expected[:, slices[l1], slices[l2]] = 5**0.5 * e3nn_o3.wigner_3j(2, l1, l2, dtype=torch.float64)
        torch.testing.assert_close(U[..., index], expected, rtol=0, atol=1e-12)


def test_three_factors_follow_their_paths():
    """Every path is the chain of 3j symbols that its description names, and nothing elsewhere."""
    irreps, out = Irreps("0e+1o+1e+2e"), Irrep(1, 1)
    U, slices = chained_couplings(irreps, out, 3), irreps.slices()
    paths = coupling_paths(irreps, out, 3)
    assert len(paths) == U.shape[-1]
    for index, path in enumerate(paths):
        (l1, l2, l3), middle = (irreps[i][1].l for i in path.factors), path.coupled[1]
        first = middle.dim**0.5 * wigner_3j(middle.l, l1, l2)
        second = out.dim**0.5 * wigner_3j(out.l, middle.l, l3)
        expected = torch.zeros_like(U[..., 0])
        block = tuple(slices[i] for i in path.factors)
        expected[(slice(None), *block)] = torch.einsum("Lac,aij->Lijc", second, first)
        torch.testing.assert_close(U[..., index], expected, rtol=0, atol=1e-12)


def test_three_factors_are_ordered_by_intermediate_then_chain_then_factor():
    paths = coupling_paths(NATURAL, Irrep(0, 1), 3)
    keys = [(path.coupled[1], path.coupled[0], path.factors[1], path.factors[2]) for path in paths]
    assert keys == sorted(keys) and len(set(keys)) == len(keys) == 23


def test_natural_intermediates_keep_published_counts_of_four_factors():
    """Pinned against the published construction, which filters intermediates only for ν = 4."""
    paths = coupling_paths(NATURAL, Irrep(0, 1), 4, natural_intermediates=True)
    everything = coupling_paths(NATURAL, Irrep(0, 1), 4)
    assert len(paths) == 158
    assert list(paths) == [path for path in everything if all(ir.is_natural for ir in path.coupled)]
    assert len(paths) < len(everything)


@pytest.mark.parametrize(("irreps", "out", "correlation"), CASES)
def test_symmetric_basis_is_orthonormal_symmetric_and_minimal(irreps, out, correlation):
    irreps, out = Irreps(irreps), Irrep.from_string(out)
    B = symmetric_couplings(irreps, out, correlation)
    assert B.shape == (out.dim, *[irreps.dim] * correlation, number_of_symmetric_couplings(irreps, out, correlation))
    flat = B.flatten(0, -2)
    torch.testing.assert_close(flat.T @ flat, torch.eye(B.shape[-1], dtype=B.dtype), rtol=0, atol=1e-12)
    for axis in range(1, correlation):
        torch.testing.assert_close(B.transpose(axis, axis + 1), B, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("irreps", "out", "correlation"), CASES[:3] + CASES[4:])
def test_both_bases_span_the_same_polynomials(irreps, out, correlation):
    irreps, out = Irreps(irreps), Irrep.from_string(out)
    U = chained_couplings(irreps, out, correlation)
    axes = list(itertools.permutations(range(1, correlation + 1)))
    symmetrised = sum(U.permute(0, *order, correlation + 1) for order in axes).flatten(0, -2) / len(axes)
    B = symmetric_couplings(irreps, out, correlation).flatten(0, -2)
    torch.testing.assert_close(B @ (B.T @ symmetrised), symmetrised, rtol=0, atol=1e-12)
    assert torch.linalg.matrix_rank(symmetrised, rtol=1e-10).item() == B.shape[-1]


@pytest.mark.parametrize("L", [0, 1, 2, 3])
@pytest.mark.parametrize("correlation", [1, 2, 3])
def test_dimension_for_the_published_irreps(L, correlation):
    """The 23, 51 and 65 published paths of three factors have 8, 12 and 14 independent combinations."""
    found = symmetric_couplings(NATURAL, Irrep.natural(L), correlation).shape[-1]
    assert found == number_of_symmetric_couplings(NATURAL, Irrep.natural(L), correlation)
    if (correlation, L) in {(3, 0), (3, 1), (3, 2)}:
        assert found == {0: 8, 1: 12, 2: 14}[L]


def test_vectors_alone_give_powers_of_the_squared_length():
    """Of one vector, ν = 4 has the single invariant |v|⁴; of two distinct vectors, the dot product."""
    v = torch.tensor([0.3, -1.2, 0.5], dtype=torch.float64)
    B = symmetric_couplings(Irreps("1o"), Irrep(0, 1), 4)
    assert B.shape == (1, 3, 3, 3, 3, 1)
    values = torch.einsum("Mabcdp,a,b,c,d->p", B, v, v, v, v)
    doubled = torch.einsum("Mabcdp,a,b,c,d->p", B, *[v.flip(0) * 2] * 4)
    torch.testing.assert_close(doubled, 16 * values)
    assert symmetric_couplings(Irreps("1o"), Irrep(0, 1), 3).shape[-1] == 0


def test_labels_decide_which_factors_are_the_same():
    """v·v×w vanishes where two factors are one vector; three distinct vectors keep the triple product."""
    vector, pseudoscalar = Irrep(1, -1), Irrep(0, -1)
    assert len(couplings_of((vector,) * 3, (0, 0, 1), pseudoscalar)) == 0
    triple = couplings_of((vector,) * 3, (0, 1, 2), pseudoscalar)
    assert triple.shape == (1, 1, 3, 3, 3)
    rows = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, -1.0], [2.0, 0.3, 0.1]], dtype=torch.float64)
    value = torch.einsum("pMabc,a,b,c->", triple, *rows).item()
    assert abs(value) == pytest.approx(abs(torch.linalg.det(rows).item()) / 6**0.5)


def test_labels_need_not_stand_side_by_side():
    factors, out = (Irrep(1, -1), Irrep(2, 1), Irrep(1, -1)), Irrep(2, 1)
    apart = couplings_of(factors, (5, 9, 5), out)
    together = couplings_of((factors[0], factors[2], factors[1]), (5, 5, 9), out)
    assert len(apart) == len(together) > 0
    torch.testing.assert_close(apart, apart.transpose(2, 4), rtol=0, atol=1e-12)
    cross = apart.transpose(3, 4).flatten(1) @ together.flatten(1).T
    torch.testing.assert_close(cross @ cross.T, torch.eye(len(apart), dtype=torch.float64), rtol=0, atol=1e-12)


def test_unreachable_results_have_no_path():
    assert chained_couplings(Irreps("0e+1o"), Irrep(3, -1), 2).shape == (7, 4, 4, 0)
    assert symmetric_couplings(Irreps("1o"), Irrep(1, 1), 2).shape == (3, 3, 3, 0)  # v × v = 0
    assert chained_couplings(Irreps("1o"), Irrep(1, 1), 2).shape == (3, 3, 3, 1)


def test_a_result_is_the_callers_own():
    symmetric_couplings(NATURAL, Irrep(0, 1), 2).zero_()
    couplings_of((Irrep(1, -1),) * 2, (0, 0), Irrep(0, 1)).zero_()
    chained_couplings(NATURAL, Irrep(0, 1), 2).zero_()
    assert symmetric_couplings(NATURAL, Irrep(0, 1), 2).norm().item() == pytest.approx(2)
    assert chained_couplings(NATURAL, Irrep(0, 1), 2).norm().item() == pytest.approx(2)


@pytest.mark.parametrize("basis", [chained_couplings, symmetric_couplings])
def test_what_cannot_be_coupled_is_refused(basis):
    with pytest.raises(EquipotError, match="correlation 0"):
        basis(NATURAL, Irrep(0, 1), 0)
    with pytest.raises(EquipotError, match="give each irrep once"):
        basis(Irreps("2x0e + 1o"), Irrep(0, 1), 2)
    with pytest.raises(EquipotError, match="give each irrep once"):
        basis(Irreps("1o + 1o"), Irrep(0, 1), 2)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(EquipotError, match="one label per factor"):
        couplings_of((Irrep(0, 1),), (0, 1), Irrep(0, 1))
    with pytest.raises(EquipotError, match="equal irreps"):
        couplings_of((Irrep(0, 1), Irrep(1, -1)), (0, 0), Irrep(1, -1))
