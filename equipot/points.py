"""Named points of the design space: published architectures as functions that return a `Design`.

Each function takes axes to override. The path between two points is the list of axes that differ
(`Design.differences`), and that path is what an ablation walks.

Source: Batatia et al. 2025 (ablation labels: its published code, `scripts/utils.py`), Batzner et al. 2022,
Batatia et al., MACE (NeurIPS 2022), and the released codes named in each docstring.
"""

import difflib
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from equipot.design import Design
from equipot.design_rules import COUPLED
from equipot.errors import EquipotError


def mace(*, residual_first: bool = True, **axes: Any) -> Design:
    """MACE: two layers, correlation 3, natural parity, linear update, every layer read out.

    Args:
        residual_first: Self-connection in the first layer (`RealAgnosticResidualInteractionBlock`); without
            it the first layer weights its message per element, and an isolated atom has E0 + shift.
        **axes: Axes to override, e.g. ``channels=32, max_L=0``.

    Source: Batatia et al., NeurIPS 2022, Eqs. 8–13; mace-torch's `ScaleShiftMACE`.
    """
    first = {} if residual_first else {"self_connection_first": False, "message_species": "first"}
    return Design(**{**first, **axes})


def botnet(**axes: Any) -> Design:
    """BOTNet: body-ordered, five layers, no nonlinearity in the update, E0 of isolated atoms.

    `radial_map="mlp"` is the element-agnostic model of the published README; `"linear_species"` the
    element-dependent one (`botnet_element`). `scale="force_rms", shift="mean"` is the scale-shift variant.

    Source: Batatia et al. 2025, Methods; the authors' released code.
    """
    values: dict[str, Any] = {
        "r_max": 4.0, "layers": 5, "max_ell": 3, "max_L": 3, "parity": "full", "channels": 80,
        "last_layer": "all", "envelope_p": 6, "product": "none", "correlation": 1,
        "self_connection_first": False, "message_species": "first", "scale": "none", "shift": "none",
    }  # fmt: skip
    return Design(**{**values, **axes})


def botnet_element(**axes: Any) -> Design:
    """BOTNet with linear radial functions per sender's element (2,756,416 parameters for H, C, O)."""
    return botnet(**{"radial_map": "linear_species", **axes})


def botnet_element_residual(**axes: Any) -> Design:
    """BOTNet, element-dependent, with the self-connection in the first layer too."""
    values: dict[str, Any] = {"self_connection_first": True, "message_species": "none"}
    return botnet_element(**{**values, **axes})


def botnet_ssh(**axes: Any) -> Design:
    """BOTNet with E0 and scale-shift of the interaction energy."""
    return botnet(**{"scale": "force_rms", "shift": "mean", **axes})


def nequip(**axes: Any) -> Design:
    """NequIP as published (nequip 0.5): gate, self-connection in all layers, the last layer read out.

    Its energies have the E0 of isolated atoms, a shift and a scale that are fixed, as in the design-space paper
    (3,190,488 parameters on AcAc). The first paper has the mean energy per atom as reference, and a scale and shift
    for each element that are trained: ``nequip(energy_reference="mean_shift", scale_shift_per_species=True,
    trainable_scale=True, trainable_shift=True)``.

    Source: Batzner et al. 2022, Methods; the paper's settings for molecules (5 layers, ℓ ≤ 3, 64 channels).
    """
    values: dict[str, Any] = {
        "r_max": 4.0, "layers": 5, "max_ell": 3, "max_L": 3, "parity": "full", "channels": 64,
        "last_layer": "all", "radial_trainable": True, "radial_prefactor": "full", "envelope_p": 6,
        "edge_vector": "to_sender", "neighbour_normalisation": "sqrt", "product": "none", "correlation": 1,
        "nonlinearity": "gate", "readout_layers": "last", "readout": "two_linear",
    }  # fmt: skip
    return Design(**{**values, **axes})


