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
    nodes = ctx.next_functions[:count]  # type: ignore[attr-defined]
    needs = ctx.needs_input_grad  # type: ignore[attr-defined]
    return [need and _reached(node) for need, (node, _) in zip(needs, nodes, strict=False)]


def _reached(node: Node | None) -> bool:
    if node is None:
        return False
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf, or no backward pass of the engine is running
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
