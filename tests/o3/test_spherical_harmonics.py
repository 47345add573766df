"""Spherical harmonics: symmetry, orthonormality, addition theorem, closed forms, derivatives."""

import warnings
from math import pi, sqrt

import numpy as np
import pytest
import torch

from equipot.errors import EquipotError
from equipot.o3 import clebsch_gordan, spherical_harmonics, wigner_D

LMAX = 8


def degree_slice(degree: int) -> slice:
    return slice(degree**2, (degree + 1) ** 2)


def sphere_quadrature(order: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions and weights (mean over the sphere) exact for polynomials below 2·order."""
    cosines, weights = np.polynomial.legendre.leggauss(order)
    angles = 2 * pi * np.arange(2 * order) / (2 * order)
    sines = np.sqrt(1 - cosines**2)
    x = sines[:, None] * np.cos(angles)
    y = sines[:, None] * np.sin(angles)
    z = np.broadcast_to(cosines[:, None], x.shape)
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    return torch.from_numpy(points), torch.from_numpy(np.repeat(weights / (4 * order), 2 * order))


def test_values_signs_and_order_are_those_of_e3nn(e3nn_o3, directions):
    for vectors in (directions, 1.7 * directions):
        expected = e3nn_o3.spherical_harmonics(
            list(range(LMAX + 1)), vectors, normalize=False, normalization="component"
        )
        torch.testing.assert_close(spherical_harmonics(vectors, LMAX), expected, rtol=1e-12, atol=1e-12)


def test_closed_forms_of_the_first_degrees(directions):
    x, y, z = directions.unbind(-1)
    second = [x * z, x * y, (2 * y**2 - x**2 - z**2) / (2 * sqrt(3)), y * z, (z**2 - x**2) / 2]
    expected = torch.cat(
        [
            torch.ones_like(x)[:, None],
            sqrt(3) * directions,
            sqrt(15) * torch.stack(second, dim=-1),
        ],
        dim=-1,
    )
    torch.testing.assert_close(spherical_harmonics(directions, 2), expected, rtol=0, atol=1e-14)


def test_orthonormal_over_the_sphere():
    points, weights = sphere_quadrature(LMAX + 1)
    Y = spherical_harmonics(points, LMAX)
    torch.testing.assert_close(Y.T @ (weights[:, None] * Y), torch.eye(Y.shape[-1], dtype=Y.dtype), rtol=0, atol=1e-12)


def test_addition_theorem(directions):
    Y = spherical_harmonics(directions, LMAX)
    cosines = (directions @ directions.T).numpy()
    for degree in range(LMAX + 1):
        found = Y[:, degree_slice(degree)] @ Y[:, degree_slice(degree)].T
        legendre = np.polynomial.Legendre.basis(degree)(cosines)
        np.testing.assert_allclose(found.numpy(), (2 * degree + 1) * legendre, atol=1e-12)


@pytest.mark.parametrize("inversion", [1, -1])
def test_equivariance_under_rotation_and_inversion(rotation, directions, inversion):
    Y = spherical_harmonics(directions, LMAX)
    rotated = spherical_harmonics(directions @ (inversion * rotation).T, LMAX)
    for degree in range(LMAX + 1):
        expected = inversion**degree * Y[:, degree_slice(degree)] @ wigner_D(degree, rotation).T
        torch.testing.assert_close(rotated[:, degree_slice(degree)], expected, rtol=0, atol=1e-12)
        natural = wigner_D(degree, inversion * rotation)
        torch.testing.assert_close(natural, inversion**degree * wigner_D(degree, rotation), rtol=0, atol=1e-12)


def test_product_of_harmonics_couples_to_harmonics(directions):
    """Σ C Y_l1 Y_l2 is proportional to Y_l3: nothing for odd l1+l2+l3, one constant otherwise."""
    Y = spherical_harmonics(directions, 6)
    for l1, l2, l3 in ((1, 2, 3), (2, 2, 2), (2, 3, 2), (3, 3, 6), (1, 2, 2)):
        left, right, result = (Y[:, degree_slice(degree)] for degree in (l1, l2, l3))
        coupled = torch.einsum("ei,ej,ijk->ek", left, right, clebsch_gordan(l1, l2, l3))
        constant = (coupled * result).sum() / (result * result).sum()
        torch.testing.assert_close(coupled, constant * result, rtol=0, atol=1e-12)
        assert (abs(constant.item()) < 1e-12) == bool((l1 + l2 + l3) % 2)


def test_homogeneous_and_harmonic():
    """Y_l(s r) = s^l Y_l(r), and the Laplacian of every component vanishes."""
    generator = torch.Generator().manual_seed(3)
    r = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    Y, scaled = spherical_harmonics(r, 5), spherical_harmonics(1.3 * r, 5)
    for degree in range(6):
        torch.testing.assert_close(scaled[:, degree_slice(degree)], 1.3**degree * Y[:, degree_slice(degree)])
    for vector in r:
        hessian = torch.func.jacrev(torch.func.jacrev(lambda v: spherical_harmonics(v, 5)))(vector)
        laplacian = hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
        torch.testing.assert_close(laplacian, torch.zeros_like(laplacian), rtol=0, atol=1e-11)


def test_first_and_second_derivatives():
    generator = torch.Generator().manual_seed(5)
    r = torch.randn(2, 3, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: spherical_harmonics(v, 4), (r,))
    assert torch.autograd.gradgradcheck(lambda v: spherical_harmonics(v, 4), (r,))


def test_finite_at_the_origin_with_all_derivatives():
    r = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    Y = spherical_harmonics(r, 4)
    (gradient,) = torch.autograd.grad(Y.sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), r)
    assert Y.abs().sum().item() == 1
    torch.testing.assert_close(gradient, torch.full_like(gradient, sqrt(3)))
    assert second.isfinite().all()


@pytest.mark.parametrize("shape", [(3,), (0, 3), (4, 2, 3)])
@pytest.mark.parametrize("lmax", [0, 1, 3])
def test_any_leading_shape(shape, lmax):
    r = torch.ones(shape, dtype=torch.float64)
    Y = spherical_harmonics(r, lmax)
    assert Y.shape == (*shape[:-1], (lmax + 1) ** 2)
    torch.testing.assert_close(Y.reshape(-1, Y.shape[-1]), spherical_harmonics(r.reshape(-1, 3), lmax))


def test_dtype_is_kept_and_single_precision_is_accurate(directions):
    single = spherical_harmonics(directions.float(), LMAX)
    assert single.dtype == torch.float32
    assert spherical_harmonics(directions, LMAX).dtype == torch.float64
    torch.testing.assert_close(single.double(), spherical_harmonics(directions, LMAX), rtol=0, atol=2e-5)


def test_usable_in_training_after_a_first_call_in_inference_mode():
    code_path = torch.rand(3, 3, dtype=torch.float64)
    with torch.inference_mode():
        spherical_harmonics(code_path, 10)  # a degree no other test has cached
    r = code_path.requires_grad_()
    spherical_harmonics(r, 10).sum().backward()
    assert r.grad is not None and r.grad.isfinite().all()


def test_D_is_an_orthogonal_representation(rotation):
    other = torch.linalg.matrix_exp(torch.tensor([[0, 0.3, -1.1], [-0.3, 0, 0.7], [1.1, -0.7, 0]]).double())
    for degree in range(7):
        D, identity = wigner_D(degree, rotation), torch.eye(2 * degree + 1, dtype=torch.float64)
        torch.testing.assert_close(D @ D.T, identity, rtol=0, atol=1e-12)
        torch.testing.assert_close(wigner_D(degree, rotation @ other), D @ wigner_D(degree, other), rtol=0, atol=1e-12)


def test_character_of_a_rotation():
    """The trace of D_l is sin((2l+1)θ/2) / sin(θ/2)."""
    angle = 0.83
    R = torch.tensor([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    for degree in range(7):
        character = np.sin((2 * degree + 1) * angle / 2) / np.sin(angle / 2)
        assert wigner_D(degree, R.double()).trace().item() == pytest.approx(character, abs=1e-7)


def test_negative_degrees_are_refused(rotation):
    with pytest.raises(EquipotError, match="lmax = -1"):
        spherical_harmonics(torch.ones(1, 3), -1)
    with pytest.raises(EquipotError, match="degree -1"):
        wigner_D(-1, rotation)


def test_compiles_to_one_graph_with_a_varying_number_of_edges(request, directions):
    if request.config.getoption("--jaxtyping-packages"):
        pytest.skip("shape checks and fullgraph compilation do not go together")

    def twice(r):  # two calls in one graph, as two species of edges would make
        return spherical_harmonics(r, 4) + spherical_harmonics(2 * r, 4)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations, at the compiler's import
        compiled = torch.compile(twice, fullgraph=True, dynamic=True, backend="aot_eager")
        for number in (50, 20):
            torch.testing.assert_close(compiled(directions[:number]), twice(directions[:number]))
