"""Whole models: the potential, its readouts, its description, its file."""

from equipot.models.describe import body_orders, describe, energy_body_order
from equipot.models.potential import ParameterCounts, Potential

__all__ = ["ParameterCounts", "Potential", "body_orders", "describe", "energy_body_order"]
