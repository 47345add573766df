"""The configuration of a training run: read once, validated, frozen, and written out as it was understood."""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from equipot.baseline_options import BaselineOptions, check_baseline, opened_baseline
from equipot.config_paths import Raw, map_paths, with_absolute_paths
from equipot.data.options import DataOptions
from equipot.deploy.options import MDOptions
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.fit.linear.options import LinearFitOptions
from equipot.fit.options import FitOptions
from equipot.interactions import radial_choice
from equipot.kernels.backend import check_name
from equipot.linear_config import check_linear, prepare_linear, prepare_linear_run
from equipot.points import named_point
from equipot.start_options import FINE_TUNING_LR, StartOptions, check_reference, is_resolved, opened, start_options
from equipot.yaml_file import parse_yaml, read_yaml, yaml_problem

FIRST_MODEL: dict[str, Any] = {"name": "mace", "channels": 32, "max_L": 1, "max_ell": 2, "correlation": 2}
"""The design where none is named: small enough for a few minutes on a laptop."""

FIRST_LINEAR: dict[str, Any] = {"name": "ace_linear"}
"""The design of a linear fit where none is named."""

FIRST_DYNAMICS: dict[str, Any] = {"steps": 2000}
"""Where the molecular dynamics after training differs from `MDOptions`."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunOptions(_Section):
    """What does not change the function that is learned, and how a run is called."""

    title: str | None = Field(None, description="heading of the report; default: name of the run folder")
    seed: int = Field(0, ge=0, description="seed of the initial weights, and of split and data order if not given")
    device: str = Field("auto", description="cpu, cuda, cuda:1 …; auto: a GPU if there is one")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of the model")
    radial: str = Field(
        "auto",
        description="radial functions: exact, or spline:KNOTS, interpolated from so many knots; auto: what the model "
        "to start from has, for new ones splines in float32 where they are faster",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; default: one or all, whichever is faster")
    backend: Annotated[str, AfterValidator(check_name)] = Field(
        "auto", description="how operations are evaluated: reference, cpu, triton, cuequivariance; auto: the fastest"
    )

    @field_validator("radial")
    @classmethod
    def _known(cls, value: str) -> str:
        return value if value == "auto" else radial_choice(value)


class ScanOptions(_Section):
    """A path of structures with reference energies, compared after training."""

    file: str = Field(description="structures with reference energies, in any order")
    x: str = Field(description="key of what is scanned, such as gamma")
    group: str | None = Field(None, description="key that tells several paths apart, such as plane")
    unit: str = Field("°", description="unit of x, for the axis")


class DynamicsOptions(_Section):
    """The molecular dynamics after training: what it starts from, and the options of `MDOptions`."""

    structure: str | None = Field(None, description="file to start from; default: the validation structures")
    index: int = Field(-1, description="number of the structure in the file or set, from 0; -1 is the last")
    max_minutes: float = Field(2.0, gt=0, description="fewer steps are taken where all would take longer")
    options: MDOptions = Field(default_factory=lambda: MDOptions(**FIRST_DYNAMICS), description="the simulation")


class DesignChoice(_Section):
    """A named point with some axes changed."""

    name: str
    design: Design


class Config(_Section):
    """Everything that decides a training run, or a linear fit where it has a section `linear`."""

    data: DataOptions
    design: DesignChoice
    start: StartOptions | None = None
    baseline: BaselineOptions | None = None
    fit: FitOptions = Field(default_factory=FitOptions)
    linear: LinearFitOptions | None = None
    run: RunOptions = Field(default_factory=RunOptions)
    md: DynamicsOptions | None = Field(default_factory=DynamicsOptions)
    scan: ScanOptions | None = None

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], settings: Sequence[str] = (), *, linear: bool = False) -> "Config":
        """Reads a YAML file; paths in it are relative to its folder.

        Args:
            path: The file.
            settings: ``key=value`` with dotted keys and YAML values, applied on top; their paths are relative to
                the working directory.
            linear: Give it a section `linear` where it has none.

        Raises:
            EquipotError: The file is missing or not YAML, a key is unknown, or a value is not allowed.
        """
        path = Path(path)
        raw = with_absolute_paths(read_yaml(path), path.resolve().parent)
        return cls.from_dict(raw, settings, str(path), linear=linear)

    @classmethod
    def from_files(
        cls, files: Iterable[str | os.PathLike[str]], settings: Sequence[str] = (), *, linear: bool = False
    ) -> "Config":
        """Returns the configuration for a first model from files of structures.

        Args:
            files: Training files.
            settings: As for `from_yaml`.
            linear: Likewise.
        """
        raw = {"data": {"train": [str(Path(file).resolve()) for file in files]}}
        return cls.from_dict(raw, settings, "the command line", linear=linear)

    @classmethod
    def from_dict(
        cls, raw: Mapping[str, Any], settings: Sequence[str] = (), source: str = "config", *, linear: bool = False
    ) -> "Config":
        """Returns the configuration that nested dictionaries describe; see `from_yaml`."""
        merged = _merged(raw, with_absolute_paths(parse_settings(settings), Path.cwd()))
        _check_keys(merged, SECTIONS, "", source)
        if not isinstance(merged.get("data"), dict):
            raise EquipotError(f"{source}: there is no section 'data'; write data: {{train: my.extxyz}}.")
        is_linear = linear or merged.get("linear") not in (None, False)
        given = {key: _mapping(merged.get(key), key, source) for key in ("data", "fit", "run")}
        if is_linear:
            prepare_linear(merged, source)
        start, design = _start(merged, FIRST_LINEAR if is_linear else FIRST_MODEL, source)
        if is_linear:
            prepare_linear_run(given["run"], start, source)
        elif start is not None:
            given["fit"].setdefault("lr", FINE_TUNING_LR)
            given["fit"].setdefault("keep_start", True)
        if start is None and not merged.get("baseline") and design.design.energy_reference == "least_squares":
            given["data"].setdefault("atomic_energies", "least_squares")
        run = _section(RunOptions, "run", given["run"], source)
        seed = {"seed": run.seed}
        data = _section(DataOptions, "data", seed | given["data"], source)
        if start is not None:
            check_reference(start, data, source)
        weights = _linear(merged.get("linear"), seed, source) if is_linear else None
        baseline = _baseline(merged.get("baseline"), data, source)
        check_linear(weights, start, baseline, design.design, source)
        return cls(
            data=data,
            design=design,
            start=start,
            baseline=baseline,
            fit=_section(FitOptions, "fit", seed | given["fit"], source),
            linear=weights,
            run=run,
            md=_dynamics(merged.get("md", {}), source),
            scan=None if not merged.get("scan") else _section(ScanOptions, "scan", merged["scan"], source),
        )

    @property
    def work(self) -> str:
        """What finds the weights: training or fit."""
        return "training" if self.linear is None else "fit"

    def as_dict(self) -> Raw:
        """Returns nested dictionaries of plain values, from which `from_dict` makes the same configuration."""
        md = False if self.md is None else _flat(self.md.model_dump(mode="json"), "options")
        weights = {"fit": self.fit} if self.linear is None else {"linear": self.linear}
        return {
            "data": self.data.model_dump(mode="json"),
            "design": _flat(self.design.model_dump(mode="json"), "design"),
            "start": None if self.start is None else self.start.model_dump(mode="json"),
            "baseline": None if self.baseline is None else self.baseline.model_dump(mode="json"),
            **{name: options.model_dump(mode="json") for name, options in weights.items()},
            "run": self.run.model_dump(mode="json"),
            "md": md,
            "scan": None if self.scan is None else self.scan.model_dump(mode="json"),
        }

    def to_yaml(self) -> str:
        """Returns the resolved configuration: every key, paths absolute."""
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True, width=100)

    def portable(self) -> Raw:
        """Returns `as_dict` with file names instead of paths, to go into a model file."""
        return map_paths(self.as_dict(), lambda path: Path(path).name)


SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataOptions, "design": Design, "start": StartOptions, "baseline": BaselineOptions, "fit": FitOptions,
    "linear": LinearFitOptions, "run": RunOptions, "md": DynamicsOptions, "scan": ScanOptions,
}  # fmt: skip
"""The sections of a configuration and the models that describe their keys."""


def parse_settings(settings: Sequence[str]) -> Raw:
    """Returns nested dictionaries of ``key=value`` settings.

    Raises:
        EquipotError: A setting has no ``=``, no section, or a value that is not YAML.
    """
    raw: Raw = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise EquipotError(f"--set {setting}: write section.key=value, for example --set fit.max_epochs=10.")
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            raise EquipotError(f"--set {setting}: the value is not YAML ({yaml_problem(error)}).") from None
        for part in reversed(parts):
            value = {part: value}
        raw = _merged(raw, value)
    return raw


_SHORT = {"design": "name", "start": "model", "baseline": "model"}
"""Sections that may be one word, and the key that it stands for."""


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Raw:
    """Returns `below` with the entries of `above` put in, dictionaries entry by entry; an empty one empties."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, str) and key in _SHORT:
            old = {_SHORT[key]: old}
        if isinstance(old, Mapping) and isinstance(value, Mapping) and value:
            value = _merged(old, value)
        merged[key] = value
    return merged


