"""Golden results of nequip 0.5 with random weights.

    PEER/bin/python scripts/goldens/make_nequip_paper.py NEQUIP_SOURCE tests/peers/goldens [NAME ...]

PEER has torch, ase and e3nn; NEQUIP_SOURCE is the folder with nequip 0.5.6 and torch_runstats. With e3nn 0.4.4 (of
the code's time) and with 0.6 the Wigner 3j symbols have other signs: the names that end in _e3nn04 are of the former.
"""

import sys
import types
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import ase  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from ase.neighborlist import neighbor_list  # noqa: E402

torch.serialization.add_safe_globals([slice])  # e3nn 0.4.4 asks for it
HERE = Path(__file__).resolve()
sys.path[:0] = [sys.argv[1], str(HERE.parent)]
for _name in ("wandb", "wandb.util"):
    _stub = types.ModuleType(_name)  # imported by the training's logger, not used here
    _stub.json_friendly_val = lambda value: value  # type: ignore[attr-defined]
    sys.modules.setdefault(_name, _stub)

import nequip  # noqa: E402
from common import E0, R_MAX, SPECIES, read_structures, write_golden  # noqa: E402
from e3nn import __version__ as e3nn_version  # noqa: E402
from nequip.data import AtomicDataDict  # noqa: E402
from nequip.model import model_from_config  # noqa: E402
from nequip.utils import Config  # noqa: E402

SILU = {"nonlinearity_scalars": {"e": "silu", "o": "tanh"}, "nonlinearity_gates": {"e": "silu", "o": "tanh"}}
ALL = ["SimpleIrrepsConfig", "EnergyModel", "PerSpeciesRescale", "StressForceOutput", "RescaleEnergyEtc"]
BASE: dict[str, Any] = {
    "model_builders": ALL, "chemical_symbols": ["O", "H", "C"], "r_max": R_MAX, "num_layers": 3, "num_basis": 5,
    "invariant_neurons": 6, "avg_num_neighbors": 2.3, "l_max": 2, "parity": True, "num_features": 2,
}  # fmt: skip
_IRREPS = {
    "feature_irreps_hidden": "3x1o + 4x0o + 4x0e + 3x1e", "chemical_embedding_irreps_out": "5x0e",
    "irreps_edge_sh": "1x0e + 1x1o + 1x2e", "conv_to_output_hidden_irreps_out": "3x0e",
    "num_features": None, "l_max": None, "parity": None,
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "nequip_paper": {**SILU, "features": True},
    "nequip_paper_degree_3": {**SILU, "l_max": 3, "invariant_layers": 2, "seed": 1},
    "nequip_paper_softplus": {"num_features": 3, "l_max": 1, "seed": 2},
    "nequip_paper_irreps_in_any_order": {
        **SILU, **_IRREPS, "per_species_rescale_scales_trainable": True, "per_species_rescale_shifts_trainable": True,
        "chemical_symbols": None, "chemical_symbol_to_type": {"O": 0, "H": 1, "C": 2},
    },
    "nequip_paper_no_parity": {**SILU, "parity": False},
    "nequip_paper_bare": {
        **SILU, "num_features": 3, "model_builders": ["SimpleIrrepsConfig", "EnergyModel", "StressForceOutput"],
        "avg_num_neighbors": None, "BesselBasis_trainable": False, "PolynomialCutoff_p": 4, "use_sc": False,
    },
    "nequip_paper_float32": {**SILU, "dtype": "float32"},
    "nequip_paper_e3nn04": {**SILU, "features": True},
    "nequip_paper_no_parity_e3nn04": {**SILU, "parity": False},
}  # fmt: skip


