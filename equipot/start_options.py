"""The section `start` of a configuration: the model that a training starts from, and the design that comes with it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from equipot.data.options import DataOptions
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.models.model_file import ModelHeader, read_model_header
from equipot.points import NAMED_POINTS, named_point, nearest_point

FINE_TUNING_LR = 0.001
"""The learning rate where none is given and the training starts from a model; measured, see docs/training.md."""


class StartOptions(BaseModel):
    """A model whose design, weights and constants the training starts from (fine-tuning)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="model file to start from: design, weights, scale and shift are the model's")
    reference: Literal["auto", "keep", "data", "refit"] = Field(
        "auto",
        description="E0s: the model's (keep), those of isolated atoms or data.atomic_energies (data), fitted to what "
        "the model leaves of the training energies (refit), or what the log then says (auto)",
    )
    sha256: str | None = Field(
        None, description="of the model file; found and written down by the run, and another file is then refused"
    )


def start_options(raw: Any) -> Any:
    """Returns the section with the short form, a file alone, written out."""
    return {"model": raw} if isinstance(raw, str) else raw


def is_resolved(start: StartOptions, design: Any) -> bool:
    """Whether a configuration already holds what is to be known of the model, so that its file need not be there."""
    return start.sha256 is not None and isinstance(design, Mapping) and "name" in design


def opened(start: StartOptions, design: Any, source: str) -> tuple[StartOptions, str, Design]:
    """Returns the section with the checksum of the file, and the named point and design of the model.

    Args:
        start: The section.
        design: What the configuration says about the design: nothing, a name, or axes.
        source: Where it says so, for messages.

    Raises:
        EquipotError: The file is no model or another one than `sha256` says, or the design contradicts it.
    """
    header = read_model_header(start.model)
    found = sha256(start.model)
    if start.sha256 not in (None, found):
        raise EquipotError(other_file(start, found))
    check_design(design, header.design, f"{source}: the model {start.model}")
    return start.model_copy(update={"sha256": found}), _point(header), header.design


def sha256(path: str) -> str:
    """Returns the SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def other_file(start: StartOptions, found: str) -> str:
    """Returns the message for a model file that is not the one that was meant."""
    return (
        f"start.model = {start.model} is another file than the configuration was made for: its SHA-256 is {found}, "
        f"start.sha256 is {start.sha256}. Give that file, or remove start.sha256."
    )


def check_design(given: Any, own: Design, owner: str) -> None:
    """Raises where a configuration asks for another design than that of the model.

    Args:
        given: Nothing, the name of a point, or axes with or without a name.
        own: The design of the model.
        owner: Whose it is, for the message.

    Raises:
        EquipotError: Names each axis that differs, or one that is unknown.
    """
    axes = {"name": given} if isinstance(given, str) else dict(given or {})
    name = axes.pop("name", None)
    if name is not None or not set(axes) <= set(Design.model_fields):
        axes = (own.replace(**axes) if name is None else named_point(str(name), **axes)).model_dump(mode="json")
    mine = own.model_dump(mode="json")
    different = {axis: value for axis, value in axes.items() if mine[axis] != _plain(value)}
    if "mean_shift" not in (mine["energy_reference"], different.get("energy_reference")):
        different.pop("energy_reference", None)
    if different:
        listed = "; ".join(
            f"design.{axis} = {value} but the model has {mine[axis]}" for axis, value in different.items()
        )
        raise EquipotError(
            f"{owner} has a design of its own, to which its weights belong: {listed}. Leave the section design out, or "
            "train a model of that design from the beginning, without start (--from)."
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_reference(start: StartOptions, data: DataOptions, source: str) -> None:
    """Raises where the sections `start` and `data` contradict each other about E0s."""
    given = data.atomic_energies
    if given == "auto":
        return
    if given in ("least_squares", "mean_shift"):
        raise EquipotError(
            f"{source}: data.atomic_energies = {given} is for a training from the beginning. The E0s of a model are "
            "fitted to what it leaves of the energies: set start.reference=refit, and leave out data.atomic_energies."
        )
    if start.reference in ("keep", "refit"):
        raise EquipotError(
            f"{source}: data.atomic_energies gives E0s, and start.reference = {start.reference} does not use them. "
            "Leave out one of the two, or set start.reference=data."
        )


def _point(header: ModelHeader) -> str:
    """Returns the named point of a model: the one that its configuration named, or the nearest."""
    configuration = header.provenance.get("config")
    design = configuration.get("design") if isinstance(configuration, Mapping) else None
    name = design.get("name") if isinstance(design, Mapping) else None
    return name if name in NAMED_POINTS else nearest_point(header.design)
