"""Golden results of mace-torch with random weights.

    PEER/bin/python scripts/goldens/make_mace.py tests/peers/goldens [NAME ...]

PEER is an environment with mace-torch (and cuequivariance, for the reduced couplings); names choose configurations.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import ase  # noqa: E402
import mace  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mace import data, modules, tools  # noqa: E402

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent), str(HERE.parents[2] / "equipot" / "convert" / "export")]

import export_mace  # noqa: E402
from common import E0, R_MAX, SPECIES, read_structures, write_golden  # noqa: E402
from e3nn import __version__ as e3nn_version  # noqa: E402
from e3nn import o3  # noqa: E402
from mace.tools import torch_geometric  # noqa: E402

_RESIDUAL, _PLAIN = "RealAgnosticResidualInteractionBlock", "RealAgnosticInteractionBlock"
_DENSITY, _DENSITY_FIRST = "RealAgnosticDensityResidualInteractionBlock", "RealAgnosticDensityInteractionBlock"
_NONLINEAR, _BIAS = "RealAgnosticResidualNonLinearInteractionBlock", "NonLinearBiasReadoutBlock"
_ALL_NONLINEAR = {"interaction_cls": _NONLINEAR, "interaction_cls_first": _NONLINEAR, "readout_cls": _BIAS}
_SMALL_AT_FIRST = ("bias", "_embedding.weight", "conv_tp_weights.net", "density_fn.net", "alpha", "beta")
"""Parameters of the nonlinear block and its readout that would be hidden: they start at a constant, or tiny."""
BASE: dict[str, Any] = {
    "model": "ScaleShiftMACE", "num_bessel": 5, "num_polynomial_cutoff": 5, "max_ell": 2, "interaction_cls": _RESIDUAL,
    "interaction_cls_first": _RESIDUAL, "num_interactions": 2, "hidden_irreps": "2x0e + 2x1o", "MLP_irreps": "4x0e",
    "avg_num_neighbors": 2.3, "correlation": 3, "gate": torch.nn.functional.silu, "radial_MLP": [6, 5],
    "use_reduced_cg": False,
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "mace_L0": {"hidden_irreps": "3x0e", "max_ell": 3},
    "mace_L1": {"hidden_irreps": "3x0e + 3x1o", "max_ell": 3, "features": True},
    "mace_L2": {"hidden_irreps": "2x0e + 2x1o + 2x2e", "max_ell": 3, "seed": 1},
    "mace_first_not_residual": {"interaction_cls_first": _PLAIN},
    "mace_three_layers": {"num_interactions": 3, "correlation": 2, "interaction_cls_first": _PLAIN, "seed": 5},
    "mace_nu1": {"correlation": 1},
    "mace_nu4": {"correlation": 4, "max_ell": 1},
    "mace_one_layer": {"num_interactions": 1, "hidden_irreps": "3x0e"},
    "mace_agnostic_product": {"use_agnostic_product": True},
    "mace_density": {"interaction_cls": _DENSITY, "interaction_cls_first": _DENSITY},
    "mace_density_cutoff_on_weights": {
        "interaction_cls": _DENSITY, "interaction_cls_first": _DENSITY_FIRST, "apply_cutoff": False,
    },
    "mace_agnesi": {"distance_transform": "Agnesi", "seed": 3},
    "mace_soft": {"distance_transform": "Soft"},
    "mace_radial_linear": {"radial_MLP": []},
    "mace_gaussian": {"radial_type": "gaussian", "radial_MLP": [8, 4, 6]},
    "mace_chebyshev": {"radial_type": "chebyshev", "num_bessel": 2},
    "mace_chebyshev_agnesi": {"radial_type": "chebyshev", "distance_transform": "Agnesi"},
    "mace_zbl_scaled": {"pair_repulsion": True},
    "mace_zbl": {"pair_repulsion": True, "model": "MACE"},
    "mace_no_scale": {"model": "MACE", "seed": 4},
    "mace_heads": {"heads": ["a", "b", "c"], "head": "b"},
    "mace_heads_no_scale": {"heads": ["a", "b"], "head": "a", "model": "MACE"},
    "mace_float32": {"dtype": "float32", "hidden_irreps": "3x0e + 3x1o"},
    "mace_full_parity": {"hidden_irreps": "2x0e + 2x0o + 2x1o + 2x1e", "correlation": 2, "num_interactions": 3},
    "mace_keeps_last_irreps": {"keep_last_layer_irreps": True},
    "mace_last_readout_only": {"use_last_readout_only": True},
    "mace_linear_gate": {"gate": None},
    "mace_nonlinear": {**_ALL_NONLINEAR, "apply_cutoff": False, "features": True},
    "mace_nonlinear_L0": {**_ALL_NONLINEAR, "hidden_irreps": "3x0e", "radial_MLP": [7], "seed": 1},
    "mace_nonlinear_later": {
        "interaction_cls": _NONLINEAR, "interaction_cls_first": _PLAIN, "num_interactions": 3, "correlation": 2,
        "apply_cutoff": False,
    },
    "mace_nonlinear_after_residual": {"interaction_cls": _NONLINEAR, "readout_cls": _BIAS, "seed": 2},
    "mace_nonlinear_edge_irreps": {
        **_ALL_NONLINEAR, "edge_irreps": "3x0e + 1x1o + 4x2e", "use_edge_irreps_first": True, "max_ell": 3,
        "hidden_irreps": "2x0e + 2x1o + 2x2e", "correlation": 2, "apply_cutoff": False, "features": True,
    },
    "mace_nonlinear_heads": {**_ALL_NONLINEAR, "heads": ["a", "b", "c"], "head": "c", "correlation": 2},
    "mace_nonlinear_float32": {**_ALL_NONLINEAR, "dtype": "float32", "apply_cutoff": False, "correlation": 2},
    "mace_nonlinear_elements_unordered": {**_ALL_NONLINEAR, "atomic_numbers": [8, 1, 6], "correlation": 2},
    "mace_edge_irreps": {"edge_irreps": "4x1o + 3x0e + 2x2e", "interaction_cls_first": _PLAIN},
    "mace_density_first": {"interaction_cls_first": _DENSITY_FIRST},
    "mace_density_later": {"interaction_cls": _DENSITY},
    "mace_elements_unordered": {"atomic_numbers": [8, 1, 6]},
    "mace_reduced_couplings": {"use_reduced_cg": True, "max_ell": 2, "keep_U": True},
}  # fmt: skip


def build(values: dict[str, Any], seed: int) -> Any:
    """A model with random weights; unset choices are mace-torch's."""
    torch.manual_seed(seed + 1000 * int(os.environ.get("GOLDEN_SEED", "0")))
    values = {**BASE, **values}
    kind = values.pop("model")
    species = values.get("atomic_numbers", list(SPECIES))
    heads = values.get("heads")
    energies = np.array([E0[SPECIES.index(z)] for z in species])
    values["atomic_energies"] = energies if heads is None else np.stack([energies * (1 + n) for n in range(len(heads))])
    if kind == "ScaleShiftMACE":
        several = 0.1 * np.arange(len(heads)) if heads else 0.0
        values.update(atomic_inter_scale=0.83 + several, atomic_inter_shift=-0.37 + several)
    for key in ("interaction_cls", "interaction_cls_first"):
        values[key] = modules.interaction_classes[values[key]]
    for key in ("hidden_irreps", "MLP_irreps"):
        values[key] = o3.Irreps(values[key])
    values.update(r_max=R_MAX, num_elements=len(species), atomic_numbers=species)
    if "edge_irreps" in values:
        values["edge_irreps"] = o3.Irreps(values["edge_irreps"])
    if "readout_cls" in values:
        values["readout_cls"] = getattr(modules, values["readout_cls"])
    model = getattr(modules, kind)(**values)
    for name, parameter in (*model.interactions.named_parameters(), *model.readouts.named_parameters()):
        if any(part in name for part in _SMALL_AT_FIRST):
            parameter.data += 0.5 * torch.randn_like(parameter)
    return model


