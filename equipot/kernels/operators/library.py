"""The operators' namespace, and which gradients a backward pass is asked for."""

import torch
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


def no_third_derivative(name: str) -> None:
    """Registers the derivative of a double backward: an error that says what to do.

    Args:
        name: Operator, with the namespace.
    """

    def raise_error(ctx: FunctionCtx, *gradients: torch.Tensor) -> None:
        raise RuntimeError(
            f"{name}: fused kernels have first and second derivatives; for third ones use the plain-torch operations "
            "(backend 'reference')."
        )

    torch.library.register_autograd(name, raise_error, setup_context=lambda ctx, inputs, output: None, lib=LIBRARY)
