"""What is special about the configuration of a linear fit."""

from collections.abc import Mapping
from typing import Any

from equipot.baseline_options import BaselineOptions
from equipot.config_paths import Raw
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.fit.linear.options import LinearFitOptions
from equipot.models.model_file import read_model_header
from equipot.start_options import StartOptions, start_options


def prepare_linear(merged: Raw, source: str) -> None:
    """Looks what of a configuration a linear fit does not use; a model that it starts from keeps its E0s.

    Raises:
        EquipotError: There are options of a training.
    """
    if merged.get("fit"):
        raise EquipotError(
            f"{source}: the section 'fit' is for equipot train; a linear fit (equipot fit, section 'linear') does not "
            "use it. Leave it out; `equipot options linear` lists the keys of a linear fit."
        )
    start = start_options(merged.get("start"))
    if isinstance(start, Mapping) and merged["data"].get("atomic_energies", "auto") == "auto":
        merged["start"] = {"reference": "keep", **start}


def prepare_linear_run(run: Raw, start: StartOptions | None, source: str) -> None:
    """Fills in where a linear fit runs, and the precision of its result.

    Raises:
        EquipotError: It is not to run on a CPU.
    """
    if run.setdefault("device", "auto") == "auto":
        run["device"] = "cpu"
    if not str(run["device"]).startswith("cpu"):
        raise EquipotError(f"{source}: run.device = {run['device']}: a linear fit works on the CPU; leave it out.")
    if "dtype" not in run:
        run["dtype"] = "float64" if start is None else read_model_header(start.model).dtype


def check_linear(
    linear: LinearFitOptions | None,
    start: StartOptions | None,
    baseline: BaselineOptions | None,
    design: Design,
    source: str,
) -> None:
    """Raises where the sections of a configuration do not go together.

    Raises:
        EquipotError: Says which, and what to leave out.
    """
    rules: list[tuple[Any, str]] = [
        (linear and linear.keep_weights and start is None,
         "linear.keep_weights keeps the weights of a trained model, but there is none; give it with start.model "
         "(--refit-readout MODEL)"),
        (baseline and linear is None,
         "the section 'baseline' is for linear fits (equipot fit, section 'linear'), which correct a model by another "
         "one; equipot train goes on with a model by start.model (--from MODEL)"),
        (baseline and start,
         "start (--refit-readout) changes the weights of a model, baseline (--baseline) leaves them and adds a "
         "correction; leave out one of the two"),
        (baseline and design.channel_coupling != "coupled",
         "the weights of a correction are found by least squares, which those of other designs than ace_linear are "
         "not: set design.name=ace_linear, or leave out design"),
    ]  # fmt: skip
    for wrong, reason in rules:
        if wrong:
            raise EquipotError(f"{source}: {reason}.")
