"""The 3BPA protocol at GFN2-xTB: dynamics at three temperatures and dihedral scans of one flexible molecule.

The protocol follows Kovács et al., J. Chem. Theory Comput. 17, 7696 (2021), whose data are ωB97X/6-31G(d).
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import CalculationFailed
from ase.constraints import FixInternals
from ase.data import covalent_radii
from ase.md.langevin import Langevin
from ase.optimize import BFGS
from rdkit import Chem
from rdkit.Chem import AllChem

from .files import write_frames, write_provenance
from .labels import DYNAMICS_ACCURACY, LABEL_ACCURACY, POSITION_DECIMALS, calculator, isolated_atoms, label

SMILES = "c1ccc(cc1)COc1cccnc1N"
"""3-(benzyloxy)pyridin-2-amine, C12 H12 N2 O."""
METHOD = "GFN2-xTB"
SEED = 3
FRICTION = 0.02
"""Langevin friction, 1/fs."""
BROKEN, FORMED = 1.5, 1.2
"""A bond's length relative to the sum of the covalent radii, above which it is broken, below which formed."""
DIHEDRALS = {"alpha": (13, 8, 7, 6), "beta": (8, 7, 6, 3), "gamma": (7, 6, 3, 2)}
"""α = C(NH2)-C-O-CH2, β = C-O-CH2-C, γ = O-CH2-C-C; atoms in the order of the SMILES."""
PLANES = ((71.0, 120.0), (67.0, 150.0), (151.0, 180.0))
"""(α, β) of the scans along γ, degrees."""


@dataclass(frozen=True)
class Dynamics:
    """One file of frames from several independent trajectories.

    Args:
        name: Name of the file.
        temperature: K.
        time_step: fs.
        trajectories: Number of trajectories, each from a conformer of its own.
        frames: Frames kept of each trajectory.
        spacing: Time between kept frames, fs.
        equilibration: Time before the first kept frame, fs.
    """

    name: str
    temperature: int
    time_step: float
    trajectories: int
    frames: int
    spacing: float
    equilibration: float


PROTOCOL = (
    Dynamics("train_300K", 300, 1.0, 20, 25, 40.0, 600.0),
    Dynamics("valid_300K", 300, 1.0, 10, 5, 40.0, 600.0),
    Dynamics("test_300K", 300, 1.0, 10, 30, 40.0, 600.0),
    Dynamics("test_600K", 600, 1.0, 10, 30, 30.0, 500.0),
    Dynamics("test_1200K", 1200, 0.5, 10, 30, 25.0, 400.0),
)


def make(folder: Path, *, quick: bool) -> None:
    """Compute every file of the set.

    Args:
        folder: Where the files go.
        quick: A smoke test of a minute: very short trajectories, one point in six of the scans.
    """
    protocol = tuple(_quick(dynamics) for dynamics in PROTOCOL) if quick else PROTOCOL
    molecule = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    write_frames(folder / "isolated_atoms.xyz.gz", isolated_atoms(["H", "C", "N", "O"], METHOD))
    conformers = _conformers(molecule, sum(dynamics.trajectories for dynamics in protocol))
    scan = _scan(molecule, conformers[0], step=60 if quick else 10)
    write_frames(folder / "dihedral_scan.xyz.gz", scan)
    facts, first = [], 0
    for dynamics in protocol:
        starts = conformers[first : first + dynamics.trajectories]
        frames, fact = _sample(molecule, dynamics, starts, first)
        write_frames(folder / f"{dynamics.name}.xyz.gz", frames)
        facts.append(fact)
        first += dynamics.trajectories
        print(fact, flush=True)
    write_provenance(folder, {**_facts(quick), "scan_frames": len(scan), "dynamics": facts})


def _quick(dynamics: Dynamics) -> Dynamics:
    """A run with two short trajectories."""
    return replace(dynamics, trajectories=2, frames=3, spacing=5.0, equilibration=20.0)


