"""nequip 0.5 and 0.6: `EnergyModel`, the code of NequIP's paper.

The hyper-parameters have the names of its configuration file. The state is

    chemical_embedding.linear (h⁰) · radial_basis.basis · conv_to_output_hidden.linear · output_hidden_to_scalar.linear
    layer{t}_convnet.conv: linear_1 (U) · fc (R) · linear_2 (W) · sc (S);   per_species_rescale · scale_by

Source: nequip 0.5.6 and 0.6.2, `model/_eng.py`, `nn/`; Batzner et al. 2022.
"""

import math
from typing import Any, NamedTuple

import torch
from ase.data import atomic_numbers
from torch import Tensor

from equipot.convert.layout import linear
from equipot.convert.nequip_layers import Convolutions, elements, feature_axes, fill_layers, inner_state
from equipot.convert.nequip_paper_config import BUILDERS, irreps_of
from equipot.convert.phases import read_signs
from equipot.convert.source import Source
from equipot.convert.taken import Options, Tensors
from equipot.convert.target import Target
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.models import Potential
from equipot.o3 import Irrep, Irreps
from equipot.points import nequip
from equipot.statistics import Statistics

_SCALAR = Irrep(0, 1)
_EVEN = {("silu", "silu"): "silu", ("ssp", "ssp"): "ssp"}


class _Size(NamedTuple):
    """What the weights' shapes follow from."""

    hidden: Irreps
    embedding: Irreps
    readout: Irreps
    convention: str


def potential_of(source: Source, head: str | None = None) -> Potential:
    """Returns the potential of a NequIP model of nequip 0.5 or 0.6.

    Args:
        source: Its hyper-parameters and weights.
        head: None; these models have one energy.

    Raises:
        EquipotError: A choice that equipot lacks (named), or a missing or unknown weight.
    """
    if head is not None:
        raise EquipotError(f"{source.name}: models of nequip have one energy and no head {head!r}; leave out --head.")
    version = _version(source)
    e3nn = str(source.options.get("e3nn", "0.4.4"))
    state, convention = read_signs(inner_state(source, "chemical_embedding."), e3nn)
    options, tensors = Options(irreps_of(source.options), source.name), Tensors(state, source.name)
    order, species = elements(_types(options), "chemical_symbols")
    size = _Size(
        Irreps(options.get("feature_irreps_hidden")), Irreps(options.get("chemical_embedding_irreps_out")),
        Irreps(options.get("conv_to_output_hidden_irreps_out")), convention,
    )  # fmt: skip
    E0, scale = _energy(tensors, len(species))
    E0, scale = E0[order], scale[order] if scale.numel() == len(species) else scale
    _refuse(options, size, version)
    count = options.get("avg_num_neighbors")
    if isinstance(count, str):
        raise EquipotError(f"{source.name}: avg_num_neighbors = {count!r}: give the number that the training found.")
    design = _design(options, size, version, scale, count)
    options.finish()
    dtype = tensors.take("chemical_embedding.linear.weight").dtype
    target = Target(design, _statistics(species, float(count or 1.0), E0, scale), dtype, source.name)
    target.put_energy(E0, scale)
    _fill(target, tensors, size, order)
    tensors.ignore((), ("output_mask", "_empty"))
    tensors.finish()
    return target.finish()


def _version(source: Source) -> tuple[int, ...]:
    parts = source.version.split(".")
    version = tuple(int(part) for part in parts[:3] if part.isdigit())
    if version[:2] not in ((0, 5), (0, 6)):
        raise EquipotError(f"{source.name}: version = {source.version!r} of nequip; equipot reads 0.5 and 0.6 (paper).")
    return version


def _types(options: Options) -> list[str]:
    """The elements in the order of the model's types; chemical_symbols is sorted by atomic number, as nequip does."""
    symbols, mapping = options.get("chemical_symbols", None), options.get("chemical_symbol_to_type", None)
    names = options.get("type_names", None)
    if mapping is not None:
        return sorted(mapping, key=mapping.__getitem__)
    if symbols is not None:
        return sorted(symbols, key=lambda symbol: atomic_numbers.get(symbol, 0))
    return list(names or [])


def _energy(tensors: Tensors, num_species: int) -> tuple[Tensor, Tensor]:
    """E0 and scale by published type, with the scale of everything multiplied in."""
    one, name = torch.ones(1, dtype=torch.float64), "per_species_rescale"
    factor = tensors.take("scale_by").double().reshape(1) if "scale_by" in tensors else one
    if "shift_by" in tensors and float(tensors.take("shift_by")) != 0.0:
        raise EquipotError(
            f"global_rescale_shift = {float(tensors.take('shift_by'))}: an energy that does not grow with the number "
            "of atoms has no place in equipot; train with per_species_rescale_shifts instead."
        )
    shifts, scales = (
        tensors.take(f"{name}.{part}").double().reshape(-1) if f"{name}.{part}" in tensors else None
        for part in ("shifts", "scales")
    )
    E0 = torch.zeros(num_species, dtype=torch.float64) if shifts is None else shifts
    return factor * E0, factor * (one if scales is None else scales)


