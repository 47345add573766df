"""What lies below a potential that is a correction: nothing, where it is the whole."""

from jaxtyping import Float
from torch import Tensor, nn

from equipot.geometry import Graph


class NoBaseline(nn.Module):
    """No potential below: it adds nothing and sees nothing."""

    r_max = 0.0

    def interaction_energies(self, graph: Graph, vectors: Float[Tensor, "edge xyz"]) -> Float[Tensor, "1 owned"]:
        """Returns zeros."""
        return vectors.new_zeros(1, graph.num_owned)
