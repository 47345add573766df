"""The section `baseline` of a configuration: the model that a linear fit corrects."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from equipot.data.options import DataOptions
from equipot.errors import EquipotError
from equipot.models.model_file import read_model_header
from equipot.start_options import sha256
from equipot.units import UNITS


class BaselineOptions(BaseModel):
    """A model whose prediction is taken off the labels of a linear fit, and is part of its result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="model file of any design; the weights are fitted to labels minus its prediction")
    reference: Literal["keep", "data", "refit"] = Field(
        "keep",
        description="E0s of the sum: the model's (keep), those of isolated atoms or data.atomic_energies (data), or "
        "fitted to what the model leaves of the training energies (refit)",
    )
    sha256: str | None = Field(
        None, description="of the model file; found and written down by the run, and another file is then refused"
    )


def opened_baseline(options: BaselineOptions, source: str) -> BaselineOptions:
    """Returns the section with the checksum of the file; one that has it already is left as it is.

    Args:
        options: The section.
        source: Where it stands, for messages.

    Raises:
        EquipotError: The file is no model, or one in other units.
    """
    if options.sha256 is not None:
        return options
    header = read_model_header(options.model)
    different = {name: unit for name, unit in header.units.items() if UNITS.get(name) != unit}
    if different:
        theirs = ", ".join(f"{name} in {unit}" for name, unit in different.items())
        ours = ", ".join(f"{name} in {UNITS.get(name, 'none')}" for name in different)
        raise EquipotError(
            f"{source}: the baseline {options.model} has {theirs}; equipot has {ours}. Convert it first."
        )
    return options.model_copy(update={"sha256": sha256(options.model)})


def check_baseline(options: BaselineOptions, data: DataOptions, source: str) -> None:
    """Raises where the sections `baseline` and `data` contradict each other about E0s.

    Raises:
        EquipotError: They do.
    """
    given = data.atomic_energies
    if given == "auto" or (options.reference == "data" and given not in ("least_squares", "mean_shift")):
        return
    raise EquipotError(
        f"{source}: data.atomic_energies = {given}, and baseline.reference = {options.reference} does not use it. On "
        "top of a baseline E0s are those of the baseline; leave data.atomic_energies out, or set baseline.reference to "
        "data (energies of isolated atoms) or refit (fitted to what the baseline leaves)."
    )
