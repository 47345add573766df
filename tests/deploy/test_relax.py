"""Relaxation: known minima, known pressures, and honest results."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from scipy.optimize import minimize_scalar

from equipot.deploy.ase_calculator import EquipotCalculator
from equipot.deploy.options import RelaxOptions
from equipot.deploy.relaxation import relax
from equipot.errors import EquipotError
from equipot.units import GPA


def pair_energy(pair, r):
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [r, 0, 0]])
    atoms.calc = EquipotCalculator(pair)
    return atoms.get_potential_energy()


def crystal_energy(pair, a, pressure=0.0):
    atoms = bulk("Ar", "fcc", a=a)
    atoms.calc = EquipotCalculator(pair)
    return atoms.get_potential_energy() + pressure / GPA * atoms.get_volume()


@pytest.mark.parametrize("optimiser", ["bfgs", "lbfgs", "fire"])
def test_dimer_finds_the_bottom_of_the_curve(pair, optimiser):
    bottom = minimize_scalar(
        lambda r: pair_energy(pair, r), bounds=(2.0, 3.0), options={"xatol": 1e-8}, method="bounded"
    )
    start = Atoms("Ar2", positions=[[0, 0, 0], [2.5, 0.3, 0.1]])
    result = relax(pair, start, RelaxOptions(optimiser=optimiser, fmax=1e-5, steps=300))
    assert result.status == "converged"
    assert result.atoms.get_distance(0, 1) == pytest.approx(bottom.x, abs=1e-5)
    assert result.energies[-1] == pytest.approx(bottom.fun, abs=1e-9)
    assert result.energies[0] > result.energies[-1]
    assert result.fmax <= 1e-5
    assert f"converged after {result.steps} steps" in result.message
    assert np.isnan(result.pressure)
    assert start.positions[1, 1] == 0.3


@pytest.mark.parametrize(("cell", "pressure"), [("full", 0.0), ("isotropic", 0.0), ("isotropic", 15.0), ("full", -2.0)])
def test_crystal_finds_its_lattice_constant(pair, cell, pressure):
    """The minimum of the enthalpy E + p V, found by scanning the lattice constant."""
    best = minimize_scalar(
        lambda a: crystal_energy(pair, a, pressure), bounds=(3.0, 3.8), options={"xatol": 1e-8}, method="bounded"
    ).x
    start = bulk("Ar", "fcc", a=3.3, cubic=True)
    start.rattle(0.02, seed=1)
    result = relax(pair, start, RelaxOptions(cell=cell, pressure=pressure, fmax=1e-4))
    assert result.status == "converged"
    np.testing.assert_allclose(result.atoms.cell.lengths(), best, atol=2e-4)
    np.testing.assert_allclose(result.atoms.cell.angles(), 90, atol=0.02)
    assert result.pressure == pytest.approx(pressure, abs=0.02)


def test_masked_strain_leaves_the_other_directions(pair):
    start = bulk("Ar", "fcc", a=3.3, cubic=True)
    mask = (False, False, True, False, False, False)
    result = relax(pair, start, RelaxOptions(cell="full", mask=mask, fmax=1e-3))
    lengths = result.atoms.cell.lengths()
    np.testing.assert_allclose(lengths[:2], 3.3, atol=1e-10)
    assert lengths[2] > 3.32
    stress = result.atoms.get_stress()
    assert abs(stress[2]) < 1e-3 < abs(stress[0])


def test_constant_volume_changes_the_shape_only(pair):
    start = bulk("Ar", "fcc", a=3.5, cubic=True)
    start.set_cell(np.diag([3.7, 3.5, 3.3]), scale_atoms=True)
    result = relax(pair, start, RelaxOptions(cell="constant-volume", fmax=1e-3))
    assert result.status == "converged"
    assert result.atoms.get_volume() == pytest.approx(start.get_volume(), rel=1e-4)
    assert np.ptp(result.atoms.cell.lengths()) < 0.02


def test_fixed_cell_and_constraints_hold(pair, crystal):
    crystal.set_constraint(FixAtoms([3, 4]))
    result = relax(pair, crystal, RelaxOptions(fmax=1e-3))
    assert result.status == "converged"
    assert np.array_equal(result.atoms.cell.array, crystal.cell.array)
    assert np.array_equal(result.atoms.positions[[3, 4]], crystal.positions[[3, 4]])
    forces = result.atoms.get_forces()
    assert np.linalg.norm(forces, axis=1).max() <= 1e-3
    assert np.linalg.norm(result.atoms.get_forces(apply_constraint=False), axis=1).max() > 1e-3


def test_out_of_steps_is_said(pair, crystal):
    result = relax(pair, crystal, RelaxOptions(fmax=1e-6, steps=2))
    assert result.status == "not converged"
    assert result.steps == 2
    assert "not converged after 2 steps" in result.message
    assert len(result.energies) == 3
    assert result.fmax == pytest.approx(np.linalg.norm(result.atoms.get_forces(), axis=1).max())


def test_real_model_goes_downhill(potential, triclinic):
    result = relax(potential, triclinic, RelaxOptions(steps=15, cell="full", fmax=1e-6, min_distance_fraction=0.0))
    assert result.energies[-1] < result.energies[0]
    triclinic.calc = EquipotCalculator(potential)
    assert result.energies[0] == triclinic.get_potential_energy()


@pytest.mark.parametrize("name", ["steps.traj", "steps.extxyz"])
def test_trajectory_has_every_step(pair, molecule, tmp_path, name):
    seen = []
    (tmp_path / name).write_text("old rubbish")
    result = relax(
        pair, molecule, RelaxOptions(fmax=1e-3), trajectory=tmp_path / name, progress=lambda *row: seen.append(row)
    )
    frames = ase.io.read(tmp_path / name, index=":")
    assert len(frames) == len(result.energies) == result.steps + 1 == len(seen)
    np.testing.assert_allclose([frame.get_potential_energy() for frame in frames], result.energies, atol=1e-7)
    assert [row[0] for row in seen] == list(range(result.steps + 1))
    np.testing.assert_allclose(frames[-1].positions, result.atoms.positions, atol=1e-7)


def test_structure_that_leaves_what_training_saw(careful_pair):
    """60 GPa push the atoms closer than 2.15 Å, the shortest distance of this potential's training."""
    start = bulk("Ar", "fcc", a=3.3)
    limits = {"cell": "isotropic", "pressure": 60.0, "min_distance_fraction": 1.0}
    result = relax(careful_pair, start, RelaxOptions(**limits))
    assert result.status == "failed"
    assert "less than 1 × the shortest distance in training (2.150 Å)" in result.message
    assert result.atoms.cell.cellpar()[0] > 2.15
    assert len(result.energies) == result.steps + 1