def nequip_current(**axes: Any) -> Design:
    """NequIP as released today (nequip 0.19, `NequIPGNNModel`), 4 layers, ℓ ≤ 2, 32 features, both parities.

    It differs from the published form in the radial network, in the self-connection (contracted with the
    elements' embedding, absent in the first layer), in the last layer (scalars) and in the readout.

    Source: nequip 0.19, `model/nequip_models.py`.
    """
    values: dict[str, Any] = {
        "r_max": 5.0, "layers": 4, "max_ell": 2, "max_L": 2, "channels": 32, "last_layer": "scalars",
        "radial_trainable": False, "radial_mlp": (128,), "radial_scaling": "nequip", "element_embedding": "table",
        "self_connection": "embedding", "self_connection_first": False, "readout": "linear", "shift": "none",
    }  # fmt: skip
    if "max_L" in axes:
        values["max_ell"] = axes["max_L"]
    return nequip(**{**values, **axes})


def nequip_ablation(**axes: Any) -> Design:
    """NequIP as the design-space paper implemented it beside BOTNet; the point that its ablations start from.

    It differs from `nequip` in conventions: fixed Bessel functions with prefactor √(2/r_max), r_i − r_j in the
    harmonics, and 1/n̄ instead of 1/√n̄.

    Source: Batatia et al. 2025, the authors' released code (`NequIPInteractionBlock`).
    """
    values: dict[str, Any] = {
        "radial_trainable": False, "radial_prefactor": "sqrt", "edge_vector": "to_receiver",
        "neighbour_normalisation": "mean",
    }  # fmt: skip
    return nequip(**{**values, **axes})


def nequip_linear(**axes: Any) -> Design:
    """`nequip_ablation` without the gate: only the radial network stays nonlinear."""
    return nequip_ablation(**{"nonlinearity": "none", **axes})


def nequip_bo(**axes: Any) -> Design:
    """`nequip_ablation` with body-ordered readouts: every layer is read out."""
    return nequip_ablation(**{"readout_layers": "every", **axes})


def nequip_shifted(**axes: Any) -> Design:
    """`nequip_ablation` with one mean energy per atom as reference, no E0 and no scale."""
    return nequip_ablation(**{"energy_reference": "mean_shift", "scale": "none", "shift": "none", **axes})


def nequip_e0(**axes: Any) -> Design:
    """`nequip_ablation` with E0 of isolated atoms, no scale and no shift."""
    return nequip_ablation(**{"scale": "none", "shift": "none", **axes})


def nequip_ssh(**axes: Any) -> Design:
    """`nequip_ablation` with one mean energy per atom as reference and the rms force as scale."""
    return nequip_ablation(**{"energy_reference": "mean_shift", "shift": "none", **axes})


def nequip_e0_ssh(**axes: Any) -> Design:
    """`nequip_ablation` with E0 of isolated atoms, scale and shift."""
    return nequip_ablation(**axes)


def nequip_nosc_e0(**axes: Any) -> Design:
    """`nequip_ablation` with E0, without self-connection and gate (the published block has neither)."""
    return nequip_e0(**{"nonlinearity": "none", "self_connection": "none", "self_connection_first": False, **axes})


def nequip_nosc_e0_ssh(**axes: Any) -> Design:
    """`nequip_ablation` without gate and self-connection, with E0, scale and shift."""
    return nequip_nosc_e0(**{"scale": "force_rms", "shift": "mean", **axes})


def ace(**axes: Any) -> Design:
    """ACE: one layer, linear radial functions per element, uncoupled channels, trained by gradients.

    The energy is a polynomial of body order ν + 1 in the atoms' one-particle basis, with weights for each
    pair (z_i, z_j) and for each central element, E0 of isolated atoms and a linear readout.

    Source: Drautz, Phys. Rev. B 99, 014104 (2019); Batatia et al. 2025, "linear ACE" as one layer.
    """
    values: dict[str, Any] = {
        "layers": 1, "correlation": 3, "max_ell": 3, "max_L": 0, "channels": 64, "radial_map": "linear_species",
        "self_connection": "none", "self_connection_first": False, "message_species": "first",
        "readout": "linear", "scale": "force_rms", "shift": "none",
    }  # fmt: skip
    return Design(**{**values, **axes})


