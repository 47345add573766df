"""What the tests of fused operators share."""

import pytest
import torch

from equipot.kernels.cpu import compiler

needs_compiler = pytest.mark.skipif(compiler.target() is None, reason="no C++ compiler on this machine")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normal numbers, the same for every dtype but for rounding."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def relative_error(x: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest difference over the largest value."""
    assert x.shape == exact.shape
    if exact.numel() == 0:
        return 0.0
    return float((x.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-300))


def derivatives(function, inputs: list[torch.Tensor], seed: int = 1) -> list[torch.Tensor]:
    """Value, gradients, and gradients of a random function of the gradients, in every input."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    value = function(*inputs)
    g = random(*value.shape, seed=seed, dtype=value.dtype).to(value.device).requires_grad_()
    first = torch.autograd.grad(value, inputs, g, create_graph=True)
    cotangents = [random(*x.shape, seed=seed + 1 + n, dtype=x.dtype).to(x.device) for n, x in enumerate(first)]
    second = torch.autograd.grad(first, [g, *inputs], cotangents)
    return [value.detach(), *(x.detach() for x in first), *second]
