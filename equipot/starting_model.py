"""The start of a training from a model: its weights and other data, its E0s, and how good it is before a step."""

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols

from equipot.config import Config
from equipot.data.atomic_energies import AtomicEnergies
from equipot.data.check import symbols_of
from equipot.data.load import LoadedData, given_energies, load
from equipot.data.measure import measure
from equipot.data.plausible import check_energies
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.fit import distributed
from equipot.fit.checkpoint import CHECKPOINT, load_checkpoint
from equipot.fit.metrics import evaluate_set
from equipot.fit.reference import MUCH_BETTER, Reference, find_reference, model_energies, with_energies
from equipot.interactions import EXACT
from equipot.models.model_file import as_dtype, load_potential, read_model_header
from equipot.models.potential import Potential
from equipot.run_record import announce, as_json, in_words, read_json, write_json
from equipot.run_stages import Prepared, on_backend
from equipot.start_options import StartOptions, check_design, other_file, sha256
from equipot.statistics import Statistics
from equipot.study.style import significant

logger = logging.getLogger("equipot.pipeline")

START = "start.json"
"""File of a run that says what it started from."""

_FAR = 1.0
"""eV/atom; a model that leaves more than this of the energies, whatever its E0s, describes something else."""


def started(config: Config, start: StartOptions, place: torch.device | str) -> Prepared:
    """Returns the data, and the model that the training starts from with the E0s for them; says how good it is.

    Args:
        config: The configuration.
        start: Its section `start`.
        place: Device of the potential.

    Raises:
        EquipotError: The model is not there, is another one than the configuration was made for, or does not fit the
            data.
    """
    potential = on_backend(config, _load(config, start).to(place))
    data = load(config.data, potential.r_max, known=potential.statistics.species)
    wanted = start.reference if config.data.atomic_energies == "auto" else "data"
    given = given_energies(config.data, data) if wanted in ("auto", "data") else None
    own = model_energies(potential)
    reference = find_reference(potential, data.train, wanted, given, config.fit.valid_batch_size)
    if reference.source is not None:
        potential = with_energies(potential, reference.energies, reference.source)
    potential = _with_distance(potential, data)
    data = _remeasured(data, potential)
    announce(data)
    _announce_reference(reference, start, own)
    _announce_others(reference, data)
    facts = {**_facts(start, reference, own), **_errors(config, potential, data)}
    return Prepared(data, potential, json.loads(as_json(facts)))


def resumed(config: Config, folder: Path, place: torch.device | str) -> Prepared:
    """Returns the same for a run that goes on: all that it needs of the model is in its own folder."""
    saved = load_checkpoint(folder / CHECKPOINT)["configuration"]
    statistics = Statistics.model_validate(saved["statistics"])
    radial = chosen_radial(config, EXACT, folder)
    potential = Potential(Design(**saved["design"]), statistics, dtype=as_dtype(config.run.dtype), radial=radial)
    data = _remeasured(load(config.data, potential.r_max, known=statistics.species), potential)
    announce(data)
    facts = read_json(folder / START)
    if not facts:
        logger.warning("%s is missing: the model will not say how good it was before the training.", folder / START)
    return Prepared(data, on_backend(config, potential.to(place)), facts)


def chosen_radial(config: Config, default: str, resumed_in: Path | None) -> str:
    """Returns how radial functions are evaluated.

    Args:
        config: The configuration, which may leave it open.
        default: What then is taken in a new run.
        resumed_in: Folder of the run that goes on, if one does, as it began.
    """
    if config.run.radial != "auto":
        return config.run.radial
    if resumed_in is None:
        return default
    return load_checkpoint(resumed_in / CHECKPOINT)["configuration"].get("radial", EXACT)


