"""Molecular dynamics: the physics of each ensemble, exact restarts, and runs that know when to stop."""

import re

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms

from equipot.deploy import md_files
from equipot.deploy.ase_calculator import EquipotCalculator
from equipot.deploy.integrators import degrees_of_freedom, draw_velocities
from equipot.deploy.md import energy_drift, run_md
from equipot.deploy.md_files import read_thermo
from equipot.deploy.options import MDOptions, RelaxOptions
from equipot.deploy.relaxation import relax
from equipot.errors import EquipotError
from equipot.units import GPA

QUICK = {"timestep": 2.0, "log_interval": 1, "trajectory_interval": 10, "temperature": 300.0}
ENSEMBLES = ("nve", "langevin", "nose-hoover", "npt", "npt-cell")


def options(**values):
    return MDOptions(**{**QUICK, **values})


# -------------------------------------------------------------------------------------------------- the ensembles


def test_nve_conserves_energy_and_momentum(pair, crystal, tmp_path):
    result = run_md(pair, crystal, options(ensemble="nve", steps=300), tmp_path / "md")
    assert result.status == "finished"
    assert result.step == 300
    fluctuation = np.ptp(result.total_energies)
    assert fluctuation < 2e-4 < 0.02 < np.ptp(result.potential_energies)
    momentum = result.atoms.get_momenta()
    assert np.abs(momentum.sum(axis=0)).max() < 1e-10 * np.abs(momentum).sum()
    np.testing.assert_allclose(result.total_energies, result.potential_energies + result.kinetic_energies, atol=1e-10)


def test_nve_error_is_of_second_order(pair, crystal, tmp_path):
    """Velocity Verlet: half the time step, a quarter of the fluctuation of the energy."""
    spread = []
    for timestep in (4.0, 2.0):
        run = options(ensemble="nve", timestep=timestep, steps=round(240 / timestep))
        spread.append(run_md(pair, crystal, run, tmp_path / f"{timestep}").total_energies.std())
    assert 3.2 < spread[0] / spread[1] < 4.8


def test_nve_of_a_molecule_keeps_angular_momentum(pair, molecule, tmp_path):
    result = run_md(pair, molecule, options(ensemble="nve", steps=100, timestep=1.0), tmp_path / "md")
    r = result.atoms.positions - result.atoms.get_center_of_mass()
    p = result.atoms.get_momenta()
    assert np.abs(np.cross(r, p).sum(axis=0)).max() < 1e-9 * np.abs(p).sum() < 1e-6
    assert np.isnan(result.columns["pressure_GPa"]).all()


@pytest.mark.parametrize("ensemble", ["langevin", "nose-hoover"])
def test_thermostats_reach_the_temperature(pair, crystal, tmp_path, ensemble):
    """From 100 K to 300 K; the mean over the second half, within its statistical error (96 directions)."""
    draw_velocities(crystal, 100.0, np.random.default_rng(3))
    run = options(ensemble=ensemble, steps=900, timestep=3.0, friction=0.02, thermostat_time=60.0)
    temperatures = run_md(pair, crystal, run, tmp_path / "md").temperatures
    assert temperatures[0] == pytest.approx(100.0, rel=0.05)
    assert temperatures[300:].mean() == pytest.approx(300.0, rel=0.06)
    assert 0.06 < temperatures[300:].std() / 300.0 < 0.25


@pytest.mark.parametrize("ensemble", ["nose-hoover", "npt", "npt-cell"])
def test_extended_energy_is_conserved(pair, crystal, tmp_path, ensemble):
    run = options(ensemble=ensemble, steps=150, timestep=1.0, thermostat_time=50.0, barostat_time=200.0, pressure=1.0)
    columns = run_md(pair, crystal, run, tmp_path / "md").columns
    conserved, total = columns["conserved_energy_eV"], columns["total_energy_eV"]
    assert np.ptp(conserved) < 0.02 * np.ptp(total)
    assert np.ptp(total) > 0.05


def test_overflowing_barostat_is_an_explosion(pair, crystal, tmp_path):
    run = options(ensemble="npt-cell", steps=300, pressure=1000.0, barostat_time=20.0)
    result = run_md(pair, crystal, run, tmp_path / "md")
    assert result.status == "exploded"
    assert np.isfinite(result.atoms.positions).all()


