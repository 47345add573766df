"""Linear ACE is linear in its weights: the rows of the design matrix are the derivatives of what it predicts."""

import math

import numpy as np
import pytest
import torch

from equipot.errors import EquipotError
from equipot.geometry import batch_graphs, evaluate, voigt
from equipot.interactions import plan_coupled
from equipot.kernels.backend import use_backend
from equipot.kernels.coupled import CoupledProduct
from equipot.models import Potential
from equipot.models.coupled_features import CoupledFeatures
from equipot.models.last_layer import LastLayer
from equipot.models.linear import linear_features
from equipot.points import ace_linear, mace
from tests.kernels.fused import needs_compiler
from tests.physics.small import R_MAX, SMALL, STATISTICS, cluster, crystal, slab

DESIGNS = {
    "chebyshev": ace_linear(r_max=R_MAX, degrees=(4, 5, 5, 5), degree_rarity=0),
    "legendre": ace_linear(r_max=R_MAX, degrees=(3, 5, 6), radial_basis="legendre", degree_rarity=0, shift="mean"),
    "bessel": ace_linear(
        r_max=R_MAX, degrees=(5, 6), radial_basis="bessel", degree_rarity=0, distance_transform="none"
    ),
    "rare elements": ace_linear(r_max=R_MAX, degrees=(3, 9, 11), degree_rarity=1.0),
    "radial alone": ace_linear(r_max=R_MAX, degrees=(5, 6), max_ell=0, degree_rarity=0),
    "five factors": ace_linear(
        r_max=R_MAX,
        degrees=(2, 4, 5, 6, 7),
        pair_repulsion="zbl",
        degree_rarity=0,
        inner_envelope=1.0,
        product_r_max=2.3,
    ),
}
NUMBERS = STATISTICS.model_copy(update={"species_fractions": (0.6, 0.3, 0.1), "pair_distances": (1.4,) * 6})
backends = pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_compiler)])


def batch():
    """Periodic in three directions, in two, and open."""
    return batch_graphs([crystal().graph(), cluster(7).graph(), slab().graph()])


@backends
@pytest.mark.parametrize("name", DESIGNS)
def test_prediction_is_offset_and_rows_times_weights(name, backend):
    potential = Potential(DESIGNS[name], NUMBERS, dtype=torch.float64, seed=3)
    expected, graph = evaluate(potential, batch()), batch()
    use_backend(potential, backend)
    features = CoupledFeatures(potential)
    rows, offset, w = features.rows(graph), features.offset(graph), features.weights()
    assert len(w) == features.num_columns == sum(p.numel() for p in potential.parameters())
    assert torch.allclose(offset.energy + rows.energy @ w, expected.energy, rtol=1e-12)
    assert torch.allclose(offset.forces.flatten() + rows.forces @ w, expected.forces.flatten(), atol=1e-11)
    stress = voigt(offset.stress).flatten() + rows.stress @ w
    assert torch.allclose(stress, voigt(expected.stress).flatten(), atol=1e-12, equal_nan=True)
    by_atom = features.offset(graph).node_energy + features.node_rows(graph) @ w
    assert torch.allclose(by_atom, expected.node_energy, rtol=1e-12)
    assert torch.allclose(features.prediction(graph).forces, expected.forces, atol=1e-11)


@backends
def test_what_is_not_wanted_has_no_rows(backend):
    potential = Potential(DESIGNS["legendre"], STATISTICS, dtype=torch.float64)
    use_backend(potential, backend)
    features, graph = CoupledFeatures(potential), batch()
    whole = features.rows(graph)
    for forces, stress in ((False, False), (True, False), (False, True)):
        rows = features.rows(graph, forces=forces, stress=stress)
        assert torch.equal(rows.energy, whole.energy)
        assert len(rows.forces) == (len(whole.forces) if forces else 0)
        assert len(rows.stress) == (len(whole.stress) if stress else 0)


