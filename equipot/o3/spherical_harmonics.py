"""Real spherical harmonics as polynomials in x, y, z, and the matrices that rotate them."""

from functools import lru_cache
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from equipot.errors import EquipotError
from equipot.o3.clebsch_gordan import clebsch_gordan, wigner_3j_array

_raising: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def spherical_harmonics(directions: Float[Tensor, "*shape 3"], lmax: int) -> Float[Tensor, "*shape lm"]:
    """Real spherical harmonics of degrees 0 ... lmax, 'component' normalised: ‖Y_l(r̂)‖² = 2l+1.

    They are evaluated as homogeneous harmonic polynomials by coupling each degree with the direction itself,

        Y_0 = 1,    Y_1 = √3 (x, y, z),    Y_l[m] = c_l Σ_{m' a} C^{l}_{l-1 m', 1 a} Y_{l-1}[m'] r_a,

    so Y_l(s r) = s^l Y_l(r), inversion gives (-1)^l, and every derivative exists everywhere, also at r = 0.
    For unit vectors they are the usual functions on the sphere; the normalisation above holds only there.

    The sums are matrix products with constants and follow torch.set_float32_matmul_precision: leave it at
    'highest' where equivariance in float32 matters.

    Args:
        directions: vectors, dimensionless; unit vectors for functions on the sphere.
        lmax: highest degree.

    Returns:
        (lmax+1)² components, degree by degree, m = -l ... l, with the dtype and device of the directions.

    Raises:
        EquipotError: lmax is negative.
    """
    if lmax < 0:
        raise EquipotError(f"lmax = {lmax} is not a degree: give 0 or more.")
    r = directions.reshape(-1, 3).T.contiguous()  # components first: each is one contiguous row
    Y = [torch.ones_like(r[:1]), sqrt(3) * r][: lmax + 1]
    for degree in range(2, lmax + 1):
        products = (Y[-1].unsqueeze(1) * r.unsqueeze(0)).flatten(0, 1)
        Y.append(_raising_matrix(degree, r.dtype, r.device) @ products)
    return torch.cat(Y).T.reshape(*directions.shape[:-1], (lmax + 1) ** 2)


def wigner_D(degree: int, R: Float[Tensor, "3 3"]) -> Float[Tensor, "m n"]:
    """The matrix that rotates the harmonics of one degree: Y_l(R r) = D_l(R) Y_l(r).

        D_0 = 1,    D_1 = R,    D_l = C^T (D_{l-1} ⊗ R) C    with the coefficients C of (l-1, 1 → l).

    A reflection gives the matrix of the natural parity (-1)^l. For another parity hand over the proper
    rotation det(R)·R and multiply by the parity where det(R) = -1.

    Args:
        degree: l.
        R: orthogonal matrix.

    Returns:
        Orthogonal matrix, in the dtype and on the device of R.

    Raises:
        EquipotError: the degree is negative.
    """
    if degree < 0:
        raise EquipotError(f"degree {degree} does not exist: give 0 or more.")
    D = torch.ones_like(R[:1, :1])
    for l in range(1, degree + 1):  # noqa: E741
        C = clebsch_gordan(l - 1, 1, l).to(R)
        D = torch.einsum("iam,ij,ab,jbn->mn", C, D, R, C)
    return D


@lru_cache(maxsize=64)
def harmonic_recursion(degree: int) -> tuple[tuple[int, int, int, float], ...]:
    """The non-zero coefficients by which the harmonics of one degree come from those of the degree below.

        Y_l[m] = Σ c Y_{l-1}[m'] r_a,    ∂Y_l[m]/∂r_a = l Σ_{m'} c Y_{l-1}[m']

    Both hold for the homogeneous polynomials, everywhere: a derivative of a harmonic polynomial is one of the degree
    below, and Euler's r·∇Y_l = l Y_l gives the factor.

    Args:
        degree: l, 1 or more.

    Returns:
        (m, m', a, c), each index from 0.
    """
    if degree == 1:
        return tuple((a, 0, a, sqrt(3.0)) for a in range(3))
    rows = enumerate(_raising_values(degree))
    return tuple((m, n // 3, n % 3, c) for m, row in rows for n, c in enumerate(row) if abs(c) > 1e-12)


def _raising_matrix(degree: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "m products"]:
    """c_l C^l_{l-1 m', 1 a} as [m, (m' a)], kept per dtype and device; under a compiler it is a literal."""
    if torch.compiler.is_compiling():
        return torch.tensor(_raising_values(degree), dtype=dtype, device=device)
    key = (degree, dtype, device)
    if key not in _raising:
        with torch.inference_mode(False):
            matrix = torch.tensor(_raising_values(degree), dtype=dtype, device=device)
        if type(matrix) is not Tensor:  # a tracer's stand-in must not outlive its trace
            return matrix
        _raising[key] = matrix
    return _raising[key]


@torch.compiler.assume_constant_result
def _raising_values(degree: int) -> list[list[float]]:
    """As _raising_matrix, in plain numbers; at the pole Y_l = √(2l+1) e_{m=0}, which fixes c_l."""
    C = wigner_3j_array(degree - 1, 1, degree)
    at_pole = sqrt(2 * degree - 1) * C[degree - 1, 1, degree]
    return (C * (sqrt(2 * degree + 1) / at_pole)).reshape(-1, 2 * degree + 1).T.tolist()
