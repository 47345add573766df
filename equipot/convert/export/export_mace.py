"""A mace-torch model as plain weights and hyper-parameters.

Stands alone: copy it to the environment that has mace-torch and run

    python export_mace.py MACE.model weights.pt

which writes weights.pt (a state dict) and weights.json (hyper-parameters by the names of mace-torch's constructor).
"""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_RADIAL = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
_TRANSFORMS = {"AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}
_OURS_TO_COMPUTE = ("_compiled_main", "_w3j", "graph_opt", "contractions_weighting", "contractions_features")


def export(model: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Returns the hyper-parameters and the weights of a `mace.modules.MACE` or `ScaleShiftMACE`.

    Raises:
        ValueError: The model is prepared for cuequivariance, whose weights have another layout, or its layers divide
            by different numbers of neighbours.
    """
    first, radial, last = model.interactions[0], model.radial_embedding, model.readouts[-1]
    for config in (getattr(model, "cueq_config", None), getattr(first, "cueq_config", None)):
        if config is not None and getattr(config, "enabled", True):
            raise ValueError(
                "the model is prepared for cuequivariance: change it back first (mace_cueq_to_e3nn MODEL OUT)"
            )
    readout = type(last).__name__
    options: dict[str, Any] = {
        "code": "mace-torch",
        "version": _version("mace-torch"),
        "e3nn": _version("e3nn") or "0.4.4",
        "model": type(model).__name__,
        "r_max": _number(model.r_max),
        "num_bessel": int(radial.out_dim),
        "num_polynomial_cutoff": int(radial.cutoff_fn.p),
        "max_ell": max(ir.l for _, ir in first.edge_attrs_irreps),
        "interaction_cls": type(model.interactions[-1]).__name__,
        "interaction_cls_first": type(first).__name__,
        "num_interactions": len(model.interactions),
        "hidden_irreps": str(model.products[0].linear.irreps_out),
        "atomic_numbers": [int(z) for z in model.atomic_numbers],
        "avg_num_neighbors": _neighbours(model),
        "correlation": _correlations(model),
        "heads": [str(head) for head in getattr(model, "heads", None) or ["Default"]],
        "radial_type": _RADIAL.get(type(radial.bessel_fn).__name__, type(radial.bessel_fn).__name__),
        "radial_MLP": _radial_widths(first),
        "distance_transform": _transform(radial),
        "apply_cutoff": bool(getattr(radial, "apply_cutoff", True)),
        "pair_repulsion": getattr(model, "pair_repulsion_fn", None) is not None,
        "use_agnostic_product": bool(getattr(model.products[0], "use_agnostic_product", False)),
        "use_reduced_cg": bool(getattr(model, "use_reduced_cg", False)),
        "use_last_readout_only": len(model.readouts) < len(model.interactions),
        "keep_last_layer_irreps": _keeps_irreps(model),
        "use_so3": bool(getattr(model, "use_so3", False)),
        "edge_irreps": None if getattr(model, "edge_irreps", None) is None else str(model.edge_irreps),
        "use_edge_irreps_first": bool(getattr(model, "use_edge_irreps_first", False)),
        "embedding_specs": list(getattr(model, "embedding_specs", None) or []) or None,
        "use_embedding_readout": getattr(model, "embedding_readout", None) is not None,
        "readout_cls": readout,
    }
    if getattr(last, "hidden_irreps", None) is not None:
        options["MLP_irreps"] = f"{last.hidden_irreps.num_irreps // len(options['heads'])}x0e"
        options["gate"] = _activation(last)
    return options, _tensors(model)


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in state.items()
        if not any(part in name for part in _OURS_TO_COMPUTE)
    }


def _neighbours(model: Any) -> float:
    numbers = [_number(block.avg_num_neighbors) for block in model.interactions]
    if len(set(numbers)) != 1:
        raise ValueError(f"avg_num_neighbors differs between the layers ({', '.join(map(str, numbers))})")
    return numbers[0]


def _correlations(model: Any) -> Any:
    orders = [len(p.symmetric_contractions.contractions[0].weights) + 1 for p in model.products]
    return orders[0] if len(set(orders)) == 1 else orders


def _radial_widths(block: Any) -> list[int]:
    network = block.conv_tp_weights
    if getattr(network, "hs", None) is not None:
        return [int(width) for width in network.hs[1:-1]]
    return [int(layer.weight.shape[0]) for layer in list(network)[1:]]


def _transform(radial: Any) -> str:
    if getattr(radial, "distance_transform", None) is None:
        return "None"
    name = type(radial.distance_transform).__name__
    return _TRANSFORMS.get(name, name)


def _keeps_irreps(model: Any) -> bool:
    last = model.products[-1].linear.irreps_out
    return len(model.products) > 1 and len(last) > 1


def _activation(readout: Any) -> Any:
    acts = getattr(readout.non_linearity, "acts", None)
    act = None if not acts else acts[0]
    function = getattr(act, "f", act)
    return None if function is None else getattr(function, "__name__", type(function).__name__)


def _number(value: Any) -> float:
    number = float(value)
    return round(number, 6) if torch.is_tensor(value) and value.dtype == torch.float32 else number


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def main() -> None:
    """Writes weights.pt and weights.json of a model file."""
    if len(sys.argv) != 3:
        sys.exit("usage: python export_mace.py MODEL weights.pt")
    import mace  # noqa: F401 (sets what e3nn 0.4.4 needs before it is unpickled)

    model = torch.load(sys.argv[1], map_location="cpu", weights_only=False)
    if isinstance(model, torch.jit.ScriptModule):
        sys.exit(f"{sys.argv[1]} is a compiled model, without hyper-parameters: give the NAME.model it was made from.")
    if not isinstance(model, torch.nn.Module):
        sys.exit(
            f"{sys.argv[1]} holds a {type(model).__name__}, no model. Of a training give NAME.model, not a checkpoint."
        )
    options, tensors = export(model)
    out = Path(sys.argv[2])
    torch.save(tensors, out)
    out.with_suffix(".json").write_text(json.dumps(options, indent=1))
    print(f"{out} and {out.with_suffix('.json')} are written; where equipot is: equipot convert {out} MODEL.equipot")


if __name__ == "__main__":
    main()
