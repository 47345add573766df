"""A look at structures before anything is trained on them."""

from typing import Any

import numpy as np
from ase.data import chemical_symbols

from equipot.data import DataOptions, Dataset, doubts, find_atomic_energies, interaction_energies, measure, read_frames
from equipot.data.plausible import check_energies
from equipot.data.require import check_labels


def survey(options: DataOptions, r_max: float) -> dict[str, Any]:
    """Returns what is found and measured in training files, and what looks wrong, as JSON can hold it.

    Args:
        options: Files and keys; the split is not looked at.
        r_max: Cutoff for neighbours, Å.

    Raises:
        EquipotError: Training would refuse these files; says why.
    """
    reading = read_frames(options.train, options.keys)
    check_labels(reading, options.keys, "train")
    E0 = find_atomic_energies(reading.frames, options.atomic_energies, reading.isolated_atoms, options.keys)
    check_energies(reading.frames, E0)
    dataset = Dataset(reading.frames, r_max)
    statistics, warnings = measure(dataset, E0)
    elements = zip(statistics.species, statistics.atomic_energies, statistics.mean_neighbours_per_species, strict=True)
    return {
        "files": reading.summary(),
        "atomic_energies_source": statistics.atomic_energies_source.replace("_", " "),
        "elements": [
            {
                "element": chemical_symbols[z],
                "atoms": int(sum((frame.atoms.numbers == z).sum() for frame in dataset.frames)),
                "E0 (eV)": e0,
                "mean neighbours": neighbours,
            }
            for z, e0, neighbours in elements
        ],
        "measured": _measured(dataset, E0.energies, r_max),
        "warnings": [*reading.warnings, *warnings, *doubts(dataset)],
    }


def _measured(dataset: Dataset, energies: dict[int, float], r_max: float) -> dict[str, Any]:
    """The numbers of a set; what it has no labels for is left out."""
    frames = dataset.frames
    interaction = interaction_energies(frames, energies)
    interaction = interaction[np.isfinite(interaction)]
    forces = [np.linalg.norm(frame.forces, axis=1) for frame in frames if frame.forces is not None]
    edges = np.array([graph.num_edges for graph in dataset.graphs])
    found: dict[str, Any] = {
        "structures": len(frames),
        "atoms per structure": f"{dataset.num_atoms.min()} to {dataset.num_atoms.max()}",
        "periodic in 3 directions": sum(bool(frame.atoms.pbc.all()) for frame in frames),
        f"mean neighbours within {r_max:g} Å": float(edges.sum() / dataset.num_atoms.sum()),
        "shortest distance (Å)": float(dataset.min_distances.min()),
    }
    if len(interaction):
        found["(E − ΣE0)/N, mean (eV/atom)"] = round(float(interaction.mean()), 9) + 0.0  # without noise
        found["(E − ΣE0)/N, standard deviation (eV/atom)"] = float(interaction.std())
        found["(E − ΣE0)/N, lowest (eV/atom)"] = float(interaction.min())
        found["(E − ΣE0)/N, highest (eV/atom)"] = float(interaction.max())
    if forces:
        sizes = np.concatenate(forces)
        found["rms force component (eV/Å)"] = float(np.sqrt(np.mean(np.square(sizes)) / 3.0))
        found["largest force (eV/Å)"] = float(sizes.max())
    stresses = [frame.stress for frame in frames if frame.stress is not None]
    if stresses:
        found["rms stress component (eV/Å³)"] = float(np.sqrt(np.mean(np.square(stresses))))
    return found
