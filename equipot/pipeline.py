"""From a configuration to a checked potential: data, training, evaluation, a scan, dynamics, a report.

A run folder ends up with

    model.equipot      the best model, with its configuration and errors
    report.html        figures and tables
    config.yaml        the resolved configuration
    equipot.log        messages
    metrics.jsonl      one line for each validation
    data.json          what was found in the data, and the split
    errors.json        errors of every data set
    predictions/       references and predictions of every data set
    scan.json          energies along the scan
    md/                trajectory and log of the dynamics
    run.json           how the run went
    best.equipot, last.equipot, last.ckpt     models and checkpoint of the training

Once the model is there, nothing that fails takes it away: a failure is logged, noted in run.json and in the
report, and the next stage goes on.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ase
import torch

from equipot.config import Config
from equipot.data.check import check_species
from equipot.data.files import read_structures
from equipot.data.frame import Frame
from equipot.data.load import LoadedData, load
from equipot.data.read import read_frames
from equipot.deploy.ase_calculator import EquipotCalculator
from equipot.deploy.md import MDResult, Progress, run_md
from equipot.errors import EquipotError
from equipot.files import write_atomically
from equipot.fit import distributed
from equipot.fit.metrics import Errors
from equipot.fit.reporter import NullReporter, Reporter, Reporters, logging_to
from equipot.fit.run import BEST, CHECKPOINT
from equipot.fit.train import FitResult, fit
from equipot.models.model_file import as_device, as_dtype, read_model_header, save_potential
from equipot.models.potential import Potential
from equipot.run_record import Warnings, announce, data_facts, in_words, md_facts, read_json, write_json, write_text
from equipot.run_report import duration, write_run_report
from equipot.study.cost import estimate, fastest_training_threads, threads
from equipot.study.evaluate import evaluate_scan, evaluate_set, frame_infos
from equipot.study.predictions import ScanPath, check_scan

logger = logging.getLogger("equipot.pipeline")

MODEL = "model.equipot"
CONFIG = "config.yaml"
LOG = "equipot.log"


@dataclass(frozen=True)
class Prepared:
    """What training starts from: the data and a potential with fresh weights."""

    data: LoadedData
    potential: Potential


@dataclass
class TrainResult:
    """What a run left.

    Attributes:
        folder: Of the run.
        model: File of the best model.
        fit: How the training ended.
        errors: Errors of each data set, in the order train, valid, tests, scan.
        scan: Paths with reference energies.
        dynamics: The molecular dynamics, if there was one.
        problems: What failed after the training, one sentence each; empty when all went well.
        seconds: Wall time of everything, s.
        leads: Whether this process wrote the files; with several, only the first does.
    """

    folder: Path
    model: Path
    fit: FitResult
    errors: dict[str, Errors] = field(default_factory=dict)
    scan: list[ScanPath] = field(default_factory=list)
    dynamics: MDResult | None = None
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    leads: bool = True

    @property
    def report(self) -> Path:
        """The report."""
        return self.folder / "report.html"


def train(
    config: Config | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
    md_progress: Progress | None = None,
) -> TrainResult:
    """Runs everything: reads and checks the data, trains, evaluates, runs dynamics, writes the report.

    Args:
        config: The configuration, or a YAML file that holds it.
        folder: Run folder; without `resume` it must not hold a run yet.
        resume: Go on with the run in `folder`.
        reporter: Is told how the training goes; see `equipot.fit.ProgressReporter`.
        md_progress: Is told how the dynamics goes.

    Raises:
        EquipotError: Data, design or folder do not allow this run. What goes wrong once the model is trained is
            in the result's `problems` instead.
    """
    config = config if isinstance(config, Config) else Config.from_yaml(config)
    folder = Path(folder)
    began = time.monotonic()
    with distributed.started(default_device(config.run.device)) as place, threads(config.run.threads):
        leads = distributed.current().rank == 0
        if not resume:
            _check_new(folder)
        level = logging.INFO if leads else logging.ERROR
        with logging_to(folder / LOG if leads else None, level), Warnings() as warnings:
            prepared = prepare(config, place)
            config = _with_threads(config, prepared)
            if leads and not resume:
                _announce_cost(prepared, config)
            fitted = _fit(config, prepared, folder, resume, reporter)
            result = TrainResult(folder, folder / MODEL, fitted, leads=leads)
            if leads:
                _finish(config, prepared, result, warnings, md_progress)
                result.seconds = time.monotonic() - began
        return result


def default_device(name: str) -> str:
    """Returns the device that ``auto`` stands for here, or the one named.

    Raises:
        EquipotError: There is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(as_device(name))


