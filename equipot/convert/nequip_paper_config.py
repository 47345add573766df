"""Configurations of nequip 0.5 and 0.6: which options of a training define the model, and the folder of a run."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from equipot.errors import EquipotError

BEST_MODEL = "best_model.pth"
"""Name of the weights in the folder of a training."""
BUILDERS = (
    "SimpleIrrepsConfig", "EnergyModel", "PerSpeciesRescale", "RescaleEnergyEtc", "ForceOutput", "PartialForceOutput",
    "StressForceOutput", "initialize_from_state", "load_model_state", "uniform_initialize_FCs",
)  # fmt: skip
"""Model builders whose models equipot has."""
MODEL_OPTIONS = (
    "num_layers", "r_max", "l_max", "parity", "num_features", "chemical_embedding_irreps_out", "feature_irreps_hidden",
    "irreps_edge_sh", "conv_to_output_hidden_irreps_out", "num_basis", "BesselBasis_trainable", "PolynomialCutoff_p",
    "invariant_layers", "invariant_neurons", "avg_num_neighbors", "use_sc", "resnet", "nonlinearity_type",
    "nonlinearity_scalars", "nonlinearity_gates", "edge_sh_normalization", "edge_sh_normalize", "model_builders",
    "chemical_symbols", "chemical_symbol_to_type", "type_names", "per_species_rescale_scales_trainable",
    "per_species_rescale_shifts_trainable", "global_rescale_scale_trainable", "global_rescale_shift_trainable",
)  # fmt: skip
"""The options that define the function; all others are of the training or its data."""
_PARAMETERS = (
    "num_basis", "r_max", "trainable", "p", "invariant_layers", "invariant_neurons", "avg_num_neighbors", "use_sc",
    "resnet", "nonlinearity_type", "nonlinearity_scalars", "nonlinearity_gates", "edge_sh_normalization",
    "edge_sh_normalize",
    "feature_irreps_hidden", "irreps_edge_sh", "irreps_out", "basis", "cutoff", "convolution",
)  # fmt: skip
_PARTS = (
    "one_hot", "spharm_edges", "radial_basis", "chemical_embedding", "layer", "conv_to_output_hidden",
    "output_hidden_to_scalar", "total_energy_sum", "BesselBasis", "PolynomialCutoff", "basis", "cutoff", "convolution",
    "convnet", "ConvNetLayer", "InteractionBlock", "RadialBasisEdgeEncoding", "SphericalHarmonicEdgeAttrs",
    "AtomwiseLinear", "e3nn_basis",
)  # fmt: skip


class _Loader(yaml.SafeLoader):
    """Reads what nequip writes: tuples become lists, other Python objects None. Nothing is executed."""


def _sequence(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else None


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _sequence)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the hyper-parameters and weights of a training with nequip 0.5 or 0.6, from its folder.

    Args:
        path: The folder, with config.yaml and best_model.pth.

    Raises:
        EquipotError: A file is missing or damaged, or an option is set for a part of the model alone.
    """
    weights, config = path / BEST_MODEL, path / "config.yaml"
    if not weights.exists() or not config.exists():
        raise EquipotError(
            f"{path} is a folder without {BEST_MODEL if config.exists() else 'config.yaml'}: the folder of a training "
            f"with nequip 0.5 or 0.6 has config.yaml and {BEST_MODEL}. For another model name its file."
        )
    try:
        values = yaml.load(config.read_text(encoding="utf-8"), Loader=_Loader)
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises to load such a file nevertheless
        raise EquipotError(f"{weights} holds other objects than weights, or is damaged: it is not loaded.") from error
    except (yaml.YAMLError, OSError, RuntimeError, EOFError) as error:
        raise EquipotError(f"{path} cannot be read ({str(error).splitlines()[0]}): copy the folder again.") from error
    if not isinstance(values, Mapping) or not isinstance(state, Mapping):
        raise EquipotError(f"{path}: config.yaml must hold options and {BEST_MODEL} a state dict.")
    return model_options(values, path.name), dict(state)


def model_options(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the options of a training's configuration that define the model.

    Args:
        config: The configuration of a training with nequip 0.5 or 0.6.
        name: Name of the source, for messages.

    Raises:
        EquipotError: An option of the model is set for one of its parts alone.
    """
    kept = {key: config[key] for key in MODEL_OPTIONS if key in config}
    for key, value in config.items():
        part = next((p for p in _PARAMETERS if key.endswith(f"_{p}") and key not in MODEL_OPTIONS), None)
        if part is not None and key.startswith(_PARTS):
            raise EquipotError(
                f"{name}: {key} = {value!r} sets {part} for a part of the model alone; equipot reads the plain options "
                f"{', '.join(MODEL_OPTIONS[:6])}, … Give {part} by its plain name if it is the same everywhere."
            )
    return {
        "code": "nequip-0.5", "version": str(config.get("nequip_version", "")),
        "e3nn": str(config.get("e3nn_version", "0.4.4")), **kept,
    }  # fmt: skip


def irreps_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options with irreps spelt out, where they were given as l_max, parity and num_features."""
    options = dict(options)
    if "num_features" not in options:
        return options
    l_max, parity, mul = (options.pop(key, None) for key in ("l_max", "parity", "num_features"))
    if l_max is None or parity is None:
        raise EquipotError("num_features stands without l_max or parity: give all three, as nequip's configuration.")
    degrees, signs = range(int(l_max) + 1), ("e", "o") if parity else ("e",)
    derived = {
        "chemical_embedding_irreps_out": f"{mul}x0e",
        "irreps_edge_sh": "+".join(f"1x{ell}{'o' if parity and ell % 2 else 'e'}" for ell in degrees),
        "feature_irreps_hidden": "+".join(f"{mul}x{L}{sign}" for sign in signs for L in degrees),
        "conv_to_output_hidden_irreps_out": f"{max(1, mul // 2)}x0e",
    }
    return derived | options
