"""Golden results of BOTNet's released code (github.com/gncs/botnet) with random weights.

    PEER/bin/python scripts/goldens/make_botnet.py BOTNET_SOURCE tests/peers/goldens [NAME ...]

PEER has torch, ase and e3nn. With e3nn 0.4.4 (of the code's time) and with 0.6 the Wigner 3j symbols have other signs:
the names that end in _e3nn04 were made with the former.
"""

import os
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
sys.path[:0] = [sys.argv[1], str(HERE.parent), str(HERE.parents[2] / "equipot" / "convert" / "export")]
for _name, _member in (("torch_ema", "ExponentialMovingAverage"), ("prettytable", "PrettyTable")):
    _stub = types.ModuleType(_name)  # imported by the code's training tools, not used here
    setattr(_stub, _member, object)
    sys.modules.setdefault(_name, _stub)

import export_botnet  # noqa: E402
from botnet import modules  # noqa: E402
from common import E0, R_MAX, SPECIES, read_structures, write_golden  # noqa: E402
from e3nn import __version__ as e3nn_version  # noqa: E402
from e3nn import o3  # noqa: E402

_SILU = torch.nn.functional.silu
_A, _AR = "AgnosticNonlinearInteractionBlock", "AgnosticResidualNonlinearInteractionBlock"
_E, _ER = "ElementDependentInteractionBlock", "ResidualElementDependentInteractionBlock"
_NOSC, _NEQUIP = "AgnosticNoScNonlinearInteractionBlock", "NequIPInteractionBlock"
_SSH, _E0 = "ScaleShiftNonLinearBodyOrderedModel", "NonLinearBodyOrderedModel"
_SSH_LAST, _E0_LAST = "ScaleShiftNonLinearSingleReadoutModel", "NonLinearSingleReadoutModel"


def _of(model: str, first: str, later: str, gate: Any = None, **values: Any) -> dict[str, Any]:
    return {"model": model, "interaction_cls_first": first, "interaction_cls": later, "gate": gate, **values}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "botnet": _of(_E0, _A, _AR, _SILU, features=True),
    "botnet_ssh": _of(_SSH, _A, _AR, _SILU, seed=1),
    "botnet_residual": _of(_SSH, _AR, _AR, _SILU),
    "botnet_element": _of(_E0, _E, _ER, _SILU),
    "botnet_element_residual": _of(_E0, _ER, _ER, _SILU, seed=2),
    "botnet_linear_readouts": _of("ScaleShiftBodyOrderedModel", _AR, _AR),
    "botnet_degree_3": _of(
        _SSH, _A, _AR, _SILU, max_ell=3, irreps="2x0e + 2x0o + 2x1o + 2x1e + 2x2e + 2x2o + 2x3o + 2x3e"
    ),
    "botnet_nequip": _of(_SSH_LAST, _NEQUIP, _NEQUIP, features=True),
    "botnet_nequip_linear": _of(_SSH_LAST, _AR, _AR),
    "botnet_nequip_bo": _of(_SSH, _NEQUIP, _NEQUIP, seed=3),
    "botnet_nequip_e0": _of(_E0_LAST, _NEQUIP, _NEQUIP, seed=4),
    "botnet_nequip_nosc": _of(_SSH_LAST, _NOSC, _NOSC),
    "botnet_nequip_single_linear": _of("ScaleShiftSingleReadoutModel", _NEQUIP, _NEQUIP),
    "botnet_float32": _of(_SSH, _A, _AR, _SILU, dtype="float32"),
    "botnet_e3nn04": _of(_SSH, _A, _AR, _SILU, features=True),
    "botnet_nequip_e3nn04": _of(_SSH_LAST, _NEQUIP, _NEQUIP),
}


