"""Molecular dynamics with a trained potential: run, watch, stop, restart."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from ase import Atoms

from equipot.data.keys import without_labels
from equipot.deploy import md_files
from equipot.deploy.ase_calculator import EquipotCalculator, check_elements
from equipot.deploy.integrators import Motion, degrees_of_freedom, draw_velocities
from equipot.deploy.md_files import Restart, ThermoRow
from equipot.deploy.options import MDOptions
from equipot.errors import EquipotError
from equipot.models.model_file import fingerprint
from equipot.models.potential import Potential
from equipot.units import GPA, MEV

Progress = Callable[[ThermoRow, int], None]
"""Called with every row of the log and the number of steps of the whole run."""

Status = Literal["finished", "exploded", "interrupted"]


@dataclass(frozen=True)
class MDResult:
    """What a run gave, from its first step on, restarts included.

    Args:
        status: ``finished``; ``exploded``, when a limit was passed; ``interrupted``, by Ctrl-C.
        message: one sentence for the user.
        step: steps taken in all.
        atoms: the last sane structure, with momenta.
        columns: the columns of thermo.csv by name.
        drift: slope of the conserved energy, meV/atom/ns, from some ps on more than its fluctuation; NaN for
            Langevin and for fewer than three rows.
        seconds_per_step: wall time, of this call.
        folder: where the files are.
    """

    status: Status
    message: str
    step: int
    atoms: Atoms
    columns: dict[str, np.ndarray]
    drift: float
    seconds_per_step: float
    folder: Path

    @property
    def times(self) -> np.ndarray:
        """Times of the rows, fs."""
        return self.columns["time_fs"]

    @property
    def temperatures(self) -> np.ndarray:
        """Temperatures of the rows, K."""
        return self.columns["temperature_K"]

    @property
    def potential_energies(self) -> np.ndarray:
        """Potential energies of the rows, eV/atom."""
        return self.columns["potential_energy_eV"] / len(self.atoms)

    @property
    def kinetic_energies(self) -> np.ndarray:
        """Kinetic energies of the rows, eV/atom."""
        return self.columns["kinetic_energy_eV"] / len(self.atoms)

    @property
    def total_energies(self) -> np.ndarray:
        """Potential and kinetic energies of the rows together, eV/atom."""
        return self.columns["total_energy_eV"] / len(self.atoms)


def run_md(
    potential: Potential | str | os.PathLike[str] | EquipotCalculator,
    atoms: Atoms | None,
    options: MDOptions,
    folder: str | os.PathLike[str],
    *,
    restart: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    progress: Progress | None = None,
) -> MDResult:
    """Run molecular dynamics, or continue a run.

    The folder gets ``thermo.csv`` (a row every `log_interval` steps), the trajectory, and
    ``restart.safetensors``: positions, momenta, cell, thermostat and random numbers. A run that is stopped and
    restarted takes the same steps, bit for bit on a CPU with the same number of threads, as one that was never
    stopped.

    Args:
        potential: a model file, a `Potential`, or a calculator (then device and dtype are its own).
        atoms: the start; with `restart` it may be None, and is only compared.
        options: what to do. With `restart`, `steps` counts from the very first step.
        folder: for the files; without `restart` it must not hold a run yet.
        restart: continue the run in `folder`.
        device: as for `EquipotCalculator`.
        dtype: as for `EquipotCalculator`.
        progress: called with each row of the log.

    Raises:
        EquipotError: the potential, the structure or the folder do not allow this run.
    """
    folder = Path(folder)
    if isinstance(potential, EquipotCalculator):
        calculator = potential
    else:
        calculator = EquipotCalculator(potential, device=device, dtype=dtype)
    if restart:
        run = _continue(calculator, atoms, options, folder)
    else:
        run = _start(calculator, atoms, options, folder)
        run.start_files(progress)
    return run.run(progress)


class _Run:
    """A motion with its files and its limits."""

    def __init__(self, motion: Motion, calculator: EquipotCalculator, folder: Path) -> None:
        self.motion = motion
        self.calculator = calculator
        self.folder = folder
        self.options = motion.options
        self.fingerprint = fingerprint(calculator.potential)
        self.training_distance = calculator.potential.statistics.min_distance

    def run(self, progress: Progress | None) -> MDResult:
        """Step until the end, an explosion or an interrupt; the files always end with the last sane step."""
        options, motion = self.options, self.motion
        sane, first, began = self._point(), motion.step, time.perf_counter()
        status: Status = "finished"
        message = f"{options.steps} steps were taken."
        try:
            while motion.step < options.steps:
                trouble = self._advance()
                if trouble:
                    status, message = "exploded", self._explosion(trouble, sane)
                    break
                self.record(progress)
                sane = self._point()
                if motion.step % options.restart_interval == 0:
                    md_files.write_restart(self.folder, sane)
        except KeyboardInterrupt:
            motion.restore(sane.state)
            md_files.cut_back(self.folder, sane)
            status, message = "interrupted", f"interrupted after {motion.step} steps; a restart goes on from there."
        md_files.write_restart(self.folder, sane)
        seconds = (time.perf_counter() - began) / max(motion.step - first, 1)
        columns = md_files.read_thermo(self.folder)
        drift = energy_drift(columns["time_fs"], columns["conserved_energy_eV"], len(motion.atoms))
        return MDResult(status, message, motion.step, self._frame(), columns, drift, seconds, self.folder)

    def start_files(self, progress: Progress | None) -> None:
        """Create the files with the start in them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        md_files.write_thermo_header(self.folder)
        (self.folder / self.options.trajectory).unlink(missing_ok=True)
        self.record(progress)
        md_files.write_restart(self.folder, self._point())

    def record(self, progress: Progress | None) -> None:
        """Write the row and the frame that are due at this step."""
        step, options = self.motion.step, self.options
        if step % options.log_interval == 0:
            row = self._row()
            md_files.append_thermo(self.folder, row)
            if progress is not None:
                progress(row, options.steps)
        if step % options.trajectory_interval == 0:
            md_files.append_frame(self.folder / options.trajectory, self._frame())

    def trouble(self) -> str | None:
        """What is wrong with the present structure, in words, or None."""
        atoms, options = self.motion.atoms, self.options
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        if not (np.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(atoms.get_momenta()).all()):
            return "the energy, a force or a velocity is not a number"
        if self.options.ensemble != "langevin" and not np.isfinite(self.motion.conserved_energy()):
            return "the thermostat or barostat overflowed (give it a longer time constant)"
        size = np.linalg.norm(forces, axis=1)
        if size.size and size.max() > options.max_force:
            atom = int(size.argmax())
            return (
                f"the force on atom {atom} ({atoms.symbols[atom]}) is {size[atom]:.4g} eV/Å, above "
                f"max_force = {options.max_force:g}"
            )
        near, known = self.calculator.shortest_distance, self.training_distance
        if near < options.min_distance_fraction * known:
            i, j = self.calculator.shortest_pair
            return (
                f"atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) are {near:.3f} Å apart, less than "
                f"{options.min_distance_fraction:g} × the shortest distance in training ({known:.3f} Å)"
            )
        if self.motion.temperature > options.temperature_limit:
            return f"the temperature is {self.motion.temperature:.0f} K, above {options.temperature_limit:.0f} K"
        return None

    def _advance(self) -> str | None:
        """Take a step; returns what went wrong, or None."""
        try:
            with np.errstate(all="ignore"):
                self.motion.advance()
                return self.trouble()
        except EquipotError as error:
            return str(error)

    def _explosion(self, trouble: str, sane: Restart) -> str:
        """Keep the structure that went wrong apart, and end the trajectory with the last sane one."""
        step, options = self.motion.step, self.options
        broken = self.motion.atoms.copy()
        if np.isfinite(broken.positions).all():
            broken.arrays.pop("momenta", None)
            path = self.folder / md_files.UNSTABLE
            path.unlink(missing_ok=True)
            md_files.append_frame(path, broken)
        self.motion.restore(sane.state)
        if self.motion.step % options.trajectory_interval:
            md_files.append_frame(self.folder / options.trajectory, self._frame())
        return (
            f"the structure exploded at step {step} ({step * options.timestep:g} fs): {trouble}. The last "
            f"sane step is {self.motion.step}. Train on structures like those before it, lower the temperature, or "
            f"use a shorter timestep (now {options.timestep:g} fs)."
        )

    def _frame(self) -> Atoms:
        self.motion.atoms.get_forces()
        step = self.motion.step
        return md_files.snapshot(self.motion.atoms, step, time_fs=step * self.options.timestep)

    def _point(self) -> Restart:
        """Where a restart would go on: the state and the length of the files that belong to it."""
        motion = self.motion
        lengths = md_files.sizes(self.folder, self.options)
        return Restart(motion.atoms, motion.state(), self.options, motion.degrees, self.fingerprint, lengths)

    def _row(self) -> ThermoRow:
        motion, atoms = self.motion, self.motion.atoms
        potential_energy, kinetic_energy = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
        volume = pressure = float("nan")
        if atoms.pbc.all():
            volume = float(atoms.get_volume())
            trace = float(atoms.get_stress(voigt=False).trace())
            pressure = (2.0 * kinetic_energy / volume - trace) / 3.0 * GPA
        return ThermoRow(
            step=motion.step,
            time_fs=motion.step * self.options.timestep,
            temperature_K=motion.temperature,
            potential_energy_eV=potential_energy,
            kinetic_energy_eV=kinetic_energy,
            total_energy_eV=potential_energy + kinetic_energy,
            conserved_energy_eV=motion.conserved_energy(),
            pressure_GPa=pressure,
            volume_A3=volume,
            max_force_eV_per_A=float(np.linalg.norm(atoms.get_forces(), axis=1).max(initial=0.0)),
            min_distance_A=float(self.calculator.shortest_distance),
        )


