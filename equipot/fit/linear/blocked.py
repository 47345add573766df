"""Symmetric matrices of any size in blocks: the library's own routines crash on several threads when these are large.

OpenBLAS, as the wheels of NumPy and SciPy bring it, writes beyond its buffers in `syrk` and `potrf` on two threads from
about 16,000 columns on. Products of general matrices, which nearly all of the work is here, have no such limit.
"""

import numpy as np
from jaxtyping import Float
from scipy.linalg import blas, lapack

_WIDTH = 512
"""Columns of a block: those beside it take as many numbers for each of the matrix's columns, for a while."""


def add_products(
    matrix: Float[np.ndarray, "size size"], rows: Float[np.ndarray, "row size"], width: int = _WIDTH
) -> None:
    """Adds XᵀX to the lower triangle, in place; what is above it in the blocks of the diagonal is not kept.

    Args:
        matrix: In Fortran's order.
        rows: X, in C's order.
        width: Columns of a block.
    """
    upper = matrix.T
    for start in range(0, len(upper), width):
        columns = slice(start, min(start + width, len(upper)))
        upper[columns, start:] += rows[:, columns].T @ rows[:, start:]


def factorise_upper(matrix: Float[np.ndarray, "size size"], width: int = _WIDTH) -> int:
    """Puts the U of A = UᵀU into the upper triangle where that of A was, in place; what is below stays as it is.

    Args:
        matrix: In Fortran's order.
        width: Columns of a block.

    Returns:
        0, or the number, from 1, of the first pivot that is not positive; columns before it are done then, and what
        stands above it.
    """
    L, size = matrix.T, len(matrix)
    for start in range(0, size, width):
        stop = min(start + width, size)
        done, block = L[start:stop, :start], L[start:stop, start:stop]
        pivot, info = lapack.dpotrf(np.asfortranarray(block - done @ done.T), lower=1, clean=0, overwrite_a=1)
        L[start:stop, start:stop] = np.tril(pivot) + np.triu(block, 1)
        if info != 0:
            return start + int(info)
        below = L[stop:, :start] @ done.T
        np.subtract(L[stop:, start:stop], below, out=below)
        L[stop:, start:stop] = blas.dtrsm(1.0, pivot, below.T, lower=1, overwrite_b=1).T
    return 0
