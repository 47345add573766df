"""Errors of a potential on labelled structures: one definition, exact over the set, units in the names."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from equipot.data.dataset import Batch, Dataset, Labels
from equipot.fit.batches import in_order, prefetched
from equipot.fit.distributed import Alone, Processes
from equipot.fit.labels import label_numbers
from equipot.fit.loss import LabelErrors, atoms_per_system, label_counts, label_errors, loss, loss_sums
from equipot.fit.options import FitOptions
from equipot.geometry.derivatives import Prediction, evaluate
from equipot.geometry.graph import Graph
from equipot.geometry.sums import pool

Errors = dict[str, float | int | None]
"""Names with units to values; None where there is no label."""

COLUMNS = 11
"""Of the error sums: n, |x|, x² of energy; |x|, x² of energy per atom; n, |x|, x² of forces; of stress."""

_MILLI = 1000.0


@dataclass(frozen=True)
class ErrorTable:
    """Errors of a potential on a set of structures.

    Attributes:
        total: Over all structures.
        config_types: For each config_type.
        elements: Errors of the forces on the atoms of each element.
    """

    total: Errors
    config_types: dict[str, Errors]
    elements: dict[str, Errors]


def errors(potential: Module, dataset: Dataset, batch_size: int = 16) -> Errors:
    """Returns the errors of a potential on all structures of a set; see `error_table` for what they are."""
    return error_table(potential, dataset, batch_size).total


def error_table(
    potential: Module, dataset: Dataset, batch_size: int = 16, processes: Processes | None = None
) -> ErrorTable:
    """Returns the errors of a potential on a set: all of it, by config_type, and by element.

        RMSE = √(Σ x²/n),   MAE = Σ |x|/n

    x is E − Ê of a structure (`energy_*_meV`), (E − Ê)/N (`energy_*_meV_per_atom`), one component of the
    force on an atom (`forces_*_meV_per_A`) or of the stress (`stress_*_meV_per_A3`), and n how many of those
    have a label. With several processes each evaluates its own structures, every structure is evaluated once,
    and the sums are added up.

    Args:
        potential: The model; it is evaluated on the device of its parameters.
        dataset: Structures with labels.
        batch_size: Structures evaluated at a time.
        processes: Those that share the work; all of them get the whole table. Default: this one alone.
    """
    evaluation = evaluate_set(potential, dataset, FitOptions(valid_batch_size=batch_size), processes)
    return evaluation.table


@dataclass(frozen=True)
class Evaluation:
    """A validation: the loss, by the weights of the last stage, and the errors."""

    loss: float
    table: ErrorTable


def evaluate_set(
    potential: Module,
    dataset: Dataset,
    options: FitOptions,
    processes: Processes | None = None,
    watch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Returns the loss and the errors on all structures of a set; see `loss.loss` and `error_table`.

    Args:
        potential: The model.
        dataset: Structures with labels.
        options: The loss, and how many structures to evaluate at a time.
        processes: Those that share the work.
        watch: Called after each batch, equally often by all processes, whatever the number of batches of
            each; it may raise, on all of them at once, to end the evaluation.
    """
    processes = Alone() if processes is None else processes
    names = sorted(set(dataset.config_types))
    types = torch.tensor([names.index(name) for name in dataset.config_types])
    device = device_of(potential)
    by_type = torch.zeros(len(names), COLUMNS, dtype=torch.float64, device=device)
    by_element = torch.zeros(len(chemical_symbols), 3, dtype=torch.float64, device=device)
    loss_terms = torch.zeros(2, 3, dtype=torch.float64, device=device)
    shares = _shares(dataset, options, processes.count)
    parts = shares[processes.rank]
    for indices, batch, prediction in _predicted(potential, dataset, parts, _has_derivatives(dataset)):
        labels, graph = batch.labels, batch.graph
        errors = label_errors(prediction, labels, graph)
        by_type.index_add_(0, types[indices].to(device), error_sums(errors, labels, graph))
        by_element += element_sums(errors, labels, graph)
        loss_terms[0] += loss_sums(errors, labels, graph, options)
        loss_terms[1] += label_counts(labels)
        watch()
    for _ in range(max(map(len, shares)) - len(parts)):
        watch()
    by_type, by_element, loss_terms = (processes.sum(t) for t in (by_type, by_element, loss_terms))
    table = ErrorTable(
        total=named_errors(by_type.sum(dim=0)),
        config_types={name: named_errors(row) for name, row in zip(names, by_type, strict=True)},
        elements={chemical_symbols[z]: _forces(row.tolist()) for z, row in enumerate(by_element) if row[0] > 0},
    )
    return Evaluation(loss(loss_terms[0], loss_terms[1], options.final_loss_weights).item(), table)


