"""The radial basis functions, against their formulas."""

import numpy as np
import pytest
import torch
from ase.data import covalent_radii

from equipot.basis import RadialBasis
from equipot.points import mace

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
