"""What the tests of Triton's kernels share."""

import importlib.util
from collections.abc import Iterator

import pytest

from equipot.kernels.triton import registry

needs_interpreter = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not registry.interpreted(),
    reason="Triton is not installed, or its interpreter is off because there is a GPU (TRITON_INTERPRET=1 turns it on)",
)


@pytest.fixture
def on_interpreter() -> Iterator[None]:
    """The operators on CPU tensors run Triton's kernels in its interpreter."""
    registry.take_over_cpu()
    yield
    registry.give_back_cpu()
