"""The operations as modules: what layers call, evaluated by the backend that was chosen for the run."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.kernels.cuequivariance import evaluate as cuequivariance
from equipot.kernels.gate_map import GateMap
from equipot.kernels.kept import Kept
from equipot.kernels.linear_map import LinearMap
from equipot.kernels.polynomial import Convolution, Product
from equipot.kernels.reference import (
    ReferenceConvolution,
    ReferenceLinear,
    ReferenceProduct,
    SpeciesGroups,
    edge_harmonics,
    irreps_join,
)
from equipot.kernels.spline import DEGREE, UniformSpline, spline


class EdgeIndex(NamedTuple):
    """Who sends to whom: edges j → i sorted by receiver.

    Attributes:
        senders: Sender j of each edge.
        receivers: Receiver i of each edge, ascending.
        starts: First edge of each owned node, and the number of edges.
    """

    senders: Int[Tensor, " edge"]
    receivers: Int[Tensor, " edge"]
    starts: Int[Tensor, " owned+1"]

    @property
    def num_owned(self) -> int:
        """Number of nodes that receive."""
        return self.starts.shape[0] - 1


def edge_index(senders: Int[Tensor, " edge"], receivers: Int[Tensor, " edge"], num_owned: int) -> EdgeIndex:
    """Returns the edges with where each receiver's begin."""
    nodes = torch.arange(num_owned + 1, device=receivers.device)
    return EdgeIndex(senders, receivers, torch.searchsorted(receivers, nodes))


