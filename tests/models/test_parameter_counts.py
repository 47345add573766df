"""Numbers of parameters of the published models, to the last one."""

import pytest
import torch

from equipot.design import Design
from equipot.models import Potential
from equipot.points import botnet, botnet_element, botnet_element_residual, mace, nequip, nequix
from equipot.statistics import Statistics

HCO, HCNO = (1, 6, 8), (1, 6, 7, 8)


def potential(design: Design, species: tuple[int, ...]) -> Potential:
    each = (1.0,) * len(species)
    return Potential(
        design,
        Statistics(
            species=species,
            atomic_energies=each,
            mean_neighbours=10.0,
            mean_neighbours_per_species=each,
            energy_mean_per_species=each,
        ),
    )


@pytest.mark.parametrize(
    ("design", "species", "parameters"),
    [
        # MACE paper, table of acetylacetone: BOTNet, NequIP, MACE 256x0e + 256x1o + 256x2e
        pytest.param(botnet_element(), HCO, 2_756_416, id="botnet-acac"),
        pytest.param(nequip(), HCO, 3_190_488, id="nequip-acac"),
        pytest.param(mace(channels=256, max_L=2), HCO, 2_803_984, id="mace-acac"),
        # BOTNet's released code on 3BPA's four elements, as its README configures it
        pytest.param(botnet(), HCNO, 3_760_016, id="botnet-3bpa"),
        pytest.param(botnet_element(), HCNO, 3_107_216, id="botnet-element-3bpa"),
        # Nequix-MP-1: the released file has 707,658 numbers, 89 of them energies of isolated atoms
        pytest.param(nequix(), tuple(range(1, 90)), 707_658 - 89, id="nequix-mp-1"),
        # fixed frequencies, as in the ablation's code
        pytest.param(nequip(radial_trainable=False), HCO, 3_190_480, id="nequip-fixed"),
    ],
)
def test_published_number_of_parameters(design, species, parameters):
    assert sum(p.numel() for p in potential(design, species).parameters()) == parameters


def test_element_dependent_radials_grow_with_the_elements_and_the_self_connection_moves():
    """From the non-residual to the residual first layer only S and P differ: P acts on A, S on h⁰ (scalars)."""
    first, residual = (
        potential(point(channels=4), HCO).layers[0] for point in (botnet_element, botnet_element_residual)
    )
    p, s = (sum(w.numel() for w in module.parameters()) for module in (first.species_weights, residual.self_connection))
    assert (p, s) == (4 * 3 * 4 * 4, 1 * 3 * 4 * 4)
    assert not list(first.self_connection.parameters()) and not list(residual.species_weights.parameters())


def test_parameters_without_gradient_are_counted_apart():
    """In the last layer of a BOTNet only scalars are read, so what makes the other irreps is never trained."""
    design = botnet(channels=2, layers=2, max_ell=1, max_L=1, radial_mlp=(3,), num_radial=4)
    model = potential(design, HCO)
    counts = model.parameter_counts()
    last = model.layers[-1]
    other = [
        parameter
        for module in (last.mix, last.self_connection)
        for irrep, parameter in module.weights.items()
        if irrep != "0e"
    ]
    columns = sum(path.mul for path in last.plan.convolution.paths if str(path.ir_out) != "0e")
    dead = sum(p.numel() for p in other) + columns * last.radial.weights[-1].shape[0]
    assert counts.parameters == sum(counts.per_block.values())
    assert counts.parameters - counts.active_parameters == dead


def test_active_parameters_of_the_published_botnet():
    """1,083,520 of the 2,756,416 parameters of BOTNet on acetylacetone never receive a gradient."""
    counts = potential(botnet_element(), HCO).parameter_counts()
    assert counts.parameters - counts.active_parameters == 1_083_520


def test_counts_do_not_depend_on_the_dtype():
    design = mace(channels=2)
    counts = [
        Potential(design, potential(design, HCO).statistics, dtype=dtype).parameter_counts()
        for dtype in (torch.float32, torch.float64)
    ]
    assert counts[0] == counts[1]
