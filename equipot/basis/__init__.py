"""Functions of the distance: radial bases, distance transforms, envelopes."""

from equipot.basis.cutoff import polynomial_envelope
from equipot.basis.radial import RadialBasis, RadialFeatures
from equipot.basis.short_range import wall_distances

__all__ = ["RadialBasis", "RadialFeatures", "polynomial_envelope", "wall_distances"]
