"""Linear maps per irrep: W, U, D, S and P of the layer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipot.kernels.linear_map import linear_map
from equipot.kernels.operations import LinearOperation, MatrixOperation
from equipot.kernels.reference import SpeciesGroups
from equipot.o3 import Irreps


class Linear(nn.Module):
    r"""Mixes the channels of each irrep: y_{l m k'} = (1/√K_l) Σ_k W^l_{k k'} x_{l m k}.

    Irreps of the output that the input lacks are zero. Weights start from N(0, 1), so that the components of
    y have the variance of those of x.

    Args:
        irreps_in: Irreps of x, each once.
        irreps_out: Irreps of y, each once.
        dtype: Type of the weights.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, dtype: torch.dtype) -> None:
        super().__init__()
        self.irreps_in, self.irreps_out = irreps_in, irreps_out
        self.weights = nn.ParameterDict(
            {
                str(ir): nn.Parameter(torch.randn(irreps_in.count(ir), mul, dtype=dtype))
                for mul, ir in irreps_out
                if ir in irreps_in
            }
        )
        self.operation = LinearOperation(linear_map(irreps_in, irreps_out), dtype)

    def forward(self, x: Float[Tensor, "node dim_in"]) -> Float[Tensor, "node dim_out"]:
        """Returns y."""
        return self.operation(x, [self.weights[name] for name in self.operation.names])


class SpeciesLinear(nn.Module):
    r"""Mixes the channels of each irrep with a matrix per element, S_{z_i} or P_{z_i}.

        y_{l m k'} = (1/√(K_l S)) Σ_k W^l_{z_i k k'} x_{l m k}

    The factor 1/√S for S elements is that of the published fully connected product with a one-hot vector.

    Args:
        irreps_in: Irreps of x, each once.
        irreps_out: Irreps of y, each once; those that x lacks are zero.
        num_species: Number of elements S.
        dtype: Type of the weights.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, num_species: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.irreps_in, self.irreps_out = irreps_in, irreps_out
        self.weights = nn.ParameterDict(
            {
                str(ir): nn.Parameter(torch.randn(num_species, irreps_in.count(ir), mul, dtype=dtype))
                for mul, ir in irreps_out
                if ir in irreps_in
            }
        )
        self.operation = LinearOperation(linear_map(irreps_in, irreps_out, self.fan(num_species)), dtype)

    @staticmethod
    def fan(num_species: int) -> float:
        """Returns the number that the matrices are divided by the root of, besides K."""
        return float(num_species)

    def matrices(self, embedding: Float[Tensor, "species feature"]) -> list[Tensor]:
        """Returns the matrix of each element, [species, K, K'], for each irrep that x and y share."""
        return [self.weights[name] for name in self.operation.names]

    def forward(
        self,
        x: Float[Tensor, "node dim_in"],
        groups: SpeciesGroups,
        embedding: Float[Tensor, "species feature"],
    ) -> Float[Tensor, "node dim_out"]:
        """Returns y; `groups` are the atoms by element, `embedding` the elements' embedding vectors."""
        return self.operation(x, self.matrices(embedding), groups)


class IndexedLinear(SpeciesLinear):
    """A `SpeciesLinear` whose matrices are divided by √K_l only, whatever the number of elements.

    Source: e3nn-jax, linear maps with indexed weights (nequix).
    """

    @staticmethod
    def fan(num_species: int) -> float:
        """Returns 1."""
        return 1.0


class EmbeddingLinear(SpeciesLinear):
    r"""Mixes channels with matrices contracted from the elements' embedding: S_z = Σ_f W_{f} e_{z f} / √(K F).

    Args:
        irreps_in: Irreps of x, each once.
        irreps_out: Irreps of y, each once; those that x lacks are zero.
        num_features: Width F of the embedding.
        dtype: Type of the weights.

    Source: nequip ≥ 0.7, self-connection.
    """

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, num_features: int, dtype: torch.dtype) -> None:
        super().__init__(irreps_in, irreps_out, num_features, dtype)
        self.contraction = MatrixOperation(dtype)

    def matrices(self, embedding: Float[Tensor, "species feature"]) -> list[Tensor]:
        """Returns the matrix of each element, [species, K, K'], for each irrep that x and y share."""
        weights = [self.weights[name] for name in self.operation.names]
        return [self.contraction(embedding, W.flatten(1)).unflatten(1, W.shape[1:]) for W in weights]


class PlainLinear(nn.Module):
    """A `Linear` with the signature of `SpeciesLinear`: the same matrix for every element."""

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = Linear(irreps_in, irreps_out, dtype)

    def forward(self, x: Tensor, groups: SpeciesGroups, embedding: Tensor) -> Tensor:
        """Returns y."""
        return self.linear(x)


class Residual(nn.Module):
    """Q: adds a linear map of the atom's own U h to its message."""

    def __init__(self, irreps_in: Irreps, irreps_out: Irreps, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = Linear(irreps_in, irreps_out, dtype)

    def forward(self, message: Float[Tensor, "node dim"], h: Float[Tensor, "node dim_in"]) -> Float[Tensor, "node dim"]:
        """Returns the sum."""
        return message + self.linear(h)


class NoResidual(nn.Module):
    """Q where there is none."""

    def forward(self, message: Tensor, h: Tensor) -> Tensor:
        """Returns the message."""
        return message


class Unchanged(nn.Module):
    """P where there is none: y = x."""

    def forward(self, x: Tensor, groups: SpeciesGroups, embedding: Tensor) -> Tensor:
        """Returns x."""
        return x


class Absent(nn.Module):
    """S where there is none: y = 0."""

    def forward(self, x: Tensor, groups: SpeciesGroups, embedding: Tensor) -> Tensor:
        """Returns zero."""
        return x.new_zeros(())
