r"""How e3nn's modules order their weights, as plain index arithmetic; e3nn itself is not needed.

A linear map keeps one flat vector: for each entry of its irreps in, for each entry of the same irrep out, a block
[in, out]. A product with a one-hot vector keeps blocks [in, element, out]. A "uvu" product has one column of
weights for each channel of each path, in the order of its instructions.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from equipot.errors import EquipotError
from equipot.o3 import Irrep, Irreps


class UvuPath(NamedTuple):
    """One path of a "uvu" product: h's entry with Y's degree to an irrep, channel by channel."""

    ir_in: Irrep
    ell: int
    ir_out: Irrep
    mul: int


def linear(flat: Tensor, irreps_in: Irreps, irreps_out: Irreps) -> dict[Irrep, Tensor]:
    """Returns the matrix [in, out] of each irrep of an `e3nn.o3.Linear`, channels in the order of the entries.

    Raises:
        EquipotError: The vector has another number of weights.
    """
    return {ir: block.squeeze(0) for ir, block in species_linear(flat, irreps_in, 1, irreps_out).items()}


def linear_size(irreps_in: Irreps, irreps_out: Irreps) -> int:
    """Returns the number of weights of an `e3nn.o3.Linear`."""
    return sum(mul * irreps_out.count(ir) for mul, ir in irreps_in)


def species_linear(flat: Tensor, irreps_in: Irreps, num_features: int, irreps_out: Irreps) -> dict[Irrep, Tensor]:
    """Returns the matrices [feature, in, out] of each irrep of an `e3nn.o3.FullyConnectedTensorProduct`.

    Args:
        flat: Its weights.
        irreps_in: Irreps of the first factor, in its order.
        num_features: Number of scalars of the second factor, such as elements.
        irreps_out: Irreps that leave, in their order.

    Raises:
        EquipotError: The vector has another number of weights.
    """
    expected = num_features * linear_size(irreps_in, irreps_out)
    if flat.numel() != expected:
        raise EquipotError(
            f"a linear map {irreps_in} → {irreps_out} has {flat.numel()} weights instead of {expected}: weights and "
            "hyper-parameters do not belong together. Compare irreps, layers and kinds of blocks."
        )
    rows, columns = channels_within(irreps_in), channels_within(irreps_out)
    shared = [ir for ir in irreps_in.unique if ir in irreps_out]
    found = {ir: flat.new_zeros(num_features, irreps_in.count(ir), irreps_out.count(ir)) for ir in shared}
    start = 0
    for (mul_in, ir_in), row in zip(irreps_in, rows, strict=True):
        for (mul_out, ir_out), column in zip(irreps_out, columns, strict=True):
            if ir_in == ir_out and mul_in * mul_out > 0:
                block = flat.reshape(-1)[start : start + mul_in * num_features * mul_out]
                found[ir_in][:, row, column] = block.reshape(mul_in, num_features, mul_out).transpose(0, 1)
                start += block.numel()
    return found


def channels_within(irreps: Irreps) -> list[slice]:
    """Returns where the channels of each entry lie among all channels of its irrep."""
    seen: dict[Irrep, int] = {}
    slices = []
    for mul, ir in irreps:
        start = seen.get(ir, 0)
        slices.append(slice(start, start + mul))
        seen[ir] = start + mul
    return slices


def uvu_paths(irreps_in: Irreps, max_ell: int, wanted: Irreps, *, polar: bool = True) -> list[UvuPath]:
    """Returns the paths of the published convolutions in the order in which they are constructed.

    For each entry of h, each degree ℓ of the harmonics and each irrep of their product that is among the wanted ones.
    The harmonics have natural parity if they are `polar`, otherwise all are even.
    """
    return [
        UvuPath(ir_in, ell, ir_out, mul)
        for mul, ir_in in irreps_in
        for ell in range(max_ell + 1)
        for ir_out in ir_in * Irrep(ell, (-1) ** ell if polar else 1)
        if ir_out in wanted
    ]


def by_output(paths: list[UvuPath]) -> list[UvuPath]:
    """Returns paths sorted by the irrep that leaves, equal ones in their order: the order of pooled channels."""
    return sorted(paths, key=lambda path: path.ir_out)


def pooled_irreps(paths: list[UvuPath]) -> Irreps:
    """Returns the irreps of the pooled product, one entry for each path, sorted."""
    return Irreps([(path.mul, path.ir_out) for path in by_output(paths)])


class Gated(NamedTuple):
    """What a published gate does to irreps.

    Attributes:
        out: Irreps that leave it, in the published order.
        update: Irreps before it, in the published order: sorted, the gates behind the even scalars.
        columns: For each of our even scalars before the gate, its published index.
    """

    out: Irreps
    update: Irreps
    columns: Tensor


def gated(hidden: Irreps, reached: Collection[Irrep]) -> Gated:
    """Returns the gate of a published layer.

    Published gates follow the order of the gated irreps, ours their sorted order; the scalars come first in both.

    Args:
        hidden: Irreps that the layer may make, in the published order.
        reached: Those that its convolution makes.
    """
    even = Irrep(0, 1)
    scalars = Irreps([(mul, ir) for mul, ir in hidden if ir.l == 0 and ir in reached])
    vectors = Irreps([(mul, ir) for mul, ir in hidden if ir.l > 0 and ir in reached])
    gates = Irreps([(mul, even) for mul, _ in vectors])
    update = (scalars + gates + vectors).sorted().simplify()
    starts, start = {}, scalars.count(even)
    for mul, ir in vectors.sorted():
        starts[ir], start = start, start + mul
    ours = [torch.arange(scalars.count(even)), *(torch.arange(mul) + starts[ir] for mul, ir in vectors)]
    return Gated(scalars + vectors, update, torch.argsort(torch.cat(ours)))


def reordered(blocks: Mapping[Irrep, Tensor], columns: Tensor | None) -> dict[Irrep, Tensor]:
    """Returns matrices with the columns of the even scalars in our order of gates; `columns` is None without a gate."""
    return {ir: W if columns is None or ir != Irrep(0, 1) else W[..., columns] for ir, W in blocks.items()}
