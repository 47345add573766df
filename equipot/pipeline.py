"""From a configuration to a checked potential: data, training, evaluation, a scan, dynamics, a report.

A run folder ends up with

    model.equipot      the best model, with its configuration and errors
    report.html        figures and tables
    config.yaml        the resolved configuration
    equipot.log        messages
    metrics.jsonl      one line for each validation
    start.json         the model that the training started from, if it did
    data.json          what was found in the data, and the split
    errors.json        errors of every data set
    predictions/       references and predictions of every data set
    scan.json          energies along the scan
    md/                trajectory and log of the dynamics
    run.json           how the run went
    best.equipot, last.equipot, last.ckpt     models and checkpoint of the training
"""

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from equipot.baseline_model import on_baseline
from equipot.config import Config
from equipot.data.check import check_species
from equipot.data.frame import Frame
from equipot.data.load import load
from equipot.data.read import read_frames
from equipot.deploy.md import Progress
from equipot.errors import EquipotError
from equipot.files import write_atomically
from equipot.fit import distributed
from equipot.fit.checkpoint import check_unchanged, load_checkpoint
from equipot.fit.optimise import check_optimiser, check_patterns
from equipot.fit.reporter import NullReporter, Reporter, Reporters, logging_to
from equipot.fit.run import BEST, CHECKPOINT
from equipot.fit.train import FitResult, fit
from equipot.interactions import default_radial
from equipot.kernels.backend import choice_of, choose
from equipot.memory import keep_freed_memory
from equipot.models.model_file import as_device, as_dtype, load_potential, save_potential
from equipot.models.potential import Potential
from equipot.run_record import Warnings, announce, data_facts, write_json, write_text
from equipot.run_stages import MODEL, Prepared, TrainResult, finish, on_backend, start_structure
from equipot.starting_model import chosen_radial, compare, resumed, started, write_start
from equipot.study.cost import estimate, fastest_training_threads, threads
from equipot.study.evaluate import frame_infos
from equipot.study.predictions import check_scan
from equipot.study.style import duration

logger = logging.getLogger("equipot.pipeline")

CONFIG = "config.yaml"
LOG = "equipot.log"
LINEAR = "linear.json"


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
    refuse_linear(config)
    folder = Path(folder)
    began = time.monotonic()
    with distributed.started(str(as_device(config.run.device))) as place, threads(config.run.threads):
        leads = distributed.current().rank == 0
        check_optimiser(config.fit)
        choose(config.run.backend, place)
        if resume:
            _check_same(folder, config)
        else:
            check_new(folder)
        level = logging.INFO if leads else logging.ERROR
        with logging_to(folder / LOG if leads else None, level), Warnings() as warnings:
            if place.type == "cpu":
                keep_freed_memory()
            prepared = prepare(config, place, folder if resume else None)
            config = _with_threads(_with_radial(config, prepared), prepared)
            if leads and not resume:
                _announce_cost(prepared, config)
            fitted = _fit(config, prepared, folder, resume, reporter)
            result = TrainResult(folder, fit=fitted, leads=leads)
            if leads:
                write_atomically(result.model, lambda temporary: shutil.copyfile(folder / BEST, temporary))
                finish(config, prepared, result, warnings, md_progress)
                result.seconds = time.monotonic() - began
        return result


def prepare(config: Config, place: torch.device | str = "cpu", resumed_in: Path | None = None) -> Prepared:
    """Reads the data, says what was found, and builds the potential: with fresh weights, or those to start from.

    Args:
        config: The configuration.
        place: Device of the potential.
        resumed_in: Folder of the run that goes on, if one does; its weights are not read here.
    """
    if config.baseline is not None:
        prepared = on_baseline(config, config.baseline, place)
    elif config.start is None:
        prepared = _fresh(config, place, resumed_in)
    elif resumed_in is None:
        if set(config.fit.train_only) != {"*"}:
            _check_trained(config, load_potential(config.start.model))
        prepared = started(config, config.start, place)
    else:
        prepared = resumed(config, resumed_in, place)
    potential, design = prepared.potential, prepared.potential.design
    _check_trained(config, potential)
    _check_later_files(config, prepared)
    counts = potential.parameter_counts()
    logger.info(
        "model: %s, %d parameters (%d active), r_max %g Å, %d layers, %s on %s, radial functions %s",
        config.design.name, counts.parameters, counts.active_parameters, design.r_max, design.layers,
        config.run.dtype, place, potential.radial,
    )  # fmt: skip
    logger.info("%s", choice_of(potential))
    return prepared


