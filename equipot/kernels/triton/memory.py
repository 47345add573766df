"""Facts about a tensor of indices that are found once, and kept as long as it lives and is not changed."""

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

T = TypeVar("T")


class Memory(Generic[T]):
    """What was found for each tensor."""

    def __init__(self) -> None:
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def get(self, x: Tensor, detail: int, find: Callable[[], T]) -> T:
        """Returns what is known of a tensor and a number beside it, or finds it."""
        state = (x._version, detail)
        before, found = self._known.get(x, (None, None))
        if before != state:
            found = find()
            self._known[x] = (state, found)
        return found  # type: ignore[return-value]
