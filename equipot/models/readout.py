"""Readouts: from the scalars of a layer to an energy per atom."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.design import Design
from equipot.interactions.activation import Activation
from equipot.interactions.linear import Linear
from equipot.o3 import Irreps

_ENERGY = Irreps("1x0e")


class LinearReadout(nn.Module):
    """ε = h · w / √K over the scalar channels."""

    def __init__(self, irreps: Irreps, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = Linear(irreps, _ENERGY, dtype)

    def forward(self, h: Float[Tensor, "node dim"]) -> Float[Tensor, " node"]:
        """Returns ε of each atom."""
        return self.linear(h).squeeze(1)


class HiddenReadout(nn.Module):
    """ε = σ(h W₁) W₂ with σ = c SiLU ("mlp") or the identity ("two_linear", as NequIP's paper)."""

    def __init__(self, irreps: Irreps, hidden: int, activation: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        middle = Irreps(f"{hidden}x0e")
        self.first = Linear(irreps, middle, dtype)
        self.activation = activation
        self.second = Linear(middle, _ENERGY, dtype)

    def forward(self, h: Float[Tensor, "node dim"]) -> Float[Tensor, " node"]:
        """Returns ε of each atom."""
        return self.second(self.activation(self.first(h))).squeeze(1)


class NoReadout(nn.Module):
    """A layer that is not read out: ε = 0."""

    def forward(self, h: Float[Tensor, "node dim"]) -> Float[Tensor, " node"]:
        """Returns zeros."""
        return h.new_zeros(h.shape[0])


def readout(design: Design, irreps: Irreps, *, last: bool, dtype: torch.dtype) -> nn.Module:
    """Returns the readout of one layer: linear before the last, the design's form at the last."""
    if not last:
        return LinearReadout(irreps, dtype) if design.readout_layers == "every" else NoReadout()
    make = {
        "linear": lambda: LinearReadout(irreps, dtype),
        "two_linear": lambda: HiddenReadout(irreps, design.readout_hidden, nn.Identity(), dtype),
        "mlp": lambda: HiddenReadout(
            irreps, design.readout_hidden, Activation("silu", design.activation_constants), dtype
        ),
    }
    return make[design.readout]()
