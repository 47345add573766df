"""The linear map per irrep, described as data."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from equipot.o3 import Irrep, Irreps


class Block(NamedTuple):
    """One irrep that input and output share.

    Attributes:
        ir: The irrep.
        start_in: Where it begins in a row of x.
        mul_in: Channels K of x.
        start_out: Where it begins in a row of y.
        mul_out: Channels K' of y.
        start_weights: Where its matrix [K, K'] begins in a row of W.
        scale: Factor of the matrix.
    """

    ir: Irrep
    start_in: int
    mul_in: int
    start_out: int
    mul_out: int
    start_weights: int
    scale: float


@dataclass(frozen=True)
class LinearMap:
    r"""Mixes the channels of each irrep, with one matrix for all nodes or one for each species.

        y[i, l, m, k'] = s_l Σ_k W[z_i, l, k, k'] x[i, l, m, k]

    Irreps of y that x lacks are zero. A row of W holds the matrices of the shared irreps, in the order of y.

    Attributes:
        irreps_in: Irreps of x, each once, in any order.
        irreps_out: Irreps of y, each once, in any order.
        scales: Factor s of each shared irrep, in the order of y.
    """

    irreps_in: Irreps
    irreps_out: Irreps
    scales: tuple[float, ...]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The irreps that input and output share, in the order of the output."""
        places = {
            ir: (part.start, mul) for (mul, ir), part in zip(self.irreps_in, self.irreps_in.slices(), strict=True)
        }
        shared = [
            (ir, *places[ir], part.start, mul)
            for (mul, ir), part in zip(self.irreps_out, self.irreps_out.slices(), strict=True)
            if ir in places
        ]
        blocks, start = [], 0
        for (ir, start_in, mul_in, start_out, mul_out), scale in zip(shared, self.scales, strict=True):
            blocks.append(Block(ir, start_in, mul_in, start_out, mul_out, start, scale))
            start += mul_in * mul_out
        return tuple(blocks)

    @property
    def num_weights(self) -> int:
        """Length of a row of W."""
        return sum(block.mul_in * block.mul_out for block in self.blocks)

    @property
    def key(self) -> str:
        """The description as text, `LinearMap.from_key(key)`."""
        return f"{self.irreps_in}->{self.irreps_out}|{' '.join(repr(scale) for scale in self.scales)}"

    @staticmethod
    @lru_cache(maxsize=1024)
    def from_key(key: str) -> "LinearMap":
        """Returns the description that has this key."""
        irreps, scales = key.split("|")
        irreps_in, irreps_out = (Irreps(text) for text in irreps.split("->"))
        return LinearMap(irreps_in, irreps_out, tuple(float(scale) for scale in scales.split()))


def linear_map(irreps_in: Irreps, irreps_out: Irreps, fan: float = 1.0) -> LinearMap:
    """Returns the map with factors 1/√(K · fan), which keep the variance for weights from N(0, 1).

    Args:
        irreps_in: Irreps of x, each once.
        irreps_out: Irreps of y, each once.
        fan: How many terms each weight is summed over, besides the K channels.
    """
    scales = [(irreps_in.count(ir) * fan) ** -0.5 for _, ir in irreps_out if ir in irreps_in]
    return LinearMap(irreps_in, irreps_out, tuple(scales))
