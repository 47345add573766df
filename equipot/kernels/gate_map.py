"""The gate, described as data: which activation each scalar passes, and which gate each irrep of degree ≥ 1."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from equipot.o3 import Irrep, Irreps

SCALAR = Irrep(0, 1)


class Scaled(NamedTuple):
    """c σ(x): the activation's name and the constant."""

    name: str
    constant: float


class Scalars(NamedTuple):
    """Numbers that each pass an activation: y[out + k] = c σ(x[begin + k])."""

    begin: int
    out: int
    mul: int
    activation: Scaled


class Gated(NamedTuple):
    """An irrep times its gates: y[out + m K + k] = x[begin + m K + k] c σ(x[gates + k])."""

    begin: int
    out: int
    gates: int
    dim: int
    mul: int
    activation: Scaled


def gate_irreps_in(irreps_out: Irreps) -> Irreps:
    """Returns the irreps before the gate: those after it, and one 0e for each channel of degree ≥ 1."""
    gates = sum(mul for mul, ir in irreps_out if ir.l > 0)
    return Irreps([(mul + gates if ir == SCALAR else mul, ir) for mul, ir in irreps_out])


@dataclass(frozen=True)
class GateMap:
    """Scalars through activations, irreps of degree ≥ 1 times activated scalars of their own.

    The gates are extra 0e channels, one for each channel of degree ≥ 1, behind the scalars' own.

    Attributes:
        irreps_out: Irreps after the gate, each once.
        even: Activation of even scalars.
        gates: Activation of the gates.
        odd: Activation of odd scalars, an odd function.
    """

    irreps_out: Irreps
    even: Scaled
    gates: Scaled
    odd: Scaled

    @property
    def irreps_in(self) -> Irreps:
        """Irreps before the gate."""
        return gate_irreps_in(self.irreps_out)

    @property
    def parts(self) -> tuple[list[Scalars], list[Gated]]:
        """What happens to which columns."""
        scalars, gated = [], []
        inputs = {ir: part.start for (_, ir), part in zip(self.irreps_in, self.irreps_in.slices(), strict=True)}
        gate = inputs.get(SCALAR, 0) + self.irreps_out.count(SCALAR)
        for (mul, ir), part in zip(self.irreps_out, self.irreps_out.slices(), strict=True):
            if ir.l == 0:
                scalars.append(Scalars(inputs[ir], part.start, mul, self.even if ir == SCALAR else self.odd))
            else:
                gated.append(Gated(inputs[ir], part.start, gate, ir.dim, mul, self.gates))
                gate += mul
        return scalars, gated

    @property
    def key(self) -> str:
        """The description as one string, for operators."""
        activations = (f"{name}:{constant!r}" for name, constant in (self.even, self.gates, self.odd))
        return "|".join([str(self.irreps_out), *activations])

    @staticmethod
    @lru_cache(maxsize=1024)
    def from_key(key: str) -> "GateMap":
        """Returns the description of a key."""
        irreps, *activations = key.split("|")
        split = [activation.split(":") for activation in activations]
        even, gates, odd = (Scaled(name, float(constant)) for name, constant in split)
        return GateMap(Irreps(irreps), even, gates, odd)
