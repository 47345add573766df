"""What both generations of nequip's code have in common: the convolutions, their gates and the species."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from ase.data import atomic_numbers
from torch import Tensor

from equipot.convert.features import widths_of
from equipot.convert.layout import UvuPath, gated, linear, pooled_irreps, reordered, species_linear, uvu_paths
from equipot.convert.source import Source
from equipot.convert.taken import Tensors
from equipot.convert.target import Target
from equipot.errors import EquipotError
from equipot.o3 import Irrep, Irreps

_SCALAR = Irrep(0, 1)


class Convolutions(NamedTuple):
    """The shapes of nequip's layers.

    Attributes:
        h0: Irreps of the features that enter the first layer.
        hidden: Irreps that each layer may make, in the published order.
        polar: Whether the harmonics have natural parity; otherwise parity forbids no path.
        max_ell: Highest degree of the harmonics.
        connected: Number of scalars that the self-connection is contracted with, of each layer; 0 where it is absent.
        order: Published index of each element where these scalars are elements; None where they are an embedding.
        radial: Names of the radial network's weights within a layer.
        convention: Signs of the Wigner 3j symbols.
    """

    h0: Irreps
    hidden: Sequence[Irreps]
    polar: bool
    max_ell: int
    connected: Sequence[int]
    order: Tensor | None
    radial: Sequence[str]
    convention: str


def fill_layers(target: Target, tensors: Tensors, shapes: Convolutions) -> Irreps:
    """Fills every layer of a potential, and returns the irreps that leave the last published one."""
    h = shapes.h0
    for index in range(len(shapes.hidden)):
        h = _fill_layer(target, tensors, shapes, index, h)
    return h


def _fill_layer(target: Target, tensors: Tensors, shapes: Convolutions, index: int, h: Irreps) -> Irreps:
    """Fills one layer and returns the irreps that leave the published one."""
    at, conv = f"layers.{index}", f"layer{index}_convnet.conv"
    hidden = shapes.hidden[index]
    made = {path.ir_out for path in uvu_paths(h, shapes.max_ell, hidden, polar=shapes.polar)}
    out, update, columns = gated(hidden, made)
    paths = uvu_paths(h, shapes.max_ell, update, polar=shapes.polar)
    target.put_blocks(f"{at}.up.weights", linear(tensors.take(f"{conv}.linear_1.weight"), h, h))
    _fill_radial(target, tensors, shapes, index, paths)
    mix = linear(tensors.take(f"{conv}.linear_2.weight"), pooled_irreps(paths), update)
    target.put_mix(index, paths, reordered(mix, columns))
    if shapes.connected[index]:
        flat = tensors.take(f"{conv}.sc.weight")
        blocks = reordered(species_linear(flat, h, shapes.connected[index], update), columns)
        if shapes.order is not None:
            blocks = {ir: W[shapes.order] for ir, W in blocks.items()}
        target.put_blocks(f"{at}.self_connection.weights", blocks)
    return out


def _fill_radial(
    target: Target, tensors: Tensors, shapes: Convolutions, index: int, paths: Sequence[UvuPath]
) -> None:  # fmt: skip
    names = [f"layer{index}_convnet.conv.{name}" for name in shapes.radial]
    *hidden, last = [tensors.take(name) for name in names]
    columns, signs = target.columns(index, paths, shapes.convention)
    if hidden:
        target.put_radial(index, hidden, last, columns, signs)
    else:
        target.put(f"layers.{index}.radial.weight", last[:, columns] * signs.to(last.dtype))


def feature_axes(hidden: Irreps, sh: Irreps, what: str) -> dict[str, object]:
    """Returns the axes max_ell, max_L, channels and parity of features and edge harmonics.

    Raises:
        EquipotError: The harmonics leave a degree out, or the features have no such axes.
    """
    degrees = range(sh.lmax + 1)
    natural = Irreps([(1, Irrep.natural(ell)) for ell in degrees])
    even = Irreps([(1, Irrep(ell, 1)) for ell in degrees])
    if sh not in (natural, even):
        raise EquipotError(f"irreps_edge_sh = {sh}: equipot has the harmonics {natural} (or {even}, without parity).")
    if sh == natural:
        max_L, channels, parity = widths_of(hidden, what)
        return {"max_ell": sh.lmax, "max_L": max_L, "channels": channels, "parity": parity}
    reached = Irreps([(mul, ir) for mul, ir in hidden if ir.p == 1])
    max_L, channels, _ = widths_of(Irreps([(mul, Irrep.natural(ir.l)) for mul, ir in reached]), what)
    return {"max_ell": sh.lmax, "max_L": max_L, "channels": channels, "parity": "none"}


def inner_state(source: Source, first: str) -> dict[str, Tensor]:
    """Returns the state dict of the energy model, without the names of what is wrapped around it.

    Args:
        source: The model.
        first: Beginning of the name of one of its first weights.

    Raises:
        EquipotError: There is no such weight.
    """
    names = [name for name in source.tensors if f".{first}" in f".{name}"]
    if not names:
        raise EquipotError(f"{source.name}: the weights have no {first}*: it is no model of {source.code}.")
    prefix = names[0][: f".{names[0]}".index(f".{first}")]
    return {name.removeprefix(prefix): value for name, value in source.tensors.items()}


def elements(names: Sequence[str], what: str) -> tuple[Tensor, tuple[int, ...]]:
    """Returns the published index of each element, ascending, and the atomic numbers.

    Raises:
        EquipotError: A type is no chemical symbol, or stands twice.
    """
    unknown = [name for name in names if name not in atomic_numbers or name == "X"]
    if not names:
        raise EquipotError(f"{what} is missing: the weights do not say which elements the model has.")
    if unknown or len(set(names)) != len(names):
        raise EquipotError(
            f"{what} = {list(names)}: equipot's potentials know chemical elements, each once, and "
            f"{', '.join(unknown) or 'one that stands twice'} is none. Give types that are symbols such as H, C, O."
        )
    numbers = [atomic_numbers[name] for name in names]
    return torch.tensor(sorted(range(len(numbers)), key=numbers.__getitem__)), tuple(sorted(numbers))
