"""Golden results of nequip ≥ 0.16 with random weights.

    PEER/bin/python scripts/goldens/make_nequip.py tests/peers/goldens [NAME ...]

PEER is an environment with nequip; names choose configurations.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import ase  # noqa: E402
import nequip  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from nequip.data import AtomicDataDict, from_ase  # noqa: E402
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform  # noqa: E402
from nequip.model import FullNequIPGNNModel, NequIPGNNModel, PresetNequIPGNNModel  # noqa: E402
from nequip.utils.global_state import set_global_state  # noqa: E402

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent), str(HERE.parents[2] / "equipot" / "convert" / "export")]

import export_nequip  # noqa: E402
from common import E0, R_MAX, SPECIES, read_structures, write_golden  # noqa: E402
from e3nn import __version__ as e3nn_version  # noqa: E402

NAMES = ["C", "H", "O"]
SHIFTS = {name: E0[SPECIES.index(ase.data.atomic_numbers[name])] for name in NAMES}
SCALES = {"C": 0.9, "H": 0.7, "O": 1.1}
COUNTS = {"C": 3.1, "H": 1.9, "O": 2.4}
_ZBL = {"_target_": "nequip.nn.pair_potential.ZBL", "chemical_species": NAMES, "polynomial_cutoff_p": 4}
BASE: dict[str, Any] = {
    "r_max": R_MAX, "type_names": NAMES, "num_bessels": 5, "radial_mlp_width": 6, "avg_num_neighbors": 2.3,
    "per_type_energy_scales": 0.83, "per_type_energy_shifts": SHIFTS,
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "nequip_default": {"num_features": 3, "l_max": 1},
    "nequip_both_parities": {"num_features": 2, "l_max": 2, "features": True},
    "nequip_degree_3": {"num_features": [3, 2, 2, 1], "l_max": 3, "parity": False, "num_layers": 3, "seed": 1},
    "nequip_shape_S": {"preset": "S", "num_features": [4, 2], "radial_mlp_width": 5, "type_embed_num_features": 3},
    "nequip_shape_M": {"preset": "M", "num_features": [4, 3, 2], "radial_mlp_width": 5, "type_embed_num_features": 3},
    "nequip_shape_L": {
        "preset": "L", "num_features": [3, 2, 1, 1], "radial_mlp_width": 5, "type_embed_num_features": 3,
    },
    "nequip_shape_XL": {
        "preset": "XL", "num_features": [2, 1, 1, 1, 1], "radial_mlp_width": 4, "type_embed_num_features": 3,
    },
    "nequip_preset_S": {"preset": "S", "num_bessels": 8, "radial_mlp_width": 128, "signs": True},
    "nequip_per_type": {
        "num_features": 3, "avg_num_neighbors": COUNTS, "per_type_energy_scales": SCALES, "type_embed_num_features": 5,
        "per_type_energy_scales_trainable": True, "per_type_energy_shifts_trainable": True, "seed": 2,
    },
    "nequip_zbl": {"num_features": 3, "pair_potential": {**_ZBL, "units": "metal"}, "polynomial_cutoff_p": 7},
    "nequip_trainable_bessel": {"num_features": 3, "bessel_trainable": True, "radial_mlp_depth": 2, "seed": 3},
    "nequip_readout_mlp": {
        "num_features": 3, "readout_mlp_hidden_layers_depth": 2, "readout_mlp_hidden_layers_width": 4,
        "readout_mlp_nonlinearity": "mish",
    },
    "nequip_readout_silu": {"num_features": 3, "num_layers": 2, "readout_mlp_hidden_layers_depth": 1},
    "nequip_readout_deep_linear": {
        "num_features": 3, "num_layers": 2, "readout_mlp_hidden_layers_depth": 2, "readout_mlp_hidden_layers_width": 4,
        "readout_mlp_nonlinearity": None,
    },
    "nequip_no_scale": {"num_features": 3, "num_layers": 1, "per_type_energy_scales": None, "radial_mlp_depth": 0},
    "nequip_invariant": {"num_features": 4, "l_max": 0, "per_type_energy_shifts": None},
    "nequip_float32": {"num_features": 3, "l_max": 2, "dtype": "float32", "pair_potential": {**_ZBL, "units": "metal"}},
    "nequip_other_order": {
        "full": True, "irreps_edge_sh": "0e + 1o",
        "feature_irreps_hidden": ["2x1o + 3x0o + 3x0e + 2x1e"] * 2 + ["3x0e"],
        "radial_mlp_depth": [1, 1, 1], "radial_mlp_width": [6, 6, 6], "type_embed_num_features": 3,
        "convnet_nonlinearity_scalars": {"e": "ssp", "o": "tanh"}, "convnet_sc": False,
        "convnet_nonlinearity_gates": {"e": "ssp", "o": "abs"},
    },
}  # fmt: skip


def build(values: dict[str, Any]) -> Any:
    """A model with random weights."""
    values = dict(values)
    seed, dtype = values.pop("seed", 0), values.pop("dtype", "float64")
    builder, signs = FullNequIPGNNModel if values.pop("full", False) else NequIPGNNModel, values.pop("signs", False)
    if "preset" in values:
        builder = PresetNequIPGNNModel
    model = builder(**{**BASE, **values, "seed": seed, "model_dtype": dtype})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bessel_weights"):
                parameter += 0.1 * torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
            if "scale_shift" not in name:
                parameter.copy_(parameter.sign() if signs else parameter.to(torch.bfloat16))  # so that files compress
    return model.eval()


def evaluate(model: Any, structures: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Energies, forces and stresses of every structure by nequip; the layers' features."""
    found: dict[str, list[np.ndarray]] = {key: [] for key in ("energy", "interaction", "forces", "stress")}
    features: list[torch.Tensor] = []
    layers = [m for name, m in model.named_modules() if name.endswith("_convnet")]
    hooks = [
        m.register_forward_hook(
            lambda _m, _i, out: features.append(out[AtomicDataDict.NODE_FEATURES_KEY].detach().clone())
        )
        for m in layers
    ]
    types, neighbours = ChemicalSpeciesToAtomTypeMapper(model_type_names=NAMES), NeighborListTransform(r_max=R_MAX)
    parts = {name.rsplit(".", 1)[-1]: module for name, module in model.named_modules()}
    shifts = parts["per_type_energy_scale_shift"].shifts.detach().reshape(-1)
    for s in structures:
        atoms = ase.Atoms(s["numbers"], positions=s["positions"], cell=s["cell"], pbc=s["pbc"])
        data = neighbours(types(from_ase(atoms)))
        out = model(data)
        energy = out[AtomicDataDict.TOTAL_ENERGY_KEY].detach().double().reshape(1)
        index = [NAMES.index(symbol) for symbol in atoms.get_chemical_symbols()]
        E_0 = shifts.expand(len(NAMES))[index].sum() if shifts.numel() else 0.0
        periodic = all(s["pbc"])
        found["energy"].append(energy.numpy())
        found["interaction"].append((energy - E_0).numpy())
        found["forces"].append(out[AtomicDataDict.FORCE_KEY].detach().double().numpy())
        stress = out[AtomicDataDict.STRESS_KEY].detach().double().numpy().reshape(1, 3, 3) if periodic else None
        found["stress"].append(np.full((1, 3, 3), np.nan) if stress is None else stress)
    for hook in hooks:
        hook.remove()
    stacked = {f"features/{t}": torch.cat(features[t :: len(layers)]).double().numpy() for t in range(len(layers))}
    return {key: np.concatenate(values) for key, values in found.items()} | stacked


def main(folder: Path, names: list[str]) -> None:
    """Writes the golden files."""
    set_global_state()
    for name in names or CONFIGURATIONS:
        values = dict(CONFIGURATIONS[name])
        with_features = values.pop("features", False)
        model = build(values)
        options, tensors = export_nequip.export(model)
        results = evaluate(model, read_structures(folder))
        if not with_features:
            results = {key: value for key, value in results.items() if not key.startswith("features")}
        layers = [m for key, m in model.named_modules() if key.endswith("_convnet")]
        irreps = [str(m.equivariant_nonlin.irreps_out) for m in layers]
        meta = {
            "options": options, "head": None, "dtype": values.get("dtype", "float64"),
            "versions": {"nequip": nequip.__version__, "e3nn": e3nn_version, "torch": torch.__version__.split("+")[0]},
            **({"features_irreps": irreps} if with_features else {}),
        }  # fmt: skip
        weights = {key: t.numpy() for key, t in tensors.items() if not key.endswith("output_mask")}
        write_golden(folder, name, meta, weights, results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
