"""What is measured from training data and enters a potential as constants."""

from typing import Literal

from ase.data import chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Statistics(BaseModel):
    """Measured values of a training set; frozen.

    Attributes:
        species: Atomic numbers, ascending.
        atomic_energies: E0 of each element, eV.
        atomic_energies_source: Where they come from.
        mean_neighbours: Mean number of neighbours within r_max over all training atoms.
        mean_neighbours_per_species: The same for the atoms of each element.
        force_rms: Root mean square of all force components, eV/Å.
        energy_mean: Mean of (E − Σ E0) / N over structures, eV/atom.
        energy_std: Standard deviation of (E − Σ E0) / N over structures, eV/atom.
        energy_mean_per_species: Mean interaction energy of each element by least squares, eV.
        total_energy_mean: Mean of E / N over structures, eV/atom.
        min_distance: Shortest distance between two atoms, Å.
        pair_distances: Shortest distance between atoms of each pair of elements, Å: first element outermost, second not
            before it; 0 where there was none within r_max. Empty where it was not measured.
        species_fractions: Fraction of atoms of each element. Empty where it was not measured.
        mean_bonds: Mean number of bonds of the atoms of each element: neighbours within 1.3 times the sum of covalent
            radii. Empty where it was not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    species: tuple[int, ...]
    atomic_energies: tuple[float, ...]
    atomic_energies_source: Literal["isolated_atoms", "given", "least_squares", "mean_shift"] = "given"
    mean_neighbours: float = Field(gt=0)
    mean_neighbours_per_species: tuple[float, ...]
    force_rms: float = Field(1.0, gt=0)
    energy_mean: float = 0.0
    energy_std: float = Field(1.0, gt=0)
    energy_mean_per_species: tuple[float, ...]
    total_energy_mean: float = 0.0
    min_distance: float = Field(0.0, ge=0)
    pair_distances: tuple[float, ...] = ()
    species_fractions: tuple[float, ...] = ()
    mean_bonds: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Statistics":
        n = len(self.species)
        if n == 0 or list(self.species) != sorted(set(self.species)):
            raise ValueError(f"species={self.species} must be distinct atomic numbers in ascending order")
        if self.species[0] < 1 or self.species[-1] >= len(chemical_symbols):
            raise ValueError(f"species={self.species} must be atomic numbers from 1 to {len(chemical_symbols) - 1}")
        for name in ("atomic_energies", "mean_neighbours_per_species", "energy_mean_per_species"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {n} species")
        for name in ("species_fractions", "mean_bonds"):
            if len(getattr(self, name)) not in (0, n):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {n} species")
        if len(self.pair_distances) not in (0, n * (n + 1) // 2):
            raise ValueError(f"pair_distances has {len(self.pair_distances)} entries for {n * (n + 1) // 2} pairs")
        return self
