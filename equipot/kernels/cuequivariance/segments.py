"""The descriptions as segmented polynomials, the form in which cuEquivariance takes them.

A row of a buffer is cut into segments of equal width, the channels. A monomial multiplies one segment of each of its
buffers, channel by channel, and adds to a segment of the output:

    out[q, k] += c Π_n buffer_n[s_n, k]

Features are [m, channel] per irrep, so their segments are the components m; where multiplicities differ, the width is
their greatest common divisor and a component has several segments.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from equipot.kernels.polynomial import Convolution, Product
from equipot.o3 import clebsch_gordan

SMALLEST = 1e-12
"""Coefficients below are zeros of rounding."""


class Buffer(NamedTuple):
    """Rows that are cut into segments.

    Attributes:
        segments: How many.
        shared: Each is one number for all channels.
    """

    segments: int
    shared: bool = False


class Monomial(NamedTuple):
    """One term.

    Attributes:
        segments: Of each factor, and of the output last.
        coefficient: c.
    """

    segments: tuple[int, ...]
    coefficient: float


class Polynomial(NamedTuple):
    """Sums of monomials, grouped by their buffers.

    Attributes:
        width: Channels of a segment.
        inputs: What is multiplied.
        output: What is made.
        sums: For the factors' buffers (indices of `inputs`, with repetitions) all monomials.
    """

    width: int
    inputs: tuple[Buffer, ...]
    output: Buffer
    sums: dict[tuple[int, ...], list[Monomial]]


def of_convolution(d: Convolution) -> Polynomial:
    """Returns the product of h, Y, R on one edge, still to be gathered and pooled."""
    width = math.gcd(*(mul for mul, _ in d.irreps_in))
    lm = Buffer((d.max_ell + 1) ** 2, shared=True)
    inputs = (Buffer(d.irreps_in.dim // width), lm, Buffer(d.num_weights // width))
    return Polynomial(width, inputs, Buffer(d.irreps_out.dim // width), {(0, 1, 2): list(_edge_terms(d, width))})


def _edge_terms(d: Convolution, width: int) -> Iterator[Monomial]:
    rows_in = [part.start for part in d.irreps_in.slices()]
    rows_out = {ir: (part.start, mul) for (mul, ir), part in zip(d.irreps_out, d.irreps_out.slices(), strict=True)}
    made = dict.fromkeys(rows_out, 0)
    weights = 0
    for path in d.paths:
        start, total = rows_out[path.ir_out]
        C = clebsch_gordan(path.ir_in.l, path.ell, path.ir_out.l).numpy()
        for m1, m2, m3 in np.argwhere(np.abs(C) > SMALLEST).tolist():
            h = rows_in[path.segment] + m1 * path.mul
            a = start + m3 * total + made[path.ir_out]
            for k in range(0, path.mul, width):
                segments = ((h + k) // width, path.ell**2 + m2, (weights + k) // width, (a + k) // width)
                yield Monomial(segments, float(C[m1, m2, m3]))
        made[path.ir_out] += path.mul
        weights += path.mul


def of_product(d: Product, channels: int) -> Polynomial:
    """Returns B of one atom; its buffers are the element's weights, [path, channel] for all of its paths, and A."""
    sums: dict[tuple[int, ...], list[Monomial]] = {}
    terms = iter(d.terms)
    first = 0
    for U in d.folding:
        for row in U.numpy():
            term = next(terms)
            found = sums.setdefault((0, *(1 for _ in term.factors)), [])
            for path in np.flatnonzero(np.abs(row) > SMALLEST).tolist():
                found.append(Monomial((first + path, *term.factors, term.output), float(row[path])))
        first += U.shape[1]
    A, B = (sum(ir.dim for ir in irreps) for irreps in (d.irreps_in, d.irreps_out))
    return Polynomial(channels, (Buffer(first), Buffer(A)), Buffer(B), sums)


def segmented(p: Polynomial) -> Any:
    """Returns it as `cuequivariance.SegmentedPolynomial`."""
    import cuequivariance as cue

    buffers = [*p.inputs, p.output]
    operands = [cue.SegmentedOperand([() if b.shared else (p.width,)] * b.segments) for b in buffers]
    operations = []
    for factors, monomials in p.sums.items():
        used = (*factors, len(p.inputs))
        product = cue.SegmentedTensorProduct(
            [(operands[n], "" if buffers[n].shared else "u") for n in used],
            paths=[cue.segmented_polynomials.Path(*monomial) for monomial in monomials],
        )
        operations.append((used, product))
    return cue.SegmentedPolynomial(operands[:-1], operands[-1:], operations)
