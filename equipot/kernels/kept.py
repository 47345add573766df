"""What is made of weights and needed at every call, kept while the weights stay as they are."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class _Made(NamedTuple):
    state: list[tuple[int, int, torch.dtype]]
    aliases: list[Tensor]
    result: Tensor


class Kept:
    """A tensor made of parameters; made anew when one of them changes, and always where they are being trained."""

    def __init__(self) -> None:
        self._made: _Made | None = None

    def __call__(self, weights: Sequence[Tensor], make: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
        """Returns `make(weights)`, or what it was before if no weight has changed since."""
        if torch.compiler.is_compiling() or not all(_is_fixed(w) for w in weights):
            return make(weights)
        state = [(w.data_ptr(), w._version, w.dtype) for w in weights]
        if self._made is None or self._made.state != state:
            with torch.inference_mode(False):  # what is made inside of it could not be used outside
                aliases = [w.detach() for w in weights]  # they keep the memory, so that no other can have its address
                self._made = _Made(state, aliases, make(aliases))
        return self._made.result


def _is_fixed(w: Tensor) -> bool:
    return isinstance(w, nn.Parameter) and not w.requires_grad and not w.is_inference()
