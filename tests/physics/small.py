"""The potentials and structures of these tests: every named point made small, some axes switched, tiny systems."""

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from equipot.design import Design
from equipot.geometry import Graph, build_graph
from equipot.kernels.backend import use_backend
from equipot.models import Potential
from equipot.points import NAMED_POINTS, botnet, mace, mace_nonlinear, named_point, nequip, nequip_current, nequix
from equipot.statistics import Statistics
from tests.kernels.fused import needs_compiler

R_MAX = 3.0
SPECIES = (1, 6, 8)
STATISTICS = Statistics(
    species=SPECIES,
    atomic_energies=(-1.3, -2.7, -4.1),
    mean_neighbours=5.0,
    mean_neighbours_per_species=(4.0, 6.0, 5.0),
    force_rms=0.9,
    energy_mean=-2.1,
    energy_std=0.7,
    energy_mean_per_species=(-1.0, -3.0, -2.0),
    total_energy_mean=-7.0,
    min_distance=0.9,
    species_fractions=(0.5, 0.3, 0.2),
)
SMALL = {"r_max": R_MAX, "channels": 3, "max_ell": 2, "num_radial": 4, "radial_mlp": (6,), "readout_hidden": 4}
_SIZES = {
    "ace": {"max_L": 0},
    "mace": {"max_L": 1},
    "invariant": {"max_ell": 0, "max_L": 0, "layers": 2},
    "botnet": {"max_L": 2, "layers": 3},
    "nequip": {"max_L": 2, "layers": 3},
    "nequix": {"max_L": 2, "channels": (4, 3, 2), "layers": 2},
}


def point(name: str, **axes) -> Design:
    """A named point with few channels, layers and degrees."""
    if name == "ace_linear":
        return named_point(name, **{"r_max": R_MAX, "degrees": (4, 8, 10, 12), **axes})
    size = _SIZES.get(name, {"max_L": 1, "layers": 2})
    return named_point(name, **{**SMALL, **size, **axes})


_M = {**SMALL, "max_L": 1}
_N = {**SMALL, "max_L": 1, "layers": 2}
SWITCHED: dict[str, Design] = {
    "mace, symmetric product": mace(**_M, product="symmetric", product_weights="shared"),
    "mace, full parity": mace(**{**_M, "correlation": 2, "max_L": 2, "parity": "full", "last_layer": "all"}),
    "mace, non-residual": mace(**_M, residual_first=False, scale_shift_per_species=True),
    "mace, message_species": mace(**{**_M, "correlation": 2}, message_species="all", self_connection="plain"),
    "mace, gate": mace(**{**_M, "correlation": 2}, nonlinearity="gate", activation_constants="exact"),
    "mace, symmetric full": mace(**{**_M, "correlation": 3, "layers": 1, "parity": "full", "product": "symmetric"}),
    "nequip, rms": nequip(**_N, feature_norm="rms", neighbour_count="per_sender"),
    "nequip, widths": nequip(**{**_N, "max_L": 2, "channels": (4, 3, 2)}, embedding_channels=5),
    "nequix, indexed": nequix(
        **{**_N, "channels": (4, 3)}, self_connection="indexed", feature_norm="none", last_layer="all"
    ),
    "nequix, full parity": nequix(**_N, parity="full", self_connection="embedding", last_layer="all"),
    "mace, layer norm": mace(**{**_M, "correlation": 2}, feature_norm="layer", element_embedding="one_hot"),
    "botnet, density": botnet(**_N, neighbour_normalisation="density", envelope_on="weights"),
    "botnet, per receiver": botnet(**_N, neighbour_count="per_receiver", distance_transform="soft"),
    "botnet, no normalisation": botnet(**_N, neighbour_normalisation="none", pair_repulsion="zbl"),
    "nequip, no parity": nequip(
        **{**_N, "layers": 3, "parity": "none"}, gate_activation="ssp", radial_activation="ssp"
    ),
    "nequip, readout": nequip_current(
        **_N,
        readout="mlp",
        readout_depth=3,
        readout_activation="mish",
        readout_scaling="nequip",
        pair_repulsion="zbl_lammps",
        repulsion_p=4,
    ),
    "mace_nonlinear, full parity": mace_nonlinear(
        **{**_M, "correlation": 2}, parity="full", edge_channels=(2, 4), message_species="all", last_layer="all"
    ),
    "mace_nonlinear, first layer linear": mace_nonlinear(
        **{**_M, "correlation": 2}, first_layer="density", edge_channels=(2, 0), edge_channels_first=False
    ),
    "nequip, message of mace_nonlinear": nequip(
        **_N,
        radial_scaling="layer_norm",
        radial_species="embedding",
        message_nonlinearity="gate",
        message_residual=True,
        neighbour_normalisation="density_mlp",
        envelope_on="weights",
        readout="mlp_bias",
    ),
    "agnesi": mace(**{**_M, "correlation": 2}, distance_transform="agnesi", radial_basis="chebyshev"),
    "gaussian": mace(**{**_M, "correlation": 2}, radial_basis="gaussian", radial_trainable=True, envelope_p=2),
    "chebyshev": mace(**{**_M, "correlation": 1}, radial_basis="chebyshev", radial_map="linear"),
    "fixed": mace(**{**_M, "correlation": 2}, radial_map="fixed", envelope_on="weights", radial_trainable=True),
    "zbl": mace(**{**_M, "layers": 1}, pair_repulsion="zbl", scale="energy_std", trainable_shift=True),
    "soft": nequip(**_N, distance_transform="soft", self_connection="embedding", element_embedding="table"),
}
PLAIN: dict[str, Design] = {**{name: point(name) for name in NAMED_POINTS}, **SWITCHED}
FUSED: dict[str, Design] = {
    f"{name}, fused": PLAIN[name]
    for name in (
        "mace", "botnet", "nequix", "mace_nonlinear", "mace, symmetric full", "nequip, widths",
    )
}  # fmt: skip
"""Those that are evaluated by the fused operations for the CPU too, where there is a compiler."""
CASES: dict[str, Design] = {**PLAIN, **FUSED}