def test_new_weights_are_those_of_the_potential():
    potential = Potential(DESIGNS["chebyshev"], STATISTICS, dtype=torch.float64)
    features, graph = linear_features(potential), batch()
    w = torch.randn(features.num_columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features.set_weights(w)
    assert torch.equal(features.weights(), w)
    energy = features.offset(graph).energy + features.rows(graph, forces=False, stress=False).energy @ w
    assert torch.allclose(evaluate(potential, graph).energy, energy, rtol=1e-12)


def test_the_prior_grows_with_the_degree_and_columns_know_their_order():
    potential = Potential(DESIGNS["chebyshev"], STATISTICS, dtype=torch.float64)
    features, layer = CoupledFeatures(potential), potential.layers[0]
    assert features.penalties.min() >= 1.0
    assert set(features.orders.tolist()) == {1, 2, 3, 4}
    assert int((features.orders == 1).sum()) == layer.pair_weights.numel()
    degrees = torch.tensor([f.degree for f in layer.plan.product.functions])
    of_functions = features.penalties[: len(degrees)]
    assert torch.corrcoef(torch.stack([degrees, of_functions]))[0, 1] > 0.5


def test_rare_elements_have_fewer_functions():
    """Each halving of an element's fraction adds one degree, for a factor as for the centre."""
    design = DESIGNS["rare elements"]
    product = Potential(design, NUMBERS).layers[0].plan.product
    assert product.costs == pytest.approx([math.log2(1 / x) for x in (0.6, 0.3, 0.1)])
    per_centre = product.active.sum(axis=1)
    assert per_centre[0] > per_centre[1] > per_centre[2] > 0
    for z, active in enumerate(product.active):
        for f, function in enumerate(product.functions):
            elements = [z, *(factor[0] for factor in function.factors)]
            degree = sum(n + ell for _, n, ell in function.factors) + sum(product.costs[e] for e in elements)
            assert active[f] == (degree <= design.degrees[function.order - 1] + 1e-9)
    unknown = NUMBERS.model_copy(update={"species_fractions": ()})
    assert Potential(design, unknown).layers[0].plan.product.active.all()


def test_terminal_elements_are_centres_of_low_orders_only():
    """An element of one bond is no centre of high orders, unless all are such; no function is made that none has."""
    design = ace_linear(r_max=R_MAX, degrees=(4, 6, 7, 8), degree_rarity=0.5)

    def product(terminal, bonds):
        numbers = NUMBERS.model_copy(update={"mean_bonds": bonds})
        return plan_coupled(design.replace(terminal_correlation=terminal), numbers).product

    free = product(None, (1.0, 3.9, 1.6))
    orders = np.array([f.order for f in free.functions])
    assert free.active[0].sum() > (orders == 2).sum()
    for terminal in (1, 2, 3):
        held = product(terminal, (1.0, 3.9, 1.6))
        highest = [max([f.order for f, has in zip(held.functions, row, strict=True) if has], default=1)
                   for row in held.active]  # fmt: skip
        assert highest == [terminal, 4, 4]
        assert held.active.any(axis=0).all()
        assert held.active[1:].sum() == free.active[1:].sum()
        assert CoupledProduct.from_key(held.key) == held
    for bonds in ((), (4.0, 3.9, 1.6), (1.0, 1.0, 1.1), (0.0, 4.0, 4.0)):
        assert product(2, bonds) == free


def test_other_potentials_are_refused_by_name():
    with pytest.raises(EquipotError, match=r"channels of this potential are uncoupled; `linear_features` takes"):
        CoupledFeatures(Potential(mace(**{**SMALL, "max_L": 1, "correlation": 2}), STATISTICS))
    with pytest.raises(EquipotError, match=r"readout='sum' has no weights of its own: .* Take a model with another"):
        LastLayer(Potential(DESIGNS["radial alone"], NUMBERS))


@pytest.mark.parametrize("nu", [1, 2, 3, 4])
def test_terms_of_order_nu_have_body_order_nu_plus_one(nu):
    """The alternating sum over subsets of the neighbours vanishes where more of them are left out than ν."""
    potential = Potential(DESIGNS["chebyshev"], STATISTICS, dtype=torch.float64, seed=5)
    features = CoupledFeatures(potential)
    features.set_weights(features.weights() * (features.orders == nu))
    structure = cluster(7)
    for k, vanishes in ((nu, False), (nu + 1, True)):
        total, largest = 0.0, 0.0
        for subset in range(2**k):
            kept = [0, *(1 + j for j in range(k) if subset >> j & 1)]
            part = structure._replace(positions=structure.positions[kept], numbers=structure.numbers[kept])
            graph = part.graph()
            energy = float(evaluate(potential, graph).node_energy[0]) - float(features.offset(graph).node_energy[0])
            total += (-1) ** (k - len(kept) + 1) * energy
            largest = max(largest, abs(energy))
        assert (abs(total) < 1e-12 * max(1.0, largest)) == vanishes, (nu, k, total)
