"""The radial basis functions, against their formulas."""

import numpy as np
import pytest
import torch
from ase.data import covalent_radii

from equipot.basis import RadialBasis, RadialFeatures
from equipot.basis.short_range import DistanceFloor
from equipot.points import ace_linear, mace
from equipot.statistics import Statistics
from tests.physics.small import STATISTICS

R_MAX, NUM = 4.0, 5
r = np.array([0.7, 1.0, 1.9, 2.6, 3.7])
Z_SENDER, Z_RECEIVER = np.array([1, 6, 8, 1, 6]), np.array([8, 6, 1, 1, 8])


def basis(**axes) -> np.ndarray:
    """The functions [edge, n] of these distances, their envelope left to the weights."""
    design = mace(r_max=R_MAX, num_radial=NUM, envelope_on="weights", **axes)
    arguments = (torch.from_numpy(x) for x in (r, Z_SENDER, Z_RECEIVER))
    return RadialBasis(design, torch.float64)(*arguments).basis.numpy()


def test_gaussians_have_the_width_of_their_spacing():
    """exp(−(r − μ)²/2Δ²) with μ = 0, 1, 2, 3, 4 Å and Δ = 1 Å: at one spacing from its centre e^(−1/2)."""
    expected = np.stack([np.exp(-((r - mu) ** 2) / 2.0) for mu in (0.0, 1.0, 2.0, 3.0, 4.0)], axis=1)
    found = basis(radial_basis="gaussian")
    assert found == pytest.approx(expected, rel=1e-13)
    assert found[1, [0, 1, 2]] == pytest.approx([np.exp(-0.5), 1.0, np.exp(-0.5)], rel=1e-13)


def agnesi() -> np.ndarray:
    """1 / (1 + a x^q / (1 + x^(q−p))), x = r/r₀ (Witt et al. 2023)."""
    q, p, a = 0.9183, 4.5791, 1.0805
    x = r / (0.5 * (covalent_radii[Z_SENDER] + covalent_radii[Z_RECEIVER]))
    return 1.0 / (1.0 + a * x**q / (1.0 + x ** (q - p)))


@pytest.mark.parametrize(("transform", "u"), [("none", r / R_MAX), ("agnesi", agnesi())])
def test_chebyshev_polynomials_of_the_reduced_distance(transform, u):
    """T_n(2u − 1) = cos(n arccos(2u − 1)), n = 1 … 5; u = r/r_max, or what the Agnesi transform makes of r."""
    expected = np.stack([np.cos(n * np.arccos(2.0 * u - 1.0)) for n in range(1, NUM + 1)], axis=1)
    assert basis(radial_basis="chebyshev", distance_transform=transform) == pytest.approx(expected, abs=1e-12)


def agnesi_bond(shortest: float, cutoff: float = R_MAX) -> np.ndarray:
    """(u(r) − u(cutoff)) / (1 − u(cutoff)), u = 1 / (1 + a s⁴/(1 + s²)), s = r/r₀, a = 10/13 (Witt et al. 2023)."""
    r0 = np.maximum(covalent_radii[Z_SENDER] + covalent_radii[Z_RECEIVER], shortest)
    u, end = (1.0 / (1.0 + 10 / 13 * (x / r0) ** 4 / (1.0 + (x / r0) ** 2)) for x in (r, cutoff))
    return (u - end) / (1.0 - end)


def linear(x: np.ndarray, numbers: Statistics | None = None, **axes) -> RadialFeatures:
    """The basis of linear ACE over the envelope, and its two-body functions over theirs."""
    design = ace_linear(r_max=R_MAX, degrees=(NUM, NUM), inner_envelope=0, **{"distance_floor": False, **axes})
    arguments = (torch.from_numpy(a) for a in (x, Z_SENDER, Z_RECEIVER))
    return RadialBasis(design, torch.float64, numbers)(*arguments)


