"""Triangular factors, in place: what every direct solver of a linear fit ends with."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import blas, lapack

_BLOCK = 512
"""Width of the blocks that go through a factor together."""
_POWER_STEPS = 60
_SEED = 12345


@dataclass(frozen=True)
class Factor:
    r"""The minimum of ‖X v − y‖² + Σ_p λ_p v_p² and its curvature.

    =======  ==================================================================================
    symbol   meaning
    =======  ==================================================================================
    U        upper triangular, UᵀU = XᵀX + Λ; `matrix` holds it with one more row and column of
             the identity, in its upper triangle (what is below the diagonal is not part of it)
    v        `weights`, where the minimum is
    S        `objective`, its value
    =======  ==================================================================================

    Attributes:
        matrix: U, in Fortran's order.
        weights: v.
        objective: S.
        precisions: λ.
    """

    matrix: Float[np.ndarray, "size size"]
    weights: Float[np.ndarray, " column"]
    objective: float
    precisions: Float[np.ndarray, " column"]

    @property
    def log_determinant(self) -> float:
        """Ln |XᵀX + Λ|."""
        return 2.0 * float(np.log(np.abs(np.diagonal(self.matrix))).sum())

    def whiten(self, rows: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "size row"]:
        """Returns U⁻ᵀ xᵀ for each row x: the squared norm of each is x (XᵀX + Λ)⁻¹ xᵀ."""
        right = np.zeros((len(self.matrix), len(rows)), order="F")
        right[:-1] = rows.T
        return blas.dtrsm(1.0, self.matrix, right, lower=0, trans_a=1, overwrite_b=1)

    def colour(self, noise: Float[np.ndarray, "column draw"]) -> Float[np.ndarray, "column draw"]:
        """Returns U⁻¹ z for each column z: white noise of unit variance gets the covariance (XᵀX + Λ)⁻¹."""
        right = np.zeros((len(self.matrix), noise.shape[1]), order="F")
        right[:-1] = noise
        return blas.dtrsm(1.0, self.matrix, right, lower=0, overwrite_b=1)[:-1]

    def solve(self, right: Float[np.ndarray, " column"]) -> Float[np.ndarray, " column"]:
        """Returns (XᵀX + Λ)⁻¹ of one vector."""
        x = blas.dtrsv(self.matrix, np.append(right, 0.0), lower=0, trans=1)
        return blas.dtrsv(self.matrix, x, lower=0)[:-1]

    def inverse_diagonal(self) -> Float[np.ndarray, " column"]:
        """Returns the diagonal of (XᵀX + Λ)⁻¹, the squared norms of the rows of U⁻¹.

        Block columns of U⁻¹ are formed from the diagonal upwards and forgotten: a third of P³ multiplications.
        """
        size = len(self.matrix)
        blocks = [slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK)]
        inverses = [lapack.dtrtri(self.matrix[block, block], lower=0)[0] for block in blocks]
        total = np.zeros(size)
        for last, block in enumerate(blocks):
            column = np.zeros((block.stop, block.stop - block.start))
            column[block] = np.triu(inverses[last])
            for above in range(last - 1, -1, -1):
                rows, below = blocks[above], slice(blocks[above].stop, block.stop)
                column[rows] = -np.triu(inverses[above]) @ (self.matrix[rows, below] @ column[below])
            total[: block.stop] += np.einsum("pj,pj->p", column, column)
        return total[:-1]

    def effective_parameters(self) -> float:
        """Returns tr XᵀX (XᵀX + Λ)⁻¹, how many combinations of weights the data determine rather than the prior."""
        return float(len(self.weights) - (self.precisions * self.inverse_diagonal()).sum())

    def condition_number(self) -> float:
        """Returns the largest over the smallest singular value of U, by power iteration on UᵀU and its inverse.

        It is that of the rows with the prior's below them; a few per cent too small at worst, as power iterations are.
        """
        generator = np.random.default_rng(_SEED)
        start = np.append(generator.normal(size=len(self.weights)), 0.0)
        large, small = start / np.linalg.norm(start), start / np.linalg.norm(start)
        growth = decay = 1.0
        for _ in range(_POWER_STEPS):
            large = blas.dtrmv(self.matrix, blas.dtrmv(self.matrix, large, lower=0), lower=0, trans=1)
            small = blas.dtrsv(self.matrix, blas.dtrsv(self.matrix, small, lower=0, trans=1), lower=0)
            growth, decay = float(np.linalg.norm(large)), float(np.linalg.norm(small))
            large, small = large / growth, small / decay
        return float(np.sqrt(growth * decay))


def reflect(matrix: Float[np.ndarray, "size size"], without: Float[np.ndarray, "size size"] | None = None) -> None:
    """Writes what is below the diagonal above it, in place, and the diagonal too where something is subtracted.

    Args:
        matrix: In Fortran's order.
        without: Its lower triangle is subtracted from what is written.
    """
    size = len(matrix)
    for j in range(0, size, _BLOCK):
        columns = slice(j, min(j + _BLOCK, size))
        for i in range(j, size, _BLOCK):
            rows = slice(i, min(i + _BLOCK, size))
            block = matrix[rows, columns] if without is None else matrix[rows, columns] - without[rows, columns]
            if i == j:
                below = np.tril(matrix[rows, columns], -1)
                matrix[rows, columns] = below + np.tril(block).T
            else:
                matrix[columns, rows] = block.T
