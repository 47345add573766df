"""How many threads operations work on, and torch beside them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Alone:
    """How many threads of Python are in the context `alone`, and how many torch had before the first of them."""

    def __init__(self) -> None:
        self.lock, self.count, self.number = threading.Lock(), 0, 1
        self.here = threading.local()

    def enter(self) -> None:
        with self.lock:
            if self.count == 0:
                self.number = torch.get_num_threads()
            self.count += 1
        self.here.inside = True
        torch.set_num_threads(1)  # of this thread, and the start of new ones

    def leave(self) -> None:
        torch.set_num_threads(self.number)
        self.here.inside = False
        with self.lock:
            self.count -= 1


_alone = _Alone()


def num_threads() -> int:
    """Returns how many threads compiled operations may use: torch's, unless torch is `alone`."""
    return _alone.number if _alone.count else torch.get_num_threads()


@contextmanager
def alone(torch_alone: bool = True) -> Iterator[None]:
    """A context in which torch itself uses one thread, and compiled operations as many as torch had.

    Where operations do nearly all of the work, torch's threads bring nothing to its own small operations; but they keep
    running for a while after each, in the way of those of the operations, and when another program has their core,
    everything waits for them.

    Args:
        torch_alone: Whether that is wanted; otherwise nothing changes.
    """
    if not torch_alone or num_threads() == 1 or getattr(_alone.here, "inside", False):
        yield
        return
    _alone.enter()
    try:
        yield
    finally:
        _alone.leave()
