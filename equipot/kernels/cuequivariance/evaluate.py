"""The operations, evaluated by `cuequivariance_torch.SegmentedPolynomial`."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipot.kernels.cuequivariance.available import kernels, method_on
from equipot.kernels.cuequivariance.segments import of_convolution, of_product, segmented
from equipot.kernels.polynomial import Convolution, Product

MOST_MONOMIALS = 10_000
"""Monomials of a product, each with one path, beyond which it stays with plain torch."""
MOST_FACTORS = 4
"""Factors of A; with the weights these are the five that its naive method takes."""


def obstacle(kind: str, key: str) -> str | None:
    """Returns why an operation stays with plain torch, or None."""
    if kind != "product":
        return None if kind == "convolution" else "is none of its polynomials"
    factors, monomials = _size(key)
    if factors > MOST_FACTORS:
        return f"has {factors} factors, more than {MOST_FACTORS}"
    if monomials > MOST_MONOMIALS:
        return f"has {monomials} monomials, more than {MOST_MONOMIALS}"
    return None if monomials else "is zero"


@lru_cache(maxsize=1024)
def _size(key: str) -> tuple[int, int]:
    """Factors and monomials of a product."""
    d = Product.from_key(key)
    return d.correlation, sum(int(torch.count_nonzero(U)) for U in d.folding)


def convolution(
    h: Float[Tensor, "node dim_in"],
    Y: Float[Tensor, "edge lm"],
    R: Float[Tensor, "edge weights"],
    senders: Int[Tensor, " edge"],
    receivers: Int[Tensor, " edge"],
    num_owned: int,
    key: str,
) -> Float[Tensor, "owned dim_out"]:
    """Returns the pooled products, gathered from senders and added to receivers by cuEquivariance.

    There must be an edge.
    """
    rows = h.new_empty((num_owned, 1))  # only their number is read
    (a,) = module("convolution", key, h.device)([h, Y, R], {0: senders}, {0: rows}, {0: receivers})
    return a


def product(
    A: Float[Tensor, "node dim_A"],
    weights: Sequence[Float[Tensor, "_path _species channel"]],
    species: Int[Tensor, " node"] | None,
    key: str,
) -> Float[Tensor, "node dim_B"]:
    """Returns B; without species all atoms share the weights. There must be an atom."""
    rows = torch.cat([w.transpose(0, 1).flatten(1) for w in weights], dim=1)
    (B,) = module("product", key, A.device)([rows, A], {} if species is None else {0: species})
    return B


@lru_cache(maxsize=256)
def module(kind: str, key: str, device: torch.device) -> Any:
    """Returns what evaluates the operation of this key, made once.

    Raises:
        ImportError: cuEquivariance is not there, or its GPU kernels cannot be loaded.
    """
    from cuequivariance_torch import SegmentedPolynomial

    if kind == "convolution":
        description = of_convolution(Convolution.from_key(key))
    else:
        description = of_product(Product.from_key(key), int(key.split("|")[-1]))
    with torch.inference_mode(False):  # its constants made inside of it could not be used outside
        made = SegmentedPolynomial(segmented(description), method=method_on(device)).to(device)
    if made.method != method_on(device):  # it falls back by itself, to what is for tests
        raise ImportError(f"its GPU kernels, of {kernels()}, cannot be loaded")
    return made