def _design(options: Options, size: _Size, version: tuple[int, ...], scale: Tensor, count: Any) -> Design:
    default = ("ssp", "abs") if version < (0, 6) else ("silu", "tanh")
    scalars, gates = (
        {"e": default[0], "o": odd} | dict(options.get(f"nonlinearity_{part}", None) or {})
        for part, odd in (("scalars", "tanh"), ("gates", default[1]))
    )
    activation = _EVEN.get((scalars["e"], gates["e"]))
    if activation is None or scalars["o"] != "tanh":
        raise EquipotError(
            f"nonlinearity_scalars = {scalars}, nonlinearity_gates = {gates}: equipot has silu for both or ssp for "
            "both, and tanh for odd scalars (odd gates do not occur)."
        )
    neurons, depth = options.whole("invariant_neurons", 8), options.whole("invariant_layers", 1)
    trained = {part: bool(options.get(f"per_species_rescale_{part}_trainable", False)) for part in ("scales", "shifts")}
    factor = bool(options.get("global_rescale_scale_trainable", False))
    sc = options.choice("use_sc", (True, False), True)
    return nequip(
        layers=options.whole("num_layers", 3), r_max=options.number("r_max"), num_radial=options.whole("num_basis", 8),
        radial_trainable=bool(options.get("BesselBasis_trainable", True)),
        envelope_p=options.whole("PolynomialCutoff_p", 6),
        **({"radial_mlp": (neurons,) * depth} if depth else {"radial_map": "linear"}),
        embedding_channels=size.embedding.num_irreps, readout_hidden=size.readout.num_irreps,
        gate_activation=activation, radial_activation=activation,
        neighbour_normalisation="none" if count is None else "sqrt",
        self_connection="species" if sc else "none", self_connection_first=sc,
        scale="force_rms", shift="none", scale_shift_per_species=scale.numel() > 1,
        trainable_scale=trained["scales"] or factor, trainable_e0=trained["shifts"],
        **feature_axes(size.hidden, Irreps(options.get("irreps_edge_sh")), "feature_irreps_hidden"),
    )  # fmt: skip


def _refuse(options: Options, size: _Size, version: tuple[int, ...]) -> None:
    unknown = [each for each in options.get("model_builders", BUILDERS) if each not in BUILDERS]
    if unknown:
        raise EquipotError(f"model_builders = {', '.join(unknown)}: equipot has models of {', '.join(BUILDERS[:7])}.")
    # the default was True before 0.5.2
    options.choice(
        "resnet", (False,), version < (0, 5, 2), "equipot has self-connections before the gate, not beyond it."
    )
    options.choice("nonlinearity_type", ("gate",), "gate", "equipot's layers have gates.")
    options.choice("edge_sh_normalization", ("component",), "component")
    options.choice("edge_sh_normalize", (True,), True)
    options.ignore("e3nn", "dtype", "global_rescale_shift_trainable")
    for name, irreps in (("chemical_embedding", size.embedding), ("conv_to_output_hidden", size.readout)):
        if irreps.unique != (_SCALAR,):
            raise EquipotError(f"{name}_irreps_out = {irreps}: equipot has even scalars there, such as 16x0e.")


def _statistics(species: tuple[int, ...], count: float, E0: Tensor, scale: Tensor) -> Statistics:
    n = len(species)
    return Statistics(
        species=species, atomic_energies=tuple(E0.tolist()), atomic_energies_source="given", mean_neighbours=count,
        mean_neighbours_per_species=(count,) * n, force_rms=float(scale.abs().mean()) or 1.0,
        energy_mean_per_species=(0.0,) * n,
    )  # fmt: skip


def _fill(target: Target, tensors: Tensors, size: _Size, order: Tensor) -> None:
    design, S = target.potential.design, len(order)
    embedding = Irreps([(size.embedding.num_irreps, _SCALAR)])
    weight = tensors.take("chemical_embedding.linear.weight", (S, embedding.dim))
    target.put("embedding.weight", weight[order])
    roots = tensors.take("radial_basis.basis.bessel_weights", (design.num_radial,)) / math.pi
    if design.radial_trainable:
        target.put("radial_basis.functions.frequencies", roots)
    elif not torch.allclose(roots.double(), torch.arange(1.0, design.num_radial + 1).double(), rtol=1e-6):
        raise EquipotError(f"bessel_weights / π = {roots.tolist()}, but BesselBasis_trainable = False: not converted.")
    depth = len(design.radial_mlp) if design.radial_map == "mlp" else 0
    shapes = Convolutions(
        h0=embedding, hidden=[size.hidden] * design.layers, polar=design.parity != "none", max_ell=design.max_ell,
        connected=[S if design.self_connection != "none" else 0] * design.layers, order=order,
        radial=[f"fc.layer{n}.weight" for n in range(depth + 1)], convention=size.convention,
    )  # fmt: skip
    out = fill_layers(target, tensors, shapes)
    middle, at = Irreps([(size.readout.num_irreps, _SCALAR)]), f"readouts.{design.layers - 1}"
    for name, place, irreps in (
        ("conv_to_output_hidden", "first", (out, middle)),
        ("output_hidden_to_scalar", "second", (middle, Irreps("1x0e"))),
    ):
        target.put_blocks(f"{at}.{place}.weights", linear(tensors.take(f"{name}.linear.weight"), *irreps))
