"""Nonlinearities σ of the update that keep equivariance."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.interactions.activation import Activation
from equipot.kernels.reference import irreps_join, irreps_split
from equipot.o3 import Irrep, Irreps

SCALAR = Irrep(0, 1)


class Gate(nn.Module):
    r"""Scalars through an activation, irreps of degree ≥ 1 times activated scalars of their own.

        0e: c σ(x),   0o: c tanh(x),   l ≥ 1: x_{l m k} · c σ'(g_{l k}),   σ = SiLU or shifted softplus

    σ' = σ as in NequIP, or the sigmoid.

    The gates g are extra 0e channels, one for each channel of degree ≥ 1, behind the scalars' own.

    Args:
        irreps_out: Irreps after the gate, each once, in order.
        activation: σ, "silu" or "ssp".
        constants: Second-moment constants of the activations, "e3nn", "exact" or "jax".
        gates: σ', for example "sigmoid"; default σ.

    Source: Weiler et al., NeurIPS 2018; Batzner et al. 2022, Methods.
    """

    def __init__(self, irreps_out: Irreps, activation: str, constants: str, gates: str | None = None) -> None:
        super().__init__()
        self.irreps_out = irreps_out
        self.gated = Irreps([(mul, ir) for mul, ir in irreps_out if ir.l > 0])
        self.irreps_in = gate_irreps_in(irreps_out)
        even = Activation(activation, constants)
        num_scalars = irreps_out.count(SCALAR)
        self.even = even if gates is None else _TwoActivations(num_scalars, even, Activation(gates, constants))
        self.odd = Activation("tanh", constants)

    def forward(self, x: Float[Tensor, "node dim_in"]) -> Float[Tensor, "node dim_out"]:
        """Returns the gated features."""
        parts = {ir: part for (_, ir), part in zip(self.irreps_in, irreps_split(x, self.irreps_in), strict=True)}
        even = self.even(parts[SCALAR])
        widths = [self.irreps_out.count(SCALAR), *(mul for mul, _ in self.gated)]
        scalars, *gates = even.split(widths, dim=2)
        done = {ir: parts[ir] * gate for (_, ir), gate in zip(self.gated, gates, strict=True)}
        done[SCALAR] = scalars
        done.update({ir: self.odd(parts[ir]) for _, ir in self.irreps_out if ir == Irrep(0, -1)})
        return irreps_join([done[ir] for _, ir in self.irreps_out])


def gate_irreps_in(irreps_out: Irreps) -> Irreps:
    """Returns the irreps before the gate: those after it, and one 0e for each channel of degree ≥ 1."""
    gates = sum(mul for mul, ir in irreps_out if ir.l > 0)
    return Irreps([(mul + gates if ir == SCALAR else mul, ir) for mul, ir in irreps_out])


class _TwoActivations(nn.Module):
    """One activation on the first channels, another one on the others."""

    def __init__(self, num_first: int, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.num_first, self.first, self.second = num_first, first, second

    def forward(self, x: Float[Tensor, "node m channel"]) -> Float[Tensor, "node m channel"]:
        first, second = x.tensor_split([self.num_first], dim=2)
        return torch.cat([self.first(first), self.second(second)], dim=2)
