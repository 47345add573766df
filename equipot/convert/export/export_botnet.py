"""A model of BOTNet's released code (gncs/botnet) as plain weights and hyper-parameters.

Stands alone: copy it to the environment that has that code and run

    python export_botnet.py MODEL weights.pt 1,6,8

with the atomic numbers in the order of the training (ascending), which the model itself does not know.
"""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def export(model: Any, atomic_numbers: Any = None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Returns the hyper-parameters and the weights of a living model.

    Args:
        model: Of one of the eight classes in `botnet.modules.models`.
        atomic_numbers: Its elements in its order; without them they must be added to the hyper-parameters.

    Raises:
        ValueError: The layers divide by different numbers of neighbours.
    """
    first, readout = model.interactions[0], model.readouts[-1]
    hidden = first.target_irreps
    options: dict[str, Any] = {
        "code": "botnet",
        "version": _version("botnet"),
        "e3nn": _version("e3nn") or "0.4.4",
        "model": type(model).__name__,
        "r_max": round(float(model.radial_embedding.cutoff_fn.r_max), 6),
        "num_bessel": int(model.radial_embedding.out_dim),
        "num_polynomial_cutoff": int(model.radial_embedding.cutoff_fn.p),
        "max_ell": max(ir.l for _, ir in first.edge_attrs_irreps),
        "interaction_cls": type(model.interactions[-1]).__name__,
        "interaction_cls_first": type(first).__name__,
        "num_interactions": len(model.interactions),
        "hidden_irreps": str(hidden),
        "avg_num_neighbors": _neighbours(model),
    }
    if atomic_numbers is not None:
        options["atomic_numbers"] = [int(z) for z in atomic_numbers]
    if getattr(readout, "hidden_irreps", None) is not None:
        acts = getattr(readout.non_linearity, "acts", None) or [None]
        function = getattr(acts[0], "f", acts[0])
        options["MLP_irreps"] = str(readout.hidden_irreps)
        options["gate"] = None if function is None else getattr(function, "__name__", type(function).__name__)
    state = model.state_dict()
    return options, {
        name: tensor.detach().cpu().clone()
        for name, tensor in state.items()
        if "_compiled_main" not in name and "_w3j" not in name
    }


def _neighbours(model: Any) -> float:
    numbers = [float(block.avg_num_neighbors) for block in model.interactions]
    if len(set(numbers)) != 1:
        raise ValueError(f"avg_num_neighbors differs between the layers ({', '.join(map(str, numbers))})")
    return numbers[0]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def main() -> None:
    """Writes weights.pt and weights.json of a model file."""
    if len(sys.argv) != 4:
        sys.exit("usage: python export_botnet.py MODEL weights.pt 1,6,8")
    numbers = [int(z) for z in sys.argv[3].split(",")]
    options, tensors = export(torch.load(sys.argv[1], map_location="cpu", weights_only=False), numbers)
    out = Path(sys.argv[2])
    torch.save(tensors, out)
    out.with_suffix(".json").write_text(json.dumps(options, indent=1))
    print(f"{out} and {out.with_suffix('.json')} are written; where equipot is: equipot convert {out} MODEL.equipot")


if __name__ == "__main__":
    main()
