"""What a potential is linear in."""

from equipot.models.last_layer import LastLayer
from equipot.models.linear_features import LinearFeatures
from equipot.models.potential import Potential


def linear_features(potential: Potential) -> LinearFeatures:
    """Returns a potential as a linear model in the last weights of its readouts.

    Args:
        potential: Any, best in float64.

    Raises:
        EquipotError: It has no such weights.
    """
    return LastLayer(potential)
