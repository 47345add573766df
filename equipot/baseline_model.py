"""A linear fit on top of another model: its data, E0s, and the potential that corrects it."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols

from equipot.baseline_options import BaselineOptions
from equipot.config import Config
from equipot.data.atomic_energies import AtomicEnergies
from equipot.data.check import check_species
from equipot.data.load import LoadedData, given_energies, load
from equipot.data.measure import measure
from equipot.data.plausible import check_energies
from equipot.errors import EquipotError
from equipot.fit import distributed
from equipot.fit.metrics import evaluate_set
from equipot.fit.reference import METHODS_DIFFER, MUCH_BETTER, Reference, find_reference, model_energies, with_energies
from equipot.interactions import default_radial
from equipot.models.model_file import as_dtype, load_potential, read_model_header
from equipot.models.potential import Potential, check_correction
from equipot.points import nearest_point
from equipot.run_record import announce, as_json, in_words, write_json
from equipot.run_stages import Prepared, on_backend
from equipot.start_options import sha256
from equipot.study.style import significant

logger = logging.getLogger("equipot.pipeline")

BASELINE = "baseline.json"
"""File of a run that says what was corrected."""


def on_baseline(config: Config, options: BaselineOptions, place: torch.device | str) -> Prepared:
    """Returns the data, and a potential that corrects the baseline, in whose precision there is but one.

    Neighbours are those within the larger cutoff; elements are those of the training set.

    Args:
        config: The configuration.
        options: Its section `baseline`.
        place: Device of the potential.

    Raises:
        EquipotError: The baseline is not there, is another one than the configuration was made for, or does not fit the
            data or the design.
    """
    design, dtype = config.design.design, as_dtype(config.run.dtype)
    below = on_backend(config, _load(config, options).to(place))
    check_correction(design, (), dtype, below)
    name = f"the baseline {options.model}"
    data = load(config.data, max(design.r_max, below.r_max), known=below.statistics.species, model=name)
    for dataset in (data.valid, *data.tests.values()):
        check_species(dataset.frames, data.train.species, "the training set")
    given = given_energies(config.data, data) if options.reference == "data" else None
    own = model_energies(below)
    batch = config.fit.valid_batch_size
    reference = find_reference(below, data.train, options.reference, given, batch, section="baseline")
    if reference.source is not None:
        below = with_energies(below, reference.energies, reference.source)
    data = _remeasured(data, below)
    announce(data)
    _announce(reference, options)
    statistics = data.statistics
    design = design.with_reference(statistics.atomic_energies_source)
    radial = default_radial(design, dtype) if config.run.radial == "auto" else config.run.radial
    facts = {**_facts(options, reference, own), "errors": _errors(config, below, data)}
    potential = Potential(
        design, statistics, dtype=dtype, seed=config.run.seed, radial=radial, baseline=below.eval()
    )  # fmt: skip
    potential = on_backend(config, potential.to(place))
    return Prepared(data, potential, baseline=json.loads(as_json(facts)))


def write_baseline(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes what a run corrected, if it corrected a model."""
    if facts:
        write_json(folder / BASELINE, facts)


def _load(config: Config, options: BaselineOptions) -> Potential:
    below = load_potential(options.model, dtype=config.run.dtype, check=True)
    found = sha256(options.model)
    if options.sha256 not in (None, found):
        raise EquipotError(
            f"baseline.model = {options.model} is another file than the configuration was made for: its SHA-256 is "
            f"{found}, baseline.sha256 is {options.sha256}. Give that file, or remove baseline.sha256."
        )
    header, counts = read_model_header(options.model), below.parameter_counts()
    logger.info(
        "baseline: %s (SHA-256 %s…), design near %s, cutoff %g Å, %d parameters in %s, %d elements; this run is in %s",
        options.model, found[:12], nearest_point(below.design), below.r_max, counts.parameters, header.dtype,
        len(header.statistics.species), config.run.dtype,
    )  # fmt: skip
    if below.uncertainty is not None:
        logger.info("the uncertainty of the baseline is dropped: that of the result is of the weights fitted here")
    below.uncertainty = None
    return below


def _remeasured(data: LoadedData, below: Potential) -> LoadedData:
    """Returns the data with statistics from the E0s of the baseline; a mean shift counts as fitted E0s, all alike.

    Raises:
        EquipotError: Energies and E0s cannot belong together.
    """
    known, source = model_energies(below), below.statistics.atomic_energies_source
    fitted = below.design.energy_reference == "mean_shift"
    E0 = AtomicEnergies({z: known[z] for z in data.train.species}, "least_squares" if fitted else source)
    check_energies(data.train.frames, E0)
    return dataclasses.replace(data, statistics=measure(data.train, E0).statistics)


def _announce(reference: Reference, options: BaselineOptions) -> None:
    rms = reference.remainders
    listed = ", ".join(f"{name} {significant(1000 * value)}" for name, value in rms.items())
    logger.info("baseline.reference: rms of what the baseline leaves of the training energies, meV/atom: %s", listed)
    keep, fitted = rms["keep"], rms.get("refit", float("nan"))
    if options.reference == "keep" and keep > max(MUCH_BETTER * fitted, METHODS_DIFFER):
        logger.warning(
            "the baseline leaves %s eV/atom of the training energies, and with fitted E0s only %s: if the labels are "
            "of another method than the baseline, set baseline.reference=refit (or data, with isolated atoms).",
            significant(keep), significant(fitted),
        )  # fmt: skip


def _facts(options: BaselineOptions, reference: Reference, own: Mapping[int, float]) -> dict[str, Any]:
    """Returns what JSON can hold about the baseline and its E0s."""
    header = read_model_header(options.model)
    return {
        "model": Path(options.model).name,
        "sha256": options.sha256,
        "point": nearest_point(header.design),
        "r_max": header.r_max,
        "parameters": header.parameters,
        "dtype": header.dtype,
        "versions": header.versions,
        "provenance": header.provenance,
        "reference": reference.choice,
        "energy_left_meV_per_atom": {name: 1000 * value for name, value in reference.remainders.items()},
        "E0_eV": {chemical_symbols[z]: [own[z], energy] for z, energy in reference.energies.items()},
    }


def _errors(config: Config, below: Potential, data: LoadedData) -> dict[str, Any]:
    """Returns how good the baseline is alone, with the E0s of the sum, and says so."""
    found = {}
    for name, dataset in (("train", data.train), ("valid", data.valid)):
        found[name] = evaluate_set(below, dataset, config.fit, distributed.current()).table.total
        logger.info("the baseline alone, %s (%d structures): %s", name, len(dataset), in_words(found[name]))
    return found