def ace_linear(**axes: Any) -> Design:
    """Linear ACE: one layer, coupled channels (n, ℓ, element in every factor), fitted by least squares.

    The energy is linear in its weights: two-body functions of each pair of elements, and for each central element
    the linearly independent invariants of order ν = 2 … correlation within total degrees D_ν. `equipot fit` finds
    them. `degrees` alone is enough to change the size; `correlation`, `num_radial` and `max_ell` follow from it.
    Degrees are those of a single element; several share them (`degree_rarity`), and terminal ones, like hydrogen, are
    centres of three-body functions at most (`terminal_correlation`). Below the shortest distances in training
    functions do not change (`distance_floor`), and atoms repel each other (`pair_repulsion="core"`).

    Source: Drautz, Phys. Rev. B 99, 014104 (2019); Dusson et al., J. Comput. Phys. 454, 110946 (2022);
    Kovács et al., J. Chem. Theory Comput. 17, 7696 (2021), for molecules.
    """
    values: dict[str, Any] = {
        **COUPLED, "channel_coupling": "coupled", "degrees": ACE_DEGREES, "radial_basis": "chebyshev",
        "chebyshev_lowest": 0, "distance_transform": "agnesi_bond", "envelope_p": 2, "envelope_power": 1.0,
        "inner_envelope": 0.6, "distance_floor": True, "pair_repulsion": "core", "degree_rarity": 1.0,
        "terminal_correlation": 2, "shift": "none",
    }  # fmt: skip
    if "degrees" not in axes and _is_number(axes.get("correlation")):
        values["degrees"] = ACE_DEGREES[: int(axes["correlation"])]
    degrees, weight = _checked_degrees({**values, **axes}["degrees"]), axes.get("degree_weight_ell", 1.0)
    weight = weight if _is_number(weight) and weight > 0 else 1.0  # `Design` says what is wrong with another
    if axes.get("radial_basis", "chebyshev") != "chebyshev":
        values["chebyshev_lowest"] = 1
    if axes.get("distance_transform") in ("none", "soft"):
        values["envelope_power"] = 0.0
    sizes = list(enumerate(degrees, start=1))[1:]
    values |= {
        "correlation": len(degrees),
        "num_radial": max([int(degrees[0]), *(int(D) - nu + 1 for nu, D in sizes)]),
        "max_ell": min(8, max([0, *(int((D - nu) / (2.0 * weight)) for nu, D in sizes)])),
    }
    return Design(**{**values, **axes})


