"""A NequIP model of nequip ≥ 0.16 as plain weights and hyper-parameters.

Stands alone: copy it to the environment that has nequip and run

    python export_nequip.py MODEL.ckpt weights.pt            a checkpoint of nequip-train (its averaged weights)
    python export_nequip.py MODEL.nequip.zip weights.pt      a package of nequip-package
"""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_ACTIVATIONS = {"SiLU": "silu", "Mish": "mish", "GELU": "gelu", "Identity": "None"}
_UNITS = {"metal": 14.399645, "real": 332.06371}


def export(model: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Returns the hyper-parameters, by the names of `FullNequIPGNNModel`, and the weights of a living `GraphModel`."""
    parts = {name.rsplit(".", 1)[-1]: module for name, module in model.named_modules()}
    layers = [parts[f"layer{t}_convnet"] for t in range(sum(name.endswith("_convnet") for name in parts))]
    energy, pair = parts["per_type_energy_scale_shift"], parts.get("pair_potential")
    options: dict[str, Any] = {
        "code": "nequip",
        "version": _version("nequip"),
        "e3nn": _version("e3nn"),
        "_target_": "nequip.model.FullNequIPGNNModel",
        "type_names": list(model.type_names),
        "irreps_edge_sh": str(parts["spharm"].irreps_edge_sh),
        "type_embed_num_features": parts["type_embed"].embed_module.embedding_dim,
        "per_type_energy_scales_trainable": bool(energy.has_scales and energy.scales_trainable),
        "per_type_energy_shifts_trainable": bool(energy.has_shifts and energy.shifts_trainable),
        "pair_potential": None if pair is None else _pair_potential(pair),
        "categorical_graph_field_embed": _fields(parts["type_embed"]),
        **_radial(parts),
        **_layers(layers),
        **_readout(parts["per_atom_energy_readout"].mlp_module),
    }
    return options, _tensors(model)


def _radial(parts: dict[str, Any]) -> dict[str, Any]:
    norm, bessel = parts["edge_norm"], parts["bessel_encode"]
    return {
        "r_max": float(norm.r_max),
        "per_edge_type_cutoff": norm._rmax_recip.reciprocal().tolist() if norm._per_edge_type else None,
        "num_bessels": int(bessel.num_bessels),
        "bessel_trainable": bool(bessel.trainable),
        "polynomial_cutoff_p": float(bessel.cutoff.p),
    }


def _layers(layers: list[Any]) -> dict[str, Any]:
    hidden = [layer.conv.edge_mlp.dims[1:-1] for layer in layers]
    gate, norms = layers[0].equivariant_nonlin, [layer.conv.avg_num_neighbors_norm.norm_const for layer in layers]
    if any(not torch.equal(norm, norms[0]) for norm in norms):
        raise ValueError("avg_num_neighbors differs between the layers")
    counts = (1.0 / norms[0].double().reshape(-1).square()).tolist()
    gated = type(gate).__name__ == "Gate"
    return {
        "feature_irreps_hidden": [str(layer.feature_irreps_hidden) for layer in layers],
        "radial_mlp_depth": [len(widths) for widths in hidden],
        "radial_mlp_width": [int(widths[0]) if widths else 0 for widths in hidden],
        "avg_num_neighbors": counts[0] if len(counts) == 1 else counts,
        "convnet_sc": any(layer.conv.use_sc for layer in layers[1:]),
        "learnable_shift": bool(layers[0].conv.use_sc or layers[0].resnet),
        "convnet_resnet": any(layer.resnet for layer in layers),
        "convnet_nonlinearity_type": "gate" if gated else type(gate).__name__,
        "convnet_nonlinearity_scalars": _activations(
            [layer.equivariant_nonlin.act_scalars for layer in layers] if gated else []
        ),
        "convnet_nonlinearity_gates": _activations(
            [layer.equivariant_nonlin.act_gates for layer in layers] if gated else []
        ),
    }


def _activations(modules: list[Any]) -> dict[str, str]:
    """The function for each parity: {"e": "silu", "o": "tanh"}; those that occur."""
    found = {}
    for module in modules:
        for (_, ir), act in zip(module.irreps_in, module.acts, strict=False):
            name = act.f.__name__ if act is not None else "none"
            found["e" if ir.p == 1 else "o"] = {"shifted_softplus": "ssp"}.get(name, name)
    return found


def _readout(mlp: Any) -> dict[str, Any]:
    hidden, modules = mlp.dims[1:-1], list(mlp.mlp.children())
    plain = type(mlp.mlp).__name__ != "Sequential" or len(modules) == 1
    name = None if plain else type(modules[1]).__name__
    return {
        "readout_mlp_hidden_layers_depth": len(hidden),
        "readout_mlp_hidden_layers_width": int(hidden[0]) if hidden else None,
        "readout_mlp_nonlinearity": None if name is None else _ACTIVATIONS.get(name, name),
    }


def _pair_potential(pair: Any) -> dict[str, Any]:
    kind = {"_target_": f"nequip.nn.pair_potential.{type(pair).__name__}"}
    if type(pair).__name__ != "ZBL":
        return kind
    prefactor = 2.0 * float(pair._qqr2exesquare)
    units = [name for name, value in _UNITS.items() if abs(prefactor - value) < 1e-6 * value]
    numbers = [int(z) for z in pair.atomic_numbers.tolist()]
    return {**kind, "units": units[0] if units else prefactor, "atomic_numbers": numbers,
            "polynomial_cutoff_p": float(pair.cutoff.p)}  # fmt: skip


def _fields(embed: Any) -> list[str] | None:
    return list(embed.categorical_graph_field_embed_modules) or None


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    """The weights; of the Wigner 3j symbols only one whose sign tells e3nn's convention."""
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    telling = [name for name in state if name.endswith(("_w3j_1_2_2", "_w3j_2_1_2", "_w3j_2_2_1"))][:1]
    return {name: tensor for name, tensor in state.items() if "_compiled_main" not in name or name in telling}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def main() -> None:
    """Writes weights.pt and weights.json of a model file."""
    if len(sys.argv) != 3:
        sys.exit("usage: python export_nequip.py MODEL.ckpt weights.pt   (or MODEL.nequip.zip)")
    from nequip.model.saved_models import load_saved_model  # type: ignore[import-not-found]
    from nequip.utils.global_state import set_global_state  # type: ignore[import-not-found]

    set_global_state()
    options, tensors = export(load_saved_model(sys.argv[1]))
    out = Path(sys.argv[2])
    torch.save(tensors, out)
    out.with_suffix(".json").write_text(json.dumps(options, indent=1))
    print(f"{out} and {out.with_suffix('.json')} are written; where equipot is: equipot convert {out} MODEL.equipot")


if __name__ == "__main__":
    main()
