"""Parts of the interaction layer, against their formulas."""

from math import exp, sqrt

import numpy as np
import pytest
import torch

from equipot.basis import RadialFeatures
from equipot.errors import EquipotError
from equipot.geometry import build_graph
from equipot.interactions import plan_layers
from equipot.interactions.activation import CONSTANTS, FUNCTIONS, Activation
from equipot.interactions.linear import IndexedLinear, SpeciesLinear
from equipot.interactions.norm import LayerNorm, RMSNorm
from equipot.interactions.radial_map import radial_map
from equipot.kernels.polynomial import convolution
from equipot.kernels.reference import group_by_species
from equipot.models.embedding import element_embedding
from equipot.models.readout import readout
from equipot.models.repulsion import repulsion
from equipot.o3 import Irrep, Irreps
from equipot.points import mace, nequix


def test_rms_norm_divides_each_irrep_by_its_root_mean_square():
    """g x / √(ε + mean x²), ε = 1e-4, the mean over channels and components; features small enough to see ε."""
    norm = RMSNorm(Irreps("2x0e + 2x1o"), torch.float64)
    g = {"0e": [2.0, 3.0], "1o": [5.0, 7.0]}
    norm.load_state_dict({f"weights.{ir}": torch.tensor(values, dtype=torch.float64) for ir, values in g.items()})
    scalars, vectors = [0.03, -0.04], [0.01, 0.02, -0.03, 0.0, 0.01, 0.03]  # components x y z, two channels each
    y = norm(torch.tensor([scalars + vectors], dtype=torch.float64))[0].tolist()
    scalar_rms = sqrt(1e-4 + (9e-4 + 16e-4) / 2)
    vector_rms = sqrt(1e-4 + (1e-4 + 4e-4 + 9e-4 + 0.0 + 1e-4 + 9e-4) / 6)
    assert y[:2] == pytest.approx([2.0 * 0.03 / scalar_rms, 3.0 * -0.04 / scalar_rms], rel=1e-12)
    gx = [5.0 * 0.01, 7.0 * 0.02, 5.0 * -0.03, 7.0 * 0.0, 5.0 * 0.01, 7.0 * 0.03]
    assert y[2:] == pytest.approx([value / vector_rms for value in gx], rel=1e-12)


def test_layer_norm_divides_all_irreps_by_one_number():
    """g x / √(ε + (Σ x₀² + Σ x₁² / 9) / 2) for two irreps, sums over channels and components; a zero stays a zero."""
    norm = LayerNorm(Irreps("2x0e + 2x1o"), torch.float64)
    g = {"0e": [2.0, 3.0], "1o": [5.0, 7.0]}
    norm.load_state_dict({f"weights.{ir}": torch.tensor(values, dtype=torch.float64) for ir, values in g.items()})
    x = [3e-6, -4e-6, 1e-6, 2e-6, -3e-6, 0.0, 1e-6, 3e-6]  # so small that ε = 10⁻¹² counts
    y = norm(torch.tensor([x, [0.0] * 8], dtype=torch.float64))
    root = sqrt(1e-12 + ((9e-12 + 16e-12) + (1 + 4 + 9 + 0 + 1 + 9) * 1e-12 / 9) / 2)
    gx = [2.0 * x[0], 3.0 * x[1], 5.0 * x[2], 7.0 * x[3], 5.0 * x[4], 7.0 * x[5], 5.0 * x[6], 7.0 * x[7]]
    assert y[0].tolist() == pytest.approx([value / root for value in gx], rel=1e-12)
    assert y[1].tolist() == [0.0] * 8


def test_a_plain_radial_network_has_no_factors():
    """R = silu(silu(e W₁) W₂) W₃, and weights that start from N(0, 4/h), the last from N(0, 1/h)."""
    paths = convolution(Irreps([(600, Irrep(0, 1))]), 1, [Irrep(0, 1), Irrep(1, -1)])
    design = nequix(num_radial=50, radial_mlp=(80, 70))
    network = radial_map(design, paths, 1, torch.float64)
    W1, W2, W3 = network.weights
    e = torch.randn(3, 50, dtype=torch.float64)
    f = torch.tensor([[1.0], [0.5], [0.0]], dtype=torch.float64)
    silu = torch.nn.functional.silu
    expected = silu(silu(e @ W1) @ W2) @ W3 * f
    assert torch.allclose(network(RadialFeatures(e, f), torch.zeros(3, dtype=torch.int64)), expected, rtol=1e-13)
    for W, variance in ((W1, 4 / 50), (W2, 4 / 80), (W3, 1 / 70)):
        assert W.square().mean().item() == pytest.approx(variance, rel=0.1)


def test_indexed_matrices_are_divided_by_the_channels_only():
    """y_i = x_i W_{z_i} / √K with three elements; a matrix per element as e3nn has it divides by √(3 K)."""
    irreps = Irreps("4x0e"), Irreps("2x0e")
    x, species = torch.randn(5, 4, dtype=torch.float64), torch.tensor([2, 0, 1, 2, 2])
    unused = torch.zeros(3, 1, dtype=torch.float64)
    for kind, divisor in ((IndexedLinear, 2.0), (SpeciesLinear, 2.0 * sqrt(3.0))):
        linear = kind(*irreps, 3, torch.float64)
        expected = torch.einsum("nk,nkl->nl", x, linear.weights["0e"][species]) / divisor
        assert torch.allclose(linear(x, group_by_species(species, 3), unused), expected, rtol=1e-13)


