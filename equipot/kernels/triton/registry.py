"""Where the operators are registered: for CUDA always, for the CPU in Triton's interpreter on request."""

import os
import warnings
from collections.abc import Callable

import torch

from equipot.kernels.operators.library import LIBRARY

IMPLEMENTATIONS: dict[str, Callable] = {}
"""Operators by name, without the namespace."""
_on_cpu: list[torch.library.Library] = []


def implements(name: str) -> Callable[[Callable], Callable]:
    """Registers a function as the operator of this name on CUDA tensors."""

    def register(function: Callable) -> Callable:
        LIBRARY.impl(name, function, "CUDA")
        IMPLEMENTATIONS[name] = function
        return function

    return register


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, which needs no GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def take_over_cpu() -> None:
    """Makes the operators on CPU tensors run Triton's kernels, in its interpreter: for tests and debugging.

    It holds for the whole process, until `give_back_cpu`.
    """
    if _on_cpu:
        return
    library = torch.library.Library("equipot", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a kernel is overridden, which is what is asked for
        for name, function in IMPLEMENTATIONS.items():
            library.impl(name, function, "CPU", allow_override=True)
    _on_cpu.append(library)


def give_back_cpu() -> None:
    """Undoes `take_over_cpu`."""
    while _on_cpu:
        _on_cpu.pop()._destroy()
