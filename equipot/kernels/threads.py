"""How many threads operations work on, and torch beside them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_own = threading.local()


def num_threads() -> int:
    """Returns how many threads compiled operations may use: torch's, unless torch is `alone`."""
    given: int | None = getattr(_own, "number", None)
    return torch.get_num_threads() if given is None else given


@contextmanager
def alone(torch_alone: bool = True) -> Iterator[None]:
    """A context in which torch itself uses one thread, and compiled operations as many as torch had.

    Where operations do nearly all of the work, torch's threads bring nothing to its own small operations; but they keep
    running for a while after each, in the way of those of the operations, and when another program has their core,
    everything waits for them.

    Args:
        torch_alone: Whether that is wanted; otherwise nothing changes.
    """
    if not torch_alone or num_threads() == 1 or getattr(_own, "number", None) is not None:
        yield
        return
    _own.number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_own.number)
        _own.number = None
