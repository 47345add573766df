"""Losses of the first steps of a training by mace-torch, for the comparison of a training from identical weights.

    PEER/bin/python scripts/goldens/train_mace.py DATA.xyz ISOLATED.xyz OUT.npz [CHANNELS]

mace-torch's own loss (weighted energy and forces, 1 : 100), Adam with AMSGrad (lr 0.01), gradients clipped at 10, no
average of the weights; minibatches of five structures in the order of the file, twenty steps; float64.
"""

import gzip
import io
import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import ase.io  # noqa: E402
import mace  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mace import data, modules, tools  # noqa: E402

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent), str(HERE.parents[2] / "equipot" / "convert" / "export")]

import export_mace  # noqa: E402
from e3nn import o3  # noqa: E402
from mace.tools import torch_geometric  # noqa: E402

R_MAX, STEPS, BATCH, STRUCTURES = 5.0, 20, 5, 20


def read(path: str, index: str) -> list[ase.Atoms]:
    """Structures of an extxyz file, packed or not."""
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt") as file:
        return ase.io.read(io.StringIO(file.read()), index, format="extxyz")


def labels_of(atoms: ase.Atoms) -> tuple[float, np.ndarray | None]:
    """Energy and forces, under the keys of the public data sets or of the project's own."""
    if atoms.calc is not None:
        return atoms.get_potential_energy(), atoms.calc.results.get("forces")
    info = {k: v for k, v in atoms.info.items() if k in ("energy", "REF_energy")}
    forces = [atoms.arrays[k] for k in ("forces", "REF_forces") if k in atoms.arrays]
    return float(next(iter(info.values()))), forces[0] if forces else None


def main() -> None:
    """Trains and writes."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    channels = int(sys.argv[4]) if len(sys.argv) > 4 else 8
    structures = read(sys.argv[1], f":{STRUCTURES}")
    isolated = {int(a.numbers[0]): labels_of(a)[0] for a in read(sys.argv[2], ":")}
    species = sorted(isolated)
    E0 = np.array([isolated[z] for z in species])
    per_atom = [(labels_of(a)[0] - sum(isolated[z] for z in a.numbers)) / len(a) for a in structures]
    rms = float(np.sqrt(np.mean(np.concatenate([labels_of(a)[1].ravel() for a in structures]) ** 2)))
    model = modules.ScaleShiftMACE(
        r_max=R_MAX, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, num_interactions=2, num_elements=len(species),
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        hidden_irreps=o3.Irreps(f"{channels}x0e + {channels}x1o"), MLP_irreps=o3.Irreps("16x0e"), atomic_energies=E0,
        avg_num_neighbors=12.0, atomic_numbers=species, correlation=3, gate=torch.nn.functional.silu,
        radial_MLP=[32, 32], use_reduced_cg=False, atomic_inter_scale=rms, atomic_inter_shift=float(np.mean(per_atom)),
    )  # fmt: skip
    options, tensors = export_mace.export(model)
    table = tools.AtomicNumberTable(species)
    items = []
    for atoms in structures:
        energy, forces = labels_of(atoms)
        bare = ase.Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        config = data.config_from_atoms(bare)
        config.properties.update(energy=energy, forces=forces)
        config.property_weights.update(energy=1.0, forces=1.0)
        items.append(data.AtomicData.from_config(config, z_table=table, cutoff=R_MAX))
    loader = torch_geometric.dataloader.DataLoader(items, batch_size=BATCH, shuffle=False)
    loss_of = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)
    losses = []
    while len(losses) < STEPS:
        for batch in loader:
            optimiser.zero_grad()
            out = model(batch.to_dict(), training=True)
            loss = loss_of(pred=out, ref=batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimiser.step()
            losses.append(float(loss))
    meta = {"options": options, "structures": STRUCTURES, "batch": BATCH, "versions": {
        "mace-torch": mace.__version__, "torch": torch.__version__.split("+")[0]}}  # fmt: skip
    weights = {f"weights/{k}": t.numpy() for k, t in tensors.items() if "U_matrix" not in k}
    np.savez_compressed(sys.argv[3], meta=np.array(json.dumps(meta)), losses=np.array(losses), **weights)
    print("losses", losses[:3], "...", losses[-1])


if __name__ == "__main__":
    main()
