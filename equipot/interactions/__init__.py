"""The interaction layer and its parts."""

from equipot.interactions.layer import Edges, Elements, Interaction
from equipot.interactions.plan import LayerPlan, embedding_width, plan_layers
from equipot.interactions.radial_points import ExactRadial
from equipot.interactions.radial_spline import EXACT, RadialSpline, default_radial, num_knots, radial_choice

__all__ = [
    "EXACT", "Edges", "Elements", "ExactRadial", "Interaction", "LayerPlan", "RadialSpline", "default_radial",
    "embedding_width", "num_knots", "plan_layers", "radial_choice",
]  # fmt: skip
