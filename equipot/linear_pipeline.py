"""From a configuration to a potential whose weights are found by least squares: data, fit, evaluation, a report.

The run folder is that of a training (see `equipot.pipeline`) with

    linear.json        what is known about the fit: prior, noise, condition, uncertainty, times, memory
    baseline.json      the model that the result corrects, if it does

instead of metrics.jsonl, best.equipot, last.equipot and last.ckpt. Nothing but the log is written before the weights
are there.
"""

import logging
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from equipot.baseline_model import write_baseline
from equipot.config import Config
from equipot.deploy.md import Progress as DynamicsProgress
from equipot.errors import EquipotError
from equipot.fit.linear import LinearFitOptions, LinearFitResult, fit_linear
from equipot.fit.linear.around import Around
from equipot.fit.linear.assemble import Progress, silent
from equipot.fit.linear.uncertainty import EXACT, known
from equipot.fit.linear.weighting import Weighting
from equipot.fit.reporter import logging_to
from equipot.models.linear import linear_features
from equipot.models.linear_features import LinearFeatures
from equipot.models.model_file import converted, save_potential
from equipot.models.potential import Potential
from equipot.pipeline import CONFIG, LINEAR, LOG, check_new, prepare
from equipot.run_record import Warnings, data_facts, write_json, write_text
from equipot.run_stages import MODEL, Prepared, RunResult, finish
from equipot.starting_model import write_start
from equipot.study.cost import threads

logger = logging.getLogger("equipot.pipeline")


@dataclass(kw_only=True)
class LinearResult(RunResult):
    """What a linear fit left.

    Attributes:
        fit: The weights and what is known about them.
        facts: The content of linear.json.
    """

    fit: LinearFitResult
    facts: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Returns that it was a linear fit."""
        return {"linear": LINEAR}

    def outcome(self) -> dict[str, Any]:
        """Returns the content of linear.json."""
        return {"status": "finished", "linear": self.facts}


def linear_fit(
    config: Config | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    progress: Progress = silent,
    md_progress: DynamicsProgress | None = None,
) -> LinearResult:
    """Runs everything: reads and checks the data, finds the weights, evaluates, runs dynamics, writes the report.

    Args:
        config: The configuration, or a YAML file that holds it; a section `linear` is taken to be there.
        folder: Run folder; it must not hold a run yet.
        progress: Is told what of the fit is done; see `equipot.fit.linear.fit_linear`.
        md_progress: Is told how the dynamics goes.

    Raises:
        EquipotError: Data, design or folder do not allow this fit. What goes wrong once the weights are there is in
            the result's `problems` instead.
    """
    config = config if isinstance(config, Config) else Config.from_yaml(config, linear=True)
    if config.linear is None:
        raise EquipotError("the configuration is one of equipot train; give it a section linear, such as linear: {}.")
    folder, began = Path(folder), time.monotonic()
    check_new(folder)
    with threads(config.run.threads), logging_to(folder / LOG), Warnings() as warnings, _explained(folder):
        prepared = prepare(config)
        config = _as_it_runs(config, prepared)
        fitted, facts = _fit(config, prepared, progress)
        _write(config, prepared, facts, folder)
        result = LinearResult(folder, fit=fitted, facts=facts)
        finish(config, prepared, result, warnings, md_progress)
        result.seconds = time.monotonic() - began
    return result


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """A context that says what is left where it is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if (folder / MODEL).exists():
            logger.warning(
                "interrupted after the fit: the model is whole and in %s; equipot evaluate and equipot md do what the "
                "run would have done next, and equipot report %s writes its report", folder / MODEL, folder,
            )  # fmt: skip
        else:
            logger.warning(
                "interrupted before the weights were found: there is no model, and nothing but the log in %s. A linear "
                "fit cannot be resumed; the same command begins again.", folder,
            )  # fmt: skip
        raise


