"""BOTNet's released code (gncs/botnet): BOTNet, NequIP and everything between them in the design-space paper.

Source: Batatia et al. 2025, the authors' released code, `modules/blocks.py`, `models.py`.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipot.convert.features import widths_of
from equipot.convert.layout import gated, linear, pooled_irreps, reordered, species_linear, uvu_paths
from equipot.convert.mace_constants import check_radial
from equipot.convert.phases import read_signs
from equipot.convert.source import Source
from equipot.convert.taken import Options, Tensors
from equipot.convert.target import Target
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.models import Potential
from equipot.o3 import Irrep, Irreps
from equipot.statistics import Statistics

_SCALAR = Irrep(0, 1)


class _Block(NamedTuple):
    """What an interaction block of the released code does.

    Attributes:
        radial: Axis radial_map.
        skip: "message" (P on the message), "features" (S on the features) or "none".
        gate: Whether it ends in the gate.
    """

    radial: str
    skip: str
    gate: bool


_BLOCKS = {
    "AgnosticNonlinearInteractionBlock": _Block("mlp", "message", False),
    "AgnosticResidualNonlinearInteractionBlock": _Block("mlp", "features", False),
    "AgnosticNoScNonlinearInteractionBlock": _Block("mlp", "none", False),
    "ElementDependentInteractionBlock": _Block("linear_species", "message", False),
    "ResidualElementDependentInteractionBlock": _Block("linear_species", "features", False),
    "NequIPInteractionBlock": _Block("mlp", "features", True),
}
_MODELS = {
    f"{scaled}{form}": (bool(scaled), readouts, linear_last)
    for scaled in ("", "ScaleShift")
    for form, readouts, linear_last in (
        ("BodyOrderedModel", "every", True),
        ("NonLinearBodyOrderedModel", "every", False),
        ("SingleReadoutModel", "last", True),
        ("NonLinearSingleReadoutModel", "last", False),
    )
}
"""Of each model class: whether it has scale and shift, which layers are read out, and whether the last is linear."""


def potential_of(source: Source, head: str | None = None) -> Potential:
    """Returns the potential of a model of BOTNet's released code.

    Args:
        source: Its hyper-parameters (names of the constructor; ``atomic_numbers`` besides) and weights.
        head: Must be None: these models have one energy.

    Raises:
        EquipotError: A choice that equipot lacks (named), or a missing or unknown weight.
    """
    if head is not None:
        raise EquipotError(f"{source.name}: models of BOTNet's code have one energy; leave --head out.")
    options = Options(source.options, source.name, source.assumed)
    state, convention = read_signs(source.tensors, str(options.get("e3nn", "0.4.4")))
    tensors = Tensors(state, source.name)
    numbers = [int(z) for z in options.get("atomic_numbers")]
    order = torch.tensor(sorted(range(len(numbers)), key=numbers.__getitem__))
    E0 = tensors.take("atomic_energies_fn.atomic_energies", (len(numbers),)).double()[order]
    design, hidden, scaled = _design(options)
    scale, shift = [float(tensors.take(f"scale_shift.{key}")) for key in ("scale", "shift")] if scaled else [1.0, 0.0]
    neighbours = float(options.number("avg_num_neighbors"))
    options.ignore("num_elements", "atomic_energies", "atomic_inter_scale", "atomic_inter_shift", "dtype")
    options.finish()
    n = len(numbers)
    statistics = Statistics(
        species=tuple(sorted(numbers)), atomic_energies=tuple(E0.tolist()), atomic_energies_source="isolated_atoms",
        mean_neighbours=neighbours, mean_neighbours_per_species=(neighbours,) * n,
        force_rms=abs(scale) or 1.0, energy_mean=shift, energy_mean_per_species=(shift,) * n,
    )  # fmt: skip
    target = Target(design, statistics, tensors.take("node_embedding.linear.weight").dtype, source.name)
    target.put_energy(E0, scale, shift)
    C = hidden.count(_SCALAR)
    target.put("embedding.weight", tensors.take("node_embedding.linear.weight", (n, C))[order])
    h = Irreps([(C, _SCALAR)])
    for index in range(design.layers):
        h = _fill_layer(target, tensors, index, h, _Published(hidden, order, convention))
        _fill_readout(target, tensors, index, h)
    check_radial(tensors, design, source.name)
    tensors.ignore(("radial_embedding.",), ("output_mask",))
    tensors.finish()
    return target.finish()


class _Published(NamedTuple):
    """What the weights of a layer follow from: irreps wanted, order of the elements, convention of signs."""

    hidden: Irreps
    order: Tensor
    convention: str


def _design(options: Options) -> tuple[Design, Irreps, bool]:
    scaled, readouts, linear_last = options.choice("model", _MODELS)
    layers = options.whole("num_interactions")
    later = options.choice("interaction_cls", _BLOCKS)
    if readouts == "last" or linear_last:
        first = later  # such models take one class of blocks
        options.ignore("interaction_cls_first")
    else:
        first = options.choice("interaction_cls_first", _BLOCKS)
    _check_blocks(first, later, layers)
    hidden = Irreps(options.get("hidden_irreps"))
    max_L, channels, parity = widths_of(hidden, "the features")
    if linear_last:
        options.ignore("gate")
    gates = {"silu": "mlp", None: "two_linear", "None": "two_linear"}
    form = "linear" if linear_last else options.choice("gate", gates)
    middle = Irreps(options.get("MLP_irreps", "16x0e"))
    axes: dict[str, Any] = {
        "r_max": options.number("r_max"), "layers": layers, "max_ell": options.whole("max_ell"), "max_L": max_L,
        "channels": channels, "parity": parity, "last_layer": "all", "num_radial": options.whole("num_bessel"),
        "envelope_p": options.whole("num_polynomial_cutoff"), "radial_map": later.radial,
        "product": "none", "correlation": 1, "nonlinearity": "gate" if later.gate else "none",
        "self_connection": "none" if later.skip == "none" else "species",
        "self_connection_first": first.skip == "features",
        "message_species": "first" if first.skip == "message" else "none",
        "readout_layers": readouts, "readout": form, "readout_hidden": middle.num_irreps,
        "scale": "force_rms" if scaled else "none", "shift": "mean" if scaled else "none",
    }  # fmt: skip
    return Design(**axes), hidden, scaled


def _check_blocks(first: _Block, later: _Block, layers: int) -> None:
    if (first.radial, first.gate) != (later.radial, later.gate):
        raise EquipotError("interaction_cls_first and interaction_cls differ in radial functions or gate.")
    if layers > 1 and later.skip == "message":
        raise EquipotError("interaction_cls is a block for the first layer; later ones need a residual block.")
    if later.skip == "none" and first.skip == "features":
        raise EquipotError("a first layer with a self-connection and later ones without are no point of equipot.")


def _fill_layer(target: Target, tensors: Tensors, index: int, h: Irreps, published: _Published) -> Irreps:
    """Fills one layer and returns the irreps of the features that leave the published one."""
    design, at, block = target.potential.design, f"layers.{index}", f"interactions.{index}"
    made = {path.ir_out for path in uvu_paths(h, design.max_ell, published.hidden)}
    out, update, gates = _irreps_of(published.hidden, made, gate=design.nonlinearity == "gate")
    paths = uvu_paths(h, design.max_ell, update)
    columns, signs = target.columns(index, paths, published.convention)
    target.put_blocks(f"{at}.up.weights", linear(tensors.take(f"{block}.linear_up.weight"), h, h))
    num_weights = sum(path.mul for path in paths)
    if design.radial_map == "mlp":
        widths = [design.num_radial, *design.radial_mlp, num_weights]
        layers = [
            tensors.take(f"{block}.conv_tp_weights.layer{n}.weight", (a, b))
            for n, (a, b) in enumerate(pairwise(widths))
        ]
        target.put_radial(index, layers[:-1], layers[-1], columns, signs)
    else:
        shape = (len(published.order), design.num_radial, num_weights)
        W = tensors.take(f"{block}.conv_tp_weights.weights", shape)[published.order]
        target.put(f"{at}.radial.weight", W[:, :, columns] * signs.to(W.dtype))
    pooled = pooled_irreps(paths).simplify()
    mix = linear(tensors.take(f"{block}.linear.weight"), pooled, update)
    target.put_mix(index, paths, reordered(mix, gates))
    if target.has(f"{at}.species_weights.weights.0e"):
        _fill_skip(
            target, tensors, f"{block}.skip_tp.weight", f"{at}.species_weights", (update, update, None), published
        )
    elif target.has(f"{at}.self_connection.weights.0e"):
        _fill_skip(target, tensors, f"{block}.skip_tp.weight", f"{at}.self_connection", (h, update, gates), published)
    return out


def _fill_skip(
    target: Target, tensors: Tensors, name: str, at: str, irreps: tuple[Irreps, Irreps, Tensor | None],
    published: _Published,
) -> None:  # fmt: skip
    irreps_in, irreps_out, gates = irreps
    blocks = species_linear(tensors.take(name), irreps_in, len(published.order), irreps_out)
    target.put_blocks(f"{at}.weights", {ir: W[published.order] for ir, W in reordered(blocks, gates).items()})


def _irreps_of(hidden: Irreps, made: set[Irrep], *, gate: bool) -> tuple[Irreps, Irreps, Tensor | None]:
    """Irreps that leave a block, those before its gate, and the order of the gates, if there are any."""
    if gate:
        return gated(hidden, made)
    out = Irreps([(hidden.count(ir), ir) for ir in sorted(made) if ir in hidden])
    return out, out, None


def _fill_readout(target: Target, tensors: Tensors, index: int, h: Irreps) -> None:
    """Fills the readout of a layer, if it has one."""
    design, at = target.potential.design, f"readouts.{index}"
    name = f"readouts.{index}" if design.readout_layers == "every" else "readouts.0"
    energy, middle = Irreps([(1, _SCALAR)]), Irreps([(design.readout_hidden, _SCALAR)])
    if target.has(f"{at}.linear.weights.0e"):
        target.put_blocks(f"{at}.linear.weights", linear(tensors.take(f"{name}.linear.weight"), h, energy))
    elif target.has(f"{at}.first.weights.0e"):
        target.put_blocks(f"{at}.first.weights", linear(tensors.take(f"{name}.linear_1.weight"), h, middle))
        target.put_blocks(f"{at}.second.weights", linear(tensors.take(f"{name}.linear_2.weight"), middle, energy))
