"""Symmetric matrices of any size in blocks: the library's own routines crash on several threads when these are large.

OpenBLAS, as the wheels of NumPy and SciPy bring it, writes beyond its buffers in `syrk` and `potrf` on two threads from
about 16,000 columns on. Products of general matrices, which nearly all of the work is here, have no such limit.
"""

import numpy as np
from jaxtyping import Float
from scipy.linalg import blas, lapack

_WIDTH = 2048
"""Columns of a block: those beside it take as many numbers for each of the matrix's columns, for a while."""
_IN_ONE_PIECE = 12288
"""Columns up to which the library's own routines, which are a third faster, do the whole."""


def add_products(
    matrix: Float[np.ndarray, "size size"], rows: Float[np.ndarray, "row size"], width: int | None = None
) -> None:
    """Adds XᵀX to the lower triangle, in place; what is above it in the blocks of the diagonal is not kept.

    Args:
        matrix: In Fortran's order.
        rows: X, in C's order.
        width: Columns of a block; by default 2048, or all of them where the library is safe.
    """
    width = width or _width(len(matrix))
    if width >= len(matrix):
        blas.dsyrk(1.0, rows.T, beta=1.0, c=matrix, lower=1, overwrite_c=1)
        return
    upper = matrix.T
    for start in range(0, len(upper), width):
        columns = slice(start, min(start + width, len(upper)))
        upper[columns, start:] += rows[:, columns].T @ rows[:, start:]


def factorise_upper(matrix: Float[np.ndarray, "size size"], width: int | None = None) -> int:
    """Puts the U of A = UᵀU into the upper triangle where that of A was, in place; what is below stays as it is.

    Args:
        matrix: In Fortran's order.
        width: Columns of a block; by default 2048, or all of them where the library is safe.

    Returns:
        0, or the number, from 1, of the first pivot that is not positive; columns before it are done then, and what
        stands above it.
    """
    L, size = matrix.T, len(matrix)
    width = width or _width(size)
    if width >= size:
        return int(lapack.dpotrf(matrix, lower=0, clean=0, overwrite_a=1)[1])
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


def beside(size: int) -> int:
    """Returns how many numbers these take beside a matrix of so many columns."""
    return 0 if size <= _IN_ONE_PIECE else 2 * size * _WIDTH


def _width(size: int) -> int:
    return size if size <= _IN_ONE_PIECE else _WIDTH
