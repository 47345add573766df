"""nequip ≥ 0.16: `NequIPGNNModel`, its presets, and `FullNequIPGNNModel`.

The hyper-parameters have the names of these builders; a checkpoint of nequip-train holds them, and
`equipot/convert/export/export_nequip.py` writes them. The state is

    type_embed.embed_module (h⁰) · bessel_encode · per_atom_energy_readout.mlp_module · per_type_energy_scale_shift
    layer{t}_convnet.conv: linear_1 (U) · edge_mlp (R) · linear_2 (W) · sc (S)

Source: nequip 0.19, `model/nequip_models.py`, `nn/`; Batzner et al. 2022.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipot.convert.nequip_config import full_options
from equipot.convert.nequip_layers import Convolutions, elements, feature_axes, fill_layers, inner_state
from equipot.convert.phases import read_signs
from equipot.convert.source import Source
from equipot.convert.taken import Options, Tensors
from equipot.convert.target import Target
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.models import Potential
from equipot.o3 import Irrep, Irreps
from equipot.points import nequip_current
from equipot.statistics import Statistics

_SCALAR = Irrep(0, 1)
_ACTIVATIONS = {
    "silu": ("silu", "nequip"), "mish": ("mish", "nequip"), "gelu": ("gelu", "nequip"), None: ("none", "e3nn"),
    "None": ("none", "nequip"), "null": ("none", "nequip"),
}  # fmt: skip
"""Activation of the readout, and its scaling: a missing one has no factor √2, one that is called "None" has."""
_UNITS_OF_CHARGE = 14.399645
"""e²/4πε₀ in eV Å."""
_UNITS = {"metal": 1.0, "real": _UNITS_OF_CHARGE / 332.06371}
"""eV per unit of energy in LAMMPS's units, by LAMMPS's own constants of the Coulomb energy."""


class _Size(NamedTuple):
    """What the weights' shapes follow from."""

    hidden: tuple[Irreps, ...]
    sh: Irreps
    embedding: int
    convention: str


def potential_of(source: Source, head: str | None = None) -> Potential:
    """Returns the potential of a NequIP model of nequip ≥ 0.16.

    Args:
        source: Its hyper-parameters and weights.
        head: None; these models have one energy.

    Raises:
        EquipotError: A choice that equipot lacks (named), or a missing or unknown weight.
    """
    if head is not None:
        raise EquipotError(f"{source.name}: models of nequip have one energy and no head {head!r}; leave out --head.")
    _check_version(source)
    state, convention = read_signs(inner_state(source, "type_embed."), str(source.options.get("e3nn", "0.6.0")))
    options, tensors = Options(full_options(source.options, source.name), source.name), Tensors(state, source.name)
    order, species = elements(list(options.get("type_names")), "type_names")
    size = _size(options, convention)
    E0, scale = (_per_type(tensors, name, order) for name in ("shifts", "scales"))
    unit = _UNITS[_repulsion(options)["units"]]
    design, counts = _design(options, size, order, (E0, scale))
    options.finish()
    E0 = unit * (torch.zeros(len(species), dtype=torch.float64) if E0 is None else E0.expand(len(species)))
    scale = unit * (torch.ones(1, dtype=torch.float64) if scale is None else scale)
    dtype = tensors.take("type_embed.embed_module.weight").dtype
    target = Target(design, _statistics(species, counts, E0, scale), dtype, source.name)
    target.put_energy(E0, scale)
    _fill(target, tensors, size, order)
    _check_constants(tensors, design, torch.tensor(species)[torch.argsort(order)], unit, source.name)
    tensors.ignore((), ("output_mask",))
    tensors.finish()
    return target.finish()


def _check_version(source: Source) -> None:
    numbers = [int(part) for part in source.version.split(".")[:2] if part.isdigit()]
    if numbers and tuple(numbers) < (0, 16):
        raise EquipotError(
            f"{source.name}: version = {source.version!r} of nequip; equipot reads 0.16 and later, and 0.5 and 0.6 (as "
            '"code": "nequip-0.5"); state dicts between them have other names, and are not converted.'
        )


def _size(options: Options, convention: str) -> _Size:
    hidden = tuple(Irreps(irreps) for irreps in options.get("feature_irreps_hidden"))
    scalars = hidden[0].count(_SCALAR)
    if any(irreps != hidden[0] for irreps in hidden[:-1]) or hidden[-1] != Irreps([(scalars, _SCALAR)]):
        raise EquipotError(
            f"feature_irreps_hidden = {[str(irreps) for irreps in hidden]}: equipot has the same features between all "
            f"layers, and the last layer makes their even scalars, here {scalars}x0e."
        )
    sh = Irreps(options.get("irreps_edge_sh"))
    return _Size(hidden, sh, options.whole("type_embed_num_features"), convention)


