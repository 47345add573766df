"""The convolution's operators on the GPU: memory for the results, and launches of generated kernels."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from equipot.kernels.cpu.convolution_gradient import Gradient
from equipot.kernels.operators import convolution as _  # noqa: F401  defines them
from equipot.kernels.polynomial import Convolution
from equipot.kernels.triton.by_sender import by_sender
from equipot.kernels.triton.convolution_source import forward_kernels, receivers_kernels, senders_kernels
from equipot.kernels.triton.registry import implements
from equipot.kernels.triton.source import Kernel, launch_all


@lru_cache(maxsize=1024)
def _forward(key: str, dtype: torch.dtype) -> tuple[tuple[Kernel, ...], int]:
    d = Convolution.from_key(key)
    return forward_kernels(d, dtype), d.irreps_out.dim


@lru_cache(maxsize=4096)
def _over_receivers(key: str, dtype: torch.dtype, gradient: Gradient) -> tuple[Kernel, ...]:
    return receivers_kernels(Convolution.from_key(key), dtype, gradient)


@lru_cache(maxsize=4096)
def _over_senders(key: str, dtype: torch.dtype, gradient: Gradient) -> tuple[tuple[Kernel, ...], bool]:
    """The kernels, and whether every segment of h has a path."""
    d = Convolution.from_key(key)
    return senders_kernels(d, dtype, gradient), {path.segment for path in d.paths} == set(range(len(d.irreps_in)))


@implements("convolution")
def convolution(
    h: Tensor, Y: Tensor, R: Tensor, senders: Tensor, receivers: Tensor, starts: Tensor, key: str
) -> Tensor:
    """Returns a [owned, dim_out]; see `kernels.operators.convolution`."""
    kernels, width = _forward(key, h.dtype)
    a = h.new_empty((starts.shape[0] - 1, width))
    tensors = {"h": h, "Y": Y, "R": R, "senders": senders, "starts": starts, "a": a}
    launch_all(kernels, a.shape[0], tensors)
    return a


@implements("convolution_backward")
def convolution_backward(
    ga: Tensor, h: Tensor, Y: Tensor, R: Tensor, senders: Tensor, receivers: Tensor, starts: Tensor, key: str,
    need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns gh, gY, gR; see `kernels.operators.convolution`."""
    gradient = Gradient(False, (False, False, False), (False, *need))  # type: ignore[arg-type]
    tensors = {"ga": ga, "h": h, "Y": Y, "R": R, "senders": senders, "receivers": receivers, "starts": starts}
    return _gradients(gradient, tensors, key)[1:]


@implements("convolution_double_backward")
def convolution_double_backward(
    hh: Tensor | None, YY: Tensor | None, RR: Tensor | None, ga: Tensor, h: Tensor, Y: Tensor, R: Tensor,
    senders: Tensor, receivers: Tensor, starts: Tensor, key: str, need: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns the gradients with respect to ga, h, Y, R; see `kernels.operators.convolution`."""
    cotangents = {"hh": hh, "YY": YY, "RR": RR}
    gradient = Gradient(True, tuple(c is not None for c in cotangents.values()), tuple(need))  # type: ignore[arg-type]
    tensors = {"ga": ga, "h": h, "Y": Y, "R": R, "senders": senders, "receivers": receivers, "starts": starts}
    tensors |= {name: c for name, c in cotangents.items() if c is not None}
    return _gradients(gradient, tensors, key)


def _gradients(g: Gradient, tensors: dict[str, Tensor], key: str) -> tuple[Tensor, ...]:
    """The gradients with respect to ga, h, Y, R that are needed; empty tensors for the others."""
    ga, h, Y, R = (tensors[name] for name in ("ga", "h", "Y", "R"))
    terms = (
        bool(g.terms_of_c) or (g.second and g.given[1]), bool(g.weights_of_h), bool(g.terms_of_c), bool(g.terms_of_R),
    )  # fmt: skip
    oa, gh, gY, gR = (
        (torch.empty_like(x) if some else torch.zeros_like(x)) if need else x.new_empty(0)
        for x, need, some in zip((ga, h, Y, R), g.need, terms, strict=True)
    )
    made = [need and some for need, some in zip(g.need, terms, strict=True)]
    if made[0] or made[2] or made[3]:
        kernels = _over_receivers(key, h.dtype, g)
        shares = Y.new_empty((Y.shape[0], sum(kernel.units for kernel in kernels), Y.shape[1])) if made[2] else gY
        launch_all(kernels, ga.shape[0], tensors | {"oa": oa, "gY": shares, "gR": gR})
        gY = shares.sum(dim=1) if made[2] else gY
    if made[1]:
        kernels, complete = _over_senders(key, h.dtype, g)
        gh = gh if complete else gh.zero_()
        order, sent = by_sender(tensors["senders"], h.shape[0])
        launch_all(kernels, h.shape[0], tensors | {"order": order, "sent": sent, "gh": gh})
    return oa, gh, gY, gR
