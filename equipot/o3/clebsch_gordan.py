"""Clebsch–Gordan coefficients and Wigner 3j symbols of the real spherical harmonics."""

from fractions import Fraction
from functools import cache
from math import factorial, sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equipot.errors import EquipotError


def wigner_3j(l1: int, l2: int, l3: int) -> Float[Tensor, "m1 m2 m3"]:
    """The invariant tensor of three real irreps, of Frobenius norm 1.

    Σ_{m1 m2 m3} D1[i,m1] D2[j,m2] D3[k,m3] w[m1,m2,m3] = w[i,j,k] for every rotation. Up to its sign it is
    the only one. The sign is that of the Condon–Shortley coefficients,

        w = (2 l3+1)^(-1/2) i^(l3-l1-l2) Σ_{μ1 μ2 μ3} U1[μ1,m1] U2[μ2,m2] U3*[μ3,m3] <l1 μ1 l2 μ2 | l3 μ3>,

    where Y^μ = Σ_m U[μ,m] Y_m expands the complex harmonics in the real ones.

    Args:
        l1: first degree.
        l2: second degree.
        l3: third degree.

    Returns:
        A new float64 tensor on the CPU.

    Raises:
        EquipotError: |l1-l2| <= l3 <= l1+l2 does not hold.

    Source: Varshalovich, Moskalev & Khersonskii, Quantum Theory of Angular Momentum (1988), §8.2.
    """
    return torch.from_numpy(wigner_3j_array(l1, l2, l3).copy())


def clebsch_gordan(l1: int, l2: int, l3: int) -> Float[Tensor, "m1 m2 m3"]:
    """Coefficients that couple degrees l1 and l2 to l3: √(2 l3+1) · wigner_3j(l1, l2, l3).

    Σ_{m1 m2} C[m1,m2,m3] C[m1,m2,m3'] = δ(m3,m3'), so random inputs of unit variance per component give
    outputs of unit variance per component ('component' normalisation).

    Args:
        l1: first degree.
        l2: second degree.
        l3: degree of the result.

    Returns:
        A new float64 tensor on the CPU.

    Raises:
        EquipotError: |l1-l2| <= l3 <= l1+l2 does not hold.

    Source: NequIP (arXiv 2101.03164), the tensor product of the convolution; scale of e3nn's tensor products.
    """
    return torch.from_numpy(wigner_3j_array(l1, l2, l3) * sqrt(2 * l3 + 1))


@cache
def wigner_3j_array(l1: int, l2: int, l3: int) -> np.ndarray:
    """As wigner_3j, for use inside this package: the array is shared and read-only."""
    if min(l1, l2, l3) < 0 or not abs(l1 - l2) <= l3 <= l1 + l2:
        raise EquipotError(
            f"degrees ({l1}, {l2}, {l3}) do not couple: l3 must lie between |l1-l2| = {abs(l1 - l2)} "
            f"and l1+l2 = {l1 + l2}."
        )
    coefficients = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            coefficients[l1 + m1, l2 + m2, l3 + m1 + m2] = _condon_shortley(l1, m1, l2, m2, l3)
    U1, U2, U3 = (_complex_in_real(degree) for degree in (l1, l2, l3))
    w = np.einsum("pqr,pi,qj,rk->ijk", coefficients, U1, U2, U3.conj(), optimize=True)
    real = (1j ** ((l3 - l1 - l2) % 4) * w).real / sqrt(2 * l3 + 1)
    real.flags.writeable = False
    return real


def _condon_shortley(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """<l1 m1 l2 m2 | l3 m1+m2> by Racah's single sum in exact arithmetic, rounded once.

    Source: Varshalovich et al. (1988), §8.2.1.
    """
    m3 = m1 + m2
    total = Fraction(0)
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        denominator = _factorials(k, l1 + l2 - l3 - k, l1 - m1 - k, l2 + m2 - k, l3 - l2 + m1 + k, l3 - l1 - m2 + k)
        total += Fraction((-1) ** k, denominator)
    squared = Fraction(
        (2 * l3 + 1)
        * _factorials(l3 + l1 - l2, l3 - l1 + l2, l1 + l2 - l3)
        * _factorials(l1 + m1, l1 - m1, l2 + m2, l2 - m2, l3 + m3, l3 - m3),
        factorial(l1 + l2 + l3 + 1),
    )
    return (1 if total >= 0 else -1) * sqrt(squared * total**2)


def _factorials(*numbers: int) -> int:
    """Product of the factorials."""
    product = 1
    for number in numbers:
        product *= factorial(number)
    return product


def _complex_in_real(degree: int) -> np.ndarray:
    """U[μ,m] with Y^μ = Σ_m U[μ,m] Y_m: Y^{±|m|} = (±1)^m (Y_{|m|} ± i Y_{-|m|}) / √2."""
    U = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    U[degree, degree] = 1
    for m in range(1, degree + 1):
        U[degree + m, [degree + m, degree - m]] = (-1) ** m * np.array([1, 1j]) / sqrt(2)
        U[degree - m, [degree + m, degree - m]] = np.array([1, -1j]) / sqrt(2)
    return U
