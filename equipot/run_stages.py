"""What follows the training: evaluation, a scan, dynamics, the record of the run and its report.

Once the model is there, nothing that fails takes it away: a failure is logged, noted in run.json and in the
report, and the next stage goes on.
"""

import logging
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ase
import torch

from equipot.config import Config
from equipot.data.files import read_structures
from equipot.data.load import LoadedData
from equipot.deploy.ase_calculator import EquipotCalculator
from equipot.deploy.md import MDResult, Progress, run_md
from equipot.errors import EquipotError
from equipot.fit import distributed
from equipot.fit.metrics import Errors
from equipot.fit.train import FitResult
from equipot.kernels.backend import choice_of, use_backend
from equipot.models.model_file import read_model_header, save_potential
from equipot.models.potential import Potential
from equipot.run_record import Warnings, in_words, md_facts, read_json, write_json
from equipot.run_report import write_run_report
from equipot.study.evaluate import Evaluated, evaluate_scan, evaluate_set
from equipot.study.predictions import ScanPath
from equipot.study.style import duration
from equipot.study.uncertainty import calibration_in_words, deviations

logger = logging.getLogger("equipot.pipeline")

MODEL = "model.equipot"


@dataclass(frozen=True)
class Prepared:
    """What training starts from.

    Attributes:
        data: The structures.
        potential: With fresh weights, or those of the model that the training starts from.
        start: What is to be known of that model; see `equipot.starting_model`.
        baseline: What is to be known of the model that this one corrects; see `equipot.baseline_model`.
    """

    data: LoadedData
    potential: Potential
    start: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)


def on_backend(config: Config, potential: Potential) -> Potential:
    """Returns a potential that runs on the backend of the configuration; the first process compiles, then the others.

    Raises:
        EquipotError: The backend does not work here.
    """
    processes = distributed.current()
    for turn in (True, False):
        problem = ""
        if (processes.rank == 0) == turn:
            try:
                use_backend(potential, config.run.backend)
            except EquipotError as error:
                problem = str(error)
        problems = list(filter(None, processes.gather(problem)))
        if problems:
            raise EquipotError(problems[0])
    return potential