def prepare(config: Config, place: torch.device | str = "cpu") -> Prepared:
    """Reads the data, says what was found, and builds a potential with fresh weights.

    Args:
        config: The configuration.
        place: Device of the potential.
    """
    data = load(config.data, config.design.design.r_max)
    design = config.design.design.with_reference(data.statistics.atomic_energies_source)
    announce(data)
    _check_later_files(config, data)
    potential = Potential(design, data.statistics, dtype=as_dtype(config.run.dtype), seed=config.run.seed)
    counts = potential.parameter_counts()
    logger.info(
        "model: %s, %d parameters (%d active), r_max %g Å, %d layers, %s on %s",
        config.design.name, counts.parameters, counts.active_parameters, design.r_max, design.layers,
        config.run.dtype, place,
    )  # fmt: skip
    return Prepared(data, potential.to(place))


def _check_later_files(config: Config, data: LoadedData) -> None:
    """Finds out before the training what would fail after it: files, keys and elements of scan and dynamics.

    Raises:
        EquipotError: A file cannot be read, lacks a key, or has an element that the training data do not have.
    """
    if config.scan is not None:
        reading = read_frames(config.scan.file, config.data.keys)
        check_species(reading.frames, data.statistics.species, "the training set")
        check_scan(frame_infos(config.scan.file, reading.frames), config.scan.x, config.scan.group)
    if config.md is not None:
        atoms = _start(config, data)
        check_species([Frame(atoms, source=config.md.structure or "")], data.statistics.species, "the training set")


def _check_new(folder: Path) -> None:
    if (folder / CONFIG).exists() or (folder / CHECKPOINT).exists():
        raise EquipotError(
            f"{folder} holds a run already. Go on with it: equipot train --resume {folder}; or name another folder "
            "with --out."
        )


def _fit(config: Config, prepared: Prepared, folder: Path, resume: bool, reporter: Reporter | None) -> FitResult:
    portable, data = config.portable(), prepared.data

    def save(path: Path, potential: Potential, facts: dict[str, Any]) -> None:
        save_potential(path, potential, provenance={**facts, "config": portable})

    reporters = Reporters([_FirstFiles(config, data, folder), *([] if reporter is None else [reporter])])
    return fit(
        prepared.potential,
        data.train,
        data.valid,
        config.fit,
        folder,
        resume=resume,
        reporter=reporters,
        save_model=save,
    )


def _with_threads(config: Config, prepared: Prepared) -> Config:
    """Uses the number of CPU threads that is set, else the faster one, and returns the configuration with it.

    A resumed run takes the number from its configuration, so that its sums have the same bits.
    """
    on_cpu = next(prepared.potential.parameters()).device.type == "cpu"
    if config.run.threads is not None or not on_cpu or torch.get_num_threads() == 1:
        return config
    count = fastest_training_threads(prepared.potential, prepared.data.train, config.fit)
    logger.info("CPU threads: %d, the faster of 1 and %d (run.threads sets it)", count, torch.get_num_threads())
    torch.set_num_threads(count)
    return config.model_copy(update={"run": config.run.model_copy(update={"threads": count})})


def _announce_cost(prepared: Prepared, config: Config) -> None:
    """Says how long the training will take, before it does."""
    cost = estimate(prepared.potential, prepared.data.train, prepared.data.valid, config.fit, repeats=2)
    limit = "" if config.fit.max_minutes else "; fit.max_minutes sets a limit"
    logger.info(
        "%d epochs of %d steps, about %s %s on one process%s",
        cost.epochs, cost.steps_per_epoch, *duration(60.0 * cost.minutes), limit,
    )  # fmt: skip


class _FirstFiles(NullReporter):
    """Writes configuration and data as soon as the training has accepted them, and not before."""

    def __init__(self, config: Config, data: LoadedData, folder: Path) -> None:
        self._config, self._data, self._folder = config, data, folder

    def start(self, max_epochs: int, steps_per_epoch: int) -> None:
        """Writes the files."""
        write_text(self._folder / CONFIG, self._config.to_yaml())
        write_json(self._folder / "data.json", data_facts(self._data))


def _finish(
    config: Config, prepared: Prepared, result: TrainResult, warnings: Warnings, md_progress: Progress | None
) -> None:
    """Everything after the training; the model is written first, and each stage may fail without the others."""
    folder = result.folder
    write_atomically(folder / MODEL, lambda temporary: shutil.copyfile(folder / BEST, temporary))
    if result.fit.status != "interrupted":
        with _stage("evaluation", result):
            _evaluate(prepared, result)
        if config.scan is not None:
            with _stage("scan", result):
                _scan(config, prepared.potential, result)
        if config.md is not None:
            with _stage("molecular dynamics", result):
                result.dynamics = _dynamics(config, prepared, folder, md_progress)
    with _stage("run record", result):
        _save_with_errors(prepared.potential, result)
        write_json(folder / "run.json", _record(config, prepared, result, warnings.messages))
    with _stage("report", result):
        write_run_report(folder)
        logger.info("report: %s", result.report)


