"""The interaction layer and its parts."""

from equipot.interactions.layer import Edges, Elements, Interaction
from equipot.interactions.plan import LayerPlan, embedding_width, plan_layers

__all__ = ["Edges", "Elements", "Interaction", "LayerPlan", "embedding_width", "plan_layers"]
