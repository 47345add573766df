"""Configurations of nequip ≥ 0.16: what its model builders mean, and its checkpoints."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from equipot.convert.exporters import elsewhere
from equipot.errors import EquipotError
from equipot.o3 import Irrep, Irreps

_PRESETS: dict[str, dict[str, Any]] = {
    "S": {"num_layers": 2, "l_max": 1, "num_features": [128, 64]},
    "M": {"num_layers": 4, "l_max": 2, "num_features": [128, 64, 32]},
    "L": {"num_layers": 6, "l_max": 3, "num_features": [128, 64, 32, 32]},
    "XL": {"num_layers": 6, "l_max": 4, "num_features": [320, 96, 64, 32, 32]},
}
_OF_ALL_PRESETS = {"parity": False, "type_embed_num_features": 32, "radial_mlp_depth": 1, "radial_mlp_width": 128}
_BUILDERS = ("FullNequIPGNNModel", "NequIPGNNModel", "PresetNequIPGNNModel")
_EXPORT = elsewhere("export_nequip.py")


def full_options(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the hyper-parameters of a model by the names of `FullNequIPGNNModel`.

    Args:
        given: Arguments of one of nequip's builders, whose name stands under ``_target_``.
        name: Name of the source, for messages.

    Raises:
        EquipotError: The builder is another one, or the preset does not exist.
    """
    options = dict(given)
    default = "FullNequIPGNNModel" if "feature_irreps_hidden" in options else "NequIPGNNModel"
    builder = str(options.pop("_target_", default)).rsplit(".", 1)[-1]
    if builder not in _BUILDERS:
        raise EquipotError(
            f"{name}: the model was built by {builder}; equipot knows the arguments of {', '.join(_BUILDERS)}. "
            f"{_EXPORT}"
        )
    if builder == "PresetNequIPGNNModel":
        preset = str(options.pop("preset", None)).upper()
        if preset not in _PRESETS:
            raise EquipotError(f"{name}: preset = {preset!r} does not exist; nequip has {', '.join(_PRESETS)}.")
        options = _OF_ALL_PRESETS | _PRESETS[preset] | options
    if builder != "FullNequIPGNNModel":
        options = _full(options)
    return options


def _full(options: dict[str, Any]) -> dict[str, Any]:
    layers, l_max = int(options.pop("num_layers", 4)), int(options.pop("l_max", 1))
    widths = options.pop("num_features", 32)
    widths = [widths] * (l_max + 1) if isinstance(widths, int) else list(widths)
    parity = bool(options.pop("parity", True))
    hidden = [
        (mul, Irrep(L, p)) for L, mul in enumerate(widths) for p in ((1, -1) if parity else (Irrep.natural(L).p,))
    ]
    embedding = options.pop("type_embed_num_features", None)
    depth, width = options.pop("radial_mlp_depth", 1), options.pop("radial_mlp_width", 128)
    return {
        "irreps_edge_sh": str(Irreps([(1, Irrep.natural(ell)) for ell in range(l_max + 1)])),
        "feature_irreps_hidden": [str(Irreps(hidden))] * (layers - 1) + [f"{widths[0]}x0e"],
        "type_embed_num_features": widths[0] if embedding is None else embedding,
        "radial_mlp_depth": [depth] * layers,
        "radial_mlp_width": [width] * layers,
        **options,
    }


def from_checkpoint(content: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the hyper-parameters and weights that a checkpoint of nequip-train holds.

    Where the training kept an exponential moving average of the weights, it is taken: nequip evaluates, compiles
    and packages with it.

    Args:
        content: The checkpoint, plain containers and tensors.
        name: Name of the file, for messages.

    Raises:
        EquipotError: It holds no NequIP model, several, or one whose configuration is in another file.
    """
    parameters, state = content["hyper_parameters"], content["state_dict"]
    config, info = parameters.get("model"), parameters.get("info_dict", {})
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise EquipotError(f"{name} is a checkpoint of a training, but not of nequip-train ≥ 0.7: it names no model.")
    prefix = "model.sole_model."
    if not any(key.startswith(prefix) for key in state):
        raise EquipotError(f"{name} holds several models in one checkpoint. {_EXPORT}")
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    averaged = {int(key.rsplit("_", 1)[1]): value for key, value in state.items() if key.startswith("ema.ema_weight_")}
    if averaged:
        weights |= _averaged(weights, averaged, config, name)
    versions = info.get("versions", {})
    return {
        "code": "nequip", "version": str(versions.get("nequip", "")), "e3nn": str(versions.get("e3nn", "0.6.0")),
        **config,
    }, weights  # fmt: skip


def _averaged(
    weights: Mapping[str, Tensor], averaged: Mapping[int, Tensor], config: Mapping[str, Any], name: str
) -> dict[str, Tensor]:
    """The averaged weights by name; the average lists them in the order of the model's parameters."""
    trained = {
        "bessel_weights": bool(config.get("bessel_trainable")),
        "scales": bool(config.get("per_type_energy_scales_trainable")),
        "shifts": bool(config.get("per_type_energy_shifts_trainable")),
    }
    names = [
        key for key, value in weights.items()
        if value.numel() > 0
        and (key.endswith(".weight") or "mlp.weights." in key or trained.get(key.rsplit(".", 1)[-1]))
    ]  # fmt: skip
    found = [averaged[n] for n in sorted(averaged)]
    if [weights[key].shape for key in names] != [value.shape for value in found]:
        raise EquipotError(f"{name}: the averaged weights do not have the shapes of the model's. {_EXPORT}")
    return dict(zip(names, found, strict=True))