@pytest.mark.parametrize("shortest", [0.0, 1.7])
def test_legendre_polynomials_are_steepest_about_the_bond_or_the_shortest_distance(shortest):
    """√(2n + 1) P_n(2t − 1), n from 0, times t (1 − 6x² + 8x³ − 3x⁴)."""
    pairs = (shortest,) * 6
    measured = STATISTICS.model_copy(update={"pair_distances": pairs})
    t, x = agnesi_bond(shortest), r / R_MAX
    envelope = 1 - 6 * x**2 + 8 * x**3 - 3 * x**4
    P = [np.polynomial.Legendre.basis(n)(2 * t - 1) * np.sqrt(2 * n + 1) for n in range(NUM)]
    expected = np.stack(P, axis=1) * (t * envelope)[:, None]
    found = linear(r, measured, radial_basis="legendre")
    assert found.basis.numpy() == pytest.approx(expected, abs=1e-12)
    assert found.pair is None


def test_products_have_a_cutoff_and_an_inner_envelope_of_their_own():
    features = linear(r, product_r_max=2.5)
    assert features.basis[r >= 2.5].abs().max() == 0
    assert features.pair[3].abs().min() > 0
    t, x = agnesi_bond(0.0, 2.5), r / 2.5
    constant = np.where(x < 1, t * (1 - 6 * x**2 + 8 * x**3 - 3 * x**4), 0.0)
    assert features.basis[:, 0].numpy() == pytest.approx(constant, abs=1e-13)
    assert features.basis[:, 1].numpy() == pytest.approx(constant * (2 * t - 1), abs=1e-12)
    design = ace_linear(r_max=R_MAX, degrees=(NUM, NUM), inner_envelope=1.0, distance_floor=False)
    arguments = (torch.from_numpy(a) for a in (0.5 * r, Z_SENDER, Z_RECEIVER))
    near = RadialBasis(design, torch.float64)(*arguments)
    s = 0.5 * r / (covalent_radii[Z_SENDER] + covalent_radii[Z_RECEIVER])
    inner = np.where(s < 1, 6 * s**2 - 8 * s**3 + 3 * s**4, 1.0)
    assert near.basis.numpy() == pytest.approx(near.pair.numpy() * inner[:, None], abs=1e-13)


def test_no_distance_below_the_shortest_in_training_is_seen():
    """All functions at r are those at r, at and above a; below 0.9 a those at 0.95 a; and curvature is continuous."""
    measured = STATISTICS.model_copy(update={"pair_distances": (1.7, 0.0, 1.7, 1.7, 1.7, 1.7)})
    for axes in ({}, {"product_r_max": 3.0}):
        functions = RadialBasis(
            ace_linear(r_max=R_MAX, degrees=(NUM, NUM), inner_envelope=0, **axes), torch.float64, measured
        )
        free = RadialBasis(functions_of(axes), torch.float64, measured)
        unseen = 0.7 * (covalent_radii[1] + covalent_radii[6])
        for pair, a in (((1, 8), 1.7), ((6, 1), unseen)):
            Z = [torch.full((6,), z) for z in pair]
            x = a * torch.tensor([0.2, 0.7, 0.9, 1.0, 1.3, 2.0], dtype=torch.float64)
            seen = a * torch.tensor([0.95, 0.95, 0.95, 1.0, 1.3, 2.0], dtype=torch.float64)
            for found, expected in zip(functions(x, *Z)[::2], free(seen, *Z)[::2], strict=True):
                assert (found is None) == (expected is None)
                assert found is None or torch.allclose(found, expected, rtol=1e-13, atol=1e-13)


def functions_of(axes: dict):
    return ace_linear(r_max=R_MAX, degrees=(NUM, NUM), inner_envelope=0, distance_floor=False, **axes)


def test_the_floor_is_twice_differentiable():
    """Slope and curvature go from 1 and 0 at a to 0 and 0 at 0.9 a, without a jump between."""
    a = 1.7
    floor = DistanceFloor(STATISTICS.model_copy(update={"pair_distances": (a,) * 6}))
    r = torch.linspace(0.85 * a, 1.05 * a, 2001, dtype=torch.float64, requires_grad=True)
    Z = torch.full_like(r, 6, dtype=torch.int64)
    (slope,) = torch.autograd.grad(floor(r, Z, Z).sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    assert slope[r >= a].detach().numpy() == pytest.approx(1.0)
    assert slope[r <= 0.9 * a].abs().max() == 0
    assert (slope.diff() >= -1e-12).all()
    largest = curvature.abs().max()
    assert curvature[[0, -1]].abs().max() == 0
    assert curvature.diff().abs().max() < 0.02 * largest
    assert float(largest) == pytest.approx(1.5 / (0.1 * a), rel=1e-3)
