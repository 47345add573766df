"""What a potential is linear in."""

from equipot.models.coupled_features import CoupledFeatures
from equipot.models.last_layer import LastLayer
from equipot.models.linear_features import LinearFeatures
from equipot.models.potential import Potential


def linear_features(potential: Potential) -> LinearFeatures:
    """Returns a potential as a linear model: in all weights of linear ACE, in the last ones of other readouts.

    Args:
        potential: Any, best in float64.

    Raises:
        EquipotError: It has no such weights.
    """
    return CoupledFeatures(potential) if potential.design.channel_coupling == "coupled" else LastLayer(potential)