def test_a_mad_start_is_refused(careful_pair):
    start = Atoms("Ar3", positions=[[0, 0, 0], [2.16, 0, 0], [4.3, 0.0, 0]])
    with pytest.raises(EquipotError, match=r"the start is not sane: atoms \d \(Ar\) and \d \(Ar\) are 2\.14"):
        relax(careful_pair, start, RelaxOptions(min_distance_fraction=1.0))


def test_convergence_uphill_is_no_success(pair):
    """Beyond the inflection point L-BFGS jumps over the minimum, out to where no force is left."""
    start = Atoms("Ar2", positions=[[0, 0, 0], [2.9, 0.3, 0.1]])
    result = relax(pair, start, RelaxOptions(optimiser="lbfgs", fmax=1e-5))
    assert result.energies[-1] > result.energies[0]
    assert result.status == "failed"
    assert "higher in energy than the start" in result.message


def test_bad_requests(pair, molecule, triclinic):
    with pytest.raises(EquipotError, match="no atoms"):
        relax(pair, Atoms())
    with pytest.raises(EquipotError, match="has Xe, which the potential does not know"):
        relax(pair, Atoms("Xe"))
    for pbc in (False, (True, True, False)):
        triclinic.pbc = pbc
        with pytest.raises(EquipotError, match=r"cell='full' needs three periodic directions.*molecule or a slab"):
            relax(pair, triclinic, RelaxOptions(cell="full"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fmx": 0.1}, r"unknown option 'fmx'. Did you mean 'fmax'\?"),
        ({"pressure": 1.0}, "pressure and mask act on the cell"),
        ({"cell": "isotropic", "mask": (True,) * 6}, "mask goes with cell='full' only"),
        ({"cell": "full", "mask": (False,) * 6}, "mask lets nothing relax"),
        ({"optimiser": "newton"}, "optimiser = 'newton': Input should be 'bfgs', 'lbfgs' or 'fire'"),
    ],
)
def test_bad_options(values, message):
    with pytest.raises(EquipotError, match=message):
        RelaxOptions(**values)
