"""The layers of a design."""

import torch

from equipot.design import Design
from equipot.interactions.coupled import CoupledInteraction, plan_coupled
from equipot.interactions.layer import Interaction
from equipot.interactions.plan import plan_layers
from equipot.statistics import Statistics


def interaction_layers(
    design: Design, statistics: Statistics, dtype: torch.dtype
) -> list[Interaction] | list[CoupledInteraction]:
    """Returns the layers: the design's many, or the one of coupled channels."""
    if design.channel_coupling == "coupled":
        return [CoupledInteraction(design, plan_coupled(design, statistics), statistics, dtype)]
    return [Interaction(design, plan, statistics, dtype) for plan in plan_layers(design, len(statistics.species))]
