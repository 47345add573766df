"""A periodic set with stress: solid carbon dioxide (dry ice) at GFN1-xTB, rattled and strained."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.spacegroup import crystal
from scipy.spatial.transform import Rotation

from .files import write_frames, write_provenance
from .labels import LABEL_ACCURACY, POSITION_DECIMALS, isolated_atoms, label

METHOD = "GFN1-xTB"
SEED = 5
COUNTS = {"train": 60, "valid": 10, "test": 20}
LATTICE = 5.6
"""Edge of the cubic cell (space group Pa-3, four molecules), Å; near the minimum at this level of theory."""
BOND = 1.14
"""Length of the C=O bond, Å; near the minimum at this level of theory."""
SCALES = (0.93, 1.04)
"""Range of the uniform scaling of the cell's edges."""
STRAIN = 0.03
"""Standard deviation of the components of the symmetric strain."""
SHIFT, TURN, RATTLE = 0.1, 10.0, 0.025
"""Standard deviations: molecular translation (Å), molecular rotation (degrees), each atom besides (Å)."""


def make(folder: Path, *, quick: bool) -> None:
    """Compute every file of the set.

    Args:
        folder: Where the files go.
        quick: A smoke test of seconds: two structures per file.
    """
    write_frames(folder / "isolated_atoms.xyz.gz", isolated_atoms(["C", "O"], METHOD))
    for index, (name, count) in enumerate(COUNTS.items()):
        rng = np.random.default_rng([SEED, index])
        frames = [label(_structure(rng), METHOD) for _ in range(2 if quick else count)]
        write_frames(folder / f"{name}.xyz.gz", frames)
    write_provenance(folder, _facts(quick))


def _facts(quick: bool) -> dict:
    """What holds for the whole set."""
    return {
        "crystal": "CO2, Pa-3, four molecules",
        "method": f"{METHOD} (tblite), Γ point, singlet, electronic temperature 300 K",
        "isolated_atoms": "spin-polarised GFN1-xTB in the ground-state multiplicity",
        "accuracy": {"labels": LABEL_ACCURACY},
        "positions_and_cell_rounded_before_labelling_to_A": 10.0**-POSITION_DECIMALS,
        "seed": SEED,
        "counts": COUNTS,
        "lattice_A": LATTICE,
        "bond_A": BOND,
        "uniform_scale_of_edges": SCALES,
        "standard_deviations": {
            "strain": STRAIN,
            "molecular_shift_A": SHIFT,
            "molecular_rotation_degrees": TURN,
            "atomic_rattle_A": RATTLE,
        },
        "quick": quick,
    }


def _structure(rng: np.random.Generator) -> Atoms:
    """One structure: a strained cell in which rigid molecules are shifted and turned, then atoms rattled.

    The whole is turned at last, so that no cell is a symmetric matrix and rows cannot pass for columns.
    """
    perfect = _perfect()
    noise = rng.normal(0.0, STRAIN, (3, 3))
    strain = rng.uniform(*SCALES) * (np.eye(3) + (noise + noise.T) / 2.0)
    positions = []
    for molecule in perfect.positions.reshape(4, 3, 3):
        centre = molecule[0]
        turn = Rotation.from_rotvec(np.deg2rad(rng.normal(0.0, TURN, 3)))
        positions.append(centre @ strain + rng.normal(0.0, SHIFT, 3) + turn.apply(molecule - centre))
    rattled = np.concatenate(positions) + rng.normal(0.0, RATTLE, (12, 3))
    whole = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    cell = perfect.cell.array @ strain
    atoms = Atoms(perfect.symbols, positions=rattled @ whole, cell=cell @ whole, pbc=True)
    atoms.info["config_type"] = "crystal"
    return atoms


def _perfect() -> Atoms:
    """The undistorted crystal, molecule by molecule: C, O, O."""
    u = BOND / (np.sqrt(3.0) * LATTICE)
    carbon = crystal("C", [(0.0, 0.0, 0.0)], spacegroup=205, cellpar=[LATTICE] * 3 + [90.0] * 3)
    axes = crystal("O", [(u, u, u)], spacegroup=205, cellpar=[LATTICE] * 3 + [90.0] * 3)
    positions = []
    for centre in carbon.positions:
        offsets = axes.positions - centre
        offsets -= LATTICE * np.round(offsets / LATTICE)
        oxygens = offsets[np.linalg.norm(offsets, axis=1) < 1.1 * BOND]
        positions += [centre, *(centre + oxygens)]
    return Atoms("CO2" * 4, positions=positions, cell=carbon.cell.array, pbc=True)
