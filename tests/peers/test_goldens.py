"""Published models drop in: converted weights give the published code's energies, forces and stresses.

The golden results were computed by the codes themselves, in their own environments, by scripts/goldens/.
"""

import pytest
import torch

from equipot.convert import CONVERTERS
from equipot.convert.layout import channels_within
from equipot.kernels.backend import use_backend
from equipot.models import Potential
from equipot.models.model_file import load_potential, save_potential
from equipot.o3 import Irreps
from tests.kernels.fused import needs_compiler

from .golden import (
    FILES,
    RELATIVE_ENERGY,
    SINGLE,
    STRESS,
    Golden,
    errors,
    force_limit,
    graph_of,
    predict,
    read_golden,
)

every_golden = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
with_features = [path for path in FILES if "features_irreps" in read_golden(path).meta]


def potential_of(golden: Golden) -> Potential:
    return CONVERTERS[golden.source.code](golden.source, golden.meta.get("head"))


def test_there_are_enough_configurations_of_every_code():
    codes = [read_golden(path).source.code for path in FILES]
    assert len(codes) >= 24
    assert set(codes) == set(CONVERTERS)


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_compiler)])
@every_golden
def test_energies_forces_and_stresses_are_the_published_ones(path, backend):
    golden = read_golden(path)
    potential = potential_of(golden)
    assert use_backend(potential, backend, training=False).name == backend
    prediction = predict(potential)
    assert golden.result("forces").abs().max() > 0.005
    assert golden.result("interaction").abs().max() > 0.005
    if golden.meta["dtype"] == "float64":
        found = errors(prediction, golden)
        assert found["energy"] <= RELATIVE_ENERGY, found
        assert found["forces"] <= force_limit(golden), found
        assert found["stress"] <= STRESS, found
    else:
        assert potential.dtype == torch.float32
        for name in ("energy", "forces", "stress"):
            reference = golden.result(name)
            known = ~reference.isnan()  # stress is not where the cell is not periodic
            error = (getattr(prediction, name) - reference)[known].abs().max()
            assert error <= SINGLE * reference[known].abs().max(), name


@every_golden
def test_a_saved_and_loaded_model_gives_the_same(path, tmp_path):
    potential = potential_of(read_golden(path))
    loaded = load_potential(save_potential(tmp_path / "m.equipot", potential), check=True)
    before, after = predict(potential), predict(loaded)
    assert torch.equal(before.energy, after.energy)
    assert torch.equal(before.forces, after.forces)


@pytest.mark.parametrize("path", with_features, ids=lambda path: path.stem)
def test_features_of_every_layer_are_the_published_ones(path):
    """Energies alone cannot reveal a wrong order of components or a wrong phase."""
    golden = read_golden(path)
    potential = potential_of(golden)
    graph = graph_of(potential)
    for t, ours in enumerate(potential.features(graph, graph.vectors())):
        theirs = _as_ours(golden.result(f"features/{t}"), Irreps(golden.meta["features_irreps"][t]))
        assert theirs.shape == ours.shape
        assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


def _as_ours(x: torch.Tensor, irreps: Irreps) -> torch.Tensor:
    """[channel, m] within each irrep, in any order, as [m, channel] sorted."""
    widths = {ir: x.new_zeros(len(x), ir.dim, irreps.count(ir)) for ir in irreps.unique}
    for (mul, ir), where, channels in zip(irreps, irreps.slices(), channels_within(irreps), strict=True):
        widths[ir][:, :, channels] = x[:, where].reshape(-1, mul, ir.dim).transpose(1, 2)
    return torch.cat([widths[ir].flatten(1) for ir in sorted(widths)], dim=1)
