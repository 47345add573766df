"""mace-torch: MACE and ScaleShiftMACE.

The hyper-parameters have the names of mace-torch's constructor; `equipot/convert/export/export_mace.py` writes them.
Each layer's state is

    interactions.t   linear_up (U) · conv_tp_weights (R) · linear (W) · skip_tp (P or S) · density_fn (N);
                     the nonlinear block has more, see `equipot.convert.mace_nonlinear`
    products.t       symmetric_contractions (w) · linear (D)
    readouts.t       linear, or linear_1 and linear_2

Source: mace-torch 0.3.16, `modules/models.py`, `blocks.py`; Batatia et al., MACE (2022).
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipot.convert.couplings import product_weights
from equipot.convert.features import widths_of
from equipot.convert.layout import by_output as sorted_paths
from equipot.convert.layout import linear, pooled_irreps, species_linear, uvu_paths
from equipot.convert.mace_constants import check_constants, check_parts
from equipot.convert.mace_nonlinear import (
    BLOCKS,
    Block,
    Shapes,
    block_axes,
    edge_axes,
    fill_biased_readout,
    fill_nonlinear_block,
)
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
_CONSTANTS = (
    "atomic_numbers", "r_max", "num_interactions", "radial_embedding.cutoff_fn", "radial_embedding.distance_transform",
    "radial_embedding.bessel_fn.r_max", "radial_embedding.bessel_fn.prefactor", "radial_embedding.bessel_fn.n",
    "pair_repulsion_fn", "spherical_harmonics",
)  # fmt: skip


class _Size(NamedTuple):
    """What the weights' shapes follow from."""

    design: Design
    num_species: int
    hidden: Irreps
    convention: str
    blocks: tuple[Block, ...]
    edge: tuple[Irreps | None, ...]
    heads: int
    head: int


def potential_of(source: Source, head: str | None = None) -> Potential:
    """Returns the potential of a mace-torch model.

    Args:
        source: Its hyper-parameters and weights.
        head: Name of the head; needed where there are several.

    Raises:
        EquipotError: A choice that equipot lacks (named), a missing or unknown weight, or an unknown head.
    """
    options = Options(source.options, source.name, source.assumed)
    state, convention = read_signs(source.tensors, str(options.get("e3nn", "0.4.4")))
    tensors = Tensors(state, source.name)
    order, species = _species(options, tensors)
    heads = _heads(options, source.name)
    chosen = _head(heads, head, source.name)
    energies = tensors.take("atomic_energies_fn.atomic_energies").double().reshape(-1, len(species))
    E0 = energies[chosen if len(energies) > 1 else 0][order]
    scale_shift = options.choice("model", {"MACE": False, "ScaleShiftMACE": True}, "ScaleShiftMACE")
    scale, shift = _scale_shift(tensors, chosen) if scale_shift else (1.0, 0.0)
    size = _size(options, tensors, (len(species), len(heads), chosen), scale_shift, convention)
    statistics = _statistics(options, species, E0, scale, shift)
    options.finish()
    dtype = tensors.take("node_embedding.linear.weight").dtype
    check_parts(tensors, size.design, species, source.name)
    check_constants(tensors, size.design, species, source.name)
    target = Target(size.design, statistics, dtype, source.name)
    target.put_energy(E0, scale, shift)
    _fill(target, tensors, size, order)
    tensors.ignore(_CONSTANTS, ("_zeroed", "output_mask"))
    tensors.finish()
    return target.finish()


def _species(options: Options, tensors: Tensors) -> tuple[Tensor, tuple[int, ...]]:
    """The published position of each element, and the elements in ascending order."""
    given = options.get("atomic_numbers", None)
    stored = tensors.take("atomic_numbers").tolist() if "atomic_numbers" in tensors else None
    numbers = stored if given is None else [int(z) for z in given]
    if numbers is None or stored not in (None, numbers):
        raise EquipotError(
            f"atomic_numbers = {numbers} of the hyper-parameters are not those of the weights, {stored}, whose order "
            "counts."
        )
    options.ignore("num_elements", "atomic_energies")
    return torch.tensor(sorted(range(len(numbers)), key=numbers.__getitem__)), tuple(sorted(numbers))


def _heads(options: Options, name: str) -> list[str]:
    heads = options.get("heads", None) or ["Default"]
    if not isinstance(heads, list):
        raise EquipotError(f"{name}: heads = {heads!r} must be a list of names.")
    return [str(head) for head in heads]


