"""Functions of one variable as B-splines on equally spaced knots: definition and plain-torch evaluation."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

DEGREE = 5
"""Quintic: value and four derivatives are continuous, so energies are C⁴ inside the cutoff, and Hessians C²."""


@dataclass(frozen=True)
class UniformSpline:
    r"""The spline on [0, n] with knots 0, 1 … n (in units of their spacing) and n + d coefficients.

        y(u) = Σ_{q=0…d} B_q(u − ⌊u⌋) T[⌊u⌋ + q],   B_q(t) = Σ_k M[q, k] t^k

    The coefficients are found from the function's values at 1, 2 … n by

        y(s) = f(s) for s = 1 … n;   y^(k)(n) = 0 for k = 1 … (d−1)/2;   Δ^(d−1) T[j] = 0 for j = 0 … (d−1)/2

    that is: what an envelope cuts off smoothly stays smooth there, and towards 0, where the function may be singular
    and no two atoms are, the coefficients go on as a polynomial. All of this is one constant matrix, T = S f.

    Attributes:
        intervals: n.
        degree: d, odd.

    Source: de Boor, A Practical Guide to Splines (1978).
    """

    intervals: int
    degree: int = DEGREE

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return self.intervals + self.degree

    @cached_property
    def conditions(self) -> Float[np.ndarray, "coefficient coefficient"]:
        """A in A T = (0, f, 0): the conditions at the beginning, on values, and at the end: 2d − 1 diagonals."""
        n, d = self.intervals, self.degree
        signs = np.array([(-1) ** k * math.comb(d - 1, k) for k in range(d)], dtype=float)
        rows = [np.pad(signs, (j, n - j)) for j in range(self.before)]
        rows += [self._row(s, 0) for s in range(1, n + 1)]
        rows += [self._row(n, k) for k in range(1, (d + 1) // 2)]
        return np.stack(rows)

    @property
    def before(self) -> int:
        """Number of conditions before those on values."""
        return (self.degree + 1) // 2

    @cached_property
    def solution(self) -> Float[np.ndarray, "coefficient knot"]:
        """S: from the values at the knots 1 … n to the coefficients."""
        return np.linalg.inv(self.conditions)[:, self.before : self.before + self.intervals]

    @cached_property
    def factors(self) -> tuple[Float[np.ndarray, "coefficient below"], Float[np.ndarray, "coefficient above"]]:
        """A = L U: what stands below L's diagonal of ones, L[i, i−1−k], and U from its diagonal on, U[i, i+k].

        Rows are never exchanged: pivots are not small (0.09 for quintic splines, whatever n is).
        """
        size, width = self.size, self.degree - 1
        band = np.zeros((size + width, 2 * width + 1))  # A[i, j] in column j − i + width
        for i, row in enumerate(self.conditions):
            first, last = max(i - width, 0), min(i + width + 1, size)
            band[i, first - i + width : last - i + width] = row[first:last]
        for i in range(size):
            for k in range(1, width + 1):
                factor = band[i + k, width - k] / band[i, width]
                band[i + k, width - k] = factor
                band[i + k, width - k + 1 : 2 * width - k + 1] -= factor * band[i, width + 1 :]
        return band[:size, :width][:, ::-1].copy(), band[:size, width:].copy()

    def _row(self, knot: int, derivative: int) -> np.ndarray:
        """The weights of all coefficients in a derivative at a knot."""
        interval = min(knot, self.intervals - 1)
        powers = _derivative_of_powers(float(knot - interval), self.degree, derivative)
        row = np.zeros(self.size)
        row[interval : interval + self.degree + 1] = pieces(self.degree) @ powers
        return row


def rows_of(intervals: int) -> int:
    """Returns the rows of one table: its coefficients, and zeros for what lies beyond the last knot."""
    return intervals + 2 * DEGREE + 1


@lru_cache
def pieces(degree: int) -> Float[np.ndarray, "q power"]:
    """Returns M: the polynomials B_0 … B_d that make a B-spline of this degree on one interval."""
    M = np.zeros((degree + 1, degree + 1))
    for q in range(degree + 1):
        for j in range(degree - q + 1):
            for k in range(degree + 1):
                power = float(degree - q - j) ** (degree - k)
                M[q, k] += (-1) ** j * math.comb(degree + 1, j) * math.comb(degree, k) * power
    return M / math.factorial(degree)


def _derivative_of_powers(t: float, degree: int, derivative: int) -> np.ndarray:
    return np.array([math.perm(k, derivative) * t ** max(k - derivative, 0) for k in range(degree + 1)])


def derivative_pieces(derivative: int, degree: int = DEGREE) -> Float[np.ndarray, "q power"]:
    """Returns the coefficients of t^k in a derivative of B_0 … B_d."""
    M = pieces(degree)
    for _ in range(derivative):
        M = np.concatenate([M[:, 1:] * np.arange(1, degree + 1), np.zeros((degree + 1, 1))], axis=1)
    return M


def interval_weights(
    u: Float[Tensor, " edge"], rows: int, derivative: int = 0, degree: int = DEGREE
) -> tuple[Int[Tensor, " edge"], Float[Tensor, "edge q"]]:
    """Returns ⌊u⌋, kept inside a table of so many rows, and the weights of the d + 1 rows from there on (float64)."""
    first = u.detach().floor().nan_to_num(nan=0.0).clamp(0, max(rows - degree - 1, 0))
    t = (u - first).unsqueeze(-1)
    M = torch.from_numpy(derivative_pieces(derivative, degree)).to(u.device)
    weights = M[:, degree].expand(len(u), -1)
    for k in range(degree - 1, -1, -1):
        weights = weights * t + M[:, k]
    return first.to(torch.int64), weights


def spline(
    table: Float[Tensor, "row column"], u: Float[Tensor, " edge"], derivative: int = 0, degree: int = DEGREE
) -> Float[Tensor, "edge column"]:
    """Returns S_k(T, u) = Σ_q B_q^(k)(u − ⌊u⌋) T[⌊u⌋ + q]; differentiable in table and u to any order."""
    return gather(table, *interval_weights(u, table.shape[0], derivative, degree))


def gather(
    table: Float[Tensor, "row column"], first: Int[Tensor, " edge"], weights: Float[Tensor, "edge q"]
) -> Float[Tensor, "edge column"]:
    """Returns Σ_q w_q T[first+q], by parts: (Σ w) T[first] + Σ_q (w_q + … + w_d) (T[first+q] − T[first+q−1]).

    Neighbouring coefficients hardly differ, and the weights of derivatives add up to zero: in this form a float32 table
    gives slopes as precise as its coefficients.
    """
    w = cumulated(weights).to(table.dtype)
    row = table.index_select(0, first)
    y = w[:, :1] * row
    for q in range(1, weights.shape[1]):
        following = table.index_select(0, first + q)
        y = y + w[:, q : q + 1] * (following - row)
        row = following
    return y


def cumulated(weights: Float[Tensor, "edge q"]) -> Float[Tensor, "edge q"]:
    """Returns w_q + … + w_d for each q, to be rounded afterwards, when the first is 1, or 0 to 1e-16."""
    return weights.flip(1).cumsum(1).flip(1)


def scatter(
    g: Float[Tensor, "edge column"], first: Int[Tensor, " edge"], weights: Float[Tensor, "edge q"], rows: int
) -> Float[Tensor, "row column"]:
    """Returns the table Σ_e w_eq g_e in rows first_e + q: the transpose of `gather`."""
    w = weights.to(g.dtype)
    table = g.new_zeros((rows, g.shape[1]))
    for q in range(w.shape[1]):
        table = table.index_add(0, first + q, w[:, q : q + 1] * g)
    return table


def dot(
    g: Float[Tensor, "edge column"],
    table: Float[Tensor, "row column"],
    first: Int[Tensor, " edge"],
    weights: Float[Tensor, "edge q"],
) -> Float[Tensor, " edge"]:
    """Returns ⟨g_e, Σ_q w_q T[first + q]⟩, float64."""
    return (g * gather(table, first, weights)).sum(dim=1).double()