@pytest.mark.parametrize("ensemble", ["npt", "npt-cell"])
def test_pressure_squeezes_the_crystal(pair, crystal, tmp_path, ensemble):
    volumes = []
    for pressure in (0.0, 10.0):
        run = options(
            ensemble=ensemble,
            steps=300,
            temperature=100.0,
            pressure=pressure,
            thermostat_time=40.0,
            barostat_time=150.0,
        )
        columns = run_md(pair, crystal, run, tmp_path / f"{pressure}").columns
        volumes.append(columns["volume_A3"][150:].mean())
        assert columns["pressure_GPa"][150:].mean() == pytest.approx(pressure, abs=1.5)
    assert volumes[1] < 0.96 * volumes[0]


def test_isotropic_barostat_keeps_the_shape(pair, crystal, tmp_path):
    result = run_md(pair, crystal, options(ensemble="npt", steps=30, pressure=10.0), tmp_path / "md")
    np.testing.assert_allclose(result.atoms.cell.angles(), 90)
    assert np.ptp(result.atoms.cell.lengths()) < 1e-10
    assert result.atoms.get_volume() != pytest.approx(crystal.get_volume(), rel=1e-6)


def test_pressure_in_the_log_is_virial_and_ideal_gas(pair, crystal, tmp_path):
    columns = run_md(pair, crystal, options(ensemble="nve", steps=0), tmp_path / "md").columns
    crystal.calc = EquipotCalculator(pair)
    static = -crystal.get_stress()[:3].mean() * GPA
    gas = 32 * units.kB * 300.0 * (93 / 96) / crystal.get_volume() * GPA
    assert columns["pressure_GPa"][0] == pytest.approx(static + gas, rel=1e-6)


# ------------------------------------------------------------------------------------------------------ the start


def test_drawn_velocities(molecule, crystal):
    draw_velocities(molecule, 500.0, np.random.default_rng(0))
    p, r = molecule.get_momenta(), molecule.positions - molecule.get_center_of_mass()
    assert np.abs(p.sum(axis=0)).max() < 1e-12
    assert np.abs(np.cross(r, p).sum(axis=0)).max() < 1e-12
    assert degrees_of_freedom(molecule, conserving=True) == 6
    assert 2 * molecule.get_kinetic_energy() / (6 * units.kB) == pytest.approx(500.0)
    draw_velocities(crystal, 500.0, np.random.default_rng(0))
    assert degrees_of_freedom(crystal, conserving=True) == 93
    assert degrees_of_freedom(crystal, conserving=False) == 96


def test_drawn_velocities_are_maxwells():
    """Each direction has the variance m k_B T, heavy or light."""
    atoms = Atoms("CAr" * 1000, positions=np.random.default_rng(0).uniform(0, 50, (2000, 3)), cell=[50] * 3, pbc=True)
    draw_velocities(atoms, 300.0, np.random.default_rng(1))
    variance = (atoms.get_momenta() ** 2).mean(axis=1) / (atoms.get_masses() * units.kB * 300.0)
    assert variance[::2].mean() == pytest.approx(1.0, abs=0.06)
    assert variance[1::2].mean() == pytest.approx(1.0, abs=0.06)
    assert (
        (atoms.get_momenta()[::2, 0] ** 4).mean() / (atoms.get_momenta()[::2, 0] ** 2).mean() ** 2
    ) == pytest.approx(3.0, abs=0.5)


@pytest.mark.parametrize(
    ("atoms", "degrees"),
    [
        (Atoms("Ar"), 1),
        (Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]]), 1),
        (Atoms("CO2", positions=[[0, 0, 0], [0, 0, 1.1], [0, 0, -1.1]]), 4),
        (Atoms("CO2", positions=[[0, 0, 0], [0, 0, 1.1], [1, 0, -0.3]]), 3),
        (Atoms("CO2", positions=[[0, 0, 0], [0, 0, 1.1], [1, 0, -0.3]], cell=[9, 9, 9], pbc=[1, 1, 0]), 6),
    ],
)
def test_degrees_of_freedom(atoms, degrees):
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    assert degrees_of_freedom(atoms, conserving=True) == degrees


def test_moving_centre_of_mass_counts(crystal):
    draw_velocities(crystal, 300.0, np.random.default_rng(0))
    crystal.set_momenta(crystal.get_momenta() + 1.0)
    assert degrees_of_freedom(crystal, conserving=True) == 96


