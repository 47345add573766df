"""Options of simulations and relaxations: validated values with errors that a user can act on."""

import difflib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from equipot.errors import EquipotError

Ensemble = Literal["nve", "langevin", "nose-hoover", "npt", "npt-cell"]
BAROSTATTED = ("npt", "npt-cell")


class _Options(BaseModel):
    """A frozen set of options; unknown names and impossible values raise `EquipotError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any) -> None:
        known = list(type(self).model_fields)
        unknown = [name for name in values if name not in known]
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise EquipotError(f"unknown option {unknown[0]!r}.{hint} The options are: {', '.join(known)}.")
        try:
            super().__init__(**values)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            raise EquipotError(f"{where} = {problem['input']!r}: {message}" if where else message) from None

    def replace(self, **values: Any) -> Any:
        """These options with some values changed, validated again."""
        return type(self)(**{**self.model_dump(), **values})


class MDOptions(_Options):
    """A molecular dynamics run.

    | ensemble | equations of motion | constant |
    |---|---|---|
    | nve | velocity Verlet | N, V, E |
    | langevin | Langevin, `friction` | N, V, T |
    | nose-hoover | Nosé–Hoover chain, `thermostat_time` | N, V, T |
    | npt | Martyna–Tobias–Klein, the cell breathes but keeps its shape | N, P, T |
    | npt-cell | Martyna–Tobias–Klein, lengths and angles of the cell move | N, P, T |
    """

    ensemble: Ensemble = Field("langevin", description="nve, langevin, nose-hoover, npt or npt-cell")
    temperature: float = Field(300.0, ge=0, allow_inf_nan=False, description="temperature, K (nve: of the start)")
    pressure: float = Field(0.0, allow_inf_nan=False, description="pressure of npt and npt-cell, GPa")
    timestep: float = Field(0.5, gt=0, le=100, description="time step, fs (0.5 with hydrogen, 1 to 2 without)")
    steps: int = Field(10_000, ge=0, description="number of time steps, those before a restart included")
    friction: float = Field(0.01, gt=0, description="friction of langevin, 1/fs")
    thermostat_time: float = Field(100.0, gt=0, description="time constant of the Nosé–Hoover chain, fs")
    barostat_time: float = Field(1000.0, gt=0, description="time constant of the barostat, fs")
    velocities: Literal["auto", "maxwell-boltzmann", "keep"] = Field(
        "auto",
        description="start from the structure's velocities if it has any, always draw new ones, or always keep",
    )
    seed: int = Field(0, ge=0, description="seed of the velocities and of Langevin's noise")
    log_interval: int = Field(10, ge=1, description="steps between rows of thermo.csv")
    trajectory_interval: int = Field(100, ge=1, description="steps between frames of the trajectory")
    restart_interval: int = Field(1000, ge=1, description="steps between restart files")
    trajectory: str = Field(
        "trajectory.extxyz", description="file name; its suffix (.extxyz, .xyz, .traj) says the format"
    )
    max_force: float = Field(100.0, gt=0, description="stop above this force on one atom, eV/Å")
    max_temperature: float | None = Field(
        None, gt=0, description="stop above this temperature, K (default: 5 × temperature, at least 3000)"
    )
    min_distance_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="stop when two atoms are closer than this fraction of training's shortest distance",
    )

    @field_validator("trajectory")
    @classmethod
    def _known_format(cls, name: str) -> str:
        if not name.endswith((".extxyz", ".xyz", ".traj")) or "/" in name:
            raise ValueError("give a plain file name that ends in .extxyz, .xyz or .traj")
        return name

    @model_validator(mode="after")
    def _needs_temperature(self) -> "MDOptions":
        if self.ensemble in ("nose-hoover", *BAROSTATTED) and self.temperature == 0:
            raise ValueError(f"ensemble {self.ensemble!r} needs a temperature above 0 K; for 0 K relax instead")
        return self

    @property
    def temperature_limit(self) -> float:
        """The temperature above which the run counts as exploded, K."""
        return self.max_temperature or max(5.0 * self.temperature, 3000.0)


class RelaxOptions(_Options):
    """A relaxation to the next minimum of the energy, or of the enthalpy when the cell is under pressure."""

    optimiser: Literal["bfgs", "lbfgs", "fire"] = Field(
        "bfgs", description="bfgs, lbfgs (large systems) or fire (robust)"
    )
    fmax: float = Field(0.01, gt=0, description="converged when no force is larger, eV/Å (cell: the same on strains)")
    steps: int = Field(500, ge=0, description="greatest number of steps")
    cell: Literal["fixed", "full", "isotropic", "constant-volume"] = Field(
        "fixed",
        description="what the cell may do: nothing, everything, breathe, or change shape at constant volume",
    )
    mask: tuple[bool, bool, bool, bool, bool, bool] | None = Field(
        None, description="strains that may relax with cell=full, order xx yy zz yz xz xy"
    )
    pressure: float = Field(0.0, allow_inf_nan=False, description="external pressure, GPa")
    max_force: float = Field(1000.0, gt=0, description="give up above this force, eV/Å")
    min_distance_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="give up when two atoms are closer than this fraction of training's shortest distance",
    )

    @model_validator(mode="after")
    def _cell_options(self) -> "RelaxOptions":
        if self.cell == "fixed" and (self.pressure != 0 or self.mask is not None):
            raise ValueError("pressure and mask act on the cell: set cell='full' (or isotropic), or leave them out")
        if self.mask is not None and self.cell != "full":
            raise ValueError(f"mask goes with cell='full' only, not with cell={self.cell!r}")
        if self.mask is not None and not any(self.mask):
            raise ValueError("mask lets nothing relax: use cell='fixed'")
        return self