def _design(
    options: Options, size: _Size, order: Tensor, energy: tuple[Tensor | None, Tensor | None]
) -> tuple[Design, Tensor]:
    """The design, and the mean number of neighbours of each element."""
    _refuse(options)
    counts, per_type = _counts(options, order)
    E0, scale = energy
    activation = _gate_activation(options)
    connected = options.choice("convnet_sc", (True, False), True) and len(size.hidden) > 1
    axes = {
        "layers": len(size.hidden), "embedding_channels": size.embedding, "gate_activation": activation,
        "self_connection": "embedding" if connected else "none",
        "neighbour_count": "per_sender" if per_type else "global",
        "scale": "none" if scale is None else "force_rms",
        "scale_shift_per_species": scale is not None and scale.numel() > 1,
        "trainable_scale": _trained(options, "scales") and scale is not None,
        "trainable_e0": _trained(options, "shifts") and E0 is not None,
        **feature_axes(size.hidden[0], size.sh, "feature_irreps_hidden"),
        **_radial_axes(options), **_readout_axes(options),
    }  # fmt: skip
    repulsion = {axis: value for axis, value in _repulsion(options).items() if axis != "units"}
    return nequip_current(**(axes | repulsion)), counts


def _trained(options: Options, name: str) -> bool:
    options.ignore(f"per_type_energy_{name}")  # where the training started
    return bool(options.choice(f"per_type_energy_{name}_trainable", (True, False, None), False))


def _refuse(options: Options) -> None:
    no = (None, False)
    options.choice("per_edge_type_cutoff", (None,), None, "equipot has one cutoff for all pairs of elements.")
    options.choice(
        "categorical_graph_field_embed", (None,), None, "Embeddings of charge, spin or a data set are not in equipot."
    )
    options.choice("convnet_resnet", no, False, "equipot has self-connections before the gate, not beyond it.")
    options.choice("learnable_shift", no, False, "equipot's first layer has no self-connection with the embedding.")
    options.choice("convnet_nonlinearity_type", ("gate",), "gate", "equipot's layers have gates.")
    options.ignore("seed", "model_dtype", "compile_mode", "do_derivatives", "e3nn", "dtype")


def _gate_activation(options: Options) -> str:
    """σ of even scalars and gates, which must be the same; that of odd gates is never used."""
    scalars, gates = (
        {"e": "silu", "o": "tanh"} | dict(options.get(f"convnet_nonlinearity_{part}", None) or {})
        for part in ("scalars", "gates")
    )
    allowed = "equipot has silu or ssp for both, and tanh for odd scalars"
    if scalars["e"] not in ("silu", "ssp") or scalars["o"] != "tanh":
        raise EquipotError(f"convnet_nonlinearity_scalars = {scalars}: {allowed}.")
    if gates["e"] != scalars["e"]:
        raise EquipotError(f"convnet_nonlinearity_gates = {gates} beside scalars with {scalars['e']}: {allowed}.")
    return str(scalars["e"])


def _radial_axes(options: Options) -> dict[str, Any]:
    depths, widths = list(options.get("radial_mlp_depth")), list(options.get("radial_mlp_width"))
    if len(set(depths)) > 1 or (len(set(widths)) > 1 and depths[0] > 0):
        raise EquipotError(
            f"radial_mlp_depth = {depths}, radial_mlp_width = {widths}: equipot has one radial network's size for all "
            "layers; such a model is not converted."
        )
    mlp = (int(widths[0]),) * int(depths[0])
    return {
        "r_max": options.number("r_max"), "num_radial": options.whole("num_bessels", 8),
        "radial_trainable": bool(options.get("bessel_trainable", False)),
        "envelope_p": options.whole("polynomial_cutoff_p", 6),
        **({"radial_mlp": mlp} if mlp else {"radial_map": "linear"}),
    }  # fmt: skip


def _readout_axes(options: Options) -> dict[str, Any]:
    depth = options.whole("readout_mlp_hidden_layers_depth", 0)
    width = options.get("readout_mlp_hidden_layers_width", None)
    activation, scaling = options.choice("readout_mlp_nonlinearity", _ACTIVATIONS, "silu")
    if depth == 0:
        return {"readout": "linear"}
    scalars = Irreps(options.get("feature_irreps_hidden")[-1]).num_irreps
    return {
        "readout": "mlp", "readout_depth": depth, "readout_hidden": int(width or scalars),
        "readout_activation": activation, "readout_scaling": scaling,
    }  # fmt: skip


