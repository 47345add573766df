"""Equations of motion: ASE's integrators, their start, and all of their state."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import ase
import numpy as np
from ase import Atoms, units
from ase.md.md import MolecularDynamics

from equipot.deploy.options import MDOptions
from equipot.errors import EquipotError
from equipot.units import GPA

_CHAIN = ("_q", "_p", "_thermostat._eta", "_thermostat._p_eta")
_BAROSTAT = ("_barostat._xi", "_barostat._p_xi")
_INTERNAL = {
    "nve": (),
    "langevin": (),
    "nose-hoover": _CHAIN,
    "npt": (*_CHAIN, *_BAROSTAT, "_eps", "_p_eps", "_cell0", "_volume0"),
    "npt-cell": (*_CHAIN, *_BAROSTAT, "_h", "_p_g"),
}
"""What ASE's integrators remember beside positions, momenta and cell; without it a restart is another run."""


@dataclass(frozen=True)
class MDState:
    """Everything that the next step depends on, after `step` steps."""

    step: int
    positions: np.ndarray
    momenta: np.ndarray
    cell: np.ndarray
    internal: dict[str, np.ndarray]
    generator: dict[str, Any]


@dataclass
class Motion:
    """A structure, its integrator and its random numbers.

    Args:
        atoms: the moving structure, with a calculator and momenta.
        options: the run's options.
        degrees: degrees of freedom among which the kinetic energy is shared.
        rng: noise of the Langevin thermostat.
    """

    atoms: Atoms
    options: MDOptions
    degrees: int
    rng: np.random.Generator
    step: int = 0

    def __post_init__(self) -> None:
        self.dynamics: Any = _INTEGRATORS[self.options.ensemble](self)

    def advance(self) -> None:
        """Take one time step."""
        self.dynamics.step()
        self.step += 1

    @property
    def temperature(self) -> float:
        """T = 2 E_kin / (degrees · k_B), K."""
        return 2.0 * self.atoms.get_kinetic_energy() / (self.degrees * units.kB)

    def conserved_energy(self) -> float:
        """What the exact equations of motion conserve, eV; NaN for Langevin, which conserves nothing."""
        ensemble = self.options.ensemble
        if ensemble == "langevin":
            return float("nan")
        if ensemble == "nve":
            return float(self.atoms.get_potential_energy() + self.atoms.get_kinetic_energy())
        with np.errstate(all="ignore"):
            return float(self.dynamics.get_conserved_energy())

    def state(self) -> MDState:
        """A copy of the present state."""
        internal = {
            name: np.array(attrgetter(name)(self.dynamics), dtype=float) for name in _INTERNAL[self.options.ensemble]
        }
        return MDState(
            self.step,
            self.atoms.get_positions(),
            self.atoms.get_momenta(),
            self.atoms.cell.array.copy(),
            internal,
            dict(self.rng.bit_generator.state),
        )

    def restore(self, state: MDState) -> None:
        """Go back (or forward) to a state of the same run, exactly."""
        self.step = state.step
        self.atoms.set_cell(state.cell, scale_atoms=False)
        self.atoms.set_positions(state.positions, apply_constraint=False)
        self.atoms.set_momenta(state.momenta, apply_constraint=False)
        self.rng.bit_generator.state = state.generator
        for name, value in state.internal.items():
            owner, _, attribute = name.rpartition(".")
            target = attrgetter(owner)(self.dynamics) if owner else self.dynamics
            setattr(target, attribute, float(value) if value.ndim == 0 else value.copy())


