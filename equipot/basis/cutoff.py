"""Envelopes that take every function of r smoothly to zero at the cutoff."""

from jaxtyping import Float
from torch import Tensor


def polynomial_envelope(x: Float[Tensor, " edge"], p: int) -> Float[Tensor, " edge"]:
    r"""Returns the polynomial envelope of the reduced distance x = r / r_max.

        f(x) = 1 − (p+1)(p+2)/2 x^p + p(p+2) x^{p+1} − p(p+1)/2 x^{p+2}   for x < 1, else 0

    f, f′ and f″ vanish at x = 1, so energies are twice continuously differentiable there.

    Args:
        x: Reduced distances.
        p: Order, ≥ 2.

    Source: Gasteiger, Groß & Günnemann, ICLR 2020, Eq. 8.
    """
    a, b, c = (p + 1) * (p + 2) / 2, p * (p + 2), p * (p + 1) / 2
    f = 1.0 - x.pow(p) * (a - b * x + c * x * x)
    return f * (x < 1.0)
