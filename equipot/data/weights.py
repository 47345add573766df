"""Weights of structures by their config_type."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from equipot.data.check import first_few
from equipot.data.frame import DEFAULT_CONFIG_TYPE, Frame
from equipot.errors import EquipotError


def check_config_type_weights(weights: Mapping[str, float], frames: Sequence[Frame]) -> None:
    """Raises if a weight is for a config_type that no training structure has.

    Raises:
        EquipotError: Names the nearest config_type, and all that occur.
    """
    present = sorted({frame.config_type for frame in frames})
    for name in weights:
        if name not in present and name != DEFAULT_CONFIG_TYPE:
            near = difflib.get_close_matches(name, present, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise EquipotError(
                f"data.config_type_weights: no training structure has config_type '{name}'.{hint} Present: "
                f"{first_few((repr(each) for each in present), 12)}; '{DEFAULT_CONFIG_TYPE}' is for those not named."
            )


def weighted(frames: Iterable[Frame], weights: Mapping[str, float]) -> list[Frame]:
    """Returns the frames with the weight of their config_type multiplied in; 'Default' is for those not named."""
    default = weights.get(DEFAULT_CONFIG_TYPE, 1.0)
    return [replace(frame, weight=frame.weight * weights.get(frame.config_type, default)) for frame in frames]
