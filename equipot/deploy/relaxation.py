"""Relaxation of atoms and cell to a minimum of the energy."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer

from equipot.data.keys import without_labels
from equipot.deploy import md_files
from equipot.deploy.ase_calculator import EquipotCalculator, check_elements
from equipot.deploy.options import RelaxOptions
from equipot.errors import EquipotError
from equipot.models.potential import Potential
from equipot.units import GPA

Status = Literal["converged", "not converged", "failed"]
_OPTIMISERS: dict[str, Callable[..., Optimizer]] = {"bfgs": BFGS, "lbfgs": LBFGS, "fire": FIRE}


@dataclass(frozen=True)
class RelaxResult:
    """What a relaxation gave.

    Args:
        status: ``converged``; ``not converged`` within the steps; ``failed`` when the structure left what the
            potential can describe or ended above its start.
        message: one sentence for the user.
        steps: steps taken.
        atoms: the last sane structure, with energy, forces and stress.
        energies: energy before every step and at the end, eV (without the pressure's p V).
        fmax: largest force at the end, eV/Å; with a relaxing cell also its generalised forces.
        pressure: −tr σ / 3 at the end, GPa; NaN without three periodic directions.
    """

    status: Status
    message: str
    steps: int
    atoms: Atoms
    energies: np.ndarray
    fmax: float
    pressure: float


def relax(
    potential: Potential | str | os.PathLike[str] | EquipotCalculator,
    atoms: Atoms,
    options: RelaxOptions | None = None,
    *,
    trajectory: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> RelaxResult:
    """Move the atoms, and the cell if asked to, downhill until no force is larger than `fmax`.

    Args:
        potential: a model file, a `Potential`, or a calculator (then device and dtype are its own).
        atoms: the start; it is not changed. Constraints hold.
        options: what may move and when to stop.
        trajectory: a file for every step, .traj or extxyz; an old one is replaced.
        device: as for `EquipotCalculator`.
        dtype: as for `EquipotCalculator`; float64 is worth its time for fmax below about 1e-3.
        progress: called with step, energy (eV) and largest force (eV/Å).

    Raises:
        EquipotError: the structure is empty, has unknown elements, or has no cell that could relax.
    """
    options = options or RelaxOptions()
    if isinstance(potential, EquipotCalculator):
        calculator = potential
    else:
        calculator = EquipotCalculator(potential, device=device, dtype=dtype)
    _check(calculator.potential, atoms, options)
    moving = without_labels(atoms)
    moving.calc = calculator
    run = _Descent(moving, calculator, options, None if trajectory is None else Path(trajectory))
    return run.run(progress)


class _Descent:
    """An optimiser with its limits and its trajectory."""

    def __init__(
        self, atoms: Atoms, calculator: EquipotCalculator, options: RelaxOptions, trajectory: Path | None
    ) -> None:
        self.atoms = atoms
        self.calculator = calculator
        self.options = options
        self.trajectory = trajectory
        self.target = atoms if options.cell == "fixed" else FrechetCellFilter(atoms, **_filter(options))
        if trajectory is not None:
            trajectory.parent.mkdir(parents=True, exist_ok=True)
            trajectory.unlink(missing_ok=True)

    def run(self, progress: Callable[[int, float, float], None] | None) -> RelaxResult:
        """Step until converged, out of steps, or in trouble."""
        options = self.options
        optimiser = _OPTIMISERS[options.optimiser](self.target, logfile=None)
        trouble = self._trouble()
        if trouble:
            raise EquipotError(
                f"the start is not sane: {trouble}. Check the units (Å) and the elements, or raise the limit."
            )
        energies: list[float] = []
        enthalpies: list[float] = []
        status: Status = "not converged"
        for step in range(options.steps + 1):
            frame, fmax = md_files.snapshot(self.atoms, step), self._largest_force()
            energies.append(float(self.atoms.get_potential_energy()))
            enthalpies.append(self._enthalpy(energies[-1]))
            if self.trajectory is not None:
                md_files.append_frame(self.trajectory, frame)
            if progress is not None:
                progress(step, energies[-1], fmax)
            if fmax <= options.fmax:
                status, trouble = self._arrived(enthalpies)
                break
            if step == options.steps:
                break
            trouble = self._step(optimiser)
            if trouble:
                status = "failed"
                break
        return self._result(status, trouble, frame, np.array(energies), fmax)

    def _enthalpy(self, energy: float) -> float:
        if self.options.cell == "fixed":
            return energy
        return energy + self.options.pressure / GPA * float(self.atoms.get_volume())

    def _arrived(self, enthalpies: list[float]) -> tuple[Status, str | None]:
        """No force is left; that is a minimum below the start, unless the optimiser jumped over a hill."""
        climb = enthalpies[-1] - enthalpies[0]
        if climb > 1e-4 * len(self.atoms):
            return "failed", (
                f"the structure without forces is {climb:.4g} eV higher in energy than the start, so a step went "
                "over a hill; use optimiser='fire'"
            )
        return "converged", None

    def _step(self, optimiser: Optimizer) -> str | None:
        try:
            with np.errstate(all="ignore"):
                optimiser.step()
                return self._trouble()
        except (EquipotError, np.linalg.LinAlgError) as error:
            return str(error)

    def _largest_force(self) -> float:
        forces = np.asarray(self.target.get_forces()).reshape(-1, 3)
        return float(np.linalg.norm(forces, axis=1).max(initial=0.0))

    def _trouble(self) -> str | None:
        energy, forces = self.atoms.get_potential_energy(), self.atoms.get_forces()
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            return "the energy or a force is not a number"
        largest = float(np.linalg.norm(forces, axis=1).max(initial=0.0))
        if largest > self.options.max_force:
            return f"a force is {largest:.4g} eV/Å, above max_force = {self.options.max_force:g}"
        known = self.calculator.potential.statistics.min_distance
        near = self.calculator.shortest_distance
        if near < self.options.min_distance_fraction * known:
            i, j = self.calculator.shortest_pair
            return (
                f"atoms {i} ({self.atoms.symbols[i]}) and {j} ({self.atoms.symbols[j]}) are {near:.3f} Å "
                f"apart, less than {self.options.min_distance_fraction:g} × the shortest distance in training "
                f"({known:.3f} Å)"
            )
        return None

    def _result(
        self, status: Status, trouble: str | None, frame: Atoms, energies: np.ndarray, fmax: float
    ) -> RelaxResult:
        steps = len(energies) - 1
        messages = {
            "converged": f"converged after {steps} steps: the largest force is {fmax:.4g} eV/Å.",
            "not converged": f"not converged after {steps} steps: the largest force is {fmax:.4g} eV/Å, wanted "
            f"{self.options.fmax:g}. Give more steps, or try another optimiser.",
            "failed": f"failed after {steps} steps: {trouble}.",
        }
        frame.info.pop("step")
        pressure = float("nan")
        if frame.pbc.all():
            pressure = float(-frame.get_stress(voigt=False).trace() / 3.0 * GPA)
        return RelaxResult(status, messages[status], steps, frame, energies, fmax, pressure)


def _filter(options: RelaxOptions) -> dict[str, Any]:
    return {
        "scalar_pressure": options.pressure / GPA,
        "hydrostatic_strain": options.cell == "isotropic",
        "constant_volume": options.cell == "constant-volume",
        "mask": None if options.mask is None else list(options.mask),
    }


def _check(potential: Potential, atoms: Atoms, options: RelaxOptions) -> None:
    if len(atoms) == 0:
        raise EquipotError("the structure has no atoms: there is nothing to relax.")
    check_elements(potential, atoms)
    if options.cell != "fixed" and not atoms.pbc.all():
        raise EquipotError(
            f"cell={options.cell!r} needs three periodic directions, but these atoms have pbc={atoms.pbc.tolist()}: "
            "a molecule or a slab has no cell to relax. Use cell='fixed'."
        )
