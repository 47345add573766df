"""Several processes that train one model: each works on a share of every minibatch.

There is no wrapper around the model. A step needs three sums over processes (the counts of labels before the
loss, the gradients, the running sums), and they are written out in `train.py`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from equipot.errors import EquipotError


@runtime_checkable
class Processes(Protocol):
    """The processes that work on one run."""

    rank: int
    count: int

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the elementwise sum of everyone's `tensor`; all must call it, in the same order."""

    def sum_gradients(
        self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Returns the sum of everyone's gradients; None where nobody has one."""

    def gather(self, item: Any) -> list[Any]:
        """Returns everyone's `item`, in the order of ranks."""

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrites `tensors` with those of the first process."""


class Alone:
    """One process: sums and copies are what is already there."""

    rank = 0
    count = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns `tensor`."""
        return tensor

    def sum_gradients(
        self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Returns the gradients."""
        return gradients

    def gather(self, item: Any) -> list[Any]:
        """Returns the one item."""
        return [item]

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Leaves the tensors as they are."""


class Group:
    """The processes of torch's default process group."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.count = dist.get_world_size()

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the elementwise sum over all processes, the same bits on each."""
        total = tensor.clone()
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return total

    def sum_gradients(
        self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Returns the sum of everyone's gradients, all in one flat message; None where nobody has one.

        A parameter may have a gradient on some processes only, for a process may have no structures at all.
        One that has none anywhere (no path reaches it) keeps none.
        """
        device = parameters[0].device
        used = self.sum(torch.tensor([g is not None for g in gradients], dtype=torch.int32, device=device))
        parts = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        flat = self.sum(torch.cat([part.reshape(-1) for part in parts]))
        totals = flat.split([p.numel() for p in parameters])
        return [
            total.view_as(p).to(p.dtype) if used_by else None
            for total, p, used_by in zip(totals, parameters, used.tolist(), strict=True)
        ]

    def gather(self, item: Any) -> list[Any]:
        """Returns everyone's `item`, in the order of ranks."""
        items: list[Any] = [None] * self.count
        dist.all_gather_object(items, item)
        return items

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrites `tensors` with those of the first process."""
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def current() -> Processes:
    """Returns the processes of this run: torch's default group where one was started, else this one alone."""
    if dist.is_available() and dist.is_initialized():
        return Group()
    return Alone()


@contextmanager
def started(device: str) -> Iterator[torch.device]:
    """Joins the processes that `torchrun` started, if it did, and leaves them at the end.

    Args:
        device: "cpu" or "cuda"; with "cuda" each process of a machine takes the GPU of its LOCAL_RANK.

    Yields:
        The device of this process.

    Raises:
        EquipotError: More processes on a machine than it has GPUs.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield torch.device(device)
        return
    place = torch.device(device)
    if place.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise EquipotError(
                f"process {local} of this machine has no GPU: torchrun started more processes than there are "
                f"GPUs; use torchrun --nproc-per-node={torch.cuda.device_count()}"
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield place
    finally:
        dist.destroy_process_group()
