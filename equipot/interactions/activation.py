"""Activation functions scaled to unit second moment, and e3nn's constants for it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

CONSTANTS = {
    "e3nn": {"silu": 1.6791767923989418, "tanh": 1.5937334472592695},
    "exact": {"silu": 1.6765324703310907, "tanh": 1.5925374197228312},
    "jax": {"silu": 1.6765620560798837, "tanh": 1.5925386426301724},
}
"""1/√E[σ(x)²] for x ~ N(0, 1): as e3nn samples it with a fixed seed, by quadrature, and as e3nn-jax averages it over
1,000,001 quantiles in float64 (in float32 it finds 1.6765648 and 1.5925388)."""


class Activation(nn.Module):
    """c · σ(x), σ = SiLU for even scalars and tanh for odd ones (an odd function keeps their parity).

    Args:
        name: "silu" or "tanh".
        constants: "e3nn", "exact" or "jax".
    """

    def __init__(self, name: str, constants: str) -> None:
        super().__init__()
        functions: dict[str, Callable[[Tensor], Tensor]] = {"silu": nn.functional.silu, "tanh": torch.tanh}
        self.function = functions[name]
        self.constant = CONSTANTS[constants][name]

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the activation of each element."""
        return self.constant * self.function(x)