def linear_model(config: Config, prepared: Prepared) -> tuple[Potential, LinearFeatures]:
    """Returns the potential in the double precision of the fit, and what it is linear in.

    Args:
        config: The configuration.
        prepared: Has the potential in the precision that it is to have.

    Raises:
        EquipotError: The potential has nothing that can be fitted.
    """
    potential = prepared.potential
    if config.start is None and potential.design.channel_coupling != "coupled":
        raise EquipotError(
            f"the weights of a new model of the design {config.design.name} are not found by least squares alone: fit "
            "design.name=ace_linear, or train the model and refit its last weights (--refit-readout MODEL)."
        )
    if potential.dtype != torch.float64:
        potential = converted(potential, torch.float64)
    potential.uncertainty = None
    potential.eval().requires_grad_(False)
    return potential, linear_features(potential)


def size(config: Config, prepared: Prepared) -> dict[str, Any]:
    """Returns how large the fit of a configuration would be.

    Raises:
        EquipotError: There is nothing to fit.
    """
    _, features = linear_model(config, prepared)
    survey = Weighting(config.linear or LinearFitOptions(), prepared.data.train).survey
    columns = features.num_columns
    rows = {f"rows_of_{kind}": number for kind, number in survey.counted.items() if number}
    return {"weights": columns, **rows, "matrix_of_normal_equations_GB": 8e-9 * (columns + 1) ** 2}


def _fit(config: Config, prepared: Prepared, progress: Progress) -> tuple[LinearFitResult, dict[str, Any]]:
    """Finds the weights, and puts them and their uncertainty into the potential of `prepared`."""
    options = config.linear or LinearFitOptions()
    potential, features = linear_model(config, prepared)
    data, fitted_features = prepared.data, features
    trained = config.start is not None and features.num_columns <= EXACT
    calibrate = options.calibrate and not trained  # otherwise `known` does it
    if config.start is not None:
        fitted_features = Around(features, potential, keep=options.keep_weights)
    with potential.at_work():
        chosen = options.model_copy(update={"calibrate": calibrate})
        fitted = fit_linear(fitted_features, data.train, data.valid, chosen, progress)
        sets, species = (data.train, data.valid), potential.statistics.species
        found = known(fitted, features, sets, species, options, trained=trained)
    if potential is not prepared.potential:
        prepared.potential.load_state_dict(potential.state_dict())
    prepared.potential.uncertainty = found.uncertainty
    facts = {
        "options": options.model_dump(mode="json"), **fitted.facts(), "uncertainty": found.facts,
        "contributions_eV": {str(group): value for group, value in found.contributions.items()},
        "peak_memory_GB": _peak_memory(),
    }  # fmt: skip
    return fitted, facts


def _write(config: Config, prepared: Prepared, facts: dict[str, Any], folder: Path) -> None:
    """Writes the files that say what was fitted, and the model last."""
    write_text(folder / CONFIG, config.to_yaml())
    write_json(folder / "data.json", data_facts(prepared.data))
    write_start(folder, prepared.start)
    write_baseline(folder, prepared.baseline)
    write_json(folder / LINEAR, facts)
    hashes = prepared.data.hashes()
    provenance = {
        "kind": "linear fit", "train_data": hashes["train"], "valid_data": hashes["valid"], "linear": facts,
        **({"start": prepared.start} if prepared.start else {}),
        **({"baseline": prepared.baseline} if prepared.baseline else {}), "config": config.portable(),
    }  # fmt: skip
    save_potential(folder / MODEL, prepared.potential, provenance=provenance)
    logger.info("model: %s", folder / MODEL)


def _as_it_runs(config: Config, prepared: Prepared) -> Config:
    """Returns the configuration with the choices that were made for it."""
    chosen = {"radial": prepared.potential.radial, "threads": torch.get_num_threads()}
    return config.model_copy(update={"run": config.run.model_copy(update=chosen)})


def _peak_memory() -> float:
    """Returns the most memory that this process has had, GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1.0 if sys.platform == "darwin" else 1024.0) / 1e9
