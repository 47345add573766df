"""Rows summed up: as normal equations or as a triangular factor, either of which can be solved with any prior."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.linalg import blas, lapack

from equipot.errors import EquipotError
from equipot.fit.linear.blocked import add_products, factorise_upper
from equipot.fit.linear.factor import Factor, reflect

_ABSENT = 1e-28
"""A column whose squared norm over the largest is below this is zero but for rounding."""
_PANEL = 64
"""Columns of a panel of the blocked QR."""


class SingularError(EquipotError):
    """The data and the prior do not determine the weights."""


@runtime_checkable
class Problem(Protocol):
    r"""Rows [X | y], summed up.

    Attributes:
        num_rows: How many there were.
        squared_norms: Of the columns of X.
        total: yᵀy.
        resolution: The least prior strength, over tr XᵀX, that rounding errors leave visible.
    """

    num_rows: int
    resolution: float

    @property
    def squared_norms(self) -> Float[np.ndarray, " column"]:
        """Of the columns of X."""

    @property
    def total(self) -> float:
        """Returns yᵀy."""

    def factorise(self, precisions: Float[np.ndarray, " column"]) -> Factor:
        """Returns the minimum of ‖X v − y‖² + Σ_p λ_p v_p²; an earlier one of this problem is then void.

        Raises:
            SingularError: There is no single minimum.
        """

    def residual_sum(self, weights: Float[np.ndarray, " column"]) -> float:
        """Returns ‖X v − y‖²."""


class NormalEquations:
    r"""[X | y]ᵀ[X | y], below the diagonal of one square matrix; above it is the place of the factor.

        [ XᵀX + Λ   Xᵀy ]   [ U   z ]ᵀ [ U   z ]
        [ yᵀX       yᵀy ] = [ 0   ρ ]  [ 0   ρ ],     v = U⁻¹ z,   S = ρ²

    The sum is a symmetric rank-k update, the factor Cholesky's, so that one matrix is all the memory there is. The
    condition number of X enters squared: weights are exact to about 10⁻¹⁶ κ², which a prior bounds.
    """

    resolution = 1e-17

    def __init__(self, columns: int) -> None:
        self.matrix = np.zeros((columns + 1, columns + 1), order="F")
        self.num_rows = 0
        self._diagonal: Float[np.ndarray, " size"] | None = None

    def add(self, block: Float[np.ndarray, "row size"]) -> None:
        """Adds rows [X | y], in C's order."""
        add_products(self.matrix, block)
        self.num_rows += len(block)

    def merge(self, other: "NormalEquations") -> None:
        """Adds the rows of another sum."""
        for start in range(0, len(self.matrix), _PANEL):
            self.matrix[:, start : start + _PANEL] += other.matrix[:, start : start + _PANEL]
        self.num_rows += other.num_rows

    @property
    def diagonal(self) -> Float[np.ndarray, " size"]:
        """Of the sums; the matrix itself has that of the factor after `factorise`."""
        if self._diagonal is None:
            self._diagonal = self.matrix.diagonal().copy()
        return self._diagonal

    @property
    def squared_norms(self) -> Float[np.ndarray, " column"]:
        """Of the columns of X."""
        return self.diagonal[:-1]

    @property
    def total(self) -> float:
        """Returns yᵀy."""
        return float(self.diagonal[-1])

    def factorise(self, precisions: Float[np.ndarray, " column"], without: "NormalEquations | None" = None) -> Factor:
        """Returns the minimum of ‖X v − y‖² + Σ_p λ_p v_p²; an earlier one of this problem is then void.

        Args:
            precisions: λ; where a column is absent and λ is 0 it counts as 1, so that its weight is 0.
            without: Rows among those summed up that are left out.

        Raises:
            SingularError: There is no single minimum.
        """
        diagonal = self.diagonal if without is None else self.diagonal - without.diagonal
        precisions = settled(precisions, diagonal[:-1])
        np.fill_diagonal(self.matrix, self.diagonal)
        reflect(self.matrix, None if without is None else without.matrix)
        np.fill_diagonal(self.matrix, diagonal + np.append(precisions, 0.0))
        info = factorise_upper(self.matrix)
        size = len(self.matrix)
        if 0 < info < size:
            raise singular(precisions)
        smallest = np.finfo(float).eps * max(float(diagonal[-1]), np.finfo(float).tiny)
        objective = smallest if info == size else max(float(self.matrix[-1, -1]) ** 2, smallest)
        return solved(self.matrix, objective, precisions)

    def residual_sum(self, weights: Float[np.ndarray, " column"]) -> float:
        """Returns ‖X v − y‖², exact to rounding errors of yᵀy."""
        factor_diagonal = self.matrix.diagonal().copy()
        np.fill_diagonal(self.matrix, self.diagonal)
        x = np.append(-weights, 1.0)
        result = float(x @ blas.dsymv(1.0, self.matrix, x, lower=1))
        np.fill_diagonal(self.matrix, factor_diagonal)
        return max(result, 0.0)

    def select(self, columns: np.ndarray) -> "NormalEquations":
        """Returns the sums with some of the columns alone, as a copy."""
        kept = np.append(columns, len(self.matrix) - 1)
        part = NormalEquations(len(columns))
        for start in range(0, len(kept), _PANEL):
            part.matrix[:, start : start + _PANEL] = self.matrix[np.ix_(kept, kept[start : start + _PANEL])]
        np.fill_diagonal(part.matrix, self.diagonal[kept])
        part.num_rows = self.num_rows
        return part


