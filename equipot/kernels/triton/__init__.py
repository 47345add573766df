"""The operators on GPUs: Triton kernels generated from the descriptions."""

from equipot.kernels.triton import convolution as convolution
from equipot.kernels.triton import product as product
