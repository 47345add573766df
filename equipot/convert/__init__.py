"""Published models drop in: weights of mace-torch, nequip, BOTNet and Nequix become potentials of equipot.

Nothing is approximated: what does not map onto axes of the design space is refused by name, and a weight that was
not used is an error.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from equipot.convert import botnet, mace, nequip, nequip_paper, nequix
from equipot.convert.energy_unit import ENERGY_UNITS, in_electronvolts
from equipot.convert.exporters import FOLDER
from equipot.convert.source import Source, read_source
from equipot.errors import EquipotError
from equipot.models import Potential
from equipot.models.model_file import converted

__all__ = ["CONVERTERS", "ENERGY_UNITS", "Converted", "Source", "convert_model", "read_source"]

CONVERTERS: dict[str, Callable[[Source, str | None], Potential]] = {
    "mace-torch": mace.potential_of,
    "botnet": botnet.potential_of,
    "nequip": nequip.potential_of,
    "nequip-0.5": nequip_paper.potential_of,
    "nequix": nequix.potential_of,
}
"""The function that converts the models of each code."""


class Converted(NamedTuple):
    """A converted model.

    Attributes:
        potential: It.
        provenance: What it was converted from; goes into the model file.
    """

    potential: Potential
    provenance: dict[str, Any]


def convert_model(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    head: str | None = None,
    trust_pickle: bool = False,
    dtype: torch.dtype | str | None = None,
    energy_unit: str = "eV",
) -> Converted:
    """Converts a published model.

    Args:
        path: Its file: a plain state dict, a pickled model, or a `.nqx`.
        config: JSON file of hyper-parameters, for a state dict; default: the one beside it.
        head: Head of a model with several.
        trust_pickle: Whether code in a pickled model may run.
        dtype: Precision of the potential; default: that of the weights.
        energy_unit: Unit of the model's energies (`ENERGY_UNITS`), which its file does not say; the potential has eV.

    Raises:
        EquipotError: The file cannot be read or is not trusted, or the model has a choice that equipot lacks.
    """
    source = read_source(path, config, trust_pickle=trust_pickle)
    potential = in_electronvolts(_potential_of(source, head), energy_unit, source.name)
    facts = {"code": source.code, "version": source.version, "file": source.name, "sha256": source.sha256}
    choices = {"head": head, "energy_unit": energy_unit}
    provenance = {"converted_from": {**facts, **choices, "hyper_parameters": source.options, "assumed": source.assumed}}
    return Converted(potential if dtype is None else converted(potential, dtype), provenance)


def _potential_of(source: Source, head: str | None) -> Potential:
    """The potential; whatever a hyper-parameter of a wrong kind or weights of a wrong size lead to names the file."""
    try:
        return CONVERTERS[source.code](source, head)
    except EquipotError as error:
        if source.name in str(error):
            raise
        raise EquipotError(f"{source.name}: {error}") from error
    except (TypeError, ValueError, LookupError, RuntimeError) as error:  # JSON written by hand can hold anything
        raise EquipotError(
            f"{source.name}: the hyper-parameters are not of the form that {source.code} has ({type(error).__name__}: "
            f"{error}), or belong to other weights. Compare them with docs/bring/, or let a script of "
            f"{FOLDER} write them."
        ) from error