class TriangularProblem:
    r"""The triangular factor of [X | y] by blocked QR: rows are worked in and forgotten.

        [ R ]         [ R' ]
        [ X ]  =  Q   [ 0  ]

    The condition number of X enters once: weights are exact to about 10⁻¹⁶ κ. It takes three square matrices, and
    two to four times the time of the normal equations.

    Source: Demmel, Grigori, Hoemmen and Langou, SIAM J. Sci. Comput. 34, A206 (2012): QR of tall matrices in pieces.
    """

    resolution = 1e-30

    def __init__(self, columns: int) -> None:
        self.matrix = np.zeros((columns + 1, columns + 1), order="F")
        self.num_rows = 0
        self._squared_norms: Float[np.ndarray, " column"] | None = None

    def add(self, block: Float[np.ndarray, "row size"]) -> None:
        """Works rows [X | y] in."""
        self.matrix = _stacked(self.matrix, np.array(block, order="F"), 0)
        self.num_rows += len(block)
        self._squared_norms = None

    @property
    def squared_norms(self) -> Float[np.ndarray, " column"]:
        """Of the columns of X."""
        if self._squared_norms is None:
            self._squared_norms = np.array([float(c[: p + 1] @ c[: p + 1]) for p, c in enumerate(self.matrix.T[:-1])])
        return self._squared_norms

    @property
    def total(self) -> float:
        """Returns yᵀy."""
        return float(self.matrix[:, -1] @ self.matrix[:, -1])

    def factorise(self, precisions: Float[np.ndarray, " column"]) -> Factor:
        """Returns the minimum of ‖X v − y‖² + Σ_p λ_p v_p², by QR of R with √Λ below it.

        Args:
            precisions: λ; where a column is absent and λ is 0 it counts as 1, so that its weight is 0.

        Raises:
            SingularError: There is no single minimum.
        """
        precisions = settled(precisions, self.squared_norms)
        below = np.zeros_like(self.matrix, order="F")
        np.fill_diagonal(below, np.append(np.sqrt(precisions), 0.0))
        matrix = _stacked(self.matrix.copy(order="F"), below, len(below))
        del below
        pivots = np.abs(matrix.diagonal()[:-1])
        scale = np.sqrt(self.squared_norms + precisions)
        if (pivots <= np.finfo(float).eps * len(pivots) * scale).any():
            raise singular(precisions)
        smallest = np.finfo(float).eps ** 2 * max(self.total, np.finfo(float).tiny)
        return solved(matrix, max(float(matrix[-1, -1]) ** 2, smallest), precisions)

    def residual_sum(self, weights: Float[np.ndarray, " column"]) -> float:
        """Returns ‖X v − y‖² = ‖R v − z‖² + ρ², exact to rounding errors of the residuals."""
        left = blas.dtrmv(self.matrix, np.append(-weights, 1.0), lower=0)
        return float(left @ left)


def _stacked(
    upper: Float[np.ndarray, "size size"], below: Float[np.ndarray, "row size"], pentagon: int
) -> Float[np.ndarray, "size size"]:
    """Returns the triangular factor of two matrices, the lower with `pentagon` rows of a triangle; destroys both."""
    panel = min(_PANEL, upper.shape[1])
    upper, _, _, info = lapack.dtpqrt(pentagon, panel, upper, below, overwrite_a=1, overwrite_b=1)
    if info != 0:
        raise RuntimeError(f"tpqrt returned {info}")
    return upper


def settled(
    precisions: Float[np.ndarray, " column"], squared_norms: Float[np.ndarray, " column"]
) -> Float[np.ndarray, " column"]:
    """Returns prior precisions that are 1 where there are neither data nor a prior."""
    return np.where(absent(squared_norms) & (precisions == 0), 1.0, precisions)


def absent(squared_norms: Float[np.ndarray, " column"]) -> np.ndarray:
    """Returns which columns are zero in all data."""
    return squared_norms <= _ABSENT * max(float(squared_norms.max(initial=0.0)), np.finfo(float).tiny)


def solved(
    matrix: Float[np.ndarray, "size size"], objective: float, precisions: Float[np.ndarray, " column"]
) -> Factor:
    """Returns the factor whose matrix [U z; 0 ρ] is: v = U⁻¹ z, and z and ρ make room for the identity."""
    matrix[-1, -1] = 1.0
    unit = np.zeros(len(matrix))
    unit[-1] = 1.0
    weights = -blas.dtrsv(matrix, unit, lower=0)[:-1]
    matrix[:-1, -1] = 0.0
    return Factor(matrix, weights, objective, precisions)


def singular(precisions: Float[np.ndarray, " column"]) -> SingularError:
    """Returns the error for weights that are not determined."""
    prior = float(precisions.min(initial=0.0))
    return SingularError(
        f"the weights are not determined: some of the {len(precisions)} columns are combinations of others in these "
        f"data, and the prior (least strength {prior:g}) is too weak to decide. Set prior: evidence, or a larger "
        "number; or give more structures (solver: qr tells weaker differences apart than "
        "normal_equations, if it is not in use)"
    )
