"""What a potential is linear in, and how uncertain that is."""

from equipot.errors import EquipotError
from equipot.models.coupled_features import CoupledFeatures
from equipot.models.last_layer import LastLayer
from equipot.models.linear_features import LinearFeatures
from equipot.models.potential import Potential
from equipot.models.uncertainty import Uncertainty


def linear_features(potential: Potential) -> LinearFeatures:
    """Returns a potential as a linear model: in all weights of linear ACE, in the last ones of other readouts.

    Args:
        potential: Any, best in float64.

    Raises:
        EquipotError: It has no such weights.
    """
    return CoupledFeatures(potential) if potential.design.channel_coupling == "coupled" else LastLayer(potential)


def own_uncertainty(potential: Potential, name: str) -> Uncertainty:
    """Returns the uncertainty that a model has.

    Args:
        potential: The model.
        name: How to call it in the error.

    Raises:
        EquipotError: It has none.
    """
    if potential.uncertainty is None:
        raise EquipotError(
            f"{name} does not say how uncertain it is. equipot fit DATA --refit-readout {name} --keep-weights gives it "
            "the uncertainty of its last weights, with DATA the structures that it was trained on; models of a linear "
            "fit have one unless linear.uncertainty=false."
        )
    return potential.uncertainty