def draw_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Give the atoms Maxwell–Boltzmann momenta of exactly this temperature.

        p_i ~ N(0, m_i k_B T),   then Σ p = 0,   then Σ r × p = 0 (no periodic direction),   then p ← p √(T /
        T_now)

    Args:
        atoms: changed in place; constraints hold.
        temperature: K.
        rng: random numbers.
    """
    masses = atoms.get_masses()
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)[:, None]
    if not atoms.constraints:
        momenta -= masses[:, None] * momenta.sum(axis=0) / masses.sum()
        if not atoms.pbc.any():
            momenta = without_rotation(atoms.positions, masses, momenta)
    atoms.set_momenta(momenta)
    degrees = degrees_of_freedom(atoms, conserving=True)
    now = 2.0 * atoms.get_kinetic_energy() / (degrees * units.kB)
    if now > 0:
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature / now))


def without_rotation(positions: np.ndarray, masses: np.ndarray, momenta: np.ndarray) -> np.ndarray:
    """Momenta without angular momentum about the centre of mass: p − m ω × r with I ω = L."""
    r = positions - masses @ positions / masses.sum()
    angular = np.cross(r, momenta).sum(axis=0)
    inertia = (masses * (r**2).sum(axis=1)).sum() * np.eye(3) - np.einsum("n,nx,ny->xy", masses, r, r)
    omega = np.linalg.pinv(inertia, rcond=1e-10, hermitian=True) @ angular
    return momenta - masses[:, None] * np.cross(omega, r)


def degrees_of_freedom(atoms: Atoms, *, conserving: bool) -> int:
    """How many directions share the kinetic energy.

    3 N less what constraints hold, less the directions that the equations of motion conserve and that have no
    momentum in them: the centre of mass and, without periodicity, rotations.

    Args:
        atoms: with their momenta.
        conserving: whether the equations of motion conserve momentum and angular momentum (Langevin's do
        not).
    """
    free = 3 * len(atoms) - sum(int(constraint.get_removed_dof(atoms)) for constraint in atoms.constraints)
    if not conserving or atoms.constraints:
        return max(free, 1)
    masses, momenta = atoms.get_masses(), atoms.get_momenta()
    small = 1e-8 * np.abs(momenta).sum() + 1e-300
    if np.abs(momenta.sum(axis=0)).max() > small:
        return free
    free -= 3
    r = atoms.positions - masses @ atoms.positions / masses.sum()
    angular = np.abs(np.cross(r, momenta).sum(axis=0)).max()
    if not atoms.pbc.any() and angular <= small * (1.0 + np.abs(r).max()):
        free -= (0, 2, 3, 3)[np.linalg.matrix_rank(r, tol=1e-6)]
    return max(free, 1)


# ----------------------------------------------------------------------------------- ASE's integrators


def _verlet(motion: Motion) -> MolecularDynamics:
    from ase.md.verlet import VelocityVerlet

    return VelocityVerlet(motion.atoms, timestep=motion.options.timestep * units.fs)


def _langevin(motion: Motion) -> MolecularDynamics:
    from ase.md.langevin import Langevin

    options = motion.options
    return Langevin(
        motion.atoms,
        timestep=options.timestep * units.fs,
        temperature_K=options.temperature,
        friction=options.friction / units.fs,
        fixcm=False,
        rng=motion.rng,
    )


def _chain(motion: Motion) -> MolecularDynamics:
    return _chain_class("NoseHooverChainNVT", "3.24")(motion.atoms, **_thermostat(motion))


def _npt(motion: Motion) -> MolecularDynamics:
    return _chain_class("IsotropicMTKNPT", "3.25")(motion.atoms, **_thermostat(motion), **_pressure(motion))


def _npt_cell(motion: Motion) -> MolecularDynamics:
    return _chain_class("MTKNPT", "3.26")(motion.atoms, **_thermostat(motion), **_pressure(motion))


def _thermostat(motion: Motion) -> dict[str, float]:
    """ASE shares k_B T among 3 N directions; the factor gives it to those that move."""
    options = motion.options
    return {
        "timestep": options.timestep * units.fs,
        "temperature_K": options.temperature * motion.degrees / (3 * len(motion.atoms)),
        "tdamp": options.thermostat_time * units.fs,
    }


def _pressure(motion: Motion) -> dict[str, float]:
    atoms = motion.atoms
    if not atoms.pbc.all():
        raise EquipotError(
            f"ensemble {motion.options.ensemble!r} needs three periodic directions; these atoms have "
            f"pbc={atoms.pbc.tolist()}. Use langevin or nose-hoover."
        )
    if atoms.constraints:
        raise EquipotError(
            f"ensemble {motion.options.ensemble!r} cannot hold constraints; remove them or use langevin."
        )
    return {"pressure_au": motion.options.pressure / GPA, "pdamp": motion.options.barostat_time * units.fs}


def _chain_class(name: str, since: str) -> Callable[..., MolecularDynamics]:
    try:
        from ase.md import nose_hoover_chain

        return getattr(nose_hoover_chain, name)
    except (ImportError, AttributeError) as error:
        raise EquipotError(
            f"this ensemble needs ASE ≥ {since} ({name}); installed is {ase.__version__}. "
            "Upgrade it (pip install -U ase) or use langevin or nve."
        ) from error


_INTEGRATORS: dict[str, Callable[[Motion], Any]] = {
    "nve": _verlet,
    "langevin": _langevin,
    "nose-hoover": _chain,
    "npt": _npt,
    "npt-cell": _npt_cell,
}
