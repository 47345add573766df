"""One structure with its labels, as it stood in a file."""

from dataclasses import dataclass

import ase
import numpy as np

DEFAULT_CONFIG_TYPE = "Default"


@dataclass(frozen=True)
class Frame:
    """One structure and what is known about it; None stands for a label that the file does not give.

    Attributes:
        atoms: Elements, positions (Å), cell (rows, Å) and periodic directions; no calculator.
        energy: Total energy E, eV.
        forces: F_i = −∂E/∂r_i, [node 3], eV/Å.
        stress: σ = (1/V) ∂E/∂ε, [3 3], eV/Å³, tension positive; only with three periodic directions.
        virial: −∂E/∂ε, [3 3], eV; −V σ where there is a volume.
        weight: Weight of all labels of this structure in the loss.
        energy_weight: Further factor for the energy.
        forces_weight: Further factor for the forces.
        stress_weight: Further factor for the stress.
        config_type: Group that the structure belongs to.
        source: File that it comes from.
        index: Its number in that file, from 0.
    """

    atoms: ase.Atoms
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    virial: np.ndarray | None = None
    weight: float = 1.0
    energy_weight: float = 1.0
    forces_weight: float = 1.0
    stress_weight: float = 1.0
    config_type: str = DEFAULT_CONFIG_TYPE
    source: str = "structures"
    index: int = 0

    @property
    def name(self) -> str:
        """File and number of the structure, such as ``train.xyz#12``."""
        return f"{self.source}#{self.index}"

    @property
    def where(self) -> str:
        """File and number in the words of an error message."""
        return f"{self.source}, frame {self.index}"

    @property
    def isolated(self) -> bool:
        """Whether this is one atom alone, whose energy is the E0 of its element."""
        return len(self.atoms) == 1 and (is_isolated_type(self.config_type) or not self.atoms.pbc.any())


def is_isolated_type(config_type: str) -> bool:
    """Returns whether a config_type says isolated atom, in any of the usual spellings."""
    return config_type.lower().replace("_", "").replace("-", "").replace(" ", "") in ("isolatedatom", "isolatedatoms")
