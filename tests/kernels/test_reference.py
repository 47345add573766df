"""The reference operations against their formulas written as dense sums."""

import numpy as np
import pytest
import torch

from equipot.geometry import pool
from equipot.kernels.polynomial import Convolution, Product, convolution
from equipot.kernels.reference import (
    ReferenceConvolution,
    ReferenceProduct,
    group_by_species,
    irreps_join,
    irreps_split,
    species_matmul,
)
from equipot.o3 import (
    Irrep,
    Irreps,
    chained_couplings,
    clebsch_gordan,
    spherical_harmonics,
    symmetric_couplings,
    wigner_D,
)

ALL = [Irrep(ell, p) for ell in range(3) for p in (-1, 1)]
NATURAL = [Irrep.natural(ell) for ell in range(3)]
CONVOLUTIONS = {
    "scalars": convolution(Irreps("3x0e"), 2, NATURAL),
    "unequal multiplicities": convolution(Irreps("4x0e + 3x1o + 2x2e"), 2, ALL),
    "both parities": convolution(Irreps("1x0o + 2x0e + 3x1o + 2x1e"), 2, ALL),
    "one irrep in two segments": convolution(Irreps("2x0e + 3x1o + 1x0e"), 1, NATURAL),
    "segments in any order": convolution(Irreps("2x2e + 3x0e"), 2, ALL),
    "a segment without paths": convolution(Irreps("2x0e + 3x2e"), 0, [Irrep(0, 1)]),
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def edges(n: int = 5, e: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    senders, receivers = rng.integers(0, n, e), np.sort(rng.integers(0, n, e))
    directions = torch.nn.functional.normalize(random(e, 3, seed=5), dim=1)
    return torch.from_numpy(senders), torch.from_numpy(receivers), directions


def dense_convolution(d: Convolution, h, Y, R, senders, receivers, num_nodes) -> torch.Tensor:
    """a[i, p, m₃, k] = Σ_{e: j→i} R[e, p, k] Σ_{m₁ m₂} C^p[m₁, m₂, m₃] h[j, m₁, k] Y[e, m₂], path by path."""
    per_irrep: dict[Irrep, list[torch.Tensor]] = {}
    column = 0
    slices = d.irreps_in.slices()
    for path in d.paths:
        x = h[:, slices[path.segment]].reshape(-1, path.ir_in.dim, path.mul)
        C = clebsch_gordan(path.ir_in.l, path.ell, path.ir_out.l)
        weights = R[:, column : column + path.mul]
        column += path.mul
        a = torch.zeros(num_nodes, path.ir_out.dim, path.mul, dtype=torch.float64)
        for e, (j, i) in enumerate(zip(senders.tolist(), receivers.tolist(), strict=True)):
            y = Y[e, path.ell**2 : (path.ell + 1) ** 2]
            a[i] += torch.einsum("k,abc,ak,b->ck", weights[e], C, x[j], y)
        per_irrep.setdefault(path.ir_out, []).append(a)
    assert column == d.num_weights
    return torch.cat([torch.cat(parts, dim=2).flatten(1) for parts in per_irrep.values()], dim=1)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_its_formula(name):
    d = CONVOLUTIONS[name]
    senders, receivers, directions = edges()
    h, Y, R = random(5, d.irreps_in.dim), spherical_harmonics(directions, d.max_ell), random(12, d.num_weights, seed=1)
    expected = dense_convolution(d, h, Y, R, senders, receivers, 5)
    a = ReferenceConvolution(d, torch.float64)(h, Y, R, senders, receivers, 5)
    assert a.shape == (5, d.irreps_out.dim)
    assert (a - expected).abs().max() < 1e-13


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_turns_with_its_irreps(name):
    d = CONVOLUTIONS[name]
    senders, receivers, directions = edges()
    h, R = random(5, d.irreps_in.dim), random(12, d.num_weights, seed=1)
    operation = ReferenceConvolution(d, torch.float64)
    Q = torch.linalg.qr(random(3, 3, seed=9))[0]
    Q = Q * torch.sign(torch.linalg.det(Q))
    for sign in (1.0, -1.0):

        def turned(x, irreps, sign=sign):
            factor = {ir: 1.0 if sign > 0 else float(ir.p) for _, ir in irreps}
            parts = [
                factor[ir] * (wigner_D(ir.l, Q) @ part)
                for (_, ir), part in zip(irreps, irreps_split(x, irreps), strict=True)
            ]
            return irreps_join(parts)

        a = operation(h, spherical_harmonics(directions, d.max_ell), R, senders, receivers, 5)
        mapped = spherical_harmonics(sign * directions @ Q.T, d.max_ell)
        b = operation(turned(h, d.irreps_in), mapped, R, senders, receivers, 5)
        assert (b - turned(a, d.irreps_out)).abs().max() < 1e-12


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_over_no_edges_is_zero_with_zero_gradients(name):
    d = CONVOLUTIONS[name]
    none = torch.zeros(0, dtype=torch.int64)
    h = random(5, d.irreps_in.dim).requires_grad_(True)
    Y, R = torch.zeros(0, (d.max_ell + 1) ** 2, dtype=torch.float64), random(0, d.num_weights)
    a = ReferenceConvolution(d, torch.float64)(h, Y, R, none, none, 5)
    assert torch.equal(a, torch.zeros(5, d.irreps_out.dim, dtype=torch.float64))
    assert torch.equal(torch.autograd.grad(a.sum(), h)[0], torch.zeros_like(h))


def test_senders_may_be_ghosts_and_only_receivers_are_pooled():
    d = CONVOLUTIONS["unequal multiplicities"]
    senders, receivers = torch.tensor([4, 3, 0]), torch.tensor([0, 0, 2])
    h, Y, R = random(5, d.irreps_in.dim), random(3, 9, seed=1), random(3, d.num_weights, seed=2)
    a = ReferenceConvolution(d, torch.float64)(h, Y, R, senders, receivers, 3)
    assert (a - dense_convolution(d, h, Y, R, senders, receivers, 3)).abs().max() < 1e-13
    assert a[1].abs().max() == 0.0


def test_a_description_lists_every_path_once_and_counts_its_weights_and_terms():
    d = CONVOLUTIONS["both parities"]
    listed = {(path.segment, path.ell, path.ir_out) for path in d.paths}
    allowed = {
        (n, ell, out)
        for n, (_, ir) in enumerate(d.irreps_in)
        for ell in range(3)
        for out in ALL
        if abs(ir.l - ell) <= out.l <= ir.l + ell and out.p == ir.p * (-1) ** ell
    }
    assert len(listed) == len(d.paths)
    assert listed == allowed
    assert [path.ir_out for path in d.paths] == sorted(path.ir_out for path in d.paths)
    assert d.num_weights == sum(d.irreps_in[path.segment][0] for path in d.paths)
    assert CONVOLUTIONS["scalars"].num_terms == 9, "0e ⊗ Y_l copies the 1 + 3 + 5 harmonics"


PRODUCTS = {
    f"{form}, ν = {nu}, {label}": Product(tuple(irreps_in), tuple(outs), nu, form)
    for form in ("mace", "symmetric")
    for nu, label, irreps_in, outs in [
        (1, "natural", NATURAL, NATURAL),
        (2, "natural", NATURAL, NATURAL),
        (3, "natural", NATURAL, NATURAL[:2]),
        (2, "both parities", ALL, ALL),
        (3, "both parities", ALL[:4], [Irrep(0, -1), Irrep(0, 1), Irrep(1, -1)]),
        (4, "scalars and vectors", NATURAL[:2], NATURAL[:2]),
        (3, "scalars", NATURAL[:1], NATURAL[:1]),
    ]
}
LETTERS = "abcd"


def dense_couplings(d: Product, out: Irrep, nu: int) -> torch.Tensor:
    irreps = Irreps([(1, ir) for ir in d.irreps_in])
    if d.form == "symmetric":
        return symmetric_couplings(irreps, out, nu)
    return chained_couplings(irreps, out, nu, natural_intermediates=nu >= 4)


def dense_product(d: Product, A, weights, species) -> list[torch.Tensor]:
    """B[i, L, M, k] = Σ_ν Σ_η w^(ν)[z_i, η, k] Σ_v U^(ν)[M, v₁ … v_ν, η] Π_ξ A[i, v_ξ, k], with dense U."""
    left = iter(weights)
    result = []
    for out in d.irreps_out:
        B = torch.zeros(A.shape[0], out.dim, A.shape[2], dtype=torch.float64)
        for nu in range(1, d.correlation + 1):
            U = dense_couplings(d, out, nu)
            if U.shape[-1] == 0:
                continue
            factors = ",".join(f"i{v}k" for v in LETTERS[:nu])
            w = next(left)[:, species]
            B += torch.einsum(f"M{LETTERS[:nu]}h,{factors},hik->iMk", U, *[A] * nu, w)
        result.append(B)
    assert next(left, None) is None
    return result


def weights_of(operation: ReferenceProduct, num_species: int, channels: int) -> list[torch.Tensor]:
    d = operation.description
    paths = [d.num_paths(d.irreps_out[n], nu) for n, nu in operation.terms]
    return [random(p, num_species, channels, seed=n) for n, p in enumerate(paths)]


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_its_formula(name):
    d = PRODUCTS[name]
    operation = ReferenceProduct(d, torch.float64)
    A, species = random(4, sum(ir.dim for ir in d.irreps_in), 3, seed=40), torch.tensor([1, 0, 1, 1])
    weights = weights_of(operation, 2, 3)
    for B, expected in zip(operation(A, weights, species), dense_product(d, A, weights, species), strict=True):
        assert (B - expected).abs().max() < 1e-12 * (1 + expected.abs().max())
        assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_turns_with_its_irreps(name):
    d = PRODUCTS[name]
    operation = ReferenceProduct(d, torch.float64)
    irreps_in = Irreps([(1, ir) for ir in d.irreps_in])
    A, species = random(2, irreps_in.dim, 3, seed=40), torch.zeros(2, dtype=torch.int64)
    weights = weights_of(operation, 1, 3)
    Q = torch.linalg.qr(random(3, 3, seed=9))[0]
    Q = Q * torch.sign(torch.linalg.det(Q))
    for inverted in (False, True):
        D = {ir: wigner_D(ir.l, Q) * (float(ir.p) if inverted else 1.0) for ir in {*d.irreps_in, *d.irreps_out}}
        mapped = torch.block_diag(*(D[ir] for ir in d.irreps_in)) @ A
        before, after = operation(A, weights, species), operation(mapped, weights, species)
        for out, B, C in zip(d.irreps_out, before, after, strict=True):
            assert (C - D[out] @ B).abs().max() < 1e-12 * (1 + B.abs().max())


@pytest.mark.parametrize("nu", [1, 2, 3])
def test_both_forms_of_the_product_span_the_same_functions(nu):
    """Each path of one form, as a function of A, is a combination of the paths of the other."""
    A = random(200, 9, 1, seed=3)
    species = torch.zeros(200, dtype=torch.int64)
    columns = {}
    for form in ("mace", "symmetric"):
        d = Product(tuple(NATURAL), (NATURAL[1],), nu, form)
        operation = ReferenceProduct(d, torch.float64)
        zeros = [torch.zeros_like(w) for w in weights_of(operation, 1, 1)]
        paths = []
        for eta in range(zeros[-1].shape[0]):
            zeros[-1][eta] = 1.0
            paths.append(operation(A, zeros, species)[0].flatten())
            zeros[-1][eta] = 0.0
        columns[form] = torch.stack(paths, dim=1)
    rank = torch.linalg.matrix_rank(torch.cat(list(columns.values()), dim=1), rtol=1e-9)
    assert rank == columns["symmetric"].shape[1] == torch.linalg.matrix_rank(columns["mace"], rtol=1e-9)


def test_a_product_forms_each_monomial_once():
    """Equal products of components are merged: no more than C(n + ν − 1, ν) of degree ν."""
    d = PRODUCTS["mace, ν = 3, natural"]
    assert len(d.monomials) == 3
    assert all(len(m.last) <= most for m, most in zip(d.monomials, (9, 45, 165), strict=True))
    components = [(int(v),) for v in d.monomials[0].last]
    for m in d.monomials[1:]:
        components = [components[p] + (int(v),) for p, v in zip(m.prefix, m.last, strict=True)]
        assert len({tuple(sorted(c)) for c in components}) == len(components)


def test_no_atoms_make_no_features():
    d = PRODUCTS["mace, ν = 2, natural"]
    operation = ReferenceProduct(d, torch.float64)
    B = operation(
        torch.zeros(0, 9, 3, dtype=torch.float64), weights_of(operation, 1, 3), torch.zeros(0, dtype=torch.int64)
    )
    assert [b.shape for b in B] == [(0, 1, 3), (0, 3, 3), (0, 5, 3)]


@pytest.mark.parametrize("numbers", [[2, 0, 2, 1, 0], [1, 1, 1], [0], []])
def test_matrices_per_element_are_applied_to_the_atoms_of_each(numbers):
    species = torch.tensor(numbers, dtype=torch.int64)
    x, W = random(len(numbers), 3, 4), random(3, 4, 2, seed=1)
    y = species_matmul(x, W, group_by_species(species, 3))
    assert y.shape == (len(numbers), 3, 2)
    assert torch.allclose(y, torch.einsum("imk,ikl->iml", x, W[species]), rtol=0, atol=1e-13)


def test_pooling_sums_the_edges_of_each_receiver():
    values, receivers = random(6, 2), torch.tensor([0, 0, 2, 2, 2, 3])
    expected = torch.stack([values[receivers == i].sum(dim=0) for i in range(4)])
    assert torch.allclose(pool(values, receivers, 4), expected, rtol=0, atol=1e-14)


def test_flat_features_split_and_join():
    irreps = Irreps("2x0e + 3x1o + 1x2e")
    x = random(4, irreps.dim)
    parts = irreps_split(x, irreps)
    assert [tuple(p.shape) for p in parts] == [(4, 1, 2), (4, 3, 3), (4, 5, 1)]
    assert parts[1][0, 2, 1] == x[0, 2 + 2 * 3 + 1], "[m, channel] within an irrep, channels last"
    assert torch.equal(irreps_join(parts), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operations_keep_the_dtype(dtype):
    d = CONVOLUTIONS["unequal multiplicities"]
    senders, receivers, directions = edges()
    h, Y, R = (
        x.to(dtype) for x in (random(5, d.irreps_in.dim), spherical_harmonics(directions, 2), random(12, d.num_weights))
    )
    assert ReferenceConvolution(d, dtype)(h, Y, R, senders, receivers, 5).dtype == dtype
    p = PRODUCTS["symmetric, ν = 2, natural"]
    operation = ReferenceProduct(p, dtype)
    weights = [w.to(dtype) for w in weights_of(operation, 1, 3)]
    B = operation(random(2, 9, 3).to(dtype), weights, torch.zeros(2, dtype=torch.int64))
    assert {b.dtype for b in B} == {dtype}
