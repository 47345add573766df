"""Energies, forces and stresses from GFN-xTB (tblite)."""

import numpy as np
from ase import Atoms
from tblite.ase import TBLite

LABEL_ACCURACY = 0.01
"""Convergence of the self-consistent field relative to tblite's default of 1."""
DYNAMICS_ACCURACY = 1.0
POSITION_DECIMALS = 4
"""Positions and cells are rounded to 1e-4 Å first and labelled afterwards: no label suffers from rounding."""
MULTIPLICITIES = {"H": 2, "C": 3, "N": 4, "O": 3}
"""Spin multiplicities of the atoms' ground states."""


def calculator(method: str, accuracy: float, *, reuse: bool) -> TBLite:
    """Calculator of a closed-shell structure.

    Args:
        method: "GFN1-xTB" or "GFN2-xTB".
        accuracy: Convergence relative to tblite's default.
        reuse: Start from the wave function of the last call (dynamics) or afresh (labels: they must not
            depend on what was computed before).
    """
    return TBLite(method=method, accuracy=accuracy, multiplicity=1, cache_api=reuse, verbosity=0)


def label(atoms: Atoms, method: str) -> Atoms:
    """Copy of a structure with rounded positions and its labels.

    Args:
        atoms: Structure; positions and cell in Å. `info` is kept.
        method: "GFN1-xTB" or "GFN2-xTB".

    Returns:
        Structure with `info["REF_energy"]` (eV), `arrays["REF_forces"]` (eV/Å) and, when it is periodic,
        `info["REF_stress"]` (nine numbers, eV/Å³, σ = (1/V) ∂E/∂ε, tension positive).

    Raises:
        ase.calculators.calculator.CalculationFailed: The self-consistent field does not converge.
    """
    labelled = Atoms(
        atoms.get_chemical_symbols(),
        positions=np.round(atoms.positions, POSITION_DECIMALS) + 0.0,
        cell=np.round(atoms.cell.array, POSITION_DECIMALS) + 0.0,
        pbc=atoms.pbc,
        info=dict(atoms.info),
    )
    bare = labelled.copy()
    bare.calc = calculator(method, LABEL_ACCURACY, reuse=False)
    labelled.info["REF_energy"] = bare.get_potential_energy()
    labelled.arrays["REF_forces"] = bare.get_forces()
    if labelled.pbc.all():
        labelled.info["REF_stress"] = bare.get_stress(voigt=False).reshape(9)
    return labelled


def isolated_atoms(symbols: list[str], method: str) -> list[Atoms]:
    """Free atoms in their ground states of spin.

    The spin polarisation energy (spGFN-xTB) is switched on. It vanishes for closed shells, so molecule and
    atoms lie on one energy surface; without it every atom would lie 1 to 3 eV too high.

    Source: Neugebauer, Bädorf, Ehlert, Hansen, Grimme, J. Comput. Chem. 44, 2120 (2023).
    """
    frames = []
    for symbol in symbols:
        bare = Atoms(symbol)
        bare.calc = TBLite(
            method=method,
            accuracy=LABEL_ACCURACY,
            multiplicity=MULTIPLICITIES[symbol],
            spin_polarization=1.0,
            cache_api=False,
            verbosity=0,
        )
        frame = Atoms(symbol, info={"config_type": "IsolatedAtom"})
        frame.info["REF_energy"] = bare.get_potential_energy()
        frame.arrays["REF_forces"] = np.zeros((1, 3))
        frames.append(frame)
    return frames