def _shares(dataset: Dataset, options: FitOptions, count: int) -> list[list[list[int]]]:
    """Returns the batches of every process; together they have each structure once."""
    num_atoms = dataset.num_atoms.tolist()
    return [in_order(range(rank, len(dataset), count), num_atoms, options) for rank in range(count)]


def _has_derivatives(dataset: Dataset) -> bool:
    numbers = label_numbers(dataset)
    return bool(numbers["forces"] or numbers["stress"])


def predictions(
    potential: Module, dataset: Dataset, indices: Sequence[int], batch_size: int
) -> Iterator[tuple[list[int], Batch, Prediction]]:
    """Yields indices, batch and prediction for some structures of a set, `batch_size` at a time."""
    yield from _predicted(
        potential, dataset, [list(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)]
    )


def _predicted(
    potential: Module, dataset: Dataset, parts: Sequence[list[int]], derivatives: bool = True
) -> Iterator[tuple[list[int], Batch, Prediction]]:
    device, at_work = device_of(potential), getattr(potential, "at_work", nullcontext)
    for part, batch in zip(parts, prefetched(batch_maker(dataset, device), parts), strict=True):
        with at_work():
            prediction = evaluate(potential, batch.graph, derivatives=derivatives)
        yield part, batch, prediction


def batch_maker(dataset: Dataset, device: torch.device) -> Callable[[Sequence[int]], Batch]:
    """Returns a function of indices that makes their batch on a device."""
    return lambda indices: dataset.batch(indices).to(device)


def device_of(potential: Module) -> torch.device:
    """Returns where the parameters of a model are."""
    return next(potential.parameters()).device


@torch.no_grad()
def error_sums(errors: LabelErrors, labels: Labels, graph: Graph) -> Float[Tensor, "system column"]:
    """Returns the sums behind every error, of each structure (see `COLUMNS`)."""
    per_atom, forces, stress = errors
    energy = per_atom * atoms_per_system(graph)
    by_atom = _sums(forces, labels.forces)
    return torch.cat(
        [
            _sums(energy[:, None], labels.energy[:, None]),
            torch.stack([per_atom.abs(), per_atom.square()], dim=1),
            pool(by_atom, graph.system, graph.num_systems),
            _sums(stress.flatten(1), labels.stress.flatten(1)),
        ],
        dim=1,
    )


@torch.no_grad()
def element_sums(errors: LabelErrors, labels: Labels, graph: Graph) -> Float[Tensor, "element 3"]:
    """Returns the sums behind the errors of forces by element, a row for each atomic number."""
    by_atom = _sums(errors.forces, labels.forces)
    return pool(by_atom, graph.atomic_numbers, len(chemical_symbols))


def _sums(error: Float[Tensor, "item part"], label: Float[Tensor, "item part"]) -> Float[Tensor, "item 3"]:
    """Returns Σ 1, Σ |x|, Σ x² over the labelled components of each item."""
    return torch.stack([label.isfinite().double(), error.abs(), error.square()]).sum(dim=-1).T


def named_errors(sums: Float[Tensor, " column"]) -> Errors:
    """Returns the errors from their sums, by name."""
    n, absolute, square, absolute_per_atom, square_per_atom, *rest = sums.tolist()
    return {
        "energy_count": int(n),
        "energy_rmse_meV_per_atom": _rmse(square_per_atom, n),
        "energy_mae_meV_per_atom": _mae(absolute_per_atom, n),
        "energy_rmse_meV": _rmse(square, n),
        "energy_mae_meV": _mae(absolute, n),
        **_forces(rest[:3]),
        "stress_count": int(rest[3]),
        "stress_rmse_meV_per_A3": _rmse(rest[5], rest[3]),
        "stress_mae_meV_per_A3": _mae(rest[4], rest[3]),
    }


def _forces(sums: Sequence[float]) -> Errors:
    n, absolute, square = sums
    return {
        "forces_count": int(n),
        "forces_rmse_meV_per_A": _rmse(square, n),
        "forces_mae_meV_per_A": _mae(absolute, n),
    }


def _rmse(square: float, n: float) -> float | None:
    return _MILLI * (square / n) ** 0.5 if n else None


def _mae(absolute: float, n: float) -> float | None:
    return _MILLI * absolute / n if n else None