def _checked_degrees(given: Any) -> tuple[int | float, ...]:
    """Returns degrees that sizes can follow from.

    Raises:
        EquipotError: They are not numbers from 1 on, or there are none.
    """
    if isinstance(given, (list, tuple)) and given and all(_is_number(D) and D >= 1 for D in given):
        return tuple(given)
    raise EquipotError(
        f"design.degrees = {given!r}: give the number of two-body functions, then a degree for each product order, "
        "such as [16, 18, 15, 14]; [12] is a pair potential"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


ACE_DEGREES = (16.0, 18.0, 15.0, 14.0)
"""Degrees of linear ACE where none are given."""


def nequix(**axes: Any) -> Design:
    """Nequix: NequIP with one-hot elements, one plain self-connection and an RMS layer norm before the gate.

    Sizes are those of Nequix-MP-1 (707,569 parameters for its 89 elements). Channels may differ from degree to degree.
    `self_connection="indexed"` is its `index_weights=True`, `feature_norm="none"` its `layer_norm=False`.

    Source: nequix 0.4 (atomicarchitects), `nequix/model.py`; Koker et al., *Training a foundation model for materials
    on a budget* (2025).
    """
    values: dict[str, Any] = {
        "r_max": 6.0, "layers": 4, "max_ell": 3, "max_L": 3, "channels": (128, 64, 32, 32), "radial_prefactor": "full",
        "radial_mlp": (64, 64), "radial_scaling": "plain", "envelope_p": 6, "element_embedding": "one_hot",
        "edge_vector": "to_sender", "neighbour_normalisation": "sqrt", "product": "none", "correlation": 1,
        "self_connection": "plain", "nonlinearity": "gate", "feature_norm": "layer", "activation_constants": "jax",
        "readout_layers": "last", "readout": "linear",
    }  # fmt: skip
    if isinstance(axes.get("max_L"), int) and "channels" not in axes:
        values["channels"] = (128, 64, 32, 32)[: axes["max_L"] + 1]
    return Design(**{**values, **axes})


def invariant(**axes: Any) -> Design:
    """An invariant network: NequIP's update with scalar features only (max_L = 0), for comparison."""
    values: dict[str, Any] = {"max_ell": 0, "max_L": 0, "parity": "natural", "channels": 128, "embedding_channels": 32}
    return nequip_current(**{**values, **axes})


def mace_nonlinear(**axes: Any) -> Design:
    """MACE with a gate on the message, a residual of U h, and elements and biases in the radial network.

    The envelope is on the weights (``apply_cutoff=False`` of mace-torch); on the basis, the default there, biases
    would let forces jump at the cutoff. The last readout is an MLP with biases.

    Source: mace-torch 0.3.16, `RealAgnosticResidualNonLinearInteractionBlock`, `NonLinearBiasReadoutBlock`.
    """
    values: dict[str, Any] = {
        "radial_scaling": "layer_norm", "radial_species": "embedding", "neighbour_normalisation": "density_mlp",
        "message_residual": True, "message_nonlinearity": "gate", "self_connection": "plain",
        "envelope_on": "weights", "readout": "mlp_bias", "readout_depth": 2,
    }  # fmt: skip
    return mace(**{**values, **axes})


NAMED_POINTS: dict[str, Callable[..., Design]] = {
    "ace": ace,
    "ace_linear": ace_linear,
    "nequip": nequip,
    "nequip_current": nequip_current,
    "nequip_ablation": nequip_ablation,
    "nequip_linear": nequip_linear,
    "nequip_bo": nequip_bo,
    "nequip_shifted": nequip_shifted,
    "nequip_e0": nequip_e0,
    "nequip_ssh": nequip_ssh,
    "nequip_e0_ssh": nequip_e0_ssh,
    "nequip_nosc_e0": nequip_nosc_e0,
    "nequip_nosc_e0_ssh": nequip_nosc_e0_ssh,
    "botnet": botnet,
    "botnet_element": botnet_element,
    "botnet_element_residual": botnet_element_residual,
    "botnet_ssh": botnet_ssh,
    "mace": mace,
    "nequix": nequix,
    "mace_nonlinear": mace_nonlinear,
    "invariant": invariant,
}
"""Every named point: the function that returns its `Design`."""


def named_point(name: str, **axes: Any) -> Design:
    """Returns the design of a named point, with some axes overridden.

    Raises:
        EquipotError: The name is unknown (the nearest is given), or the axes are.
    """
    key = name.replace("-", "_").lower()
    if key not in NAMED_POINTS:
        near = difflib.get_close_matches(key, NAMED_POINTS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise EquipotError(f"unknown point {name!r}.{hint} The named points are: {', '.join(NAMED_POINTS)}.")
    return NAMED_POINTS[key](**axes)


def nearest_point(design: Design) -> str:
    """Returns the named point from which the fewest axes of a design differ."""
    return min(NAMED_POINTS, key=lambda name: len(design.differences(NAMED_POINTS[name]())))
