"""Every choice about data, as one frozen and validated value."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from ase.data import atomic_numbers, chemical_symbols
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from equipot.errors import EquipotError

ENERGY_MODES = ("auto", "isolated_atoms", "least_squares", "mean_shift")
"""How the energies E0 of the isolated atoms are found, where no table or file gives them."""

KeyLabel = Literal["energy", "forces", "stress", "virial"]


def _as_tuple(value: Any) -> Any:
    """One name or path stands for a list of one."""
    if isinstance(value, str | Path):
        return (str(value),)
    if isinstance(value, list | tuple):
        return tuple(str(v) if isinstance(v, Path) else v for v in value)
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


class Indices(BaseModel):
    """A split by given structures.

    Each is a number, counted from 0 over all training files in order, or a name such as ``train.xyz#12``; a string
    is a file: JSON (a list, or an object with "valid"), or one entry per line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    indices: str | tuple[int | str, ...] = Field(description="structures for validation")
    train_indices: str | tuple[int | str, ...] | None = Field(
        None, description="structures for training; default: all others"
    )


class Keys(BaseModel):
    """Names under which files give the labels: "auto", "none" (do not read it), or names in order of preference."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: Names = ("auto",)
    forces: Names = ("auto",)
    stress: Names = ("auto",)
    virial: Names = ("auto",)

    def of(self, label: str) -> tuple[str, ...]:
        """Returns the names for one label."""
        return getattr(self, label)


class DataOptions(BaseModel):
    """Which structures to learn from, what their labels are called, and how they are split and weighted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Names = Field(description="training file or files: anything that ASE reads, compressed or not")
    valid: float | Indices | Names = Field(
        0.1,
        description="validation: a fraction of the training structures, a file or files, or {indices: file or list}",
    )
    tests: dict[str, Names] = Field(default_factory=dict, description="test sets: name and file or files")
    energy_key: Names = Field(("auto",), description="key of the energy; auto, none, or names in order of preference")
    forces_key: Names = Field(("auto",), description="key of the forces; none for data that have energies only")
    stress_key: Names = Field(("auto",), description="key of the stress, eV/Å³, tension positive")
    virial_key: Names = Field(("auto",), description="key of the virial −V σ, eV, used where there is no stress")
    atomic_energies: dict[str, float] | str = Field(
        "auto",
        description="E0s: {symbol: eV}, a file of isolated atoms, isolated_atoms, least_squares, mean_shift, or auto "
        "(isolated atoms where the data have them, else least squares)",
    )
    config_type_weights: dict[str, float] = Field(
        default_factory=dict, description="factor on the weight of each config_type; 'Default' is for those not named"
    )
    seed: int = Field(0, ge=0, description="seed of the random split")

    def __init__(self, **values: Any):
        unknown = [name for name in values if name not in type(self).model_fields]
        if unknown:
            raise EquipotError(_unknown_option(unknown[0]))
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise EquipotError(_first_problem(error)) from None

    @property
    def keys(self) -> Keys:
        """The names of the four labels."""
        return Keys(energy=self.energy_key, forces=self.forces_key, stress=self.stress_key, virial=self.virial_key)

    @field_validator("valid", mode="before")
    @classmethod
    def _number_in_words(cls, value: Any) -> Any:
        """A number written as text is a fraction, not the name of a file."""
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                return value
        return value

    @field_validator("valid")
    @classmethod
    def _fraction(cls, value: Any) -> Any:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError(
                "a validation fraction lies between 0 and 1 (0.1 is 10 % of the structures); for a number of "
                "structures divide it by their count, or give a file or {indices: [...]}"
            )
        return value

    @field_validator("tests", mode="before")
    @classmethod
    def _named_tests(cls, value: Any) -> Any:
        """Files without names are named after themselves."""
        if isinstance(value, dict):
            return value
        names = _as_tuple(value)
        return _named_after_files(names) if isinstance(names, tuple) else value

    @field_validator("atomic_energies", mode="before")
    @classmethod
    def _by_symbol(cls, value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        if not isinstance(value, dict):
            return value
        return {_symbol(key): energy for key, energy in value.items()}

    @field_validator("atomic_energies")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        bad = [k for k, v in value.items() if v != v or abs(v) == float("inf")] if isinstance(value, dict) else []
        if bad:
            raise ValueError(f"the E0 of {bad[0]} is {value[bad[0]]}; give the energy of the isolated atom in eV")
        return value

    @field_validator("config_type_weights", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any) -> Any:
        """A config_type such as 300 is a name."""
        return {str(key): weight for key, weight in value.items()} if isinstance(value, dict) else value

    @field_validator("config_type_weights")
    @classmethod
    def _not_negative(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"the weight of config_type '{name}' is {weight}; weights are finite and ≥ 0")
        return value


def _named_after_files(paths: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Names each test set after its file, with the folder where that would be a name twice or "train" or "valid"."""
    stems = [Path(path).name.split(".")[0] for path in paths]
    taken = [*stems, "train", "valid"]
    return {
        stem if taken.count(stem) == 1 else f"{Path(path).absolute().parent.name}_{stem}": (path,)
        for path, stem in zip(paths, stems, strict=True)
    }


def _symbol(key: Any) -> str:
    """Returns the chemical symbol of a key that may be one or an atomic number."""
    text = str(key).strip()
    if text.isdigit() and 0 < int(text) < len(chemical_symbols):
        return chemical_symbols[int(text)]
    if text in atomic_numbers and text != "X":
        return text
    if isinstance(key, bool):
        raise ValueError(f"YAML read a chemical symbol as {key}; put it in quotes, such as 'No'")
    near = difflib.get_close_matches(text.capitalize(), chemical_symbols[1:], n=1, cutoff=0.5)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise ValueError(f"'{text}' is not a chemical symbol or atomic number{hint}")


def _unknown_option(name: str) -> str:
    fields = list(DataOptions.model_fields)
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.4)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"data.{name} is not an option.{hint} Options: {', '.join(fields)}."


def _first_problem(error: ValidationError) -> str:
    """Says what was given and what is allowed, without pydantic's branches of a union."""
    problem = error.errors()[0]
    where = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "missing":
        return f"data.{where} is missing. Allowed: {_allowed(where)}."
    if problem["type"] == "value_error":
        given = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
        return f"data.{where}{given}: {problem['msg'].removeprefix('Value error, ')}."
    return f"data.{where} = {problem['input']!r} is not allowed. Allowed: {_allowed(where)}."


def _allowed(name: str) -> str:
    return DataOptions.model_fields[name].description or name
