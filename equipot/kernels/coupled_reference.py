"""Plain-torch evaluation of the operations of linear ACE: their definition, differentiable to any order."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.kernels.coupled import CoupledProduct
from equipot.kernels.reference import SpeciesGroups


def atomic_basis(
    R: Float[Tensor, "edge n"],
    Y: Float[Tensor, "edge lm"],
    species: Int[Tensor, " edge"],
    receivers: Int[Tensor, " edge"],
    sizes: tuple[int, int],
) -> Float[Tensor, "owned dim"]:
    r"""Returns A[i, z, lm, n] = Σ_{e → i, z_e = z} R[e, n] Y[e, lm], flat.

    Args:
        R: Radial functions.
        Y: Harmonics.
        species: Element of each edge's sender.
        receivers: Receiver of each edge.
        sizes: Number of owned nodes and of elements.
    """
    nodes, num_species = sizes
    products = (Y.unsqueeze(2) * R.unsqueeze(1)).flatten(1)
    A = R.new_zeros((nodes * num_species, products.shape[1]))
    return A.index_add(0, receivers * num_species + species, products).view(nodes, num_species * products.shape[1])


class ReferenceCoupled(nn.Module):
    """Evaluates a `CoupledProduct`."""

    def __init__(self, description: CoupledProduct, dtype: torch.dtype) -> None:
        super().__init__()
        self.description = description
        self.num_functions = description.num_functions
        program = description.program
        self.num_pairs, self.levels = program.num_pairs, program.levels
        ends = program.levels[1:]
        self.made = [description.dim, *(int(program.dst[end - 1]) + 1 if end else description.dim for end in ends)]
        for name in ("dst", "a", "b", "pair_a", "pair_b", "function", "pair"):
            self.register_buffer(name, torch.from_numpy(getattr(program, name)), persistent=False)
        for name in ("coefficient", "value"):
            self.register_buffer(name, torch.from_numpy(getattr(program, name)).to(dtype), persistent=False)

    dst: Tensor
    a: Tensor
    b: Tensor
    coefficient: Tensor
    pair_a: Tensor
    pair_b: Tensor
    function: Tensor
    pair: Tensor
    value: Tensor

    def pairs(self, A: Float[Tensor, "node dim"]) -> Float[Tensor, "node pair"]:
        """Returns the products of slots that functions use."""
        v = A
        for n, (begin, end) in enumerate(zip(self.levels, self.levels[1:], strict=False)):
            left, right = v.index_select(1, self.a[begin:end]), v.index_select(1, self.b[begin:end])
            made = v.new_zeros((v.shape[0], self.made[n + 1] - self.made[n]))
            terms = left * right * self.coefficient[begin:end]
            v = torch.cat([v, made.index_add(1, self.dst[begin:end] - self.made[n], terms)], dim=1)
        return v.index_select(1, self.pair_a) * v.index_select(1, self.pair_b)

    def basis(self, A: Float[Tensor, "node dim"]) -> Float[Tensor, "node function"]:
        """Returns all functions."""
        terms = self.pairs(A).index_select(1, self.pair) * self.value
        return A.new_zeros((A.shape[0], self.num_functions)).index_add(1, self.function, terms)

    def energy(
        self, A: Float[Tensor, "node dim"], W: Float[Tensor, "species pair"], groups: SpeciesGroups
    ) -> Float[Tensor, " node"]:
        """Returns the sums of pairs with the weights of each atom's species, or with those that all share."""
        species = groups.species if W.shape[0] > 1 else torch.zeros_like(groups.species)
        return (self.pairs(A) * W.index_select(0, species)).sum(dim=1)

    def fold(self, weights: Float[Tensor, "species function"]) -> Float[Tensor, "species pair"]:
        """Returns the weight of each pair, W = C · folding."""
        terms = weights.index_select(1, self.function) * self.value
        return weights.new_zeros((weights.shape[0], self.num_pairs)).index_add(1, self.pair, terms)