def _head(heads: list[str], head: str | None, name: str) -> int:
    if head is None and len(heads) > 1:
        raise EquipotError(f"{name} has several heads ({', '.join(heads)}): choose one with --head.")
    if head is not None and head not in heads:
        raise EquipotError(f"{name} has no head {head!r}; it has {', '.join(heads)}.")
    return 0 if head is None else heads.index(head)


def _scale_shift(tensors: Tensors, head: int) -> tuple[float, float]:
    values = [tensors.take(f"scale_shift.{key}").double().reshape(-1) for key in ("scale", "shift")]
    scale, shift = (float(value[head if len(value) > 1 else 0]) for value in values)
    return scale, shift


def _size(
    options: Options, tensors: Tensors, counts: tuple[int, int, int], scale_shift: bool, convention: str
) -> _Size:  # fmt: skip
    """What the shapes follow from; `counts`: the numbers of elements and heads, and the head that is wanted."""
    layers = options.whole("num_interactions")
    later = options.choice("interaction_cls", BLOCKS)
    first = options.choice("interaction_cls_first", BLOCKS)
    hidden = Irreps(options.get("hidden_irreps"))
    max_L, channels, parity = widths_of(hidden, "hidden_irreps", layers=layers)
    given = options.get("edge_irreps", None)
    edge = None if given is None else Irreps(given)
    edge_first = options.choice("use_edge_irreps_first", {True: True, False: False, None: False}, False)
    axes: dict[str, Any] = {
        "layers": layers, "max_L": max_L, "channels": channels, "parity": parity,
        **block_axes(first, later, layers), **edge_axes(edge, hidden if layers > 1 else hidden[:1], first=edge_first),
        **_radial_axes(options), **_product_axes(options, tensors), **_energy_axes(options, layers, scale_shift),
    }  # fmt: skip
    _refuse(options)
    blocks = (first, *([later] * (layers - 1)))
    scalars = Irreps([(edge.count(_SCALAR), _SCALAR)]) if edge is not None and edge_first else None
    edges = (scalars, *([edge] * (layers - 1)))
    options.ignore("dtype")
    return _Size(Design(**axes), counts[0], hidden, convention, blocks, edges, *counts[1:])


def _radial_axes(options: Options) -> dict[str, Any]:
    kind = options.choice("radial_type", ("bessel", "gaussian", "chebyshev"), "bessel")
    transform = options.choice("distance_transform", {"None": "none", None: "none", "Agnesi": "agnesi", "Soft": "soft"},
                               "None")  # fmt: skip
    default = [64, 64, 64]
    widths = options.get("radial_MLP", default)
    widths = default if widths is None else widths
    if not isinstance(widths, list):
        raise EquipotError(f"radial_MLP = {widths!r} must be a list of widths such as [64, 64, 64].")
    return {
        "r_max": options.number("r_max"), "num_radial": options.whole("num_bessel"), "radial_basis": kind,
        "envelope_p": options.whole("num_polynomial_cutoff"), "max_ell": options.whole("max_ell"),
        "distance_transform": transform, **_radial_network(tuple(int(width) for width in widths)),
        "envelope_on": options.choice("apply_cutoff", {True: "basis", False: "weights"}, True),
        **({"chebyshev_argument": "distance"} if kind == "chebyshev" else {}),
    }  # fmt: skip


def _radial_network(widths: tuple[int, ...]) -> dict[str, Any]:
    return {"radial_map": "mlp", "radial_mlp": widths} if widths else {"radial_map": "linear"}


def _product_axes(options: Options, tensors: Tensors) -> dict[str, Any]:
    correlation = options.get("correlation")
    orders = set(correlation) if isinstance(correlation, list) else {options.whole("correlation")}
    if len(orders) != 1:
        raise EquipotError(f"correlation = {correlation!r}: equipot has one correlation order for all layers.")
    if options.get("use_reduced_cg", False) and not tensors.names_with("U_matrix"):
        raise EquipotError(
            "use_reduced_cg = True: the weights refer to another basis (of cuequivariance); give the state dict with "
            "its matrices U_matrix_…, and they are changed to ours exactly."
        )
    return {
        "correlation": int(orders.pop()),
        "product_weights": options.choice("use_agnostic_product", {True: "shared", False: "species", None: "species"},
                                          False),
        "last_layer": options.choice("keep_last_layer_irreps", {True: "all", False: "scalars", None: "scalars"}, False),
    }  # fmt: skip


