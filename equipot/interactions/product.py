"""The product basis B of one atom."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.kernels.operations import ProductOperation
from equipot.kernels.polynomial import Product
from equipot.kernels.reference import SpeciesGroups
from equipot.o3 import Irreps


class ProductBasis(nn.Module):
    r"""B_i = Σ_ν w^(ν)_{z_i} [A_i^{⊗ν}]_sym, channel by channel (uncoupled).

    Args:
        description: The product as data.
        channels: Number of channels k.
        num_species: Number of elements with weights of their own; 1 for shared weights.
        dtype: Type of the weights, which start from N(0, 1/paths²) as published.

    Source: Batatia et al., MACE (2022), Eqs. 10–11; mace-torch's start.
    """

    def __init__(self, description: Product, channels: int, num_species: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.operation = ProductOperation(description, channels, dtype)
        self.irreps_out = Irreps([(channels, ir) for ir in description.irreps_out])
        outs = description.irreps_out
        paths = {f"{outs[n]}_nu{nu}": description.num_paths(outs[n], nu) for n, nu in self.operation.terms}
        self.names = list(paths)
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(p, num_species, channels, dtype=dtype) / p) for name, p in paths.items()}
        )

    def forward(self, A: Float[Tensor, "node dim_A"], groups: SpeciesGroups) -> Float[Tensor, "node dim_B"]:
        """Returns B, flat."""
        return self.operation(A, [self.weights[name] for name in self.names], groups)


class NoProduct(nn.Module):
    """B = A."""

    def forward(self, A: Tensor, groups: SpeciesGroups) -> Tensor:
        """Returns A."""
        return A
