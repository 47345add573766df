"""Nonlinearities σ of the update that keep equivariance."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.interactions.activation import Activation
from equipot.kernels.gate_map import SCALAR, GateMap, Scaled
from equipot.kernels.operations import GateOperation
from equipot.kernels.reference import irreps_join, irreps_split
from equipot.o3 import Irrep, Irreps


class Gate(nn.Module):
    r"""Scalars through an activation, irreps of degree ≥ 1 times activated scalars of their own.

        0e: c σ(x),   0o: c tanh(x),   l ≥ 1: x_{l m k} · c σ'(g_{l k}),   σ = SiLU or shifted softplus

    σ' = σ as in NequIP, or the sigmoid.

    The gates g are extra 0e channels, one for each channel of degree ≥ 1, behind the scalars' own.

    Args:
        irreps_out: Irreps after the gate, each once, in order.
        activation: σ, "silu" or "ssp".
        constants: Second-moment constants of the activations, "e3nn", "exact" or "jax".
        dtype: Type of the features.
        gates: σ', for example "sigmoid"; default σ.

    Source: Weiler et al., NeurIPS 2018; Batzner et al. 2022, Methods.
    """

    def __init__(
        self, irreps_out: Irreps, activation: str, constants: str, dtype: torch.dtype, gates: str | None = None
    ) -> None:
        super().__init__()
        self.irreps_out = irreps_out
        self.gated = Irreps([(mul, ir) for mul, ir in irreps_out if ir.l > 0])
        names = (activation, gates or activation, "tanh")
        even, gate, self.odd = (Activation(name, constants) for name in names)
        self.even = even if gates is None else _TwoActivations(irreps_out.count(SCALAR), even, gate)
        scaled = zip(names, (even, gate, self.odd), strict=True)
        description = GateMap(irreps_out, *(Scaled(name, part.constant) for name, part in scaled))
        self.irreps_in = description.irreps_in
        self.operation = GateOperation(description, dtype)

    def forward(self, x: Float[Tensor, "node dim_in"]) -> Float[Tensor, "node dim_out"]:
        """Returns the gated features."""
        return self.operation(x) if self.operation.fused else self._definition(x)

    def _definition(self, x: Float[Tensor, "node dim_in"]) -> Float[Tensor, "node dim_out"]:
        parts = {ir: part for (_, ir), part in zip(self.irreps_in, irreps_split(x, self.irreps_in), strict=True)}
        even = self.even(parts[SCALAR])
        widths = [self.irreps_out.count(SCALAR), *(mul for mul, _ in self.gated)]
        scalars, *gates = even.split(widths, dim=2)
        done = {ir: parts[ir] * gate for (_, ir), gate in zip(self.gated, gates, strict=True)}
        done[SCALAR] = scalars
        done.update({ir: self.odd(parts[ir]) for _, ir in self.irreps_out if ir == Irrep(0, -1)})
        return irreps_join([done[ir] for _, ir in self.irreps_out])


class _TwoActivations(nn.Module):
    """One activation on the first channels, another one on the others."""

    def __init__(self, num_first: int, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.num_first, self.first, self.second = num_first, first, second

    def forward(self, x: Float[Tensor, "node m channel"]) -> Float[Tensor, "node m channel"]:
        first, second = x.tensor_split([self.num_first], dim=2)
        return torch.cat([self.first(first), self.second(second)], dim=2)
