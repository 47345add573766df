"""Nequix models (atomicarchitects/nequix) as potentials: foundation models and own ones, from `.nqx` files."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from equipot.convert.layout import by_output, pooled_irreps
from equipot.convert.nequix_layout import NequixShape, linear_names
from equipot.convert.source import Source
from equipot.convert.taken import Options, Tensors
from equipot.convert.target import Target
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.models import Potential
from equipot.o3 import Irrep, Irreps
from equipot.points import nequix
from equipot.statistics import Statistics

_TRAINING = (
    "atom_energies", "avg_n_edges", "avg_n_nodes", "max_n_edges", "max_n_nodes", "batch_size", "n_graph", "n_epochs",
    "cache_dir", "train_path", "valid_path", "val_path", "valid_frac", "val_every", "state_path", "resume_from",
    "finetune_from", "readout_initialization", "checkpoint_grad_energy", "kernel", "mlp_init_scale", "optimizer",
    "learning_rate", "warmup_epochs", "warmup_factor", "grad_clip_norm", "weight_decay", "ema_decay", "loss_type",
    "log_every", "energy_weight", "force_weight", "stress_weight", "hessian_weight", "extra_energy_weight",
    "extra_force_weight", "extra_stress_weight", "extra_train_path", "extra_val_path", "extra_val_frac",
    "extra_train_steps", "wandb_run_id",
)  # fmt: skip
"""Entries of the header that say how the model was trained, not what it computes. Energies of isolated atoms are
among the arrays, which nequix uses, and are only repeated in the header."""


def potential_of(source: Source, head: str | None) -> Potential:
    """Converts a Nequix model.

    Args:
        source: Its header and arrays.
        head: None: nequix has models with one energy only.

    Raises:
        EquipotError: The model has something that equipot lacks, or parts are missing or left over.
    """
    if head is not None:
        raise EquipotError(f"{source.name}: a Nequix model has one energy and no heads; leave out head={head!r}.")
    options, tensors = Options(source.options, source.name), Tensors(source.tensors, source.name)
    shape = NequixShape(options, source.name)
    design = _design(options, shape)
    E0 = tensors.take("atom_energies", (shape.num_species,)).double()
    scale, shift, neighbours = (options.number(key) for key in ("scale", "shift", "avg_n_neighbors"))
    if not (scale > 0 and neighbours > 0):
        raise EquipotError(f"{source.name}: scale = {scale} and avg_n_neighbors = {neighbours} must be positive.")
    statistics = Statistics(
        species=shape.atomic_numbers,
        atomic_energies=tuple(E0.tolist()),
        mean_neighbours=neighbours,
        mean_neighbours_per_species=(neighbours,) * shape.num_species,
        force_rms=scale,
        energy_mean=shift,
        energy_mean_per_species=(shift,) * shape.num_species,
    )
    options.ignore(*_TRAINING)
    options.finish()
    target = Target(design, statistics, _dtype(source), source.name)
    for layer in range(shape.layers):
        _put_layer(target, tensors, shape, layer)
    (readout,) = linear_names("readout", shape.hidden[:1], Irreps("1x0e")).values()
    target.put(f"readouts.{shape.layers - 1}.linear.weights.0e", tensors.take(readout, (shape.hidden[0][0], 1)))
    target.put_energy(E0, scale, shift)
    tensors.finish()
    return target.finish()


def _design(options: Options, shape: NequixShape) -> Design:
    widths = tuple(mul for mul, _ in shape.hidden)
    return nequix(
        r_max=options.number("cutoff"),
        layers=shape.layers,
        max_ell=shape.lmax,
        max_L=shape.hidden.lmax,
        channels=widths,
        num_radial=shape.num_radial,
        radial_map="mlp" if shape.radial_mlp else "linear",
        radial_mlp=shape.radial_mlp,
        envelope_p=options.whole("radial_polynomial_p"),
        self_connection="indexed" if shape.indexed else "plain",
        feature_norm="layer" if shape.norm else "none",
    )


def _dtype(source: Source) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in source.tensors.values()) else torch.float32


def _put_layer(target: Target, tensors: Tensors, shape: NequixShape, layer: int) -> None:
    prefix, paths = f"layers.{layer}", shape.paths(layer)
    h, update = shape.features(layer), shape.update(layer)
    sizes = dict(shape.arrays())

    def matrices(which: str, irreps_in: Irreps, irreps_out: Irreps) -> dict[Irrep, Tensor]:
        names = linear_names(f"{prefix}.{which}", irreps_in, irreps_out)
        return {ir: tensors.take(name, sizes[name]) for ir, name in names.items()}

    networks = [f"{prefix}.radial_mlp.layers.{n}.weights" for n in range(len(shape.radial_mlp) + 1)]
    *hidden, last = (tensors.take(name, sizes[name]) for name in networks)
    columns, signs = target.columns(layer, by_output(paths))
    if hidden:
        target.put_radial(layer, hidden, last, columns, signs)
    else:
        target.put(f"{prefix}.radial.weight", last[:, columns] * signs.to(last.dtype) * math.sqrt(shape.num_radial))
    _put(target, f"{prefix}.up.weights", matrices("linear_1", h, h))
    target.put_mix(layer, paths, matrices("linear_2", pooled_irreps(paths).simplify(), update))
    skip = "weights" if shape.indexed else "linear.weights"
    _put(target, f"{prefix}.self_connection.{skip}", matrices("skip", h, update))
    if shape.norm:
        names = {ir: f"{prefix}.layer_norm.affine_weight.{n}" for n, (_, ir) in enumerate(update)}
        weights = {ir: tensors.take(name, sizes[name]) for ir, name in names.items()}
        _put(target, f"{prefix}.norm_update.weights", weights)


def _put(target: Target, prefix: str, weights: Mapping[Irrep, Tensor]) -> None:
    for ir, values in weights.items():
        target.put(f"{prefix}.{ir}", values)