class Operation(nn.Module):
    """An operation of `kernels.polynomial`. `backend` is set by `kernels.backend.use_backend` and nothing else.

    Attributes:
        backend: "reference" (plain torch, the definition), a fused backend, or "cuequivariance".
        reason: Why that, in a few words.
        dtype: Type of its tensors.
    """

    kind: ClassVar[str]
    backend = "reference"
    reason = "plain torch"

    def __init__(self, key: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.key, self.dtype = key, dtype

    @property
    def fused(self) -> bool:
        """Whether torch.ops.equipot evaluates it."""
        return self.backend in ("cpu", "triton")

    @property
    def segmented(self) -> bool:
        """Whether cuEquivariance evaluates it; `torch.compile` sees plain torch."""
        return (
            self.backend == "cuequivariance"
            and cuequivariance.obstacle(self.kind, self.key) is None
            and not torch.compiler.is_compiling()
        )


def follow_backend(new: nn.Module, old: nn.Module) -> None:
    """Gives new operations the backend of those that are there; what they need is compiled when it is called."""
    known = next((m for m in old.modules() if isinstance(m, Operation)), Operation)
    for operation in new.modules():
        if isinstance(operation, Operation):
            operation.backend, operation.reason = known.backend, known.reason


class EdgeHarmonicsOperation(Operation):
    """Lengths of edge vectors, and the harmonics of their directions.

    Args:
        lmax: Highest degree.
        sign: −1 for directions opposite to the vectors.
        dtype: Type of the harmonics.
    """

    kind = "edge_harmonics"

    def __init__(self, lmax: int, sign: float, dtype: torch.dtype) -> None:
        super().__init__(str(lmax), dtype)
        self.lmax, self.sign = lmax, sign

    def forward(self, vectors: Float[Tensor, "edge 3"]) -> tuple[Float[Tensor, " edge"], Float[Tensor, "edge lm"]]:
        """Returns lengths, float64, and Y."""
        if self.fused:
            return torch.ops.equipot.edge_harmonics(vectors, self.lmax, self.sign, self.dtype)
        return edge_harmonics(vectors, self.lmax, self.sign, self.dtype)


class ConvolutionOperation(Operation):
    """Evaluates a `Convolution`."""

    kind = "convolution"

    def __init__(self, description: Convolution, dtype: torch.dtype) -> None:
        super().__init__(description.key, dtype)
        self.description = description
        self.reference = ReferenceConvolution(description, dtype)

    def forward(
        self,
        h: Float[Tensor, "node dim_in"],
        Y: Float[Tensor, "edge lm"],
        R: "Float[Tensor, 'edge weights'] | Splined",
        edges: EdgeIndex,
    ) -> Float[Tensor, "owned dim_out"]:
        """Returns the pooled products a_i of the nodes that receive."""
        if isinstance(R, Splined):
            if self.backend == "cpu" and not R.table.requires_grad:
                return torch.ops.equipot.splined_convolution(h, Y, R.table, R.u, *edges, self.key)
            R = R.values()
        if self.fused:
            return torch.ops.equipot.convolution(h, Y, R, *edges, self.key)
        if self.segmented and R.shape[0] > 0:
            return cuequivariance.convolution(h, Y, R, edges.senders, edges.receivers, edges.num_owned, self.key)
        return self.reference(h, Y, R, edges.senders, edges.receivers, edges.num_owned)


class SplineOperation(Operation):
    """Evaluates splines: `kernels.spline.spline`."""

    kind = "spline"

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__("", dtype)

    def forward(self, table: Float[Tensor, "row column"], u: Float[Tensor, " edge"]) -> Float[Tensor, "edge column"]:
        """Returns the splines of all columns at each u."""
        return torch.ops.equipot.spline(table, u) if self.fused else spline(table, u)


class MatrixOperation(Operation):
    """Multiplies two matrices, of which one is small or flat; on the CPU by the code of the linear maps.

    Args:
        dtype: Of both.
    """

    kind = "linear"

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__("", dtype)

    @property
    def fused(self) -> bool:
        """Whether torch.ops.equipot evaluates it: on the CPU alone; `torch.compile` sees plain torch."""
        return self.backend == "cpu" and not torch.compiler.is_compiling()

    def forward(self, x: Float[Tensor, "row inner"], W: Float[Tensor, "inner column"]) -> Float[Tensor, "row column"]:
        """Returns x W."""
        if not self.fused:
            return x @ W
        key = f"{W.shape[0]}x0e->{W.shape[1]}x0e|1.0"
        return torch.ops.equipot.irreps_linear(x, W.reshape(1, -1), None, None, key)


class SplineTableOperation(Operation):
    """Makes the coefficients of splines (`kernels.spline.UniformSpline`) of products Φ W, given on the knots.

    Args:
        knots: n.
        dtype: Of Φ and W.
    """

    kind = "spline_table"
    solution: Tensor

    def __init__(self, knots: int, dtype: torch.dtype) -> None:
        super().__init__("", dtype)
        self.knots = knots
        self.product = MatrixOperation(dtype)
        solution = np.pad(UniformSpline(knots).solution, ((0, DEGREE + 1), (0, 0)))
        self.register_buffer("solution", torch.from_numpy(solution).to(dtype), persistent=False)

    @property
    def fused(self) -> bool:
        """Whether torch.ops.equipot evaluates it: as `MatrixOperation`."""
        return self.product.fused

    def forward(
        self, functions: Float[Tensor, "point few"], W: Float[Tensor, "few column"] | None
    ) -> Float[Tensor, "row _column"]:
        """Returns S Φ W; S Φ without a matrix."""
        if self.fused:
            few = torch.ops.equipot.spline_table(functions, self.knots)
        else:
            few = (self.solution @ functions.unflatten(0, (-1, self.knots))).flatten(0, 1)
        return few if W is None else self.product(few, W)


class Splined(NamedTuple):
    """Splines still to be evaluated, by the operation that needs the values or within it.

    Attributes:
        table: Coefficients.
        u: Argument of each edge.
        spline: What evaluates them.
    """

    table: Float[Tensor, "row column"]
    u: Float[Tensor, " edge"]
    spline: SplineOperation

    def values(self) -> Float[Tensor, "edge column"]:
        """Returns the values of all columns at each edge."""
        return self.spline(self.table, self.u)


MAX_TERMS = 6000
"""Terms of a product beyond which straight-line code takes longer to compile than anyone would wait."""


class ProductOperation(Operation):
    """Evaluates a `Product`.

    Attributes:
        terms: (index of the output irrep, ν) of each tensor of weights.
    """

    kind = "product"

    def __init__(self, description: Product, channels: int, dtype: torch.dtype) -> None:
        super().__init__(f"{description.key}|{channels}", dtype)
        self.channels = channels
        self.reference = ReferenceProduct(description, dtype)
        self.terms = self.reference.terms
        for n, matrix in enumerate(description.folding):
            self.register_buffer(f"folding_{n}", matrix.to(dtype), persistent=False)
        self.num_terms = len(description.terms)
        self._kept = Kept()

    @property
    def fused(self) -> bool:
        """Whether torch.ops.equipot evaluates it: not where there are too many terms."""
        return super().fused and self.num_terms <= MAX_TERMS

    def forward(
        self,
        A: Float[Tensor, "node dim_A"],
        weights: Sequence[Float[Tensor, "_path species channel"]],
        groups: SpeciesGroups,
    ) -> Float[Tensor, "node dim_B"]:
        """Returns B; `weights` has one tensor for each of `terms`, for each element or for all of them."""
        shared = weights[0].shape[1] == 1
        if self.fused:
            order, starts = (None, None) if shared else (groups.order, groups.starts)
            return torch.ops.equipot.product(A, self.coefficients(weights), order, starts, self.key)
        if self.segmented and A.shape[0] > 0:
            return cuequivariance.product(A, weights, None if shared else groups.species, self.key)
        species = torch.zeros_like(groups.species) if shared else groups.species
        return irreps_join(self.reference(A.unflatten(1, (-1, self.channels)), weights, species))

    def coefficients(self, weights: Sequence[Tensor]) -> Float[Tensor, "species term channel"]:
        """Returns the coefficient of each monomial."""
        return self._kept(weights, self._fold)

    def _fold(self, weights: Sequence[Tensor]) -> Tensor:
        folding = [self.get_buffer(f"folding_{n}") for n in range(len(weights))]
        folded = [
            torch.bmm(U.expand(w.shape[1], -1, -1), w.transpose(0, 1)) for U, w in zip(folding, weights, strict=True)
        ]
        return torch.cat(folded, dim=1)


class LinearOperation(Operation):
    """Evaluates a `LinearMap`.

    Attributes:
        description: The map as data.
        names: The irreps that x and y share, in the order of their matrices.
    """

    kind = "linear"

    def __init__(self, description: LinearMap, dtype: torch.dtype) -> None:
        super().__init__(description.key, dtype)
        self.description = description
        self.names = [str(block.ir) for block in description.blocks]
        self.reference = ReferenceLinear(description)
        self._kept = Kept()

    def forward(
        self, x: Float[Tensor, "node dim_in"], matrices: Sequence[Tensor], groups: SpeciesGroups | None = None
    ) -> Float[Tensor, "node dim_out"]:
        """Returns y; the matrices of the shared irreps are [K, K'], or [species, K, K'] for atoms in groups."""
        if not self.fused:
            return self.reference(x, matrices, groups)
        if not matrices:
            return x.new_zeros((x.shape[0], self.description.irreps_out.dim))
        order, starts = (None, None) if groups is None else (groups.order, groups.starts)
        rows = 1 if groups is None else matrices[0].shape[0]
        return torch.ops.equipot.irreps_linear(x, self._rows(matrices, rows), order, starts, self.key)

    def _rows(self, matrices: Sequence[Tensor], rows: int) -> Float[Tensor, "_rows weights"]:
        """The matrices side by side."""
        if len(matrices) == 1:
            return matrices[0].reshape(rows, -1)
        return self._kept(matrices, lambda each: torch.cat([W.reshape(rows, -1) for W in each], dim=1))


class GateOperation(Operation):
    """Evaluates a `GateMap`; its definition in plain torch is that of the layer."""

    kind = "gate"

    def __init__(self, description: GateMap, dtype: torch.dtype) -> None:
        super().__init__(description.key, dtype)

    @property
    def fused(self) -> bool:
        """Whether torch.ops.equipot evaluates it: on the CPU alone."""
        return self.backend == "cpu"

    def forward(self, x: Float[Tensor, "node dim_in"]) -> Float[Tensor, "node dim_out"]:
        """Returns the gated features, where it is fused."""
        return torch.ops.equipot.gate(x, self.key)
