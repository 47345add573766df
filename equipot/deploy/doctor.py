"""A health check of a trained potential: symmetries, derivatives and limits, measured and not believed."""

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from equipot.deploy.ase_calculator import check_elements
from equipot.errors import EquipotError
from equipot.geometry.derivatives import Prediction, evaluate
from equipot.geometry.graph import batch_graphs
from equipot.geometry.neighbors import graph_from_atoms
from equipot.interactions import EXACT, num_knots
from equipot.kernels.backend import choice_of, use_backend
from equipot.models.model_file import converted
from equipot.models.potential import Potential
from equipot.models.radial_error import radial_spline_error
from equipot.units import MEV

ROUNDING = 1e-10
"""Allowed relative error of what is exact but for rounding, in float64."""

DIFFERENCES = 1e-6
"""Allowed relative error of derivatives against finite differences, in float64."""


class Check(NamedTuple):
    """One measured property.

    Attributes:
        value: What was measured.
        unit: Its unit; ``relative`` is relative to the root mean square of the forces (or to the stress).
        limit: The largest value that is healthy; None where the value only informs.
        meaning: One line for a table.
    """

    value: float
    unit: str
    limit: float | None
    meaning: str

    @property
    def passed(self) -> bool:
        """Whether the value is healthy; what only informs always passes."""
        return self.limit is None or bool(self.value <= self.limit)


class _Probe(NamedTuple):
    """The potential in float64, a structure, what it predicts there, and the size of a force."""

    potential: Potential
    atoms: Atoms
    prediction: Prediction
    force_scale: float
    rng: np.random.Generator

    def relative(self, forces: np.ndarray | torch.Tensor) -> float:
        """Largest deviation from the predicted forces relative to their size."""
        return float(np.abs(np.asarray(forces) - self.prediction.forces.numpy()).max()) / self.force_scale

    def relative_energy(self, energy: float | torch.Tensor) -> float:
        """Deviation from the predicted energy, per atom, relative to the size of a force times 1 Å."""
        return abs(float(energy) - float(self.prediction.energy)) / len(self.atoms) / self.force_scale


def check_potential(potential: Potential, atoms: Atoms, *, seed: int = 0) -> dict[str, Check]:
    """Measure on one structure whether a potential is what it should be, whatever its training made of it.

    All is measured with the potential converted to float64, on the CPU and with its backend if that is one for the CPU;
    `float32_*` compares with float32, `backend` with plain torch.

    Args:
        potential: the potential.
        atoms: a structure with at least two atoms; best one of the test set, not relaxed. The time is about
            that of 60 evaluations of it.
        seed: random rotations, translations, permutations and displacements.

    Returns:
        Checks by name; `all(check.passed for check in checks.values())` says whether all is well.

    Raises:
        EquipotError: fewer than two atoms, no neighbours within the cutoff, or unknown elements.
    """
    check_elements(potential, atoms)
    atoms = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    if len(atoms) < 2 or graph_from_atoms(atoms, potential.r_max).num_edges == 0:
        raise EquipotError(
            f"{atoms.get_chemical_formula() or 'an empty structure'} has no two atoms within "
            f"{potential.r_max:g} Å: "
            "check the potential on a structure with neighbours."
        )
    double = converted(potential, "float64", "cpu").eval()
    prediction = _predict(double, atoms)
    size = float(prediction.forces.square().mean().sqrt())
    scale = max(size, 0.1 * potential.statistics.force_rms)
    probe = _Probe(double, atoms, prediction, scale, np.random.default_rng(seed))
    return {
        **_symmetries(probe),
        **_derivatives(probe),
        **_limits(probe),
        **_precision(probe, potential),
        **_splines(probe, potential),
        **_backend(probe),
    }


def _predict(potential: Potential, atoms: Atoms) -> Prediction:
    return evaluate(potential, graph_from_atoms(atoms, potential.r_max))


# ---------------------------------------------------------------------------------------------------- symmetries