@cache
def potential(case: str, dtype: torch.dtype = torch.float64) -> Potential:
    """The potential of a case, made once; constants that start as 20 and 0 are 1, so that everything matters."""
    model = Potential(CASES[case], STATISTICS, dtype=dtype, seed=7)
    use_backend(model, "cpu" if case in FUSED else "reference")
    for name, parameter in model.named_parameters():
        if name.endswith((".alpha", ".beta")):
            nn.init.ones_(parameter)
    return model


every_point = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=needs_compiler if case in FUSED else ()) for case in CASES]
)
"""Runs a test for every named point and every switched one, some of them on either backend."""
every_plain_point = pytest.mark.parametrize("case", PLAIN)
"""The same on plain torch only: for third derivatives, and for tests that make potentials of their own."""


class Structure(NamedTuple):
    """Positions, cell, periodicity and elements of one structure."""

    positions: np.ndarray
    cell: np.ndarray
    pbc: tuple[bool, bool, bool]
    numbers: np.ndarray

    def graph(self, r_max: float = R_MAX) -> Graph:
        return build_graph(self.positions, self.cell, np.array(self.pbc), self.numbers, r_max)

    def mapped(self, Q: np.ndarray) -> "Structure":
        """Every vector r taken to Q r, cell included."""
        return self._replace(positions=self.positions @ Q.T, cell=self.cell @ Q.T)


def cluster(n: int = 5, seed: int = 0) -> Structure:
    """n atoms, none closer than 0.8 Å, all within reach of each other."""
    rng = np.random.default_rng(seed)
    positions = np.zeros((1, 3))
    while len(positions) < n:
        r = rng.uniform(-1.0, 1.0, 3)
        if np.linalg.norm(positions - r, axis=1).min() > 0.8:
            positions = np.vstack([positions, r])
    numbers = np.resize(SPECIES, n)
    return Structure(positions + rng.normal(size=3), np.zeros((3, 3)), (False, False, False), numbers)


def crystal() -> Structure:
    """A triclinic cell whose sides are shorter than the cutoff; one atom lies outside it."""
    cell = np.array([[2.3, 0.0, 0.0], [0.6, 2.5, 0.0], [-0.4, 0.7, 2.7]])
    fractions = np.array([[0.1, 0.2, 0.05], [0.55, 0.6, 1.5]])
    return Structure(fractions @ cell, cell, (True, True, True), np.array([6, 8]))


def slab() -> Structure:
    """Periodic in two directions, open along the second."""
    cell = np.array([[2.6, 0.3, 0.0], [0.0, 9.0, 0.0], [0.5, 0.0, 2.4]])
    positions = np.array([[0.2, 0.0, 0.1], [1.4, 1.1, 1.2], [0.3, 2.0, 2.9]])
    return Structure(positions, cell, (True, False, True), np.array([1, 8, 6]))


def wire() -> Structure:
    """Periodic in one direction, which is not an axis."""
    cell = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.5]])
    return Structure(np.array([[0.1, 0.0, 0.0], [0.9, -0.7, 0.4]]), cell, (False, False, True), np.array([8, 1]))


STRUCTURES = {"crystal": crystal(), "slab": slab(), "wire": wire(), "cluster": cluster()}


def rotation(seed: int = 0) -> np.ndarray:
    """A random proper rotation."""
    Q, R = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    Q = Q * np.sign(np.diag(R))
    return Q * np.linalg.det(Q)


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return float(((x - y).abs().max() / (y.abs().max() + 1e-12)).detach())