def evaluate(model: Any, structures: list[dict[str, Any]], head: int) -> dict[str, np.ndarray]:
    """Energies, forces and stresses of every structure, each on its own; features of all, if they are wanted."""
    numbers = [int(z) for z in model.atomic_numbers]
    table = tools.AtomicNumberTable(numbers)
    found: dict[str, list[np.ndarray]] = {key: [] for key in ("energy", "interaction", "forces", "stress", "features")}
    for s in structures:
        atoms = ase.Atoms(s["numbers"], positions=s["positions"], cell=s["cell"], pbc=s["pbc"])
        config = data.config_from_atoms(atoms)
        one = data.AtomicData.from_config(config, z_table=table, cutoff=R_MAX)
        batch = next(iter(torch_geometric.dataloader.DataLoader([one], batch_size=1, shuffle=False))).to_dict()
        batch["head"] = torch.tensor([head])
        periodic = all(s["pbc"])
        out = model(batch, compute_force=True, compute_stress=periodic)
        E_0 = np.atleast_2d(model.atomic_energies_fn.atomic_energies.double().numpy())
        E_0 = E_0[head if len(E_0) > 1 else 0][[numbers.index(z) for z in s["numbers"]]].sum()
        found["energy"].append(out["energy"].detach().double().numpy().reshape(1))
        found["interaction"].append(found["energy"][-1] - E_0)
        found["forces"].append(out["forces"].detach().double().numpy())
        stress = out["stress"].detach().double().numpy().reshape(1, 3, 3) if periodic else np.full((1, 3, 3), np.nan)
        found["stress"].append(stress)
        found["features"].append(out["node_feats"].detach().double().numpy())
    return {key: np.concatenate(values) for key, values in found.items()}