@contextmanager
def _stage(name: str, result: TrainResult) -> Iterator[None]:
    """A context whose failure is noted and ends there: the model is worth more than what comes after it."""
    try:
        yield
    except Exception as error:
        problem = f"{name} failed: {error if isinstance(error, EquipotError) else repr(error)}"
        result.problems.append(problem)
        logger.error(problem, exc_info=None if isinstance(error, EquipotError) else error)


def _evaluate(prepared: Prepared, result: TrainResult) -> None:
    data, document = prepared.data, {}
    for name, dataset in {"train": data.train, "valid": data.valid, **data.tests}.items():
        found = evaluate_set(prepared.potential, dataset)
        found.predictions.save(result.folder / "predictions" / f"{quote(name, safe=' ')}.npz")
        result.errors[name] = found.table.total
        document[name] = found.as_dict()
        logger.info("errors of %s (%d structures): %s", name, len(dataset), in_words(found.table.total))
    write_json(result.folder / "errors.json", document)


def _scan(config: Config, potential: Potential, result: TrainResult) -> None:
    if config.scan is None:
        return
    scan = config.scan
    found, result.scan = evaluate_scan(potential, scan.file, scan.x, scan.group, config.data.keys)
    label = f"{scan.x} ({scan.unit})" if scan.unit else scan.x
    paths = [path.as_dict() for path in result.scan]
    write_json(result.folder / "scan.json", {"label": label, "errors": found.as_dict(), "paths": paths})
    for path in result.scan:
        logger.info("scan %s: energy RMSE %.3g meV, of the shape %.3g meV", path.name, path.rmse, path.shape_rmse)


def _dynamics(config: Config, prepared: Prepared, folder: Path, progress: Progress | None) -> MDResult:
    """Runs the short dynamics; an old one of this run is replaced."""
    if config.md is None:
        raise EquipotError("no dynamics is asked for.")
    shutil.rmtree(folder / "md", ignore_errors=True)
    atoms = _start(config, prepared.data)
    calculator = EquipotCalculator(prepared.potential)
    options = config.md.options
    affordable = int(60.0 * config.md.max_minutes / _seconds_per_step(calculator, atoms))
    if affordable < options.steps:
        logger.warning(
            "dynamics: %d of %d steps, as many as fit into md.max_minutes = %g",
            affordable, options.steps, config.md.max_minutes,
        )  # fmt: skip
        options = options.replace(steps=max(affordable, 1))
    result = run_md(calculator, atoms, options, folder / "md", progress=progress)
    level = logging.INFO if result.status == "finished" else logging.WARNING
    logger.log(
        level, "dynamics: %s %d atoms, mean temperature %.0f K, %.3g ms per step",
        result.message, len(atoms), result.temperatures.mean(), 1000 * result.seconds_per_step,
    )  # fmt: skip
    write_json(folder / "md" / "summary.json", md_facts(result, options.model_dump(mode="json")))
    return result


def _start(config: Config, data: LoadedData) -> ase.Atoms:
    if config.md is None or config.md.structure is None:
        frames, source = [frame.atoms for frame in data.valid.frames], "the validation set"
    else:
        frames, source = list(read_structures(config.md.structure).structures), config.md.structure
    index = config.md.index if config.md is not None else 0
    if index >= len(frames):
        raise EquipotError(f"md.index is {index}, but {source} has {len(frames)} structures, counted from 0.")
    return frames[index]


def _seconds_per_step(calculator: EquipotCalculator, atoms: ase.Atoms) -> float:
    moved = atoms.copy()
    seconds = []
    for _ in range(4):
        moved.positions += 1e-4
        started = time.perf_counter()
        calculator.calculate(moved, ["energy"])
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _save_with_errors(potential: Potential, result: TrainResult) -> None:
    """Writes the model once more, now with all errors in its provenance."""
    provenance = read_model_header(result.folder / BEST).provenance
    save_potential(result.model, potential, provenance={**provenance, "errors": result.errors})


def result_facts(result: TrainResult) -> dict[str, Any]:
    """Returns what a run left, as JSON can hold it."""
    options = {} if result.dynamics is None else read_json(result.folder / "md" / "summary.json")
    return {
        "run": str(result.folder),
        "model": str(result.model),
        "report": str(result.report),
        "status": result.fit.status,
        "epochs": result.fit.epochs,
        "steps": result.fit.steps,
        "training_seconds": result.fit.seconds,
        "seconds": result.seconds,
        "errors": result.errors,
        "scan": [path.as_dict() for path in result.scan],
        "md": options,
        "problems": result.problems,
    }


def _record(config: Config, prepared: Prepared, result: TrainResult, warnings: list[str]) -> dict[str, Any]:
    fitted = {key: value for key, value in asdict(result.fit).items() if key not in ("model", "checkpoint")}
    return {
        "title": config.run.title,
        "point": config.design.name,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "device": str(next(prepared.potential.parameters()).device),
        "dtype": config.run.dtype,
        "threads": torch.get_num_threads(),
        "processes": distributed.current().count,
        "fit": fitted,
        "warnings": warnings,
        "problems": result.problems,
    }