def _facts(quick: bool) -> dict:
    """What holds for the whole set."""
    return {
        "molecule": SMILES,
        "method": f"{METHOD} (tblite), singlet, electronic temperature 300 K",
        "isolated_atoms": "spin-polarised GFN2-xTB in the ground-state multiplicity",
        "accuracy": {"labels": LABEL_ACCURACY, "dynamics": DYNAMICS_ACCURACY},
        "positions_rounded_before_labelling_to_A": 10.0**-POSITION_DECIMALS,
        "seed": SEED,
        "friction_per_fs": FRICTION,
        "bond_lengths_relative_to_covalent_radii": {"broken_above": BROKEN, "formed_below": FORMED},
        "dihedral_atoms": DIHEDRALS,
        "scan_planes_alpha_beta_degrees": PLANES,
        "quick": quick,
    }


def _conformers(molecule: Chem.Mol, count: int) -> list[Atoms]:
    """Conformers by distance geometry (ETKDG), relaxed with MMFF94 and then with GFN2-xTB."""
    AllChem.EmbedMultipleConfs(molecule, count, randomSeed=SEED)
    AllChem.MMFFOptimizeMoleculeConfs(molecule, maxIters=2000)
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    conformers = []
    for conformer in molecule.GetConformers():
        atoms = Atoms(numbers, positions=conformer.GetPositions())
        atoms.calc = calculator(METHOD, DYNAMICS_ACCURACY, reuse=True)
        BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
        conformers.append(Atoms(numbers, positions=atoms.positions))
    return conformers


def _sample(molecule: Chem.Mol, dynamics: Dynamics, starts: list[Atoms], first: int) -> tuple[list[Atoms], dict]:
    """Frames of several trajectories, shuffled across them, and what is to be known of them."""
    frames, energies, rejected = [], [], 0
    for index, start in enumerate(starts, first):
        kept, series = _trajectory(molecule, dynamics, start, index)
        rejected += dynamics.frames - len(kept)
        frames += kept
        energies.append(series)
    order = np.random.default_rng([SEED, first]).permutation(len(frames))
    fact = {
        **asdict(dynamics),
        "first_trajectory": first,
        "frames_in_file": len(frames),
        "frames_rejected": rejected,
        "energy_autocorrelation_time_fs": round(float(_autocorrelation_time(energies)), 1),
    }
    return [frames[i] for i in order], fact


def _trajectory(molecule: Chem.Mol, dynamics: Dynamics, start: Atoms, index: int) -> tuple[list[Atoms], np.ndarray]:
    """Langevin dynamics from one conformer.

    The trajectory ends early when the self-consistent field fails or the bonds are no longer those of the
    molecule.

    Args:
        molecule: The molecule with its bonds.
        dynamics: Temperature, times and counts.
        start: Relaxed conformer.
        index: Number of the trajectory; it seeds the random numbers.

    Returns:
        Labelled frames, and the potential energies (eV) every 5 fs after equilibration.
    """
    rng = np.random.default_rng([SEED, 1000 + index])
    atoms = start.copy()
    atoms.calc = calculator(METHOD, DYNAMICS_ACCURACY, reuse=True)
    widths = np.sqrt(atoms.get_masses() * units.kB * dynamics.temperature)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * widths[:, None])
    integrator = Langevin(
        atoms,
        dynamics.time_step * units.fs,
        temperature_K=dynamics.temperature,
        friction=FRICTION / units.fs,
        fixcm=False,
        rng=rng,
    )
    frames, energies = [], []
    try:
        integrator.run(round(dynamics.equilibration / dynamics.time_step))
        for step in range(1, round(dynamics.frames * dynamics.spacing / 5.0) + 1):
            integrator.run(round(5.0 / dynamics.time_step))
            energies.append(atoms.get_potential_energy())
            if (5.0 * step) % dynamics.spacing == 0.0:
                if not _intact(molecule, atoms.positions):
                    break
                frames.append(_frame(atoms, dynamics, index))
    except CalculationFailed:
        pass
    return frames, np.array(energies)


def _frame(atoms: Atoms, dynamics: Dynamics, index: int) -> Atoms:
    """Labelled copy, its centre of mass at the origin."""
    frame = Atoms(atoms.numbers, positions=atoms.positions - atoms.get_center_of_mass())
    frame.info = {"config_type": f"{dynamics.temperature}K", "trajectory": index}
    return label(frame, METHOD)


