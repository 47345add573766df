"""BOTNet's released code (github.com/gncs/botnet), from its source folder, in an environment with e3nn and ASE."""

import os
import sys
import types

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # e3nn 0.4.4 under torch ≥ 2.6

import loop
import numpy as np
import torch

for _name, _member in (("torch_ema", "ExponentialMovingAverage"), ("prettytable", "PrettyTable")):
    _stub = types.ModuleType(_name)  # imported by the code's training tools, not used here
    setattr(_stub, _member, object)
    sys.modules.setdefault(_name, _stub)
sys.path.append(os.environ["BOTNET_SOURCE"])
loop.use_exporters()

import e3nn  # noqa: E402
import export_botnet  # noqa: E402
from botnet import data, modules, tools  # noqa: E402
from botnet.data.utils import Configuration  # noqa: E402
from botnet.tools import torch_geometric  # noqa: E402
from e3nn import o3  # noqa: E402


def build(task):
    blocks = modules.interaction_classes
    torch.manual_seed(task["seed"])
    return modules.ScaleShiftNonLinearBodyOrderedModel(
        r_max=task["r_max"], num_bessel=8, num_polynomial_cutoff=6, max_ell=3,
        interaction_cls=blocks["AgnosticResidualNonlinearInteractionBlock"],
        interaction_cls_first=blocks["AgnosticNonlinearInteractionBlock"], num_interactions=5,
        num_elements=len(task["species"]), hidden_irreps=o3.Irreps(task["architecture"]["hidden_irreps"]),
        MLP_irreps=o3.Irreps("16x0e"), atomic_energies=np.array(task["E0"]), gate=torch.nn.functional.silu,
        avg_num_neighbors=task["neighbours"], atomic_inter_scale=task["scale"], atomic_inter_shift=0.0,
    )  # fmt: skip


def training(task, model):
    structures = loop.read(task["structures"])
    table = tools.AtomicNumberTable(task["species"])
    one = [
        data.AtomicData.from_config(
            Configuration(atomic_numbers=a.numbers, positions=a.positions), z_table=table, cutoff=task["r_max"]
        )
        for a in structures
    ]
    batch = next(iter(torch_geometric.dataloader.DataLoader(one, batch_size=len(one), shuffle=False)))

    def predict():
        out = model(batch, training=True)
        return out["energy"], out["forces"]

    return loop.Training(model, predict, structures, getattr(torch, task["dtype"]))


def make(task):
    torch.set_default_dtype(getattr(torch, task["dtype"]))
    model = build(task)
    loop.write_weights(task, export_botnet.export, model, task["species"])
    return training(task, model), {"botnet": "gncs/botnet", "e3nn": e3nn.__version__, "torch": torch.__version__}


if __name__ == "__main__":
    loop.serve(make)