def energy_drift(times: np.ndarray, energies: np.ndarray, num_atoms: int) -> float:
    """Slope of a straight line through the energies, meV/atom/ns; NaN for fewer than three finite points.

    Args:
        times: fs.
        energies: eV.
        num_atoms: atoms that share the energy.
    """
    good = np.isfinite(energies)
    if good.sum() < 3:
        return float("nan")
    t, e = times[good] - times[good].mean(), energies[good] - energies[good].mean()
    return float((t @ e) / (t @ t) / num_atoms * MEV * 1e6)


def _start(calculator: EquipotCalculator, atoms: Atoms | None, options: MDOptions, folder: Path) -> _Run:
    if atoms is None or len(atoms) == 0:
        raise EquipotError("molecular dynamics needs a structure with atoms to start from.")
    if (folder / md_files.THERMO).exists() or (folder / md_files.RESTART).exists():
        raise EquipotError(
            f"{folder} already holds a molecular dynamics run. Continue it with --restart (in Python restart=True), "
            "or give another folder."
        )
    check_elements(calculator.potential, atoms)
    atoms = without_labels(atoms)
    atoms.calc = calculator
    rng = np.random.default_rng(options.seed)
    moving = bool(np.any(atoms.get_momenta() != 0))
    if options.velocities == "maxwell-boltzmann" or (options.velocities == "auto" and not moving):
        draw_velocities(atoms, options.temperature, rng)
    degrees = degrees_of_freedom(atoms, conserving=options.ensemble != "langevin")
    run = _Run(Motion(atoms, options, degrees, rng), calculator, folder)
    trouble = run.trouble()
    if trouble:
        raise EquipotError(
            f"the start is not sane: {trouble}. Relax the structure first, check its units (Å), or raise the limit."
        )
    return run


