"""Labels of a linear fit: which there are, what is left of them to fit, and what each counts."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipot.data.dataset import Batch, Dataset, Labels
from equipot.errors import EquipotError
from equipot.fit.labels import label_numbers
from equipot.fit.linear.options import LinearFitOptions
from equipot.fit.loss import atoms_per_system, label_counts
from equipot.geometry.derivatives import Prediction
from equipot.geometry.sums import voigt
from equipot.models.linear_features import Rows

KINDS = ("energy", "forces", "stress")

_CHUNK = 64
"""Structures whose labels are looked at together."""


class KindValues(NamedTuple):
    """One number for each label of a kind, in the order of `Rows`."""

    energy: Float[Tensor, " system"]
    forces: Float[Tensor, " component"]
    stress: Float[Tensor, " voigt"]


class WeightedRows(NamedTuple):
    """Rows of the labels of one kind that count.

    Attributes:
        rows: Derivatives by the weights.
        target: What they should sum to: label − offset.
        factor: What a row is multiplied by: the square root of its weight.
        system: Index in the batch of the structure that a row is of.
    """

    rows: Float[Tensor, "row column"]
    target: Float[Tensor, " row"]
    factor: Float[Tensor, " row"]
    system: Int[Tensor, " row"]


@dataclass(frozen=True)
class Survey:
    """How many rows a set of structures gives.

    Attributes:
        per_structure: Number of rows of each structure that count.
        labels: Number of labels by kind, n_E, n_F and n_S of `equipot.fit.loss` (9 for each stress).
        counted: Number of rows by kind that count.
    """

    per_structure: tuple[int, ...]
    labels: dict[str, int]
    counted: dict[str, int]

    @property
    def rows(self) -> int:
        """Number of rows that count."""
        return sum(self.per_structure)


class Weighting:
    r"""The weight of every label.

        minimised:  Σ_s w_E λ^E_s c_E (E_s − Ê_s)²
                  + Σ_i w_F λ^F_s(i) c_F |F_i − F̂_i|²
                  + Σ_s w_S λ^S_s Σ_v c_S (σ_sv − σ̂_sv)²

    ===========  ==============  =========  ================  ==============================================
    convention   c_E             c_F        c_S               errors compared
    ===========  ==============  =========  ================  ==============================================
    ace          1/N             1          V²/N              E/√N, F, virial/√N (row weights as in ACE codes)
    training     1/(N² n_E)      1/n_F      m_v/n_S           means of E/N, F, σ: the loss of training
    per_atom     1/N²            1          1                 E/N, F, σ
    total        1               1          V²                E, F, virial
    ===========  ==============  =========  ================  ==============================================

    w are the options' weights (those of rows in other codes are their square roots), λ those of the structure in the
    data times those of its config_type in the options, v the six components xx yy zz yz xz xy, and m_v how often each
    is in a matrix: 1 or 2. So with "training" and no prior the result minimises `equipot.fit.loss.loss`.
    """

    def __init__(self, options: LinearFitOptions, dataset: Dataset):
        """Looks at the labels.

        Args:
            options: Convention and weights.
            dataset: The training structures.

        Raises:
            EquipotError: No label counts, a weight is for a config_type that does not occur, or cross-validation has
                more folds than there are structures.
        """
        _check_types(options, dataset)
        self.options, self.dataset = options, dataset
        self._weights = options.label_weights
        self._labels = dict.fromkeys(KINDS, 1)
        self.survey = self._survey()
        self._labels = self.survey.labels
        if self.survey.rows == 0:
            weights = ", ".join(f"{kind} {getattr(self._weights, kind):g}" for kind in KINDS)
            numbers = ", ".join(f"{number} {kind}" for kind, number in label_numbers(dataset).items())
            raise EquipotError(
                f"there is nothing to fit: labels of the {len(dataset)} training structures are {numbers}, and the "
                f"weights are {weights}; give labels, or weights above zero to those that are there (weights "
                "of structures in the data may be zero too)"
            )
        labelled = sum(rows > 0 for rows in self.survey.per_structure)
        if options.prior == "cross_validation" and options.folds > labelled:
            raise EquipotError(
                f"linear.folds = {options.folds}, but only {labelled} training structures have labels that count, of "
                f"{len(dataset)}; give at most {labelled} (each is then left out alone), more structures, or prior: "
                "evidence"
            )

    def wanted(self, batch: Batch) -> tuple[bool, bool]:
        """Returns whether any forces and any stress of a batch have labels that count."""
        return (
            self._weights.forces > 0 and bool(batch.labels.forces.isfinite().any()),
            self._weights.stress > 0 and bool(batch.labels.stress.isfinite().any()),
        )

    def factors(self, indices: Sequence[int], batch: Batch) -> KindValues:
        """Returns the square root of the weight of every label.

        Args:
            indices: Which structures of the set these are.
            batch: The structures.
        """
        labels, graph = batch.labels, batch.graph
        types = self.options.config_type_weights
        named = [types.get(self.dataset.frames[i].config_type) for i in indices]
        by_type = torch.tensor(
            [[1.0 if t is None else getattr(t, kind) for t in named] for kind in KINDS], dtype=torch.float64
        )
        N, V = atoms_per_system(graph), graph.volumes()
        multiplicity = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], dtype=torch.float64)
        one = torch.ones_like(N)
        n = self._labels
        c_E, c_F, c_S = {
            "ace": (1 / N, one, V.square() / N),
            "training": (1 / (N.square() * max(n["energy"], 1)), one / max(n["forces"], 1), one / max(n["stress"], 1)),
            "per_atom": (1 / N.square(), one, one),
            "total": (one, one, V.square()),
        }[self.options.convention]
        stress = (self._weights.stress * labels.stress_weight * by_type[2] * c_S)[:, None].expand(-1, 6)
        if self.options.convention == "training":
            stress = stress * multiplicity
        forces = self._weights.forces * labels.forces_weight * by_type[1] * c_F
        return KindValues(
            (self._weights.energy * labels.energy_weight * by_type[0] * c_E).sqrt(),
            forces.sqrt().index_select(0, graph.system).repeat_interleave(3),
            stress.sqrt().flatten(),
        )

    def weighted(self, indices: Sequence[int], batch: Batch, rows: Rows, offset: Prediction) -> Iterator[WeightedRows]:
        """Yields rows, targets and factors of the labels of each kind that count, finite or not.

        Args:
            indices: Which structures of the set these are.
            batch: The structures.
            rows: Of the model, for this batch.
            offset: What of the prediction is not fitted.
        """
        graph = batch.graph
        each = torch.arange(graph.num_systems)
        systems = (each, graph.system.repeat_interleave(3), each.repeat_interleave(6))
        differences, factors = label_differences(batch.labels, offset), self.factors(indices, batch)
        for X, *of_rows, counts in zip(
            rows, differences, factors, systems, _counting(batch.labels, factors), strict=True
        ):
            if len(X) and counts.any():
                yield WeightedRows(*((x if counts.all() else x[counts]) for x in (X, *of_rows)))

    def counting(self, indices: Sequence[int], batch: Batch) -> tuple[Bool[Tensor, " label"], ...]:
        """Returns which labels of each kind count: those that are given, with weights above zero.

        Args:
            indices: Which structures of the set these are.
            batch: The structures.
        """
        return _counting(batch.labels, self.factors(indices, batch))

    def _survey(self) -> Survey:
        per_structure: list[int] = []
        labels, counted = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
        for start in range(0, len(self.dataset), _CHUNK):
            indices = range(start, min(start + _CHUNK, len(self.dataset)))
            batch = self.dataset.batch(indices)
            counts = [known.long() for known in self.counting(indices, batch)]
            atoms = batch.graph.system.repeat_interleave(3)
            total = counts[0] + counts[2].view(-1, 6).sum(dim=1)
            per_structure += total.index_add(0, atoms, counts[1]).tolist()
            for kind, number, count in zip(KINDS, label_counts(batch.labels).tolist(), counts, strict=True):
                labels[kind] += int(number)
                counted[kind] += int(count.sum())
        return Survey(tuple(per_structure), labels, counted)


def label_differences(labels: Labels, prediction: Prediction) -> KindValues:
    """Returns labels minus a prediction, NaN where there is no label."""
    return KindValues(
        labels.energy - prediction.energy,
        (labels.forces - prediction.forces).flatten(),
        voigt(labels.stress - prediction.stress).flatten(),
    )


def _counting(labels: Labels, factors: KindValues) -> tuple[Bool[Tensor, " label"], ...]:
    """Returns which labels count; a prediction that is not finite does not take its label away."""
    known = (labels.energy, labels.forces.flatten(), voigt(labels.stress).flatten())
    return tuple(label.isfinite() & (factor > 0) for label, factor in zip(known, factors, strict=True))


def _check_types(options: LinearFitOptions, dataset: Dataset) -> None:
    present = sorted(set(dataset.config_types))
    for name in options.config_type_weights:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise EquipotError(
                f"config_type_weights: no training structure has config_type '{name}'.{hint} Present: "
                + ", ".join(f"'{each}'" for each in present[:12])
                + "; name one of these, or leave it out."
            )
