"""mace-torch's nonlinear residual block, its biased readout, and which axes its interaction blocks are.

A layer with the nonlinear block has the state

    interactions.t   source_embedding, target_embedding · linear_up (U) · conv_tp_weights.net (R) · linear_1 (W)
                     density_fn.net, alpha, beta (N) · linear_res (Q) · linear_2 (V) · skip_tp (S)

Source: mace-torch 0.3.16, `RealAgnosticResidualNonLinearInteractionBlock`, `NonLinearBiasReadoutBlock`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipot.convert.layout import UvuPath, linear, pooled_irreps
from equipot.convert.taken import Tensors
from equipot.convert.target import Target
from equipot.errors import EquipotError
from equipot.o3 import Irrep, Irreps

_SCALAR = Irrep(0, 1)


class Block(NamedTuple):
    """An interaction block: whether it has a self-connection, and its kind of message."""

    residual: bool
    kind: str


BLOCKS = {
    "RealAgnosticInteractionBlock": Block(False, "linear"),
    "RealAgnosticResidualInteractionBlock": Block(True, "linear"),
    "RealAgnosticDensityInteractionBlock": Block(False, "density"),
    "RealAgnosticDensityResidualInteractionBlock": Block(True, "density"),
    "RealAgnosticResidualNonLinearInteractionBlock": Block(True, "nonlinear"),
}
"""The interaction blocks that are points of the design space, by their names."""
_AXES: dict[str, dict[str, Any]] = {
    "linear": {"neighbour_normalisation": "mean"},
    "density": {"neighbour_normalisation": "density"},
    "nonlinear": {
        "radial_scaling": "layer_norm", "radial_species": "embedding", "neighbour_normalisation": "density_mlp",
        "message_residual": True, "message_nonlinearity": "gate", "self_connection": "plain",
    },
}  # fmt: skip


def block_axes(first: Block, later: Block, layers: int) -> dict[str, Any]:
    """Returns the axes of a model with this block in the first layer and that one in the others.

    Raises:
        EquipotError: A later block without self-connection, or the nonlinear block in the first layer only.
    """
    later = first if layers == 1 else later
    if layers > 1 and not later.residual:
        raise EquipotError(
            "interaction_cls = a block without self-connection (only possible in the first layer of what equipot has)."
        )
    if first.kind == "nonlinear" and later.kind != "nonlinear":
        raise EquipotError(
            "interaction_cls_first = 'RealAgnosticResidualNonLinearInteractionBlock' with another interaction_cls: "
            "equipot has the nonlinear block in all layers, or in all but the first."
        )
    return {
        **_AXES[later.kind], "first_layer": "same" if first.kind == later.kind else first.kind,
        "self_connection_first": first.residual, "message_species": "none" if first.residual else "first",
    }  # fmt: skip


def edge_axes(edge: Irreps | None, hidden: Irreps, *, first: bool) -> dict[str, Any]:
    """Returns the axes of `edge_irreps`, the irreps of U h; `first`: in the first layer too.

    Irreps that h lacks are always zero and have no axis.

    Raises:
        EquipotError: An irrep stands twice, scalars are missing, or two parities of a degree differ in width.
    """
    if edge is None or edge == hidden:
        return {}  # with edge == hidden the first layer, which has scalars only, has h's width either way
    widths = [{edge.count(ir) for ir in hidden.unique if ir.l == L} for L in range(hidden.lmax + 1)]
    if len(edge.unique) != len(edge) or edge.count(_SCALAR) == 0 or any(len(found) > 1 for found in widths):
        raise EquipotError(
            f"edge_irreps = {edge}: equipot has each irrep once, 0e among them, and one width for both parities of a "
            f"degree of hidden_irreps = {hidden}."
        )
    return {"edge_channels": tuple(found.pop() for found in widths), "edge_channels_first": first}


class Shapes(NamedTuple):
    """What the weights of one layer act on: irreps of h, U h, A and of the features that leave, and its paths."""

    h: Irreps
    up: Irreps
    A: Irreps
    out: Irreps
    paths: Sequence[UvuPath]


def fill_nonlinear_block(
    target: Target, tensors: Tensors, index: int, shapes: Shapes, convention: str, order: Tensor
) -> None:
    """Fills what the nonlinear block has of its own: all but U and the product.

    Args:
        target: The potential.
        tensors: The published weights.
        index: The layer.
        shapes: Its irreps and paths.
        convention: Convention of the published Wigner 3j symbols.
        order: The published position of each element.
    """
    at, block, channels = f"layers.{index}", f"interactions.{index}", shapes.h.count(_SCALAR)
    for ours, theirs in (("sender", "source"), ("receiver", "target")):
        values = tensors.take(f"{block}.{theirs}_embedding.weight", (len(order), channels))
        target.put(f"{at}.pair_embedding.{ours}", values[order])
    columns, signs = target.columns(index, shapes.paths, convention)
    _fill_network(target, tensors, f"{at}.radial.mlp", f"{block}.conv_tp_weights.net", (columns, signs))
    one = torch.zeros(1, dtype=torch.int64)
    _fill_network(target, tensors, f"{at}.normalise.mlp", f"{block}.density_fn.net", (one, one + 1))
    for name in ("alpha", "beta"):
        target.put(f"{at}.normalise.{name}", tensors.take(f"{block}.{name}", ()))
    message = _before_gate(shapes.A)
    mixed = linear(tensors.take(f"{block}.linear_1.weight"), pooled_irreps(list(shapes.paths)), message)
    target.put_mix(index, shapes.paths, mixed)
    for name, theirs, irreps in (
        ("message_residual.linear", "linear_res", (shapes.up, message)),
        ("message_mix", "linear_2", (shapes.A, shapes.A)),
        ("self_connection.linear", "skip_tp", (shapes.h, shapes.out)),
    ):
        target.put_blocks(f"{at}.{name}.weights", linear(tensors.take(f"{block}.{theirs}.weight"), *irreps))


def _before_gate(A: Irreps) -> Irreps:
    """Scalars and their gates in one entry, then the gated irreps; both codes have the gates in sorted order."""
    gates = sum(mul for mul, ir in A if ir.l > 0)
    return Irreps([(mul + gates if ir == _SCALAR else mul, ir) for mul, ir in A])


def _fill_network(target: Target, tensors: Tensors, ours: str, theirs: str, last: tuple[Tensor, Tensor]) -> None:
    """Fills Linear, LayerNorm, SiLU, … Linear; `last`: published column and sign of each output."""
    columns, signs = last
    num_hidden = len(tensors.names(f"{theirs}.")) // 4  # weights and biases of two modules in each hidden layer
    for n in range(num_hidden):
        for kind in ("weight", "bias"):
            target.put(f"{ours}.linears.{n}.{kind}", tensors.take(f"{theirs}.{3 * n}.{kind}"))
            target.put(f"{ours}.norms.{n}.{kind}", tensors.take(f"{theirs}.{3 * n + 1}.{kind}"))
    W, b = (tensors.take(f"{theirs}.{3 * num_hidden}.{kind}") for kind in ("weight", "bias"))
    signs = signs.to(W.dtype)
    target.put(f"{ours}.linears.{num_hidden}.weight", W[columns] * signs.unsqueeze(1))
    target.put(f"{ours}.linears.{num_hidden}.bias", b[columns] * signs)


def fill_biased_readout(
    target: Target, tensors: Tensors, names: tuple[str, str], irreps: Irreps, hidden: int, heads: tuple[int, int]
) -> None:
    """Fills the last readout with biases for one head.

    mace-torch's heads share the matrices between hidden layers, masked to the head's own channels, and divide by the
    width of all heads.

    Args:
        target: The potential.
        tensors: The published weights.
        names: Our prefix and the published one.
        irreps: Irreps of the features that are read.
        hidden: Hidden width of one head.
        heads: Number of heads, and the one wanted.
    """
    (at, name), (number, head) = names, heads
    middle, energies = Irreps([(hidden * number, _SCALAR)]), Irreps([(number, _SCALAR)])
    rows, shrink = slice(head * hidden, (head + 1) * hidden), 1.0 / math.sqrt(number)
    first, between, last = (
        linear(tensors.take(f"{name}.linear_{key}.weight"), *maps)[_SCALAR]
        for key, maps in (("1", (irreps, middle)), ("mid", (middle, middle)), ("2", (middle, energies)))
    )
    target.put(f"{at}.first.weights.0e", first[:, rows])
    target.put(f"{at}.middle.0.weights.0e", between[rows, rows] * shrink)
    target.put(f"{at}.second.weights.0e", last[rows, head : head + 1] * shrink)
    target.put(f"{at}.biases.0", tensors.take(f"{name}.linear_mid.bias", (number * hidden,))[rows])
    target.put(f"{at}.biases.1", tensors.take(f"{name}.linear_2.bias", (number,))[head : head + 1])