def _energy_axes(options: Options, layers: int, scale_shift: bool) -> dict[str, Any]:
    last_only = options.choice("use_last_readout_only", {True: "last", False: "every", None: "every"}, False)
    if layers == 1 and last_only == "last":
        raise EquipotError("use_last_readout_only = True with one layer: such a model has no readout at all.")
    default = {"default": "silu"} if layers == 1 else {}  # one layer has a linear readout
    form = options.choice("gate", {"silu": "mlp", None: "two_linear", "None": "two_linear"}, **default,
                          why="A readout with another activation cannot be converted.")  # fmt: skip
    hidden = Irreps(options.get("MLP_irreps", "16x0e"))
    if hidden.unique != (_SCALAR,):
        raise EquipotError(f"MLP_irreps = {hidden}: equipot's readout has even scalars only, such as 16x0e.")
    repulsion = options.choice("pair_repulsion", {True: "zbl", False: "none", None: "none"}, False)
    readouts = {"NonLinearReadoutBlock": False, "LinearReadoutBlock": False, None: False}
    biased = options.choice("readout_cls", {**readouts, "NonLinearBiasReadoutBlock": True}, None)
    with_biases: dict[str, Any] = {
        "readout": "mlp_bias", "readout_depth": 2, "readout_activation": "silu" if form == "mlp" else "none",
    }  # fmt: skip
    return {
        "readout_layers": last_only, "readout": "linear" if layers == 1 else form, "readout_hidden": hidden.num_irreps,
        **(with_biases if biased and layers > 1 else {}),
        "pair_repulsion": repulsion, "repulsion_scaled": scale_shift and repulsion == "zbl",
        "scale": "force_rms" if scale_shift else "none", "shift": "mean" if scale_shift else "none",
    }  # fmt: skip


def _refuse(options: Options) -> None:
    no = (False, None)
    options.choice("use_so3", no, False, "equipot's features have the parity of O(3); train without use_so3.")
    options.choice("use_embedding_readout", no, False)
    options.choice("embedding_specs", (None,), None, "Embeddings of charge, spin and the like are not in equipot.")
    options.choice("lammps_mliap", no, False, "Convert the model that was not prepared for LAMMPS.")
    options.choice("cueq_config", (None,), None, "Change the model back first: mace_cueq_to_e3nn MODEL OUT.")
    options.choice("oeq_config", (None,), None, "Change the model back first: mace_oeq_to_e3nn MODEL OUT.")


def _statistics(
    options: Options, species: tuple[int, ...], E0: Tensor, scale: float, shift: float
) -> Statistics:  # fmt: skip
    neighbours = options.number("avg_num_neighbors")
    n = len(species)
    return Statistics(
        species=species, atomic_energies=tuple(E0.tolist()), atomic_energies_source="isolated_atoms",
        mean_neighbours=float(neighbours), mean_neighbours_per_species=(float(neighbours),) * n,
        force_rms=abs(scale) or 1.0, energy_mean=shift, energy_mean_per_species=(shift,) * n,
    )  # fmt: skip


def _fill(target: Target, tensors: Tensors, size: _Size, order: Tensor) -> None:
    S, C = size.num_species, size.hidden.count(_SCALAR)
    target.put("embedding.weight", tensors.take("node_embedding.linear.weight", (S, C))[order])
    h = Irreps([(C, _SCALAR)])
    for index in range(size.design.layers):
        h = _fill_layer(target, tensors, size, index, h, order)
    _fill_readouts(target, tensors, size)


def _fill_layer(
    target: Target, tensors: Tensors, size: _Size, index: int, h: Irreps, order: Tensor
) -> Irreps:  # fmt: skip
    """Fills one layer and returns the irreps of the features that leave the published one."""
    design, at, block = size.design, f"layers.{index}", f"interactions.{index}"
    A = _interaction_irreps(size, first=index == 0)
    last = index == design.layers - 1
    out = size.hidden[:1] if last and (design.last_layer == "scalars" or design.layers == 1) else size.hidden
    up = size.edge[index] or h
    shapes = Shapes(h, up, A, out, sorted_paths(uvu_paths(up, design.max_ell, A)))
    target.put_blocks(f"{at}.up.weights", linear(tensors.take(f"{block}.linear_up.weight"), h, up))
    if size.blocks[index].kind == "nonlinear":
        fill_nonlinear_block(target, tensors, index, shapes, size.convention, order)
    else:
        _fill_block(target, tensors, size, index, shapes, order)
    shared = design.product_weights == "shared"
    prefix = f"products.{index}.symmetric_contractions.contractions"
    for n, (_, ir) in enumerate(out):
        one = order.new_zeros(1) if shared else order
        for key, w in product_weights(target, tensors, f"{prefix}.{n}", (index, A, ir), size.convention).items():
            if w.shape[1] != len(one):
                raise EquipotError(
                    f"{prefix}.{n} has weights of {w.shape[1]} elements instead of {len(one)}: use_agnostic_product = "
                    f"{shared} does not belong to them."
                )
            target.put(key, w[:, one])
    target.put_blocks(f"{at}.down.weights", linear(tensors.take(f"products.{index}.linear.weight"), out, out))
    return out


