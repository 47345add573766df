"""Parts of the interaction layer, against their formulas."""

from math import sqrt

import pytest
import torch

from equipot.basis import RadialFeatures
from equipot.interactions.gate import RMSNorm
from equipot.interactions.radial_map import radial_map
from equipot.kernels.polynomial import convolution
from equipot.o3 import Irrep, Irreps
from equipot.points import mace


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


@pytest.mark.parametrize(("channels", "seen"), [(5, [0, 1, 2, 0, 1]), (2, [0, 1])])
def test_a_fixed_radial_map_gives_each_channel_one_basis_function(channels, seen):
    """R_{p k} = e_{k mod n}, n = 3, in each of the paths 0e⊗Y0→0e and 0e⊗Y1→1o; times the envelope if it is left."""
    paths = convolution(Irreps([(channels, Irrep(0, 1))]), 1, [Irrep(0, 1), Irrep(1, -1)])
    R = radial_map(mace(radial_map="fixed", num_radial=3), paths, 1, torch.float64)
    e = torch.tensor([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
    f = torch.tensor([[1.0], [0.5]])
    expected = [[(e[edge, n] * f[edge, 0]).item() for n in seen] * 2 for edge in (0, 1)]
    assert R(RadialFeatures(e, f), torch.zeros(2, dtype=torch.int64)).tolist() == expected
