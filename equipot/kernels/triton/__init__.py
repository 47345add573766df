"""The operators on GPUs: Triton kernels generated from the descriptions."""

from equipot.kernels.triton import convolution as convolution
from equipot.kernels.triton import harmonics as harmonics
from equipot.kernels.triton import linear as linear
from equipot.kernels.triton import product as product
from equipot.kernels.triton import spline as spline