def _continue(calculator: EquipotCalculator, atoms: Atoms | None, options: MDOptions, folder: Path) -> _Run:
    restart = md_files.read_restart(folder)
    md_files.refuse_changes(restart.options, options, folder)
    if restart.fingerprint != fingerprint(calculator.potential):
        raise EquipotError(
            f"the run in {folder} was made with another potential or in another dtype; its energies would jump. "
            "Give the same model and dtype, or start a new run from its last frame."
        )
    if atoms is not None and not np.array_equal(atoms.numbers, restart.atoms.numbers):
        raise EquipotError(
            f"the run in {folder} has {restart.atoms.get_chemical_formula()}, the given structure is "
            f"{atoms.get_chemical_formula()}: leave the structure out, or start a new run."
        )
    if restart.state.step > options.steps:
        raise EquipotError(
            f"the run in {folder} has {restart.state.step} steps already and steps = {options.steps}: steps "
            "counts from the very first one; give more."
        )
    md_files.cut_back(folder, restart)
    moving = restart.atoms
    moving.calc = calculator
    moving.set_momenta(restart.state.momenta, apply_constraint=False)
    rng = np.random.default_rng(options.seed)
    motion = Motion(moving, options, restart.degrees, rng)
    motion.restore(restart.state)
    moving.get_forces()
    return _Run(motion, calculator, folder)
