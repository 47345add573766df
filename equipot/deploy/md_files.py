"""The files of a molecular dynamics run: thermo.csv, the trajectory, and the restart file."""

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
import safetensors
import safetensors.numpy
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import dict2constraint

from equipot.deploy.integrators import MDState
from equipot.deploy.options import MDOptions
from equipot.errors import EquipotError
from equipot.files import write_atomically

THERMO = "thermo.csv"
RESTART = "restart.safetensors"
UNSTABLE = "unstable.extxyz"
_FREE_TO_CHANGE = (
    "steps", "velocities", "log_interval", "trajectory_interval", "restart_interval", "trajectory",
    "max_force", "max_temperature", "min_distance_fraction",
)  # fmt: skip
_INTERNAL = "internal."
_SIMPLE = (str, int, float, np.generic)
_ARRAY = "arrays."


class ThermoRow(NamedTuple):
    """One row of thermo.csv; the names carry the units, NaN stands where a quantity has no meaning."""

    step: int
    time_fs: float
    temperature_K: float
    potential_energy_eV: float
    kinetic_energy_eV: float
    total_energy_eV: float
    conserved_energy_eV: float
    pressure_GPa: float
    volume_A3: float
    max_force_eV_per_A: float
    min_distance_A: float


@dataclass(frozen=True)
class Restart:
    """What a restart file holds: the structure, the state, the options and who computed the forces.

    Args:
        atoms: elements, masses, cell, periodicity and constraints.
        state: state after its step.
        options: the options of the run so far.
        degrees: degrees of freedom of the kinetic energy.
        fingerprint: checksum of the potential's parameters.
        sizes: length in bytes of the log and of the trajectory when the restart file was written.
    """

    atoms: Atoms
    state: MDState
    options: MDOptions
    degrees: int
    fingerprint: str
    sizes: dict[str, int]


def write_thermo_header(folder: Path) -> None:
    """Start thermo.csv with its column names."""
    with (folder / THERMO).open("w", newline="") as file:
        csv.writer(file).writerow(ThermoRow._fields)


def append_thermo(folder: Path, row: ThermoRow) -> None:
    """Add a row; energies to 1e-10 eV, so that the drift of large systems can be read off."""
    cells = [str(row.step)]
    for name, value in list(row._asdict().items())[1:]:
        cells.append(f"{value:.10f}" if name.endswith("_eV") else f"{value:.8g}")
    with (folder / THERMO).open("a", newline="") as file:
        csv.writer(file).writerow(cells)