def build(values: dict[str, Any], seed: int) -> Any:
    """A model with random weights: three layers, both parities."""
    torch.manual_seed(seed + 1000 * int(os.environ.get("GOLDEN_SEED", "0")))
    kind = values["model"]
    arguments: dict[str, Any] = {
        "r_max": R_MAX, "num_bessel": 5, "num_polynomial_cutoff": 6, "max_ell": values.get("max_ell", 2),
        "interaction_cls": getattr(modules.blocks, values["interaction_cls"]), "num_interactions": 3,
        "num_elements": len(SPECIES), "atomic_energies": np.array(E0), "avg_num_neighbors": 2.3,
        "hidden_irreps": o3.Irreps(values.get("irreps", "2x0o + 2x0e + 2x1o + 2x1e + 2x2o + 2x2e")),
    }  # fmt: skip
    if "NonLinear" in kind:
        arguments |= {"MLP_irreps": o3.Irreps("4x0e"), "gate": values["gate"]}
    if "NonLinearBodyOrdered" in kind:
        arguments["interaction_cls_first"] = getattr(modules.blocks, values["interaction_cls_first"])
    if kind.startswith("ScaleShift"):
        arguments |= {"atomic_inter_scale": 0.83, "atomic_inter_shift": -0.37}
    model = getattr(modules.models, kind)(**arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))  # few digits: the files, full of 64 × 64 matrices, compress
    return model


def evaluate(model: Any, structures: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Energies, forces and stresses (of a strain, differentiated) of every structure; the layers' features."""
    found: dict[str, list[np.ndarray]] = {key: [] for key in ("energy", "interaction", "forces", "stress")}
    features: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _m, _i, out: features.append(out.detach())) for block in model.interactions
    ]
    for s in structures:
        atoms = ase.Atoms(s["numbers"], positions=s["positions"], cell=s["cell"], pbc=s["pbc"])
        i, j, S = neighbor_list("ijS", atoms, R_MAX)
        dtype = torch.get_default_dtype()
        shifts = (torch.tensor(S, dtype=dtype) @ torch.tensor(atoms.cell.array, dtype=dtype)).requires_grad_()
        batch = types.SimpleNamespace(
            positions=torch.tensor(atoms.positions, dtype=dtype), shifts=shifts,
            edge_index=torch.tensor(np.stack([i, j])),
            node_attrs=torch.tensor(atoms.numbers[:, None] == np.array(SPECIES)[None], dtype=dtype),
            batch=torch.zeros(len(atoms), dtype=torch.int64), num_graphs=1,
        )  # fmt: skip
        out = model(batch, training=True)
        (dE_dv,) = torch.autograd.grad(out["energy"].sum(), shifts)
        vectors = batch.positions[j] - batch.positions[i] + shifts
        virial = (vectors.T @ dE_dv).detach()
        forces = out["forces"].detach().double().numpy()
        periodic = all(s["pbc"])
        stress = 0.5 * (virial + virial.T).double().numpy() / atoms.cell.volume if periodic else np.full((3, 3), np.nan)
        E_0 = sum(E0[SPECIES.index(z)] for z in s["numbers"])
        found["energy"].append(out["energy"].detach().double().numpy().reshape(1))
        found["interaction"].append(found["energy"][-1] - E_0)
        found["forces"].append(forces)
        found["stress"].append(stress[None])
    for hook in hooks:
        hook.remove()
    layers = len(model.interactions)
    stacked = {f"features/{t}": torch.cat(features[t::layers]).double().numpy() for t in range(layers)}
    return {key: np.concatenate(values) for key, values in found.items()} | stacked


def main(folder: Path, names: list[str]) -> None:
    """Writes the golden files; those of the e3nn version that runs."""
    old = e3nn_version.startswith("0.4")
    for name in names or [name for name in CONFIGURATIONS if name.endswith("_e3nn04") == old]:
        values = dict(CONFIGURATIONS[name])
        seed, dtype = values.pop("seed", 0), values.pop("dtype", "float64")
        torch.set_default_dtype(getattr(torch, dtype))
        model = build(values, seed)
        options, tensors = export_botnet.export(model, SPECIES)
        results = evaluate(model, read_structures(folder))
        irreps = [str(block.irreps_out) for block in model.interactions]
        meta = {
            "options": options, "head": None, "dtype": dtype,
            "versions": {"e3nn": e3nn_version, "torch": torch.__version__.split("+")[0]},
            **({"features_irreps": irreps} if values.get("features") else {}),
        }  # fmt: skip
        if not values.get("features"):
            results = {key: value for key, value in results.items() if not key.startswith("features")}
        write_golden(folder, name, meta, {key: t.numpy() for key, t in tensors.items()}, results)


if __name__ == "__main__":
    main(Path(sys.argv[2]), sys.argv[3:])