def _fill_block(
    target: Target, tensors: Tensors, size: _Size, index: int, shapes: Shapes, order: Tensor
) -> None:  # fmt: skip
    """Fills R, W, N, and P or S of an ordinary block."""
    design, at, block, paths = size.design, f"layers.{index}", f"interactions.{index}", list(shapes.paths)
    hidden = design.radial_mlp if design.radial_map == "mlp" else ()
    widths = [design.num_radial, *hidden, sum(path.mul for path in paths)]
    layers = [
        tensors.take(f"{block}.conv_tp_weights.layer{n}.weight", (a, b)) for n, (a, b) in enumerate(pairwise(widths))
    ]
    columns, signs = target.columns(index, paths, size.convention)
    if hidden:
        target.put_radial(index, layers[:-1], layers[-1], columns, signs)
    else:
        target.put(f"{at}.radial.weight", layers[0][:, columns] * signs.to(layers[0].dtype))
    target.put_mix(index, paths, linear(tensors.take(f"{block}.linear.weight"), pooled_irreps(paths), shapes.A))
    if size.blocks[index].kind == "density":
        target.put(f"{at}.normalise.weight", tensors.take(f"{block}.density_fn.layer0.weight", (design.num_radial,)))
    residual = size.blocks[index].residual
    skip = (shapes.h, shapes.out) if residual else (shapes.A, shapes.A)
    blocks = species_linear(tensors.take(f"{block}.skip_tp.weight"), skip[0], size.num_species, skip[1])
    name = "self_connection" if residual else "species_weights"
    target.put_blocks(f"{at}.{name}.weights", {ir: W[order] for ir, W in blocks.items()})


def _interaction_irreps(size: _Size, *, first: bool) -> Irreps:
    """The irreps of A as mace-torch builds them: natural, or both parities beyond the first layer of full models."""
    both = size.design.parity == "full" and not first
    degrees = range(size.design.max_ell + 1)
    irreps = [Irrep(ell, p) for ell in degrees for p in (-1, 1)] if both else [Irrep.natural(ell) for ell in degrees]
    return Irreps([(size.hidden.count(_SCALAR), ir) for ir in irreps])


def _fill_readouts(target: Target, tensors: Tensors, size: _Size) -> None:
    design, head = size.design, slice(size.head, size.head + 1)
    energies = Irreps([(size.heads, _SCALAR)])
    every = design.readout_layers == "every"
    scalars = size.hidden[:1]
    for index in range(design.layers):
        last = index == design.layers - 1
        published = index if every else 0
        if last and design.readout != "linear":
            _fill_last_readout(target, tensors, size, published)
        elif every:
            whole = linear(
                tensors.take(f"readouts.{published}.linear.weight"), scalars if last else size.hidden, energies
            )
            target.put_blocks(f"readouts.{index}.linear.weights", {ir: W[:, head] for ir, W in whole.items()})


def _fill_last_readout(target: Target, tensors: Tensors, size: _Size, published: int) -> None:
    """The two linear maps of one head; mace-torch divides the second by the hidden width of all heads."""
    design, hidden = size.design, size.design.readout_hidden
    irreps = size.hidden if design.last_layer == "all" else size.hidden[:1]
    middle, energies = Irreps([(hidden * size.heads, _SCALAR)]), Irreps([(size.heads, _SCALAR)])
    rows = slice(size.head * hidden, (size.head + 1) * hidden)
    at, name = f"readouts.{design.layers - 1}", f"readouts.{published}"
    if design.readout == "mlp_bias":
        fill_biased_readout(target, tensors, (at, name), irreps, hidden, (size.heads, size.head))
        return
    first = linear(tensors.take(f"{name}.linear_1.weight"), irreps, middle)[_SCALAR]
    second = linear(tensors.take(f"{name}.linear_2.weight"), middle, energies)[_SCALAR]
    target.put(f"{at}.first.weights.0e", first[:, rows])
    target.put(f"{at}.second.weights.0e", second[rows, size.head : size.head + 1] / math.sqrt(size.heads))