def test_fixed_atoms_stay(pair, crystal, tmp_path):
    crystal.set_constraint(FixAtoms([0, 5, 7]))
    for ensemble in ("nve", "langevin", "nose-hoover"):
        result = run_md(pair, crystal, options(ensemble=ensemble, steps=20), tmp_path / ensemble)
        moved = np.abs(result.atoms.positions - crystal.positions).max(axis=1)
        assert (moved[[0, 5, 7]] == 0).all()
        assert (np.delete(moved, [0, 5, 7]) > 1e-4).all()
        assert result.temperatures[0] == pytest.approx(300.0)


def test_velocities_of_the_structure_are_kept_unless_drawn(pair, crystal, tmp_path):
    draw_velocities(crystal, 77.0, np.random.default_rng(0))
    for velocities, expected in (("auto", 77.0), ("keep", 77.0), ("maxwell-boltzmann", 300.0)):
        run = options(ensemble="nve", steps=0, velocities=velocities)
        assert run_md(pair, crystal, run, tmp_path / velocities).temperatures[0] == pytest.approx(expected)


def test_the_given_structure_is_not_changed_and_seeds_matter(pair, crystal, tmp_path):
    before = crystal.copy()
    ends = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        ends.append(run_md(pair, crystal, options(steps=5, seed=seed), tmp_path / name).atoms.positions)
    assert crystal == before
    assert np.array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])