@dataclass
class RunResult(ABC):
    """What a run left; a training and a linear fit add how the weights were found.

    Attributes:
        folder: Of the run.
        errors: Errors of each data set, in the order train, valid, tests, scan.
        scan: Paths with reference energies.
        dynamics: The molecular dynamics, if there was one.
        problems: What failed after the weights were found, one sentence each; empty when all went well.
        seconds: Wall time of everything, s.
    """

    folder: Path
    errors: dict[str, Errors] = field(default_factory=dict)
    scan: list[ScanPath] = field(default_factory=list)
    dynamics: MDResult | None = None
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def model(self) -> Path:
        """File of the model."""
        return self.folder / MODEL

    @property
    def report(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Returns how the weights were found, for run.json."""

    @abstractmethod
    def outcome(self) -> dict[str, Any]:
        """Returns the same in short, for `result_facts`."""


@dataclass(kw_only=True)
class TrainResult(RunResult):
    """What a training left.

    Attributes:
        fit: How the training ended.
        leads: Whether this process wrote the files; with several, only the first does.
    """

    fit: FitResult
    leads: bool = True

    def record(self) -> dict[str, Any]:
        """Returns how the training ended, but for its files."""
        return {"fit": {k: value for k, value in asdict(self.fit).items() if k not in ("model", "checkpoint")}}

    def outcome(self) -> dict[str, Any]:
        """Returns why it ended, after how many epochs and steps, and how long it took."""
        fit = self.fit
        return {"status": fit.status, "epochs": fit.epochs, "steps": fit.steps, "training_seconds": fit.seconds}


def finish(
    config: Config, prepared: Prepared, result: RunResult, warnings: Warnings, md_progress: Progress | None
) -> None:
    """Does everything after the model is written; each stage may fail without the others.

    Args:
        config: The configuration.
        prepared: Data, and the potential with its final weights.
        result: Gets errors, scan, dynamics and problems.
        warnings: Of the run so far, for its record.
        md_progress: Is told how the dynamics goes.
    """
    folder = result.folder
    prepared.potential.eval().requires_grad_(False)
    if result.outcome()["status"] != "interrupted":
        found: dict[str, Evaluated] = {}
        with _stage("evaluation", result):
            found = _evaluate(prepared, result)
        if prepared.potential.uncertainty is not None:
            with _stage("uncertainty", result):
                _uncertainty(prepared.potential, found, result)
        if config.scan is not None:
            with _stage("scan", result):
                _scan(config, prepared.potential, result)
        if config.md is not None:
            with _stage("molecular dynamics", result):
                result.dynamics = _dynamics(config, prepared, folder, md_progress)
                if result.dynamics.status == "exploded":
                    raise EquipotError(f"the model does not hold the structure together. {result.dynamics.message}")
    with _stage("run record", result):
        _save_with_errors(prepared.potential, result)
        write_json(folder / "run.json", _record(config, prepared, result, warnings.messages))
    with _stage("report", result):
        write_run_report(folder)
        logger.info("report: %s", result.report)


@contextmanager
def _stage(name: str, result: RunResult) -> Iterator[None]:
    """A context whose failure is noted and ends there: the model is worth more than what comes after it."""
    try:
        yield
    except Exception as error:
        problem = f"{name} failed: {error if isinstance(error, EquipotError) else repr(error)}"
        result.problems.append(problem)
        logger.error(problem, exc_info=None if isinstance(error, EquipotError) else error)


def _evaluate(prepared: Prepared, result: RunResult) -> dict[str, Evaluated]:
    data, document = prepared.data, {}
    sets = {}
    for name, dataset in {"train": data.train, "valid": data.valid, **data.tests}.items():
        found = evaluate_set(prepared.potential, dataset)
        found.predictions.save(result.folder / "predictions" / f"{quote(name, safe=' ')}.npz")
        result.errors[name], sets[name] = found.table.total, found
        document[name] = found.as_dict()
        logger.info("errors of %s (%d structures): %s", name, len(dataset), in_words(found.table.total))
    write_json(result.folder / "errors.json", document)
    return sets


def _uncertainty(potential: Potential, sets: dict[str, Evaluated], result: RunResult) -> None:
    """Compares errors with deviations on the structures that the weights were not fitted to."""
    document = {}
    for name, evaluated in sets.items():
        if name != "train":
            found = deviations(potential, evaluated.dataset, evaluated.predictions)
            found.save(result.folder / "uncertainty" / f"{quote(name, safe=' ')}.npz")
            document[name] = found.as_dict()
            logger.info("uncertainty of %s: %s", name, calibration_in_words(found))
    write_json(result.folder / "uncertainty.json", document)


def _scan(config: Config, potential: Potential, result: RunResult) -> None:
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
    atoms = start_structure(config, prepared.data)
    calculator = EquipotCalculator(prepared.potential, backend=None)
    options = config.md.options
    per_step = _seconds_per_step(calculator, atoms)
    affordable = int(60.0 * config.md.max_minutes / per_step)
    if affordable < options.steps:
        logger.warning(
            "dynamics: %d of %d steps, as many as fit into md.max_minutes = %g",
            affordable, options.steps, config.md.max_minutes,
        )  # fmt: skip
        options = options.replace(steps=max(affordable, 1))
    logger.info(
        "dynamics: %d steps of %g fs at %g K, about %s %s (--set md=false %s without)",
        options.steps, options.timestep, options.temperature, *duration(options.steps * per_step),
        {"training": "trains", "fit": "fits"}[config.work],
    )  # fmt: skip
    result = run_md(calculator, atoms, options, folder / "md", progress=progress)
    level = logging.INFO if result.status == "finished" else logging.WARNING
    logger.log(
        level, "dynamics: %s %d atoms, mean temperature %.0f K, %.3g ms per step",
        result.message, len(atoms), result.temperatures.mean(), 1000 * result.seconds_per_step,
    )  # fmt: skip
    write_json(folder / "md" / "summary.json", md_facts(result, options.model_dump(mode="json")))
    return result


def start_structure(config: Config, data: LoadedData) -> ase.Atoms:
    """Returns the structure that the dynamics starts from.

    Raises:
        EquipotError: The file cannot be read, or there is no structure of that number.
    """
    if config.md is None or config.md.structure is None:
        frames, source = [frame.atoms for frame in data.valid.frames], "the validation set"
    else:
        frames, source = list(read_structures(config.md.structure).structures), config.md.structure
    index = -1 if config.md is None else config.md.index
    if not -len(frames) <= index < len(frames):
        raise EquipotError(
            f"md.index is {index}, but {source} has {len(frames)} structures, counted from 0; −1 is the last."
        )
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


def _save_with_errors(potential: Potential, result: RunResult) -> None:
    """Writes the model once more, now with all errors in its provenance."""
    provenance = read_model_header(result.model).provenance
    save_potential(result.model, potential, provenance={**provenance, "errors": result.errors})


def result_facts(result: RunResult) -> dict[str, Any]:
    """Returns what a run left, as JSON can hold it."""
    options = {} if result.dynamics is None else read_json(result.folder / "md" / "summary.json")
    return {
        "run": str(result.folder),
        "model": str(result.model),
        "report": str(result.report),
        **result.outcome(),
        "seconds": result.seconds,
        "errors": result.errors,
        "scan": [path.as_dict() for path in result.scan],
        "md": options,
        "problems": result.problems,
    }


def _record(config: Config, prepared: Prepared, result: RunResult, warnings: list[str]) -> dict[str, Any]:
    return {
        "title": config.run.title,
        "point": config.design.name,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "device": str(next(prepared.potential.parameters()).device),
        "dtype": config.run.dtype,
        "threads": torch.get_num_threads(),
        "backend": choice_of(prepared.potential)._asdict(),
        "processes": distributed.current().count,
        "start": {key: value for key, value in prepared.start.items() if key != "provenance"},
        "baseline": {key: value for key, value in prepared.baseline.items() if key != "provenance"},
        **result.record(),
        "warnings": warnings,
        "problems": result.problems,
    }
