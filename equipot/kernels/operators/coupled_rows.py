"""Rows of the design matrix of linear ACE as a torch operator, which adds to what it is given (`kernels.coupled_rows`).

It has no derivative: what it makes is linear in nothing that is trained.
"""

from equipot.kernels.operators.library import LIBRARY

LIBRARY.define(
    "coupled_rows(Tensor(a!)? forces, Tensor(b!)? virial, Tensor A, Tensor R, Tensor dR, Tensor Y, Tensor dY, "
    "Tensor vectors, Tensor senders, Tensor starts, Tensor species, Tensor system, Tensor columns, str key) -> ()"
)