# ---------------------------------------------------------------------------------------------- restart and files


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_restart_equals_an_uninterrupted_run_bit_for_bit(pair, crystal, tmp_path, ensemble):
    run = options(ensemble=ensemble, steps=40, barostat_time=100.0, restart_interval=7)
    whole = run_md(pair, crystal, run, tmp_path / "whole")
    run_md(pair, crystal, run.replace(steps=17), tmp_path / "parts")
    parts = run_md(pair, None, run, tmp_path / "parts", restart=True)
    for name in ("positions", "cell"):
        assert np.array_equal(getattr(parts.atoms, name), getattr(whole.atoms, name))
    assert np.array_equal(parts.atoms.get_momenta(), whole.atoms.get_momenta())
    for name in (md_files.THERMO, "trajectory.extxyz"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class Killed(BaseException):
    """What nothing in a run catches."""


def kill_at(step, *arguments):
    """Starts a run and ends it in the report of a step."""

    def kill(row, _steps):
        if row.step == step:
            raise Killed

    with pytest.raises(Killed):
        run_md(*arguments, progress=kill)


def test_a_run_killed_in_its_first_steps_goes_on(pair, crystal, tmp_path):
    run = options(ensemble="langevin", steps=25, restart_interval=1000)
    whole = run_md(pair, crystal, run, tmp_path / "whole")

    kill_at(3, pair, crystal, run, tmp_path / "killed")
    again = run_md(pair, None, run, tmp_path / "killed", restart=True)
    assert np.array_equal(again.atoms.positions, whole.atoms.positions)
    for name in (md_files.THERMO, "trajectory.extxyz"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_frames_carry_no_labels_of_the_start_but_all_else(pair, crystal, tmp_path):
    """A label belongs to the positions that it was computed at."""
    start = crystal.copy()
    start.info |= {"REF_energy": -1.0, "dft_stress": np.eye(3), "name": "mine", "run": np.int64(31)}
    start.arrays["REF_forces"] = np.ones((len(start), 3))
    start.arrays["group"] = np.arange(len(start))
    run = options(steps=10, restart_interval=5)
    run_md(pair, start, run.replace(steps=5), tmp_path / "md")
    run_md(pair, None, run, tmp_path / "md", restart=True)
    relaxed = relax(pair, start, RelaxOptions(steps=2)).atoms
    for frame in [*ase.io.read(tmp_path / "md" / "trajectory.extxyz", ":"), relaxed]:
        assert not {"REF_energy", "dft_stress", "REF_forces"} & {*frame.info, *frame.arrays}
        assert (frame.info["name"], frame.info["run"]) == ("mine", 31)
        assert np.array_equal(frame.arrays["group"], start.arrays["group"])
    assert start.info["REF_energy"] == -1.0


def test_restart_after_a_kill_writes_nothing_twice(pair, crystal, tmp_path, monkeypatch):
    """Rows and frames later than the last restart file are taken back, half-written ones too."""
    run = options(ensemble="langevin", steps=25, restart_interval=8, trajectory_interval=3)
    whole = run_md(pair, crystal, run, tmp_path / "whole")

    kill_at(21, pair, crystal, run, tmp_path / "killed")
    with (tmp_path / "killed" / md_files.THERMO).open("a") as file:
        file.write("22,44.0,29")
    resumed = run_md(pair, crystal, run, tmp_path / "killed", restart=True)
    assert resumed.step == 25
    assert np.array_equal(resumed.atoms.positions, whole.atoms.positions)
    for name in (md_files.THERMO, "trajectory.extxyz"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_interrupt_leaves_a_run_that_goes_on(pair, crystal, tmp_path):
    run = options(ensemble="nose-hoover", steps=20, trajectory="t.traj", trajectory_interval=2)
    whole = run_md(pair, crystal, run, tmp_path / "whole")

    def interrupt(row, _steps):
        if row.step == 12:
            raise KeyboardInterrupt

    stopped = run_md(pair, crystal, run, tmp_path / "parts", progress=interrupt)
    assert stopped.status == "interrupted"
    assert stopped.step == 11
    assert "a restart goes on from there" in stopped.message
    resumed = run_md(pair, crystal, run, tmp_path / "parts", restart=True)
    assert np.array_equal(resumed.atoms.get_momenta(), whole.atoms.get_momenta())
    frames = [ase.io.read(tmp_path / name / "t.traj", index=":") for name in ("whole", "parts")]
    assert [frame.info["step"] for frame in frames[1]] == list(range(0, 21, 2))
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(*frames, strict=True))


@pytest.mark.parametrize("trajectory", ["md.traj", "md.xyz", "md.extxyz"])
def test_trajectory_holds_what_was_computed(pair, crystal, tmp_path, trajectory):
    result = run_md(pair, crystal, options(ensemble="nve", steps=20, trajectory=trajectory), tmp_path / "md")
    frames = ase.io.read(tmp_path / "md" / trajectory, index=":")
    assert len(frames) == 3
    last = frames[-1]
    assert last.info["step"] == 20
    assert last.info["time_fs"] == 40.0
    np.testing.assert_allclose(last.positions, result.atoms.positions, atol=1e-7)
    np.testing.assert_allclose(last.get_momenta(), result.atoms.get_momenta(), atol=1e-7)
    np.testing.assert_allclose(last.get_potential_energy() / 32, result.potential_energies[-1], atol=1e-7)
    np.testing.assert_allclose(last.get_stress(), result.atoms.get_stress(), atol=1e-7)
    assert last.pbc.all()


def test_log_is_a_table_with_units(pair, molecule, tmp_path):
    seen = []
    run = options(steps=30, log_interval=10, timestep=0.5)
    result = run_md(pair, molecule, run, tmp_path / "md", progress=lambda row, steps: seen.append((row.step, steps)))
    header = (tmp_path / "md" / "thermo.csv").read_text().splitlines()[0]
    assert header.startswith("step,time_fs,temperature_K,potential_energy_eV,kinetic_energy_eV,total_energy_eV")
    assert result.times.tolist() == [0, 5, 10, 15]
    assert seen == [(0, 30), (10, 30), (20, 30), (30, 30)]
    assert result.seconds_per_step > 0
    assert np.isnan(result.drift)  # Langevin conserves no energy


def test_drift_of_a_known_line():
    times = np.linspace(0, 2000.0, 50)
    energies = -700.0 + 3e-5 * times + 1e-4 * np.sin(times)
    assert energy_drift(times, energies, 10) == pytest.approx(3e-6 * 1e3 * 1e6, rel=0.01)
    assert np.isnan(energy_drift(times, np.full(50, np.nan), 10))
    assert np.isnan(energy_drift(times[:2], energies[:2], 10))


# ------------------------------------------------------------------------------------------------- when it stops


def test_explosion_is_said_and_the_last_sane_frame_kept(pair, crystal, tmp_path):
    """A time step of 40 fs throws the atoms into each other."""
    run = options(ensemble="nve", temperature=2500.0, timestep=40.0, steps=200, trajectory_interval=1000)
    result = run_md(pair, crystal, run, tmp_path / "md")
    assert result.status == "exploded"
    assert "the structure exploded at step" in result.message
    assert f"The last sane step is {result.step}" in result.message
    frames = ase.io.read(tmp_path / "md" / "trajectory.extxyz", index=":")
    assert frames[-1].info["step"] == result.step
    assert np.linalg.norm(frames[-1].get_forces(), axis=1).max() < run.max_force
    assert (tmp_path / "md" / "unstable.extxyz").exists()
    assert result.columns["step"].tolist() == list(range(result.step + 1))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_force": 1.0, "temperature": 900.0}, r"the force on atom \d+ \(Ar\) is .* above max_force = 1"),
        ({"max_temperature": 320.0}, r"the temperature is \d+ K, above 320 K"),
        ({"min_distance_fraction": 1.0}, r"atoms \d+ \(Ar\) and \d+ \(Ar\) are .* less than 1 × the shortest distance"),
    ],
)
def test_each_limit_has_its_words(careful_pair, crystal, tmp_path, limits, message):
    run = options(ensemble="langevin", friction=0.05, steps=400, **limits)
    result = run_md(careful_pair, crystal, run, tmp_path / "md")
    assert result.status == "exploded"
    assert re.search(message, result.message)


