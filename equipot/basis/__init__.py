"""Functions of the distance: radial bases, distance transforms, envelopes."""

from equipot.basis.cutoff import polynomial_envelope
from equipot.basis.radial import RadialBasis, RadialFeatures

__all__ = ["RadialBasis", "RadialFeatures", "polynomial_envelope"]