def read_thermo(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The columns of thermo.csv by name.

    Raises:
        EquipotError: there is no such file, or it has other columns.
    """
    path = Path(folder) / THERMO
    try:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        if tuple(rows[0]) != ThermoRow._fields:
            raise ValueError("its columns are others")
        whole = [row for row in rows[1:] if len(row) == len(rows[0])]
        values = np.array([[float(cell) for cell in row] for row in whole]).reshape(-1, len(rows[0]))
    except (OSError, ValueError, IndexError) as error:
        raise EquipotError(f"{path} cannot be read as the log of a molecular dynamics run: {error}") from error
    columns = dict(zip(ThermoRow._fields, values.T, strict=True))
    return columns | {"step": columns["step"].astype(int)}


def snapshot(atoms: Atoms, step: int, **info: float) -> Atoms:
    """A frame that carries its energies, forces, stress and momenta, and not the calculator."""
    results = {name: atoms.calc.results[name] for name in ("energy", "forces", "stress") if name in atoms.calc.results}
    frame = atoms.copy()
    frame.info = {**frame.info, "step": step, **info}
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def append_frame(path: Path, frame: Atoms) -> None:
    """Add a frame to a .traj or extxyz trajectory."""
    if path.suffix == ".traj":
        with ase.io.Trajectory(path, "a") as trajectory:
            trajectory.write(frame)
    else:
        ase.io.write(path, frame, format="extxyz", append=True)


def cut_back(folder: Path, restart: Restart) -> None:
    """Take away what was written after the restart file, so that nothing is there twice, or only half."""
    for name, size in restart.sizes.items():
        path = folder / name
        if not path.exists():
            continue
        if path.suffix == ".traj":
            _cut_back_traj(path, restart.state.step)
        elif path.stat().st_size > size:
            os.truncate(path, size)


def _cut_back_traj(path: Path, step: int) -> None:
    def copy(temporary: Path) -> None:
        with ase.io.Trajectory(path, "r") as old, ase.io.Trajectory(temporary, "w") as new:
            for frame in old:
                if frame.info["step"] <= step:
                    new.write(frame)

    write_atomically(path, copy)


def sizes(folder: Path, options: MDOptions) -> dict[str, int]:
    """Present lengths of the log and of the trajectory, bytes."""
    paths = [folder / THERMO, folder / options.trajectory]
    return {path.name: path.stat().st_size for path in paths if path.exists()}


def write_restart(folder: Path, restart: Restart) -> None:
    """Write the restart file, atomically."""
    atoms, state = restart.atoms, restart.state
    arrays = {
        "positions": state.positions,
        "momenta": state.momenta,
        "cell": state.cell,
        "pbc": atoms.pbc,
        **{_ARRAY + name: atoms.arrays[name] for name in _numeric(atoms)},
        **{_INTERNAL + name: value for name, value in state.internal.items()},
    }
    document = {
        "format_version": 1,
        "step": state.step,
        "degrees": restart.degrees,
        "fingerprint": restart.fingerprint,
        "sizes": restart.sizes,
        "options": restart.options.model_dump(mode="json"),
        "generator": state.generator,
        "arrays": _numeric(atoms),
        "info": {name: value for name, value in atoms.info.items() if isinstance(value, _SIMPLE)},
        "constraints": [constraint.todict() for constraint in atoms.constraints],
    }
    contiguous = {name: np.ascontiguousarray(value).reshape(np.shape(value)) for name, value in arrays.items()}
    text = json.dumps(document, default=_plain)
    content = safetensors.numpy.save(contiguous, metadata={"equipot_md": text})
    write_atomically(folder / RESTART, lambda temporary: temporary.write_bytes(content))


def read_restart(folder: Path) -> Restart:
    """Read the restart file of a run.

    Raises:
        EquipotError: there is none, or it is damaged.
    """
    path = folder / RESTART
    if not path.exists():
        raise EquipotError(f"{folder} has no {RESTART}: there is nothing to restart. Start the run without restart.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            document = json.loads(file.metadata()["equipot_md"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        atoms = Atoms(
            arrays[_ARRAY + "numbers"], positions=arrays["positions"], cell=arrays["cell"], pbc=arrays["pbc"],
            constraint=[dict2constraint(entry) for entry in document["constraints"]], info=document["info"],
        )  # fmt: skip
        for name in document["arrays"]:
            atoms.set_array(name, arrays[_ARRAY + name] if name != "positions" else arrays[name])
        internal = {name.removeprefix(_INTERNAL): value for name, value in arrays.items() if name.startswith(_INTERNAL)}
        state = MDState(
            document["step"],
            arrays["positions"],
            arrays["momenta"],
            arrays["cell"],
            internal,
            document["generator"],
        )
        return Restart(
            atoms, state, MDOptions(**document["options"]), document["degrees"], document["fingerprint"],
            document["sizes"],
        )  # fmt: skip
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise EquipotError(f"{path} is damaged or of another version ({error}): start the run anew.") from error


def refuse_changes(before: MDOptions, now: MDOptions, folder: Path) -> None:
    """A restart continues the same physics.

    Raises:
        EquipotError: names every option that differs and is not free to change.
    """
    old, new = before.model_dump(), now.model_dump()
    changed = [f"{k}: {old[k]} → {new[k]}" for k in old if k not in _FREE_TO_CHANGE and old[k] != new[k]]
    if changed:
        raise EquipotError(
            f"the run in {folder} cannot be continued with other options ({'; '.join(changed)}). Give the "
            "same ones, or start a new run from its last frame."
        )


def _numeric(atoms: Atoms) -> list[str]:
    """The names of the arrays of numbers, in their order."""
    return [name for name, values in atoms.arrays.items() if values.dtype.kind in "biuf"]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