def _fresh(config: Config, place: torch.device | str, resumed_in: Path | None) -> Prepared:
    data = load(config.data, config.design.design.r_max)
    design = config.design.design.with_reference(data.statistics.atomic_energies_source)
    announce(data)
    if design.self_connection_first and data.statistics.atomic_energies_source in ("isolated_atoms", "given"):
        logger.info(
            "an isolated atom of this design has an energy of its own beside E0 (design.self_connection_first); "
            "for dissociation see docs/design_space.md"
        )
    dtype = as_dtype(config.run.dtype)
    radial = chosen_radial(config, default_radial(design, dtype), resumed_in)
    potential = Potential(design, data.statistics, dtype=dtype, seed=config.run.seed, radial=radial)
    return Prepared(data, on_backend(config, potential.to(place)))


def _check_trained(config: Config, potential: Potential) -> None:
    """Finds out whether the patterns of fit.train_only match, before data are evaluated and costs measured.

    Raises:
        EquipotError: One matches no parameter.
    """
    check_patterns("fit.train_only", config.fit.train_only, [name for name, _ in potential.named_parameters()])


def _check_later_files(config: Config, prepared: Prepared) -> None:
    """Finds out before the training what would fail after it: files, keys and elements of scan and dynamics.

    Raises:
        EquipotError: A file cannot be read, lacks a key, or has an element that the potential does not know.
    """
    species = prepared.potential.statistics.species
    owner = "the training set" if config.start is None else f"the model that the {config.work} starts from"
    if config.scan is not None:
        reading = read_frames(config.scan.file, config.data.keys)
        check_species(reading.frames, species, owner)
        check_scan(frame_infos(config.scan.file, reading.frames), config.scan.x, config.scan.group)
    if config.md is not None:
        atoms = start_structure(config, prepared.data)
        check_species([Frame(atoms, source=config.md.structure or "")], species, owner)


def refuse_linear(config: Config) -> None:
    """Raises where a configuration is one of a linear fit.

    Raises:
        EquipotError: It is.
    """
    if config.linear is not None:
        raise EquipotError(
            "the configuration has a section 'linear': its weights are found by least squares, with equipot fit (in "
            "Python equipot.linear_fit). To train by gradients instead, leave out the section."
        )


def check_new(folder: Path) -> None:
    """Raises where a folder holds a run already.

    Raises:
        EquipotError: It does.
    """
    if (folder / LINEAR).exists():
        raise EquipotError(
            f"{folder} holds a run already, a linear fit, which is not resumed; name another folder with --out."
        )
    if (folder / CHECKPOINT).exists() or (folder / MODEL).exists():
        raise EquipotError(
            f"{folder} holds a run already. Go on with it, if it is a training: equipot train --resume {folder}; or "
            "name another folder with --out."
        )


def _check_same(folder: Path, config: Config) -> None:
    """Compares what a run learns from with its configuration, before data are read; their content is compared later."""
    load_checkpoint(folder / CHECKPOINT)
    check_unchanged(_learned(Config.from_yaml(folder / CONFIG)), _learned(config))


def _learned(config: Config) -> dict[str, Any]:
    """Returns the part of a configuration that decides what is learned, paths aside."""
    document = config.as_dict()
    data = {key: value for key, value in document["data"].items() if key not in ("train", "tests")}
    if isinstance(config.data.valid, tuple):
        data["valid"] = "files"
    run = {key: document["run"][key] for key in ("seed", "dtype")}
    start = {} if document["start"] is None else {k: v for k, v in document["start"].items() if k != "model"}
    return {"data": data, "design": document["design"], "start": start, "fit": document["fit"], "run": run}


def _fit(config: Config, prepared: Prepared, folder: Path, resume: bool, reporter: Reporter | None) -> FitResult:
    portable, data = config.portable(), prepared.data

    def save(path: Path, potential: Potential, facts: dict[str, Any]) -> None:
        start = {"start": prepared.start} if prepared.start else {}
        save_potential(path, potential, provenance={**facts, **start, "config": portable})

    reporters = Reporters([_FirstFiles(config, prepared, folder), *([] if reporter is None else [reporter])])
    fitted = fit(
        prepared.potential,
        data.train,
        data.valid,
        config.fit,
        folder,
        resume=resume,
        reporter=reporters,
        save_model=save,
    )
    compare(prepared.start, fitted.best_loss, kept=config.fit.keep_start)
    return fitted


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


def _with_radial(config: Config, prepared: Prepared) -> Config:
    """Returns the configuration with the choice of radial functions that was made."""
    return config.model_copy(update={"run": config.run.model_copy(update={"radial": prepared.potential.radial})})


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

    def __init__(self, config: Config, prepared: Prepared, folder: Path) -> None:
        self._config, self._prepared, self._folder = config, prepared, folder

    def start(self, max_epochs: int, steps_per_epoch: int) -> None:
        """Writes the files."""
        write_text(self._folder / CONFIG, self._config.to_yaml())
        write_json(self._folder / "data.json", data_facts(self._prepared.data))
        write_start(self._folder, self._prepared.start)
