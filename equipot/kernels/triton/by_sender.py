"""The edges once more, sorted by sender: what sums over a sender's edges in a fixed order need."""

from typing import NamedTuple

import torch
from torch import Tensor

from equipot.kernels.triton.memory import Memory


class BySender(NamedTuple):
    """The permutation that sorts edges by sender.

    Attributes:
        order: Edges, sorted by sender, in their old order within one.
        starts: Where each node's begin in it, and the number of edges.
    """

    order: Tensor
    starts: Tensor


_known: Memory[BySender] = Memory()


def by_sender(senders: Tensor, num_nodes: int) -> BySender:
    """Returns the order by sender, found once for a tensor of senders and kept as long as that lives.

    While a CUDA graph is captured nothing is kept or taken from before: a replay must sort its own edges.
    """
    if senders.is_cuda and torch.cuda.is_current_stream_capturing():
        return _sort(senders, num_nodes)
    return _known.get(senders, num_nodes, lambda: _sort(senders, num_nodes))


def _sort(senders: Tensor, num_nodes: int) -> BySender:
    sorted_senders, order = torch.sort(senders, stable=True)
    nodes = torch.arange(num_nodes + 1, device=senders.device)
    return BySender(order, torch.searchsorted(sorted_senders, nodes))