def build(values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A model with random weights, and its configuration."""
    seed, dtype = values.pop("seed", 0), values.pop("dtype", "float64")
    torch.set_default_dtype(getattr(torch, dtype))
    config = {key: value for key, value in {**BASE, **values}.items() if value is not None}
    if "avg_num_neighbors" in values:
        config["avg_num_neighbors"] = values["avg_num_neighbors"]
    torch.manual_seed(seed)
    model = model_from_config(Config.from_dict(dict(config)), initialize=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bessel_weights"):
                parameter += 0.1 * torch.rand(parameter.shape)
            if name.endswith("output_hidden_to_scalar.linear.weight"):
                parameter *= 10.0
            parameter.copy_(parameter.to(torch.bfloat16))  # few digits: the files compress
        for name, tensor in model.state_dict().items():
            if name.endswith("per_species_rescale.shifts"):
                tensor.copy_(torch.tensor([E0[SPECIES.index(z)] for z in _numbers(config)]) / 0.83)
            elif name.endswith("per_species_rescale.scales"):
                tensor.copy_(torch.tensor([0.9, 1.3, 0.7]))
            elif name.endswith("scale_by"):
                tensor.copy_(torch.tensor(0.83))
    return model.eval(), config


def _numbers(config: dict[str, Any]) -> list[int]:
    """Atomic numbers in the order of the model's types."""
    mapping = config.get("chemical_symbol_to_type")
    symbols = config.get("chemical_symbols") or sorted(mapping, key=mapping.get)
    numbers = [ase.data.atomic_numbers[symbol] for symbol in symbols]
    return numbers if mapping else sorted(numbers)


def evaluate(model: Any, config: dict[str, Any], structures: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Energies, forces and stresses of every structure by nequip; the layers' features."""
    found: dict[str, list[np.ndarray]] = {key: [] for key in ("energy", "interaction", "forces", "stress")}
    features: list[torch.Tensor] = []
    key, numbers, dtype = AtomicDataDict, _numbers(config), torch.get_default_dtype()
    layers = [module for name, module in model.named_modules() if name.endswith("_convnet")]
    for layer in layers:
        layer.register_forward_hook(lambda _m, _i, out: features.append(out[key.NODE_FEATURES_KEY].detach().clone()))
    shifted = any(name.endswith("rescale.shifts") for name in model.state_dict())
    for s in structures:
        atoms = ase.Atoms(s["numbers"], positions=s["positions"], cell=s["cell"], pbc=s["pbc"])
        i, j, S = neighbor_list("ijS", atoms, R_MAX)
        data = {
            key.POSITIONS_KEY: torch.tensor(atoms.positions, dtype=dtype),
            key.EDGE_INDEX_KEY: torch.tensor(np.stack([i, j])),
            key.ATOM_TYPE_KEY: torch.tensor([[numbers.index(z)] for z in atoms.numbers]),
        }
        if any(s["pbc"]):
            data |= {
                key.CELL_KEY: torch.tensor(atoms.cell.array, dtype=dtype)[None],
                key.EDGE_CELL_SHIFT_KEY: torch.tensor(S, dtype=dtype),
            }
        out = {name: value.detach().double().numpy() for name, value in model(data).items()}
        E_0 = sum(E0[SPECIES.index(z)] for z in s["numbers"]) if shifted else 0.0
        found["energy"].append(out[key.TOTAL_ENERGY_KEY].reshape(1))
        found["interaction"].append(found["energy"][-1] - E_0)
        found["forces"].append(out[key.FORCE_KEY])
        found["stress"].append(out[key.STRESS_KEY].reshape(1, 3, 3) if all(s["pbc"]) else np.full((1, 3, 3), np.nan))
    stacked = {f"features/{t}": torch.cat(features[t :: len(layers)]).double().numpy() for t in range(len(layers))}
    return {name: np.concatenate(values) for name, values in found.items()} | stacked


def main(folder: Path, names: list[str]) -> None:
    """Writes the golden files; those of the e3nn version that runs."""
    old = e3nn_version.startswith("0.4")
    for name in names or [name for name in CONFIGURATIONS if name.endswith("_e3nn04") == old]:
        values = dict(CONFIGURATIONS[name])
        with_features, kind = values.pop("features", False), values.get("dtype", "float64")
        model, config = build(values)
        results = evaluate(model, config, read_structures(folder))
        if not with_features:
            results = {key: value for key, value in results.items() if not key.startswith("features")}
        layers = [module for key, module in model.named_modules() if key.endswith("_convnet")]
        irreps = [str(layer.equivariant_nonlin.irreps_out) for layer in layers]
        meta = {
            "options": {"code": "nequip-0.5", "version": nequip.__version__, "e3nn": e3nn_version, **config},
            "head": None, "dtype": kind,
            "versions": {"nequip": nequip.__version__, "e3nn": e3nn_version, "torch": torch.__version__.split("+")[0]},
            **({"features_irreps": irreps} if with_features else {}),
        }  # fmt: skip
        state = {key: value for key, value in model.state_dict().items() if not key.endswith("output_mask")}
        telling = [key for key in state if key.endswith(("_w3j_1_2_2", "_w3j_2_1_2"))][:1]
        weights = {key: v.numpy() for key, v in state.items() if "_compiled_main" not in key or key in telling}
        write_golden(folder, name, meta, weights, results)


if __name__ == "__main__":
    main(Path(sys.argv[2]), sys.argv[3:])
