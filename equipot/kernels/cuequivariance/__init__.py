"""The convolution and the product basis by NVIDIA's cuEquivariance: an optional package, imported where it is used."""