def test_one_hot_features_are_as_many_as_the_elements():
    assert element_embedding(nequix(), 3, torch.float64).vectors().tolist() == torch.eye(3).tolist()
    assert not list(element_embedding(nequix(), 3, torch.float64).parameters())
    assert plan_layers(nequix(embedding_channels=3), 3) == plan_layers(nequix(), 3)
    with pytest.raises(EquipotError, match=r"embedding_channels=4, but one-hot vectors of 3 elements have width 3"):
        plan_layers(nequix(embedding_channels=4), 3)


def test_constants_of_the_activations_are_those_of_their_sums():
    """e3nn-jax's: the mean of σ² over the quantiles i / (n + 1) of the normal distribution, n = 1,000,001."""
    x = torch.special.ndtri(torch.arange(1, 1_000_002, dtype=torch.float64) / 1_000_002)
    for name, function in (("silu", torch.nn.functional.silu), ("tanh", torch.tanh)):
        assert CONSTANTS["jax"][name] == pytest.approx(function(x).square().mean().item() ** -0.5, rel=1e-12)


@pytest.mark.parametrize(("channels", "seen"), [(5, [0, 1, 2, 0, 1]), (2, [0, 1])])
def test_a_fixed_radial_map_gives_each_channel_one_basis_function(channels, seen):
    """R_{p k} = e_{k mod n}, n = 3, in each of the paths 0e⊗Y0→0e and 0e⊗Y1→1o; times the envelope if it is left."""
    paths = convolution(Irreps([(channels, Irrep(0, 1))]), 1, [Irrep(0, 1), Irrep(1, -1)])
    R = radial_map(mace(radial_map="fixed", num_radial=3), paths, 1, torch.float64)
    e = torch.tensor([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
    f = torch.tensor([[1.0], [0.5]])
    expected = [[(e[edge, n] * f[edge, 0]).item() for n in seen] * 2 for edge in (0, 1)]
    assert R(RadialFeatures(e, f), torch.zeros(2, dtype=torch.int64)).tolist() == expected


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "none"])
def test_constants_give_activations_of_unit_second_moment(name):
    """c² E[σ(x)²] = 1 for x ~ N(0, 1): by quadrature exactly, as sampled with 10⁶ numbers to 0.3 %."""
    x = torch.linspace(-12.0, 12.0, 200_001, dtype=torch.float64)
    weight = torch.exp(-x * x / 2) / sqrt(2 * torch.pi)
    moment = {key: float(torch.trapezoid(Activation(name, key)(x) ** 2 * weight, x)) for key in ("exact", "e3nn")}
    assert moment["exact"] == pytest.approx(1.0, rel=1e-9)
    assert moment["e3nn"] == pytest.approx(1.0, rel=4e-3)
    assert Activation(name, "relu").constant == sqrt(2.0)


def test_a_deep_readout_is_its_formula():
    """ε = √2 mish(√2 mish(h W₁/√3) W₂/√4) W₃/√4 with readout_scaling="nequip"."""
    design = mace(readout_depth=2, readout_activation="mish", readout_scaling="nequip", readout_hidden=4)
    head = readout(design, Irreps("3x0e"), last=True, dtype=torch.float64)
    h = torch.tensor([[0.3, -1.1, 2.0]], dtype=torch.float64)
    W1, W2, W3 = (m.weights["0e"] for m in (head.first, head.middle[0], head.second))
    mish = torch.nn.functional.mish
    expected = mish(mish(h @ W1 / sqrt(3)) @ W2 * sqrt(2 / 4)) @ W3 * sqrt(2 / 4)
    assert head(h).tolist() == pytest.approx(expected[:, 0].tolist(), rel=1e-13)


def test_lammps_repulsion_of_one_pair():
    """O–C at 1.1 Å: half of 14.399645·48/r · φ(r/a) · f(r/r_max) to each atom, a = 0.4685/(8^0.23 + 6^0.23) Å."""
    r, p = 1.1, 4
    x = r * (8**0.23 + 6**0.23) / 0.4685
    c, d = (0.02817, 0.28022, 0.50986, 0.18175), (0.20162, 0.4029, 0.94229, 3.1998)
    phi = sum(a * exp(-b * x) for a, b in zip(c, d, strict=True))
    u = r / 3.0
    f = 1 - 15 * u**4 + 24 * u**5 - 10 * u**6
    design = mace(pair_repulsion="zbl_lammps", repulsion_p=p, r_max=3.0)
    graph = build_graph(np.array([[0.0, 0, 0], [0, 0, r]]), np.zeros((3, 3)), np.zeros(3, bool), np.array([8, 6]), 3.0)
    energies = repulsion(design)(graph, graph.vectors().norm(dim=1))
    assert energies.tolist() == pytest.approx([0.5 * 14.399645 * 48 / r * phi * f] * 2, rel=1e-13)
