"""The loss: one formula, with its masks, weights and counts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from equipot.data.dataset import Batch, Labels
from equipot.fit.options import FitOptions, LossForm, LossWeights
from equipot.geometry.derivatives import NodeEnergies, Prediction, evaluate
from equipot.geometry.graph import Graph
from equipot.geometry.sums import pool

TERMS = ("energy", "forces", "stress")


class LabelErrors(NamedTuple):
    """Predictions minus labels; 0 without a label.

    Attributes:
        energy: Per atom, eV/atom.
        forces: eV/Å.
        stress: eV/Å³.
    """

    energy: Float[Tensor, " system"]
    forces: Float[Tensor, "node xyz"]
    stress: Float[Tensor, "system 3 3"]


def loss(sums: Float[Tensor, " term"], counts: Float[Tensor, " term"], weights: LossWeights) -> Float[Tensor, ""]:
    r"""Returns the loss of a set of structures.

        L = w_E/n_E Σ_s λ^E_s ρ((E_s − Ê_s)/N_s)
          + w_F/n_F Σ_i λ^F_s(i) Σ_α ρ(F_iα − F̂_iα)
          + w_S/n_S Σ_s λ^S_s Σ_αβ ρ(σ_sαβ − σ̂_sαβ)

        ρ(x) = x²  (mse),   |x|  (mae),   x²/2 for |x| < δ and δ(|x| − δ/2) beyond  (huber)

    =========  ======================================================================
    symbol     meaning
    =========  ======================================================================
    E, F, σ    predicted energy, forces, stress; with a hat, their labels
    N_s        number of atoms of structure s
    w          `energy_weight`, `forces_weight`, `stress_weight`
    λ          weights of the structure in the data (frame, config_type, per label)
    n_E        number of energies with a label
    n_F, n_S   number of force and stress components with a label (3 and 9 for each)
    =========  ======================================================================

    A missing label (NaN) is in neither the sums nor the counts. In training the structures are those of one
    minibatch, over all processes; in validation they are the whole set.

    Args:
        sums: The three sums Σ λ ρ, from `loss_sums`.
        counts: n_E, n_F and n_S, over all processes, from `label_counts`.
        weights: w_E, w_F and w_S.
    """
    w = sums.new_tensor([weights.energy, weights.forces, weights.stress])
    return (w * sums / counts.clamp(min=1)).sum()


def formula(options: FitOptions, label_numbers: Mapping[str, int]) -> str:
    """Returns the loss of a run in one line, for its log: the terms that have labels.

    Args:
        options: Form and weights.
        label_numbers: How many labels each term has.
    """
    form = {"mse": "squared", "mae": "absolute", "huber": f"Huber (δ {options.huber_delta:g})"}[options.loss]
    stages = [options.loss_weights(i) for i in range(len(options.stages) + 1)]
    errors = {"energy": "E/N [eV/atom]", "forces": "F [eV/Å]", "stress": "σ [eV/Å³]"}
    terms = " + ".join(
        f"{'→'.join(f'{getattr(w, name):g}' for w in stages)} · {error}"
        for name, error in errors.items()
        if label_numbers[name]
    )
    missing = [name for name in errors if not label_numbers[name]]
    return f"loss = {terms}, mean {form} errors" + (f" (no labels: {', '.join(missing)})" if missing else "")


def training_prediction(potential: NodeEnergies, batch: Batch, derivatives: bool) -> tuple[Prediction, Labels]:
    """Returns what the loss of a step compares: a prediction with its graph, and labels.

    Args:
        potential: The model.
        batch: Some structures.
        derivatives: Whether the loss is about forces or stress too (see `labels.learns_derivatives`); if not,
            they are not computed, and their labels count as missing.
    """
    prediction = evaluate(potential, batch.graph, create_graph=True, derivatives=derivatives)
    if derivatives:
        return prediction, batch.labels
    unknown = {name: torch.full_like(getattr(batch.labels, name), torch.nan) for name in ("forces", "stress")}
    return prediction, replace(batch.labels, **unknown)


def label_counts(labels: Labels) -> Float[Tensor, " term"]:
    """Returns n_E, n_F and n_S: how many energies, force components and stress components have a label."""
    return torch.stack([t.isfinite().sum() for t in (labels.energy, labels.forces, labels.stress)]).double()


def loss_sums(errors: LabelErrors, labels: Labels, graph: Graph, options: FitOptions) -> Float[Tensor, " term"]:
    """Returns the three sums Σ λ ρ(error) of the formula in `loss`, over the structures of one batch.

    Args:
        errors: From `label_errors`.
        labels: Their weights.
        graph: The batch.
        options: Form of the loss and Huber's δ.
    """
    weights = (
        labels.energy_weight,
        labels.forces_weight.index_select(0, graph.system).unsqueeze(-1),
        labels.stress_weight[:, None, None],
    )
    return torch.stack(
        [(w * _rho(e, options.loss, options.huber_delta)).sum() for e, w in zip(errors, weights, strict=True)]
    )


def label_errors(prediction: Prediction, labels: Labels, graph: Graph) -> LabelErrors:
    """Returns what a prediction misses its labels by.

    The stress is formed here from the virial: −W/V with V = 1 where there is no label, because a division by
    the absent volume of a molecule would turn its zero gradient into NaN.
    """
    atoms = atoms_per_system(graph)
    has_stress = labels.stress.isfinite()
    volume = graph.volumes()
    volume = torch.where(has_stress.flatten(1).any(dim=1), volume, 1.0)
    return LabelErrors(
        _difference(prediction.energy, labels.energy, labels.energy.isfinite()) / atoms,
        _difference(prediction.forces, labels.forces, labels.forces.isfinite()),
        _difference(-prediction.virial / volume[:, None, None], labels.stress, has_stress),
    )


def atoms_per_system(graph: Graph) -> Float[Tensor, " system"]:
    """Returns N_s, the number of atoms of each structure."""
    ones = torch.ones(graph.num_nodes, dtype=torch.float64, device=graph.device)
    return pool(ones, graph.system, graph.num_systems)


def _difference(
    predicted: Float[Tensor, "*shape"], label: Float[Tensor, "*shape"], known: Bool[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    return torch.where(known, predicted - torch.where(known, label, 0.0), 0.0)


def _rho(error: Float[Tensor, "*shape"], form: LossForm, delta: float) -> Float[Tensor, "*shape"]:
    if form == "mse":
        return error.square()
    if form == "mae":
        return error.abs()
    return torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)
