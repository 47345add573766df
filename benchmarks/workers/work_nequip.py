"""nequip, in an environment of its own: builds a `NequIPGNNModel`, or takes a saved one."""

import logging
import os
import tempfile

import loop
import nequip
import torch
from ase.data import chemical_symbols
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from nequip.model import NequIPGNNModel, PresetNequIPGNNModel
from nequip.scripts import compile as compile_script
from nequip.utils.global_state import set_global_state

loop.use_exporters()
import export_nequip  # noqa: E402

logging.disable(logging.WARNING)


def build(task):
    names = [chemical_symbols[z] for z in task["species"]]
    architecture = dict(task["architecture"])
    builder = PresetNequIPGNNModel if "preset" in architecture else NequIPGNNModel
    return builder(
        seed=task["seed"], model_dtype=task["dtype"], r_max=task["r_max"], type_names=names, num_bessels=8,
        bessel_trainable=False, polynomial_cutoff_p=6, avg_num_neighbors=task["neighbours"],
        per_type_energy_scales=task["scale"], per_type_energy_shifts=dict(zip(names, task["E0"], strict=True)),
        compile_mode="compile" if task.get("compiled") and task["kind"] == "train" else "eager", **architecture,
    )  # fmt: skip


def transforms(task):
    names = [chemical_symbols[z] for z in task["species"]]
    return [ChemicalSpeciesToAtomTypeMapper(model_type_names=names), NeighborListTransform(r_max=task["r_max"])]


def training(task, model):
    structures = loop.read(task["structures"])
    mapper, neighbours = transforms(task)
    device = task.get("device", "cpu")
    batch = AtomicDataDict.batched_from_list([neighbours(mapper(from_ase(a))) for a in structures])
    batch = AtomicDataDict.to_(batch, device)
    model = model.to(device).train()

    def predict():
        out = model(dict(batch))
        return out[AtomicDataDict.TOTAL_ENERGY_KEY].squeeze(-1), out[AtomicDataDict.FORCE_KEY]

    return loop.Training(model, predict, structures, torch.float64)


def compiled_calculator(task, model):
    """The calculator of what `nequip-compile --mode aotinductor --target ase` makes of a living model."""
    mapper, neighbours = transforms(task)
    data = AtomicDataDict.batched_from_list([neighbours(mapper(from_ase(a))) for a in loop.read(task["structures"])])
    compile_script.load_saved_model = lambda *_, **__: (model, data)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.nequip.pt2"
        device = task.get("device", "cpu")
        compile_script.main(["-", path, "--mode", "aotinductor", "--device", device, "--target", "ase"])
        return NequIPCalculator.from_compiled_model(path, device=device)


def calculator_of(task, model):
    if task.get("compiled"):
        return compiled_calculator(task, model)
    return NequIPCalculator(model=model.eval(), device=task.get("device", "cpu"), transforms=transforms(task))


def make(task):
    versions = {"nequip": nequip.__version__, "torch": torch.__version__}
    set_global_state()
    if task.get("model_file"):
        return loop.calculations(task, NequIPCalculator._from_saved_model(task["model_file"], device="cpu")), versions
    model = build(task)
    loop.write_weights(task, export_nequip.export, model)
    if task["kind"] == "train":
        return training(task, model), versions
    return loop.calculations(task, calculator_of(task, model)), versions


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    loop.serve(make)