def _check_keys(raw: Mapping[str, Any], known: Iterable[str], prefix: str, source: str) -> None:
    known = list(known)
    for key in raw:
        if key not in known:
            raise EquipotError(f"{source}: {unknown_key(str(key), known, prefix)}")


def unknown_key(key: str, known: Sequence[str], prefix: str = "") -> str:
    """Returns a sentence that names an unknown key, and the nearest known one or else all of them."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = _elsewhere(key) or (f" Did you mean '{prefix}{near[0]}'?" if near else "")
    section = prefix.rstrip(".")
    if hint and section:
        return f"unknown key '{prefix}{key}'.{hint} `equipot options {section}` lists all keys."
    where = f"section '{section}'" if section else "a configuration"
    return f"unknown key '{prefix}{key}'.{hint} The keys of {where} are: {', '.join(known)}."


def _elsewhere(key: str) -> str:
    """Returns a hint to the section that has such a key."""
    for section, model in SECTIONS.items():
        if key in model.model_fields:
            return f" Did you mean '{section}.{key}'?"
    return ""


def _mapping(raw: Any, name: str, source: str) -> Raw:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise EquipotError(f"{source}: section '{name}' is {raw!r}; it needs keys and values.")
    return dict(raw)


def _section(model: type[BaseModel], name: str, raw: Any, source: str, prefix: str | None = None) -> Any:
    """Builds one section; every problem names the file and the dotted key."""
    values = _mapping(raw, name, source)
    _check_keys(values, model.model_fields, f"{name}.", source)
    try:
        return model(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join([name, *(str(part) for part in problem["loc"])])
        message = problem["msg"].removeprefix("Value error, ").removesuffix(".")
        if problem["type"] == "missing":
            raise EquipotError(f"{source}: '{key}' is missing; {_description(model, problem['loc'])}.") from None
        given = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
        raise EquipotError(f"{source}: {key}{given}: {message}.") from None
    except EquipotError as error:
        raise EquipotError(f"{source}: {_with_section(str(error), name, model)}") from None


def _with_section(message: str, name: str, model: type[BaseModel]) -> str:
    """Returns a message that says which section it is about."""
    if message.startswith(f"{name}."):
        return message
    return f"{name}.{message}" if message.split()[0] in model.model_fields else f"{name}: {message}"


def _description(model: type[BaseModel], location: Sequence[Any]) -> str:
    field = model.model_fields.get(str(location[0])) if location else None
    return field.description or "it is needed" if field else "it is needed"


def _design(raw: Any, first: Raw, source: str) -> DesignChoice:
    """Builds the design; without a name the axes change the first one."""
    values = {"name": raw} if isinstance(raw, str) else _mapping(raw, "design", source)
    if "name" not in values:
        values = {**first, **values}
    name = str(values.pop("name"))
    try:
        return DesignChoice(name=name, design=named_point(name, **values))
    except EquipotError as error:
        raise EquipotError(f"{source}: {error}") from None


def _start(merged: Raw, first: Raw, source: str) -> tuple[StartOptions | None, DesignChoice]:
    """Builds `start` and the design, which is that of the model where the training starts from one."""
    raw, design = start_options(merged.get("start")), merged.get("design")
    if raw is None or raw is False:
        return None, _design(design, first, source)
    start = _section(StartOptions, "start", raw, source)
    if is_resolved(start, design):
        return start, _design(design, first, source)
    start, name, own = opened(start, design, source)
    return start, DesignChoice(name=name, design=own)


def _linear(raw: Any, seed: Raw, source: str) -> LinearFitOptions:
    values = {} if raw in (None, True) else _mapping(raw, "linear", source)
    options: LinearFitOptions = _section(LinearFitOptions, "linear", seed | values, source)
    return options


def _baseline(raw: Any, data: DataOptions, source: str) -> BaselineOptions | None:
    if raw is None or raw is False:
        return None
    options = _section(BaselineOptions, "baseline", start_options(raw), source)
    check_baseline(options, data, source)
    return opened_baseline(options, source)


def _dynamics(raw: Any, source: str) -> DynamicsOptions | None:
    if raw is None or raw is False:
        return None
    values = {} if raw is True else _mapping(raw, "md", source)
    own = [key for key in DynamicsOptions.model_fields if key != "options"]
    _check_keys(values, [*own, *MDOptions.model_fields], "md.", source)
    options = {**FIRST_DYNAMICS, **{key: value for key, value in values.items() if key not in own}}
    chosen = {key: value for key, value in values.items() if key in own}
    return _section(DynamicsOptions, "md", {**chosen, "options": _section(MDOptions, "md", options, source)}, source)


def _flat(raw: Raw, inner: str) -> Raw:
    return {**{key: value for key, value in raw.items() if key != inner}, **raw[inner]}


def section_keys(section: str) -> dict[str, dict[str, Any]]:
    """Returns default and meaning of every key of a section."""
    models: dict[str, list[type[BaseModel]]] = {"md": [DynamicsOptions, MDOptions]}
    first_axes = {key: value for key, value in FIRST_MODEL.items() if key != "name"}
    values = {"design": first_axes, "md": FIRST_DYNAMICS}
    keys: dict[str, dict[str, Any]] = {}
    if section == "design":
        keys["name"] = {"default": FIRST_MODEL["name"], "meaning": "named point; `equipot design list` lists them"}
    for model in models.get(section, [SECTIONS[section]]):
        for key, field in model.model_fields.items():
            if (section, key) != ("md", "options"):
                default = "(needed)" if field.is_required() else field.get_default(call_default_factory=True)
                keys[key] = {"default": values.get(section, {}).get(key, default), "meaning": field.description or ""}
    return keys