def _repulsion(options: Options) -> dict[str, Any]:
    """The axes of the pair repulsion, and the units of the energy."""
    given = options.get("pair_potential", None)
    if given is None:
        return {"units": "metal"}
    pair = Options(given, "pair_potential")
    kind = str(pair.get("_target_")).rsplit(".", 1)[-1]
    if kind != "ZBL":
        raise EquipotError(
            f"pair_potential = {kind}: equipot has ZBL; train without {kind}, or subtract it from the data."
        )
    pair.ignore("chemical_species", "atomic_numbers")  # the weights hold them
    units = pair.choice("units", tuple(_UNITS))
    p = pair.whole("polynomial_cutoff_p", 6)
    pair.finish()
    return {"pair_repulsion": "zbl_lammps", "repulsion_p": p, "units": units}


def _counts(options: Options, order: Tensor) -> tuple[Tensor, bool]:
    """Mean numbers of neighbours of the elements, and whether they differ by element."""
    given = options.get("avg_num_neighbors")
    if isinstance(given, Mapping):
        names = options.get("type_names")
        if set(given) != set(names):
            raise EquipotError(f"avg_num_neighbors = {dict(given)}: give one number for each of {', '.join(names)}.")
        given = [given[name] for name in names]
    counts = torch.as_tensor(given, dtype=torch.float64).reshape(-1)
    if counts.numel() not in (1, len(order)):
        raise EquipotError(f"avg_num_neighbors = {given}: give one number, or one for each of {len(order)} types.")
    per_type = counts.numel() > 1
    return (counts[order] if per_type else counts.expand(len(order))), per_type


def _per_type(tensors: Tensors, name: str, order: Tensor) -> Tensor | None:
    key = f"per_type_energy_scale_shift.{name}"
    if key not in tensors:
        return None
    values = tensors.take(key).double().reshape(-1)
    return values[order] if values.numel() == len(order) else values


def _statistics(species: tuple[int, ...], counts: Tensor, E0: Tensor, scale: Tensor) -> Statistics:
    return Statistics(
        species=species, atomic_energies=tuple(E0.tolist()), atomic_energies_source="given",
        mean_neighbours=float(counts.mean()), mean_neighbours_per_species=tuple(counts.tolist()),
        force_rms=float(scale.abs().mean()) or 1.0, energy_mean_per_species=(0.0,) * len(species),
    )  # fmt: skip


def _fill(target: Target, tensors: Tensors, size: _Size, order: Tensor) -> None:
    design = target.potential.design
    target.put("embedding.weight", tensors.take("type_embed.embed_module.weight", (len(order), size.embedding))[order])
    if design.radial_trainable:
        roots = tensors.take("bessel_encode.bessel_weights", (design.num_radial,))
        target.put("radial_basis.functions.frequencies", roots)
    depth = len(design.radial_mlp) if design.radial_map == "mlp" else 0
    connected = size.embedding if design.self_connection != "none" else 0
    shapes = Convolutions(
        h0=Irreps([(size.embedding, _SCALAR)]), hidden=size.hidden, polar=design.parity != "none",
        max_ell=design.max_ell, connected=[0, *[connected] * (design.layers - 1)], order=None,
        radial=[f"edge_mlp.mlp.{2 * n}.weight" for n in range(depth + 1)], convention=size.convention,
    )  # fmt: skip
    fill_layers(target, tensors, shapes)
    at, mlp = f"readouts.{design.layers - 1}", "per_atom_energy_readout.mlp_module.mlp"
    if design.readout == "linear":
        target.put(f"{at}.linear.weights.0e", tensors.take(f"{mlp}.0.weight"))
        return
    places = ["first", *[f"middle.{n}" for n in range(design.readout_depth - 1)], "second"]
    for n, place in enumerate(places):
        name = f"{mlp}.weights.{n}" if f"{mlp}.weights.0" in tensors else f"{mlp}.{2 * n}.weight"
        target.put(f"{at}.{place}.weights.0e", tensors.take(name))


def _check_constants(tensors: Tensors, design: Design, types: Tensor, unit: float, name: str) -> None:
    """The constants that equipot computes itself must be those of the file."""
    expected = {"edge_norm._rmax_recip": torch.tensor([1.0 / design.r_max])}
    if not design.radial_trainable:
        expected["bessel_encode.bessel_weights"] = torch.arange(1.0, design.num_radial + 1)
    if design.pair_repulsion != "none":
        expected["pair_potential.atomic_numbers"] = types
        expected["pair_potential._qqr2exesquare"] = torch.tensor([0.5 * _UNITS_OF_CHARGE / unit])
    for key, values in expected.items():
        found = tensors.take(key).double().reshape(-1)
        if found.shape != values.shape or not torch.allclose(found, values.double(), rtol=1e-6):
            raise EquipotError(f"{name}: {key} = {found.tolist()} instead of {values.tolist()}; it is not converted.")
