"""Which structures a step sees: a function of seed and epoch, whatever the number of processes."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from equipot.fit.options import FitOptions

Item = TypeVar("Item")


def epoch_order(num_structures: int, seed: int, epoch: int) -> list[int]:
    """Returns the order of the training structures in one epoch.

    It needs no history: a run that resumes at epoch 57 computes the order of epoch 57.
    """
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))
    return torch.randperm(num_structures, generator=generator).tolist()


def minibatches(num_atoms: Sequence[int], options: FitOptions, epoch: int) -> list[list[int]]:
    """Returns the structures of every step of one epoch; each structure occurs exactly once.

    Args:
        num_atoms: Number of atoms of each structure.
        options: `seed`, and `batch_size` or `batch_atoms`, which count over all processes together.
        epoch: Number of the epoch, from 0.
    """
    order = epoch_order(len(num_atoms), options.seed, epoch)
    if options.batch_atoms is not None:
        return _by_atoms(order, num_atoms, options.batch_atoms)
    return _evenly(order, options.batch_size or 1)


def in_order(indices: Sequence[int], num_atoms: Sequence[int], options: FitOptions) -> list[list[int]]:
    """Returns structures in the given order, as many at a time as validation takes.

    Args:
        indices: The structures.
        num_atoms: Number of atoms of each structure.
        options: `batch_atoms` atoms at a time where it is given, else `valid_batch_size` structures.
    """
    if options.batch_atoms is not None:
        return _by_atoms(indices, num_atoms, options.batch_atoms)
    return [list(indices[i : i + options.valid_batch_size]) for i in range(0, len(indices), options.valid_batch_size)]


def _evenly(order: list[int], batch_size: int) -> list[list[int]]:
    """Splits into ⌈n/batch_size⌉ minibatches whose sizes differ by one at most: no small remainder."""
    parts = -(-len(order) // batch_size)
    return [part.tolist() for part in np.array_split(np.array(order), parts)]


def _by_atoms(order: Sequence[int], num_atoms: Sequence[int], budget: int) -> list[list[int]]:
    """Fills each minibatch up to `budget` atoms; a structure larger than that is a minibatch of its own."""
    batches: list[list[int]] = []
    atoms = 0
    for index in order:
        if not batches or atoms + num_atoms[index] > budget:
            batches.append([])
            atoms = 0
        batches[-1].append(index)
        atoms += int(num_atoms[index])
    return batches


def share(minibatch: Sequence[int], num_atoms: Sequence[int], rank: int, num_processes: int) -> list[int]:
    """Returns the structures of a minibatch that one process works on; the shares are disjoint and cover it.

    The largest structures are dealt first, each to the process with the fewest atoms so far. A process may
    get none; it then contributes zeros to the sums.
    """
    if num_processes == 1:
        return list(minibatch)
    shares: list[list[int]] = [[] for _ in range(num_processes)]
    atoms = [0] * num_processes
    for index in sorted(minibatch, key=lambda i: (-num_atoms[i], i)):
        least = atoms.index(min(atoms))
        shares[least].append(index)
        atoms[least] += int(num_atoms[index])
    return shares[rank]


def prefetched(
    make: Callable[[Sequence[int]], Item], requests: Sequence[Sequence[int]], depth: int = 2
) -> Generator[Item, None, None]:
    """Yields make(request) for each request in order, with up to `depth` of them made ahead by a thread."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="equipot-batches")
    try:
        waiting = deque(pool.submit(make, request) for request in requests[:depth])
        for request in requests[depth:]:
            item = waiting.popleft().result()
            waiting.append(pool.submit(make, request))
            yield item
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
