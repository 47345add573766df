"""mace-torch, in an environment of its own: builds a `ScaleShiftMACE`, or takes one from a file."""

import loop
import mace
import numpy as np
import torch
from e3nn import o3
from mace import data, modules, tools
from mace.calculators import MACECalculator
from mace.tools import torch_geometric

loop.use_exporters()
import export_mace  # noqa: E402


def build(task):
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    torch.manual_seed(task["seed"])
    return modules.ScaleShiftMACE(
        r_max=task["r_max"], num_bessel=8, num_polynomial_cutoff=5, max_ell=3, interaction_cls=block,
        interaction_cls_first=block, num_interactions=2, num_elements=len(task["species"]),
        hidden_irreps=o3.Irreps(task["architecture"]["hidden_irreps"]), MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.array(task["E0"]), avg_num_neighbors=task["neighbours"], atomic_numbers=task["species"],
        correlation=3, gate=torch.nn.functional.silu, radial_MLP=[64, 64, 64], use_reduced_cg=False,
        atomic_inter_scale=task["scale"], atomic_inter_shift=0.0,
    )  # fmt: skip


def minibatch(task, structures):
    table = tools.AtomicNumberTable(task["species"])
    one = [
        data.AtomicData.from_config(data.config_from_atoms(a), z_table=table, cutoff=task["r_max"]) for a in structures
    ]
    return next(iter(torch_geometric.dataloader.DataLoader(one, batch_size=len(one), shuffle=False)))


def training(task, model):
    structures = loop.read(task["structures"])
    batch = minibatch(task, structures).to(task.get("device", "cpu")).to_dict()

    def predict():
        out = model(batch, training=True, compute_force=True, compute_virials=False, compute_stress=False)
        return out["energy"], out["forces"]

    return loop.Training(model, predict, structures, getattr(torch, task["dtype"]))


def make(task):
    versions = {"mace-torch": mace.__version__, "torch": torch.__version__}
    device = task.get("device", "cpu")
    torch.set_default_dtype(getattr(torch, task["dtype"]))
    if task.get("model_file"):
        calculator = MACECalculator(model_paths=task["model_file"], device=device, default_dtype=task["dtype"])
        return loop.calculations(task, calculator), versions
    model = build(task)
    loop.write_weights(task, export_mace.export, model)
    model = model.to(device)
    if task.get("accelerated"):
        import cuequivariance_torch  # noqa: F401  (without it the conversion fails later, and says something else)
        from mace.cli.convert_e3nn_cueq import run as to_cuequivariance

        model = to_cuequivariance(model, device=device).to(device)
    if task["kind"] == "train":
        return training(task, model), versions
    return loop.calculations(task, MACECalculator(models=model, device=device, default_dtype=task["dtype"])), versions


if __name__ == "__main__":
    loop.serve(make)
