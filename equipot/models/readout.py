"""Readouts: from the scalars of a layer to an energy per atom.

Every readout is linear in its last weights: ε = x w, with x = `last_inputs(h)` and w = `last_weights()` one after the
other.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.design import Design
from equipot.interactions.activation import Activation
from equipot.interactions.linear import Linear
from equipot.o3 import Irrep, Irreps

_ENERGY = Irreps("1x0e")
_SCALAR = Irrep(0, 1)


class LinearReadout(nn.Module):
    """ε = h · w / √K over the scalar channels."""

    def __init__(self, irreps: Irreps, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = Linear(irreps, _ENERGY, dtype)

    def forward(self, h: Float[Tensor, "node dim"]) -> Float[Tensor, " node"]:
        """Returns ε of each atom."""
        return self.linear(h).squeeze(1)

    def last_inputs(self, h: Float[Tensor, "node dim"]) -> Float[Tensor, "node last"]:
        """Returns x."""
        return _inputs(self.linear, h)

    def last_weights(self) -> list[nn.Parameter]:
        """Returns w."""
        return list(self.linear.weights.values())


class HiddenReadout(nn.Module):
    r"""ε = c σ( … c σ(h W₁) W₂ … ) W_n, each W over the square root of its inputs' number.

    Args:
        irreps: Irreps of h.
        widths: Widths of the hidden layers.
        activation: c σ; the identity for "two_linear", as in NequIP's paper.
        dtype: Type of the weights.
    """

    def __init__(self, irreps: Irreps, widths: tuple[int, ...], activation: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        hidden = [Irreps(f"{width}x0e") for width in widths]
        self.first = Linear(irreps, hidden[0], dtype)
        self.middle = nn.ModuleList([Linear(a, b, dtype) for a, b in pairwise(hidden)])
        self.activation = activation
        self.second = Linear(hidden[-1], _ENERGY, dtype)

    def forward(self, h: Float[Tensor, "node dim"]) -> Float[Tensor, " node"]:
        """Returns ε of each atom."""
        return self.second(self._hidden(h)).squeeze(1)

    def last_inputs(self, h: Float[Tensor, "node dim"]) -> Float[Tensor, "node last"]:
        """Returns x."""
        return _inputs(self.second, self._hidden(h))

    def last_weights(self) -> list[nn.Parameter]:
        """Returns w."""
        return list(self.second.weights.values())

    def _hidden(self, h: Tensor) -> Tensor:
        x = self.activation(self.first(h))
        for linear in self.middle:
            x = self.activation(linear(x))
        return x


class BiasedReadout(HiddenReadout):
    r"""ε = c σ( … c σ(h W₁) W₂ + b₂ … ) W_n + b_n: biases behind every matrix but the first; they start at 0.

    An atom without features has an energy of its own, which training finds. Arguments as for `HiddenReadout`.

    Source: mace-torch, `NonLinearBiasReadoutBlock` (two hidden layers).
    """

    def __init__(self, irreps: Irreps, widths: tuple[int, ...], activation: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(irreps, widths, activation, dtype)
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(n, dtype=dtype)) for n in (*widths[1:], 1)])

    def forward(self, h: Float[Tensor, "node dim"]) -> Float[Tensor, " node"]:
        """Returns ε of each atom."""
        return (self.second(self._hidden(h)) + self.biases[-1]).squeeze(1)

    def last_inputs(self, h: Float[Tensor, "node dim"]) -> Float[Tensor, "node last"]:
        """Returns x; its last column is one."""
        x = super().last_inputs(h)
        return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)

    def last_weights(self) -> list[nn.Parameter]:
        """Returns w and the last bias."""
        return [*super().last_weights(), self.biases[-1]]

    def _hidden(self, h: Tensor) -> Tensor:
        x = self.activation(self.first(h))
        for linear, bias in zip(self.middle, self.biases, strict=False):
            x = self.activation(linear(x) + bias)
        return x


class _WithoutWeights(nn.Module):
    """What readouts without weights say about their last ones."""

    def last_inputs(self, h: Float[Tensor, "node dim"]) -> Float[Tensor, "node last"]:
        """Returns x, which has no columns."""
        return h.new_zeros(h.shape[0], 0)

    def last_weights(self) -> list[nn.Parameter]:
        """Returns w: none."""
        return []


class NoReadout(_WithoutWeights):
    """A layer that is not read out: ε = 0."""

    def forward(self, h: Float[Tensor, "node dim"]) -> Float[Tensor, " node"]:
        """Returns zeros."""
        return h.new_zeros(h.shape[0])


class SumReadout(_WithoutWeights):
    """ε = the one scalar of a coupled layer, which has the weights."""

    def forward(self, h: Float[Tensor, "node 1"]) -> Float[Tensor, " node"]:
        """Returns ε of each atom."""
        return h.squeeze(1)


Readout = LinearReadout | HiddenReadout | BiasedReadout | NoReadout | SumReadout


def _inputs(linear: Linear, h: Tensor) -> Tensor:
    """The scalars that a linear readout sees, over the root of their number; none where it has no weights."""
    where = [linear.irreps_in.slices()[n] for n, (_, ir) in enumerate(linear.irreps_in) if ir == _SCALAR]
    x = torch.cat([h[:, part] for part in where], dim=1) if where else h[:, :0]
    return x / math.sqrt(max(1, x.shape[1]))


def readout(design: Design, irreps: Irreps, *, last: bool, dtype: torch.dtype) -> nn.Module:
    """Returns the readout of one layer: linear before the last, the design's form at the last."""
    if not last:
        return LinearReadout(irreps, dtype) if design.readout_layers == "every" else NoReadout()
    constants = "relu" if design.readout_scaling == "nequip" else design.activation_constants
    activation = Activation(design.readout_activation, constants)
    widths = (design.readout_hidden,) * design.readout_depth
    make = {
        "linear": lambda: LinearReadout(irreps, dtype),
        "two_linear": lambda: HiddenReadout(irreps, (design.readout_hidden,), nn.Identity(), dtype),
        "mlp": lambda: HiddenReadout(irreps, widths, activation, dtype),
        "mlp_bias": lambda: BiasedReadout(irreps, widths, activation, dtype),
        "sum": SumReadout,
    }
    return make[design.readout]()