def write_start(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes what a run started from, if it started from a model."""
    if facts:
        write_json(folder / START, facts)


def compare(facts: Mapping[str, Any], best_loss: float, *, kept: bool) -> None:
    """Warns where no validation was better than the model before the training."""
    before = facts.get("valid_loss")
    if before is not None and before <= best_loss < math.inf:
        logger.warning(
            "no validation was better than the model before the training (loss %.4g, best %.4g): %s. Try a smaller "
            "fit.lr, or more structures.",
            before, best_loss,
            "the result has its weights (fit.keep_start)" if kept else "it is the better one for these structures",
        )  # fmt: skip


def _load(config: Config, start: StartOptions) -> Potential:
    potential = load_potential(start.model, dtype=config.run.dtype).train()
    potential.uncertainty = None  # it was that of other weights
    if config.run.radial != "auto":
        potential.choose_radial(config.run.radial)
    found = sha256(start.model)
    if start.sha256 not in (None, found):
        raise EquipotError(other_file(start, found))
    check_design(config.design.design.model_dump(mode="json"), potential.design, f"the model {start.model}")
    if config.linear is None and len(potential.parts()) > 1:
        raise EquipotError(
            f"{start.model} corrects a baseline, and such models are not trained by gradients. Fit it again to these "
            "structures: equipot fit DATA --baseline with the same baseline, or --refit-readout with this model."
        )
    header, counts = read_model_header(start.model), potential.parameter_counts()
    logger.info(
        "start: %s (SHA-256 %s…), design %s, %d parameters in %s, %d elements; this run is in %s",
        start.model, found[:12], config.design.name, counts.parameters, header.dtype, len(header.statistics.species),
        config.run.dtype,
    )  # fmt: skip
    return potential


def _with_distance(potential: Potential, data: LoadedData) -> Potential:
    """Returns the model with the shortest distance that it has seen, which may be one in the new data."""
    nearest = min(potential.statistics.min_distance, data.statistics.min_distance)
    potential.statistics = potential.statistics.model_copy(update={"min_distance": nearest})
    return potential


def _remeasured(data: LoadedData, potential: Potential) -> LoadedData:
    """Returns the data with statistics from the E0s of the model.

    Raises:
        EquipotError: Energies and E0s cannot belong together.
    """
    known, source = model_energies(potential), potential.statistics.atomic_energies_source
    E0 = AtomicEnergies({z: known[z] for z in data.train.species}, source)
    check_energies(data.train.frames, E0)
    return dataclasses.replace(data, statistics=measure(data.train, E0).statistics)


def _announce_reference(reference: Reference, start: StartOptions, own: Mapping[int, float]) -> None:
    rms = reference.remainders
    listed = ", ".join(f"{name} {significant(1000 * value)}" for name, value in rms.items())
    logger.info("start.reference: rms of what the model leaves of the training energies, meV/atom: %s", listed)
    changed = [(z, e) for z, e in reference.energies.items() if e != own[z]]
    changes = ", ".join(f"{chemical_symbols[z]} {own[z]:.4f} → {e:.4f}" for z, e in changed[:10])
    changes += f", … ({len(changed)} elements; all in {START})" if len(changed) > 10 else ""
    few = reference.determined < len(reference.energies)
    count = f"{reference.determined} of {len(reference.energies)}"
    shared = f" (compositions determine {count}, the rest is shared evenly)" if few else ""
    what = {
        "keep": "the model keeps its E0s",
        "data": f"the E0s are those of the data ({reference.source}): {changes or 'the same'}",
        "refit": f"the E0s are fitted to what the model leaves{shared}, forces stay as they are: {changes}",
    }[reference.choice]
    logger.info("%s (eV; start.reference = %s)", what, start.reference)
    chosen, fitted = rms[reference.choice], rms.get("refit", float("nan"))
    if chosen > max(MUCH_BETTER * fitted, 0.05):
        logger.warning(
            "the model leaves %s meV/atom of the training energies, and with fitted E0s (start.reference=refit) only "
            "%s: do the data come from another method than the model?",
            significant(1000 * chosen), significant(1000 * fitted),
        )  # fmt: skip
    elif chosen > _FAR:
        logger.warning(
            "the model leaves %s eV/atom of the training energies, which no E0s mend: are they in eV, and the "
            "structures like those that the model was made for?", significant(chosen),
        )  # fmt: skip


def _announce_others(reference: Reference, data: LoadedData) -> None:
    """Warns of elements that only validation or tests have: their E0s stay those of the model while others change."""
    for name, dataset in {"valid": data.valid, **data.tests}.items():
        others = set(dataset.species) - set(reference.energies)
        if others and reference.source is not None:
            logger.warning(
                "the %s set has %s, which no training structure has: their E0s stay the model's, others change.",
                name, symbols_of(others),
            )  # fmt: skip


def _facts(start: StartOptions, reference: Reference, own: Mapping[int, float]) -> dict[str, Any]:
    """Returns what JSON can hold about the model and its E0s."""
    header = read_model_header(start.model)
    return {
        "model": Path(start.model).name,
        "sha256": start.sha256,
        "dtype": header.dtype,
        "versions": header.versions,
        "provenance": header.provenance,
        "reference": reference.choice,
        "energy_left_meV_per_atom": {name: 1000 * value for name, value in reference.remainders.items()},
        "E0_eV": {chemical_symbols[z]: [own[z], energy] for z, energy in reference.energies.items()},
    }


def _errors(config: Config, potential: Potential, data: LoadedData) -> dict[str, Any]:
    """Returns how good the model is before the training, and says so."""
    found: dict[str, Any] = {"errors": {}}
    for name, dataset in (("train", data.train), ("valid", data.valid)):
        evaluation = evaluate_set(potential, dataset, config.fit, distributed.current())
        found["errors"][name] = evaluation.table.total
        text = in_words(evaluation.table.total)
        logger.info("before the %s, %s (%d structures): %s", config.work, name, len(dataset), text)
    found["valid_loss"] = evaluation.loss
    forces = found["errors"]["train"]["forces_rmse_meV_per_A"]
    if forces is not None and forces > 1000 * data.statistics.force_rms:
        logger.warning(
            "before the %s, the errors of the forces (%s meV/Å) are greater than the forces (%s): are they in eV/Å, "
            "and the structures like those that the model was made for?", config.work,
            significant(forces), significant(1000 * data.statistics.force_rms),
        )  # fmt: skip
    return found
