"""Activation functions scaled to unit second moment, and e3nn's constants for it."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

CONSTANTS = {
    "e3nn": {
        "silu": 1.6791767923989418, "tanh": 1.5937334472592695, "ssp": 1.878204668541552,
        "mish": 1.4891609082630326, "gelu": 1.5360642850770578,
        "sigmoid": 1.8467055342154763, "none": 1.0,
    },
    "exact": {
        "silu": 1.6765324703310907, "tanh": 1.5925374197228312, "ssp": 1.8755962561350417,
        "mish": 1.486847581273208, "gelu": 1.533530441195535,
        "sigmoid": 1.8462285453386054, "none": 1.0,
    },
    "jax": {
        "silu": 1.6765620560798837, "tanh": 1.5925386426301724, "ssp": 1.8756284052158891,
        "mish": 1.4868683136233003, "gelu": 1.533553239822414,
        "sigmoid": 1.8462291765663328, "none": 1.0,
    },
    "relu": dict.fromkeys(("silu", "tanh", "ssp", "mish", "gelu", "sigmoid", "none"), math.sqrt(2.0)),
    "one": dict.fromkeys(("silu", "tanh", "ssp", "mish", "gelu", "sigmoid", "none"), 1.0),
}  # fmt: skip
"""1/√E[σ(x)²] for x ~ N(0, 1): as e3nn samples it with a fixed seed, by quadrature, and as e3nn-jax averages it over
1,000,001 quantiles in float64 (in float32 it finds 1.6765648 and 1.5925388); then that of ReLU for all, and 1."""


def _shifted_softplus(x: Tensor) -> Tensor:
    return nn.functional.softplus(x) - math.log(2.0)


def _unchanged(x: Tensor) -> Tensor:
    return x


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "ssp": _shifted_softplus,
    "mish": nn.functional.mish,
    "gelu": nn.functional.gelu,
    "sigmoid": torch.sigmoid,
    "none": _unchanged,
}


class Activation(nn.Module):
    """c · σ(x). Even scalars may have any σ; odd ones have tanh, an odd function, which keeps their parity.

    Args:
        name: A key of `FUNCTIONS`; "ssp" is the shifted softplus ln(1 + eˣ) − ln 2, "none" is x.
        constants: A key of `CONSTANTS`.
    """

    def __init__(self, name: str, constants: str) -> None:
        super().__init__()
        self.function = FUNCTIONS[name]
        self.constant = CONSTANTS[constants][name]

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the activation of each element."""
        return self.constant * self.function(x)