def test_a_mad_start_is_refused(pair, crystal, tmp_path):
    crystal.positions[1] = crystal.positions[0] + 0.4
    with pytest.raises(EquipotError, match=r"the start is not sane: the force on atom .*Relax the structure first"):
        run_md(pair, crystal, options(), tmp_path / "md")
    assert not (tmp_path / "md").exists()


def test_bad_requests(pair, crystal, molecule, tmp_path):
    folder = tmp_path / "md"
    with pytest.raises(EquipotError, match="needs a structure with atoms"):
        run_md(pair, Atoms(), options(), folder)
    with pytest.raises(EquipotError, match="has Xe, which the potential does not know"):
        run_md(pair, Atoms("Xe"), options(), folder)
    with pytest.raises(EquipotError, match="'npt' needs three periodic directions"):
        run_md(pair, molecule, options(ensemble="npt"), folder)
    crystal.set_constraint(FixAtoms([0]))
    with pytest.raises(EquipotError, match="'npt-cell' cannot hold constraints"):
        run_md(pair, crystal, options(ensemble="npt-cell"), folder)
    with pytest.raises(EquipotError, match=r"has no restart\.safetensors"):
        run_md(pair, crystal, options(), folder, restart=True)
    assert not folder.exists()


def test_an_ensemble_that_this_ase_lacks(pair, crystal, tmp_path, monkeypatch):
    monkeypatch.delattr("ase.md.nose_hoover_chain.MTKNPT")
    with pytest.raises(EquipotError, match=r"needs ASE ≥ 3\.26 \(MTKNPT\); installed is .*use langevin or nve"):
        run_md(pair, crystal, options(ensemble="npt-cell"), tmp_path / "md")


def test_bad_restarts(pair, crystal, molecule, tmp_path):
    folder = tmp_path / "md"
    run = options(steps=4)
    run_md(pair, crystal, run, folder)
    with pytest.raises(EquipotError, match="already holds a molecular dynamics run"):
        run_md(pair, crystal, run, folder)
    with pytest.raises(EquipotError, match=r"continued with other options \(timestep: 2\.0 → 1\.0; seed: 0 → 3\)"):
        run_md(pair, None, run.replace(timestep=1.0, seed=3, steps=9), folder, restart=True)
    with pytest.raises(EquipotError, match="made with another potential or in another dtype"):
        run_md(pair, None, run.replace(steps=9), folder, restart=True, dtype="float32")
    with pytest.raises(EquipotError, match=r"has Ar32, the given structure is C2O2"):
        run_md(pair, molecule, run.replace(steps=9), folder, restart=True)
    with pytest.raises(EquipotError, match=r"has 4 steps already and steps = 3"):
        run_md(pair, None, run.replace(steps=3), folder, restart=True)
    (folder / md_files.RESTART).write_bytes(b"nothing of the kind")
    with pytest.raises(EquipotError, match="is damaged or of another version"):
        run_md(pair, None, run, folder, restart=True)
    (folder / md_files.THERMO).write_text("a,b\n1,2\n")
    with pytest.raises(EquipotError, match="cannot be read as the log"):
        read_thermo(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temprature": 300}, r"unknown option 'temprature'. Did you mean 'temperature'\?"),
        ({"ensemble": "nvt"}, "ensemble = 'nvt': Input should be 'nve', 'langevin', 'nose-hoover'"),
        ({"timestep": 0}, "timestep = 0: Input should be greater than 0"),
        ({"temperature": -1}, "temperature = -1: Input should be greater than or equal to 0"),
        ({"trajectory": "out.pdb"}, "trajectory = 'out.pdb': give a plain file name"),
        ({"ensemble": "nose-hoover", "temperature": 0}, "needs a temperature above 0 K"),
    ],
)
def test_bad_options(values, message):
    with pytest.raises(EquipotError, match=message):
        MDOptions(**values)
