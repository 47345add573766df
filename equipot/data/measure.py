"""Measures what enters a potential as constants from its training set."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from equipot.data.atomic_energies import (
    AtomicEnergies,
    compositions,
    energy_per_atom,
    interaction_energies,
    least_squares,
)
from equipot.data.dataset import Dataset
from equipot.errors import EquipotError
from equipot.statistics import Statistics

_BOND = 1.3
"""Times the sum of covalent radii: the longest bond."""
_SMALLEST_SPREAD = 1e-6
"""eV/atom or eV/Å; below it a spread is no scale, and 1 is used instead."""


class Measurement(NamedTuple):
    """Statistics of a training set, and what to know about them."""

    statistics: Statistics
    warnings: tuple[str, ...]


def measure(dataset: Dataset, atomic_energies: AtomicEnergies) -> Measurement:
    """Returns the statistics of a training set.

    =========================  ==================================================================
    value                      definition
    =========================  ==================================================================
    energy_mean, energy_std    mean and standard deviation of (E − Σ E0)/N over structures
    energy_mean_per_species    least squares of (E − Σ E0)/N on the fraction of each element
    total_energy_mean          mean of E/N over structures
    force_rms                  root mean square of all force components
    mean_neighbours            mean number of neighbours within the cutoff over all atoms
    pair_distances             shortest distance of each pair of elements within the cutoff
    species_fractions          fraction of atoms of each element
    mean_bonds                 mean number of neighbours within 1.3 times the sum of covalent radii, by element
    =========================  ==================================================================

    Where compositions cannot tell the elements apart, energy_mean_per_species is energy_mean for each.

    Args:
        dataset: The training set.
        atomic_energies: E0 of its elements.

    Raises:
        EquipotError: No atom has a neighbour within the cutoff.
    """
    species = dataset.species
    neighbours, per_species = _neighbours(dataset)
    force_rms, force_warnings = _force_rms(dataset)
    mean, std, per_element, total = _energies(dataset, atomic_energies.energies)
    std, energy_warnings = _energy_std(std, sum(frame.energy is not None for frame in dataset.frames))
    statistics = Statistics(
        species=species,
        atomic_energies=tuple(atomic_energies.energies[z] for z in species),
        atomic_energies_source=atomic_energies.source,
        mean_neighbours=neighbours,
        mean_neighbours_per_species=per_species,
        force_rms=force_rms,
        energy_mean=mean,
        energy_std=std,
        energy_mean_per_species=per_element,
        total_energy_mean=total,
        min_distance=float(dataset.min_distances.min()),
        pair_distances=_pair_distances(dataset),
        species_fractions=_fractions(dataset),
        mean_bonds=_bonds(dataset),
    )
    return Measurement(statistics, (*atomic_energies.warnings, *energy_warnings, *force_warnings))


def _neighbours(dataset: Dataset) -> tuple[float, tuple[float, ...]]:
    species = np.array(dataset.species)
    edges, atoms = np.zeros(len(species)), np.zeros(len(species))
    for graph in dataset.graphs:
        z = np.searchsorted(species, graph.atomic_numbers.numpy())
        atoms += np.bincount(z, minlength=len(species))
        edges += np.bincount(z[graph.receivers.numpy()], minlength=len(species))
    if edges.sum() == 0:
        raise EquipotError(
            f"no atom of the training set has a neighbour within design.r_max = {dataset.r_max} Å; there is nothing to "
            "learn. Raise r_max, or check that positions are in Å."
        )
    return float(edges.sum() / atoms.sum()), tuple((edges / atoms).tolist())


def _fractions(dataset: Dataset) -> tuple[float, ...]:
    counts = compositions(dataset.frames, dataset.species).sum(axis=0)
    return tuple((counts / counts.sum()).tolist())


def _bonds(dataset: Dataset) -> tuple[float, ...]:
    species = np.array(dataset.species)
    bonds, atoms = np.zeros(len(species)), np.zeros(len(species))
    for graph in dataset.graphs:
        Z = graph.atomic_numbers.numpy()
        i, j = graph.receivers.numpy(), graph.senders.numpy()
        lengths = np.linalg.norm(graph.vectors().numpy(), axis=1)
        bonded = lengths < _BOND * (covalent_radii[Z[i]] + covalent_radii[Z[j]])
        atoms += np.bincount(np.searchsorted(species, Z), minlength=len(species))
        bonds += np.bincount(np.searchsorted(species, Z[i[bonded]]), minlength=len(species))
    return tuple((bonds / atoms).tolist())


def _pair_distances(dataset: Dataset) -> tuple[float, ...]:
    species = np.array(dataset.species)
    nearest = np.full((len(species), len(species)), np.inf)
    for graph in dataset.graphs:
        z = np.searchsorted(species, graph.atomic_numbers.numpy())
        lengths = np.linalg.norm(graph.vectors().numpy(), axis=1)
        np.minimum.at(nearest, (z[graph.receivers.numpy()], z[graph.senders.numpy()]), lengths)
    pairs = nearest[np.triu_indices(len(species))]
    return tuple(np.where(np.isfinite(pairs), pairs, 0.0).tolist())


def _force_rms(dataset: Dataset) -> tuple[float, tuple[str, ...]]:
    components = [frame.forces.ravel() for frame in dataset.frames if frame.forces is not None]
    if not components:
        return 1.0, ("no structure has forces: the scale of the forces is set to 1 eV/Å.",)
    rms = float(np.sqrt(np.mean(np.square(np.concatenate(components)))))
    if rms < _SMALLEST_SPREAD:
        return 1.0, ("all forces are zero: are they a placeholder? The scale of the forces is set to 1 eV/Å.",)
    return rms, ()


def _energies(dataset: Dataset, energies: Mapping[int, float]) -> tuple[float, float, tuple[float, ...], float]:
    known = [frame for frame in dataset.frames if frame.energy is not None]
    species = dataset.species
    if not known:
        return 0.0, 0.0, (0.0,) * len(species), 0.0
    counts = compositions(known, species)
    per_atom = interaction_energies(known, energies)
    fit = least_squares(counts, per_atom)
    mean, std = float(per_atom.mean()), float(per_atom.std())
    per_element = np.full(len(species), mean) if fit.rank < len(species) else fit.energies
    total = float(np.mean([energy_per_atom(frame) for frame in known]))
    return mean, std, tuple(per_element.tolist()), total


def _energy_std(std: float, count: int) -> tuple[float, tuple[str, ...]]:
    if std > _SMALLEST_SPREAD:
        return std, ()
    if count < 2:
        return 1.0, ()
    return 1.0, (
        f"(E − ΣE0)/N is the same for all {count} structures (spread {std:.1g} eV/atom): the scale of the energies is "
        "set to 1 eV/atom. Are the energies a placeholder, or sums of atomic energies?",
    )