def _symmetries(probe: _Probe) -> dict[str, Check]:
    rotation = np.linalg.qr(probe.rng.standard_normal((3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    values = {
        "rotation": (_orthogonal(probe, rotation), "E, F and stress turn with the structure"),
        "inversion": (_orthogonal(probe, -np.eye(3)), "E, F and stress of the structure's mirror image"),
        "translation": (_translation(probe), "E and F stay when all atoms move and are wrapped into the cell"),
        "permutation": (_permutation(probe), "E and F do not depend on the order of the atoms"),
        "net_force": (_net_force(probe), "forces add up to zero, without periodicity torques too"),
    }
    return {name: Check(value, "relative", ROUNDING, meaning) for name, (value, meaning) in values.items()}


def _orthogonal(probe: _Probe, rotation: np.ndarray) -> float:
    turned = probe.atoms.copy()
    turned.set_cell(probe.atoms.cell.array @ rotation.T, scale_atoms=False)
    turned.positions = probe.atoms.positions @ rotation.T
    prediction = _predict(probe.potential, turned)
    stress = rotation.T @ prediction.virial[0].numpy() @ rotation - probe.prediction.virial[0].numpy()
    return max(
        probe.relative_energy(prediction.energy),
        probe.relative(prediction.forces.numpy() @ rotation),
        float(np.abs(stress).max()) / len(turned) / probe.force_scale,
    )


def _translation(probe: _Probe) -> float:
    moved = probe.atoms.copy()
    moved.positions += probe.rng.uniform(-5, 5, 3)
    moved.wrap()
    prediction = _predict(probe.potential, moved)
    return max(probe.relative_energy(prediction.energy), probe.relative(prediction.forces))


def _permutation(probe: _Probe) -> float:
    order = probe.rng.permutation(len(probe.atoms))
    prediction = _predict(probe.potential, probe.atoms[order])
    forces = np.empty((len(order), 3))
    forces[order] = prediction.forces.numpy()
    return max(probe.relative_energy(prediction.energy), probe.relative(forces))


def _net_force(probe: _Probe) -> float:
    forces, positions = probe.prediction.forces.numpy(), probe.atoms.positions
    worst = np.abs(forces.sum(axis=0)).max()
    if not probe.atoms.pbc.any():
        torque = np.cross(positions - positions.mean(axis=0), forces).sum(axis=0)
        worst = max(worst, np.abs(torque).max())
    return float(worst) / len(probe.atoms) / probe.force_scale


# --------------------------------------------------------------------------------------------------- derivatives


def _derivatives(probe: _Probe) -> dict[str, Check]:
    checks = {
        "finite_difference_forces": Check(
            _force_differences(probe), "relative", DIFFERENCES, "forces are minus the slope of the energy"
        )
    }
    if probe.atoms.pbc.all():
        checks["finite_difference_stress"] = Check(
            _stress_differences(probe), "relative", DIFFERENCES, "stress is the slope of the energy with strain"
        )
    return checks


def _slope(energies: list[float], h: float) -> float:
    """Five-point central difference: energies at −2h, −h, h, 2h."""
    far_below, below, above, far_above = energies
    return (8.0 * (above - below) - (far_above - far_below)) / (12.0 * h)


def _interaction(probe: _Probe, atoms: Atoms) -> float:
    """The change of the energy against the probe's, atom by atom, so that large E0 do not cost digits."""
    return float((_predict(probe.potential, atoms).node_energy - probe.prediction.node_energy).sum())


def _force_differences(probe: _Probe, components: int = 6, h: float = 1e-3) -> float:
    worst = 0.0
    for _ in range(components):
        atom, axis = int(probe.rng.integers(len(probe.atoms))), int(probe.rng.integers(3))
        energies = []
        for multiple in (-2, -1, 1, 2):
            moved = probe.atoms.copy()
            moved.positions[atom, axis] += multiple * h
            energies.append(_interaction(probe, moved))
        worst = max(worst, abs(_slope(energies, h) + float(probe.prediction.forces[atom, axis])))
    return float(worst) / probe.force_scale


def _stress_differences(probe: _Probe, h: float = 3e-4) -> float:
    volume, stress = probe.atoms.get_volume(), probe.prediction.stress[0].numpy()
    scale = max(float(np.abs(stress).max()), probe.force_scale / volume)
    worst = 0.0
    for a, b in combinations_with_replacement(range(3), 2):
        energies = []
        for multiple in (-2, -1, 1, 2):
            strain = np.eye(3)
            strain[a, b] += 0.5 * multiple * h
            strain[b, a] += 0.5 * multiple * h
            strained = probe.atoms.copy()
            strained.set_cell(probe.atoms.cell.array @ strain, scale_atoms=False)
            strained.positions = probe.atoms.positions @ strain
            energies.append(_interaction(probe, strained))
        worst = max(worst, abs(_slope(energies, h) / volume - stress[a, b]))
    return float(worst) / scale


# -------------------------------------------------------------------------------------------------------- limits


def _limits(probe: _Probe) -> dict[str, Check]:
    energy, force = _cutoff(probe)
    return {
        "cutoff_energy": Check(energy, "meV", 1e-4, "E of a pair just inside the cutoff equals that outside"),
        "cutoff_force": Check(force, "meV/Å", 1e-2, "F of a pair just inside the cutoff is zero"),
        "extensivity": Check(_extensivity(probe), "relative", ROUNDING, "twice the structure has twice the energy"),
        "batch": Check(_batch(probe), "relative", ROUNDING, "structures in one batch do not see each other"),
        "isolated_atoms": Check(
            _isolated(probe), "meV", None, "largest |E − E0| of a single atom; zero in some designs only"
        ),
    }


def _elements(probe: _Probe) -> list[str]:
    return [chemical_symbols[z] for z in sorted(set(probe.atoms.numbers.tolist()))]


def _cutoff(probe: _Probe, inside: float = 1e-4) -> tuple[float, float]:
    """Largest step of the energy (meV) and force (meV/Å) over all pairs of the structure's elements."""
    r_max = probe.potential.r_max
    energies, forces = [0.0], [0.0]
    for pair in combinations_with_replacement(_elements(probe), 2):
        near, far = (
            _predict(probe.potential, Atoms(pair, positions=[[0, 0, 0], [0, 0, r]]))
            for r in (r_max - inside, r_max + inside)
        )
        energies.append(float((near.node_energy - far.node_energy).abs().max()))
        forces.append(float(near.forces.abs().max()))
    return MEV * max(energies), MEV * max(forces)


def _extensivity(probe: _Probe) -> float:
    """A periodic structure repeated along a lattice vector, or two copies of a molecule far apart."""
    atoms = probe.atoms
    if atoms.pbc.any():
        axis = int(np.flatnonzero(atoms.pbc)[0])
        double = atoms.repeat([2 if k == axis else 1 for k in range(3)])
    else:
        away = atoms.copy()
        away.positions[:, 0] += np.ptp(atoms.positions[:, 0]) + 2.0 * probe.potential.r_max
        double = atoms + away
    prediction = _predict(probe.potential, double)
    half = prediction.energy[0] / 2
    return max(
        probe.relative_energy(half),
        *(probe.relative(part) for part in prediction.forces.split(len(atoms))),
    )


def _batch(probe: _Probe) -> float:
    other = probe.atoms.copy()
    other.positions += probe.rng.normal(0, 0.05, other.positions.shape)
    graphs = [graph_from_atoms(atoms, probe.potential.r_max) for atoms in (other, probe.atoms, other)]
    prediction = evaluate(probe.potential, batch_graphs(graphs))
    n = len(probe.atoms)
    return max(probe.relative_energy(prediction.energy[1]), probe.relative(prediction.forces[n : 2 * n]))


def _isolated(probe: _Probe) -> float:
    statistics = probe.potential.statistics
    reference = dict(zip(statistics.species, statistics.atomic_energies, strict=True))
    differences = []
    for symbol in _elements(probe):
        atom = Atoms(symbol)
        energy = float(_predict(probe.potential, atom).energy)
        differences.append(abs(energy - reference[int(atom.numbers[0])]))
    return MEV * max(differences)


# ----------------------------------------------------------------------------------------------------- precision


def _precision(probe: _Probe, potential: Potential) -> dict[str, Check]:
    single = _predict(converted(potential, "float32", "cpu").eval(), probe.atoms)
    energy = abs(float(single.energy - probe.prediction.energy)) / len(probe.atoms)
    forces = float((single.forces - probe.prediction.forces).abs().max())
    return {
        "float32_energy": Check(MEV * energy, "meV/atom", None, "difference of E between float32 and float64"),
        "float32_forces": Check(MEV * forces, "meV/Å", None, "largest difference of F between float32 and float64"),
    }


def _splines(probe: _Probe, potential: Potential) -> dict[str, Check]:
    """What splines in place of exact radial functions change; nothing for a model with exact ones."""
    knots = num_knots(potential.radial)
    if knots is None:
        return {}
    exact = _predict(converted(probe.potential, "float64").choose_radial(EXACT), probe.atoms)
    energy = abs(float(exact.energy - probe.prediction.energy)) / len(probe.atoms)
    forces = float((exact.forces - probe.prediction.forces).abs().max())
    layers = radial_spline_error(potential, knots)
    errors = {
        f"spline_{name}": Check(
            max(layer.rms[k] for layer in layers), "relative", None, f"rms error of {symbol}(r), the worst layer"
        )
        for k, (name, symbol) in enumerate((("value", "R"), ("slope", "R′"), ("curvature", "R″")))
    }
    return {
        "spline_energy": Check(MEV * energy, "meV/atom", None, "difference of E with exact radial functions"),
        "spline_forces": Check(MEV * forces, "meV/Å", None, "largest difference of F with exact radial functions"),
        **errors,
    }


def _backend(probe: _Probe) -> dict[str, Check]:
    """Fused operations against their definition."""
    choice = choice_of(probe.potential)
    if choice.name == "reference":
        return {}
    plain = converted(probe.potential, "float64")
    use_backend(plain, "reference")
    prediction = _predict(plain, probe.atoms)
    value = max(probe.relative_energy(prediction.energy), probe.relative(prediction.forces))
    return {"backend": Check(value, "relative", ROUNDING, f"E and F of backend {choice.name} are those of plain torch")}