def differentiated(model: Any, structures: list[dict[str, Any]], head: int) -> np.ndarray:
    """Forces from sixth-order differences of the energy.

    For Chebyshev polynomials: torch does not differentiate them, so that mace-torch's own forces are not the
    gradient of its energy.
    """
    h, stencil = 2e-3, {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
    forces = []
    for s in structures:
        F = np.zeros((len(s["numbers"]), 3))
        for n, k in np.ndindex(*F.shape):
            for step, weight in stencil.items():
                for sign in (1, -1):
                    moved = {**s, "positions": [list(r) for r in s["positions"]]}
                    moved["positions"][n][k] += sign * step * h
                    F[n, k] -= sign * weight / h * evaluate(model, [moved], head)["energy"][0]
        forces.append(F)
    return np.concatenate(forces)


def main(folder: Path, names: list[str]) -> None:
    """Writes the golden files."""
    structures = read_structures(folder)
    for name in names or CONFIGURATIONS:
        values = dict(CONFIGURATIONS[name])
        seed, head, dtype = values.pop("seed", 0), values.pop("head", None), values.pop("dtype", "float64")
        features, keep_U = values.pop("features", False), values.pop("keep_U", False)
        differences = values.get("radial_type") == "chebyshev"
        torch.set_default_dtype(getattr(torch, dtype))
        model = build(values, seed)
        options, tensors = export_mace.export(model)
        results = evaluate(model, structures, 0 if head is None else model.heads.index(head))
        stacked = results.pop("features")
        if differences:
            results["forces"] = differentiated(model, structures, 0)
            results["stress"] = np.full_like(results["stress"], np.nan)
        if features:
            widths = [o3.Irreps(str(p.linear.irreps_out)) for p in model.products]
            ends = np.cumsum([0, *(w.dim for w in widths)])
            results |= {f"features/{t}": stacked[:, ends[t] : ends[t + 1]] for t in range(len(widths))}
        meta = {
            "options": options, "head": head, "dtype": dtype, "versions": {
                "mace-torch": mace.__version__, "e3nn": e3nn_version, "torch": torch.__version__.split("+")[0],
            },
            **({"forces_from": "finite differences"} if differences else {}),
            **({"features_irreps": [str(w) for w in widths]} if features else {}),
        }  # fmt: skip
        weights = {key: t.numpy() for key, t in tensors.items() if keep_U or "U_matrix" not in key}
        write_golden(folder, name, meta, weights, results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
