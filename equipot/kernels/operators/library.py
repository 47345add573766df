"""The operators' namespace, and which gradients a backward pass is asked for."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import Node

LIBRARY = torch.library.Library("equipot", "FRAGMENT")
"""All operators are `torch.ops.equipot.…`."""


def wanted(ctx: FunctionCtx, count: int) -> list[bool]:
    """Returns which of the first inputs' gradients the running backward pass leads to.

    `ctx.needs_input_grad` says what could be asked for; a pass with given inputs (forces, or the weights alone) may
    need far less, and the engine knows.
    """
    nodes = (node for node, _ in ctx.next_functions if node is not None)  # type: ignore[attr-defined]
    needs = ctx.needs_input_grad[:count]  # type: ignore[attr-defined]
    return [need and _reached(next(nodes)) for need in needs]  # an input that is no tensor has no place among nodes


def _reached(node: Node) -> bool:
    if type(node).__name__ == "AccumulateGrad":  # a leaf, which the engine would refuse with a slow exception
        return True
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # no backward pass of the engine is running
        return True


def like_if(x: Tensor, needed: bool) -> Tensor:
    """Returns memory for a gradient of x, or an empty tensor where it is not wanted."""
    return x.new_empty(x.shape) if needed else x.new_empty(0)


def chosen(gradients: Sequence[Tensor], need: Sequence[bool]) -> list[Tensor | None]:
    """Returns the gradients that are wanted, and None for the others."""
    return [g if n else None for g, n in zip(gradients, need, strict=True)]


def remember(ctx: FunctionCtx, inputs: tuple, output: Any) -> None:
    """Keeps the tensors and the key, which comes last, of an operator."""
    *tensors, key = inputs
    ctx.key = key  # type: ignore[attr-defined]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def remember_backward(ctx: FunctionCtx, inputs: tuple, output: tuple) -> None:
    """As `remember`, for a backward operator, whose last argument says what is wanted."""
    remember(ctx, inputs[:-1], output)


def differentiate(
    name: str,
    backward: Callable[..., Sequence[Tensor | None]],
    remember: Callable[[FunctionCtx, tuple, Any], None],
) -> None:
    """Registers the derivative of an operator whose arguments have no defaults.

    It does what `torch.library.register_autograd` does, without looking at the schema in every call, which takes longer
    than a small kernel.

    Args:
        name: Operator, with the namespace.
        backward: Of context and gradients of the results; returns a gradient or None for each argument.
        remember: Of context, arguments and result; keeps what `backward` needs.
    """
    operator = getattr(torch.ops.equipot, name.removeprefix("equipot::")).default
    below, next_key = torch._C._AutoDispatchBelowAutograd, torch._C._after_autograd_keyset

    class Derivative(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            *inputs, keys = arguments
            with below():
                result = operator.redispatch(keys & next_key, *inputs)
            remember(ctx, tuple(inputs), result)
            return result

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return (*backward(ctx, *gradients), None)

    def differentiable(keys: Any, *inputs: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return Derivative.apply(*inputs, keys)
        with below():
            return operator.redispatch(keys & next_key, *inputs)

    Derivative.__name__ = Derivative.__qualname__ = f"Derivative_{name.removeprefix('equipot::')}"
    LIBRARY.impl(name, differentiable, "Autograd", with_keyset=True)


def no_third_derivative(name: str) -> None:
    """Registers the derivative of a double backward: an error that says what to do.

    Args:
        name: Operator, with the namespace.
    """

    def raise_error(ctx: FunctionCtx, *gradients: Tensor) -> Sequence[Tensor | None]:
        raise RuntimeError(
            f"{name}: fused kernels have first and second derivatives; for third ones use the plain-torch operations "
            "(backend 'reference')."
        )

    differentiate(name, raise_error, lambda ctx, inputs, output: None)
