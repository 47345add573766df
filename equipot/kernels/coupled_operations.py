"""The operations of linear ACE as modules: fused on the CPU, plain torch elsewhere."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipot.kernels.coupled import CoupledProduct
from equipot.kernels.coupled_reference import ReferenceCoupled, atomic_basis
from equipot.kernels.kept import Kept
from equipot.kernels.operations import EdgeIndex, Operation
from equipot.kernels.reference import SpeciesGroups


class CpuOperation(Operation):
    """An operation that has fused code for the CPU alone."""

    def __init__(self, description: CoupledProduct, dtype: torch.dtype) -> None:
        super().__init__(description.key, dtype)
        self.description = description

    @property
    def fused(self) -> bool:
        """Whether torch.ops.equipot evaluates it."""
        return self.backend == "cpu"


class AtomicBasisOperation(CpuOperation):
    """Sums R Y over the neighbours of each element."""

    kind = "atomic_basis"

    def forward(
        self,
        R: Float[Tensor, "edge n"],
        Y: Float[Tensor, "edge lm"],
        species: Int[Tensor, " edge"],
        edges: EdgeIndex,
    ) -> Float[Tensor, "owned dim"]:
        """Returns A, flat [z, lm, n]; `species` is the element of each edge's sender."""
        if self.fused:
            return torch.ops.equipot.atomic_basis(R, Y, species, edges.starts, self.description.num_species)
        return atomic_basis(R, Y, species, edges.receivers, (edges.num_owned, self.description.num_species))


class CoupledEnergyOperation(CpuOperation):
    """Evaluates a `CoupledProduct`, contracted with the weights of its functions."""

    kind = "coupled"
    active: Tensor

    def __init__(self, description: CoupledProduct, dtype: torch.dtype) -> None:
        super().__init__(description, dtype)
        self.reference = ReferenceCoupled(description, dtype)
        active = torch.from_numpy(description.active)
        self.register_buffer("active", torch.nonzero(active.flatten()).flatten(), persistent=False)
        self._kept = Kept()

    def forward(
        self,
        A: Float[Tensor, "owned dim"],
        weights: Float[Tensor, " active"] | Float[Tensor, "species function"],
        groups: SpeciesGroups,
    ) -> Float[Tensor, " owned"]:
        """Returns e_i = Σ_f c[z_i, f] B_i[f].

        Args:
            A: One-particle basis.
            weights: c of the active functions, the centre's element outermost; or of all, with one row for each element
                of centres, or one for all.
            groups: The atoms by element.
        """
        W = self._kept([weights], lambda given: self.reference.fold(self._of_all(given[0])))
        if not self.fused:
            return self.reference.energy(A, W, groups)
        order, starts = (groups.order, groups.starts) if W.shape[0] > 1 else (None, None)
        gradient = A.requires_grad and torch.is_grad_enabled()
        return torch.ops.equipot.coupled_energy(A, W, order, starts, gradient, self.key)[0]

    def _of_all(self, weights: Tensor) -> Float[Tensor, "species function"]:
        """The weights of all functions, zero where they are not active."""
        if weights.dim() == 2:
            return weights
        sizes = (self.description.num_species, self.description.num_functions)
        return weights.new_zeros(sizes[0] * sizes[1]).index_copy(0, self.active, weights).view(sizes)


class CoupledBasisOperation(CpuOperation):
    """Evaluates all functions of a `CoupledProduct`."""

    kind = "coupled"

    def __init__(self, description: CoupledProduct, dtype: torch.dtype) -> None:
        super().__init__(description, dtype)
        self.reference = ReferenceCoupled(description, dtype)

    def forward(self, A: Float[Tensor, "owned dim"]) -> Float[Tensor, "owned function"]:
        """Returns B."""
        return torch.ops.equipot.coupled_basis(A, self.key) if self.fused else self.reference.basis(A)
