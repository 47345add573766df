"""The interaction layer and its parts."""

from equipot.interactions.coupled import CoupledInteraction, CoupledPlan, plan_coupled
from equipot.interactions.layer import Edges, Elements, Interaction
from equipot.interactions.layers import interaction_layers
from equipot.interactions.plan import LayerPlan, embedding_width, plan_layers
from equipot.interactions.radial_points import ExactRadial
from equipot.interactions.radial_spline import EXACT, RadialSpline, default_radial, num_knots, radial_choice

__all__ = [
    "EXACT", "CoupledInteraction", "CoupledPlan", "Edges", "Elements", "ExactRadial", "Interaction", "LayerPlan",
    "RadialSpline", "default_radial", "embedding_width", "interaction_layers", "num_knots", "plan_coupled",
    "plan_layers", "radial_choice",
]  # fmt: skip
