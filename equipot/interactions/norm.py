"""Normalisations of features that keep equivariance."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.kernels.reference import irreps_join, irreps_split
from equipot.o3 import Irreps


class RMSNorm(nn.Module):
    r"""Divides each irrep by its root mean square over channels and components, times a weight per channel.

        y_{l m k} = g_{l k} x_{l m k} / √(ε + mean_{m k} x²_{l m k}),   ε = 10⁻⁴

    Args:
        irreps: Irreps of the features, each once.
        dtype: Type of the weights, which start at 1.
    """

    epsilon = 1e-4

    def __init__(self, irreps: Irreps, dtype: torch.dtype) -> None:
        super().__init__()
        self.irreps = irreps
        self.weights = nn.ParameterDict({str(ir): nn.Parameter(torch.ones(mul, dtype=dtype)) for mul, ir in irreps})

    def forward(self, x: Float[Tensor, "node dim"]) -> Float[Tensor, "node dim"]:
        """Returns the normalised features."""
        parts = zip(self.irreps, irreps_split(x, self.irreps), strict=True)
        return irreps_join([
            part * self.weights[str(ir)] * torch.rsqrt(part.square().mean(dim=(1, 2), keepdim=True) + self.epsilon)
            for (_, ir), part in parts
        ])  # fmt: skip


class LayerNorm(nn.Module):
    r"""Divides all irreps by one norm, that of the n irreps together, times a weight per channel.

        y_{l m k} = g_{l k} x_{l m k} / √(ε + (1/n) Σ_l (2l+1)⁻² Σ_{m k} x²_{l m k}),   ε = 10⁻¹²

    The published code sums over channels and has the dimension 2l+1 twice, not once.

    Args:
        irreps: Irreps of the features, each once.
        dtype: Type of the weights, which start at 1.

    Source: nequix, `RMSLayerNorm` (without centering), after EquiformerV2's.
    """

    epsilon = 1e-12

    def __init__(self, irreps: Irreps, dtype: torch.dtype) -> None:
        super().__init__()
        self.irreps = irreps
        self.weights = nn.ParameterDict({str(ir): nn.Parameter(torch.ones(mul, dtype=dtype)) for mul, ir in irreps})

    def forward(self, x: Float[Tensor, "node dim"]) -> Float[Tensor, "node dim"]:
        """Returns the normalised features."""
        parts = irreps_split(x, self.irreps)
        squares = torch.stack([(part / part.shape[1]).square().sum(dim=(1, 2)) for part in parts])
        factor = torch.rsqrt(squares.mean(dim=0) + self.epsilon).unsqueeze(-1)
        weights = [self.weights[str(ir)].expand(ir.dim, -1).flatten() for _, ir in self.irreps]
        return x * torch.cat(weights) * factor