def _intact(molecule: Chem.Mol, positions: np.ndarray) -> bool:
    """Whether no bond is broken and none formed.

    A bond is broken beyond `BROKEN` times the sum of the covalent radii (a C-H bond at 1.6 Å: at 1200 K they
    reach 1.42 Å and come back); other atoms are bonded within `FORMED` times the sum.
    """
    radii = covalent_radii[[atom.GetAtomicNum() for atom in molecule.GetAtoms()]]
    ratios = np.linalg.norm(positions[:, None] - positions[None, :], axis=-1) / (radii[:, None] + radii)
    bonded = Chem.GetAdjacencyMatrix(molecule).astype(bool)
    others = ~bonded & ~np.eye(len(radii), dtype=bool)
    return bool(ratios[bonded].max() < BROKEN and ratios[others].min() > FORMED)


def _autocorrelation_time(series: list[np.ndarray]) -> float:
    """Integrated autocorrelation time 1/2 + Σ ρ(t) of energies 5 fs apart, in fs; the sum ends at ρ < 0.05.

    The mean is that of each trajectory: slow changes between conformers do not count.
    """
    longest = min(len(energies) for energies in series)
    deviations = [energies - energies.mean() for energies in series]
    total, variance = 0.5, np.mean([np.mean(d**2) for d in deviations])
    for lag in range(1, longest):
        correlation = np.mean([np.mean(d[lag:] * d[:-lag]) for d in deviations]) / variance
        if correlation < 0.05:
            break
        total += correlation
    return 5.0 * total


def _scan(molecule: Chem.Mol, start: Atoms, *, step: int) -> list[Atoms]:
    """Scans of γ at fixed (α, β); everything but the three dihedrals is relaxed.

    Each plane is walked forwards and backwards, each point starting from the one before; the lower of the
    two energies is kept.
    """
    frames = []
    for plane, (alpha, beta) in enumerate(PLANES):
        gammas = list(range(0, 360, step))
        best: dict[int, Atoms] = {}
        atoms = start
        for gamma in gammas + gammas[::-1]:
            atoms = _relax(molecule, atoms, {"alpha": alpha, "beta": beta, "gamma": float(gamma)})
            frame = Atoms(atoms.numbers, positions=atoms.positions - atoms.get_center_of_mass())
            frame.info = {"config_type": "dihedral", "plane": plane}
            frame.info |= {"alpha": alpha, "beta": beta, "gamma": float(gamma)}
            frame = label(frame, METHOD)
            if gamma not in best or frame.info["REF_energy"] < best[gamma].info["REF_energy"]:
                best[gamma] = frame
        frames += [best[gamma] for gamma in gammas]
    return frames


def _relax(molecule: Chem.Mol, start: Atoms, angles: dict[str, float]) -> Atoms:
    """Relax with the dihedrals held at the given values (degrees)."""
    atoms = start.copy()
    for name, angle in angles.items():
        atoms.set_dihedral(*DIHEDRALS[name], angle, indices=_beyond(molecule, DIHEDRALS[name]))
    held = [[angle, DIHEDRALS[name]] for name, angle in angles.items()]
    atoms.set_constraint(FixInternals(dihedrals_deg=held, epsilon=1e-9))
    atoms.calc = calculator(METHOD, DYNAMICS_ACCURACY, reuse=True)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)
    return Atoms(atoms.numbers, positions=atoms.positions)


def _beyond(molecule: Chem.Mol, dihedral: tuple[int, int, int, int]) -> list[int]:
    """Atoms that turn when a dihedral's fourth atom turns: those on the far side of its middle bond."""
    near, far = dihedral[1], dihedral[2]
    reached, front = {far}, [far]
    while front:
        for neighbour in molecule.GetAtomWithIdx(front.pop()).GetNeighbors():
            index = neighbour.GetIdx()
            if index != near and index not in reached:
                reached.add(index)
                front.append(index)
    return sorted(reached)
