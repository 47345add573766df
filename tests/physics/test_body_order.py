"""Body order, measured: mixed finite differences over neighbours and over atoms, against what the design says."""

from itertools import combinations

import numpy as np
import pytest
import torch

from equipot.design import Design
from equipot.geometry import Graph, batch_graphs
from equipot.interactions import Edges, Elements, Interaction
from equipot.kernels.reference import group_by_species
from equipot.models import Potential, body_orders, energy_body_order

from .small import CASES, STATISTICS, Structure, cluster, every_plain_point, point, potential

ZERO = 1e-12
"""Round-off of a mixed difference, relative to the largest of its terms."""
PRESENT = 1e-9
OPEN = (False, False, False)


def layer_output(
    model: Potential, layer: Interaction, h: torch.Tensor, s: Structure, kept: tuple[int, ...]
) -> torch.Tensor:
    """h' of atom 0 of a star: it sees the kept neighbours, whose features h are given and fixed."""
    vectors = torch.from_numpy(s.positions[list(kept)] - s.positions[0]).reshape(-1, 3)
    numbers = torch.from_numpy(s.numbers)
    senders = torch.tensor(kept, dtype=torch.int64)
    n = len(numbers)
    graph = Graph(
        torch.from_numpy(s.positions), torch.zeros(1, 3, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.bool),
        numbers, senders, torch.zeros_like(senders), torch.zeros(len(kept), 3, dtype=torch.float64),
        torch.zeros(n, dtype=torch.int64), 1, n,
    )  # fmt: skip
    species = model.species(numbers)
    edges: Edges = model._edges(graph, vectors, species)
    groups = group_by_species(species, len(STATISTICS.species))
    with torch.no_grad():
        return layer(h, edges, Elements(species, groups, model.embedding.vectors()))[0]


def mixed_difference(f, items: tuple[int, ...]) -> float:
    """Σ over subsets (−1)^|S| f(S): what depends on all the items at once; relative to the largest term."""
    terms = [(-1) ** k * f(subset) for k in range(len(items) + 1) for subset in combinations(items, k)]
    spread = torch.stack(terms)
    return float(spread.sum(dim=0).abs().max() / spread.abs().max())


@every_plain_point
def test_a_layer_correlates_as_many_neighbours_as_its_design_says(case):
    """With h fixed, the mixed difference over ν + 1 neighbours vanishes and that over ν does not; a gate has no end."""
    model = potential(case)
    nu, polynomial = model.design.correlation, body_orders(model.design)[0] is not None
    s = cluster(nu + 3, seed=5)
    generator = torch.Generator().manual_seed(1)
    for layer in model.layers:
        h = torch.randn(nu + 3, layer.plan.h.dim, generator=generator, dtype=torch.float64)

        def f(kept, layer=layer, h=h):
            return layer_output(model, layer, h, s, kept)

        neighbours = tuple(range(1, nu + 3))
        assert mixed_difference(f, neighbours[:nu]) > PRESENT
        if polynomial:
            assert mixed_difference(f, neighbours[: nu + 1]) < ZERO
        else:
            assert mixed_difference(f, neighbours[: nu + 1]) > PRESENT
            assert mixed_difference(f, neighbours) > PRESENT


@pytest.mark.parametrize(
    ("case", "polynomial"),
    [
        ("ace", True),
        ("botnet", True),
        ("mace", True),
        ("nequip_linear", True),
        ("nequip", False),
        ("nequip, rms", False),
    ],
)
def test_which_points_are_polynomial(case, polynomial):
    """The table of the paper, not the code's own word: gated NequIP alone has messages of unbounded order."""
    assert [order is not None for order in body_orders(CASES[case])] == [polynomial] * CASES[case].layers


def terms_of(model: Potential, atoms: int, scale: float = 1.0) -> torch.Tensor:
    """The mixed difference over the presence of these atoms, of each term of the energy: E0, E_1 … E_T.

    Σ over subsets S of (−1)^{n−|S|} E_t(S): zero unless E_t has terms that depend on all n atoms. Relative to the
    largest |E_t(S)|.
    """
    s = cluster(atoms, seed=11)
    subsets = [list(c) for k in range(1, atoms + 1) for c in combinations(range(atoms), k)]
    graphs = [s._replace(positions=scale * s.positions[c], numbers=s.numbers[c]).graph() for c in subsets]
    batch = batch_graphs(graphs)
    with torch.no_grad():
        energies = model.layer_energies(batch, batch.vectors())
    sums = torch.zeros(len(energies), len(subsets), dtype=torch.float64).index_add(1, batch.system, energies)
    signs = torch.tensor([(-1.0) ** (atoms - len(c)) for c in subsets], dtype=torch.float64)
    return (sums @ signs).abs() / sums.abs().amax(dim=1).clamp(min=1e-12)


def measured_order(model: Potential, term: int, up_to: int) -> int:
    """The largest number of atoms whose joint difference of this term of the energy is not zero."""
    return max(n for n in range(1, up_to + 1) if terms_of(model, n)[term] > ZERO)


LINEAR = {"readout": "linear", "shift": "none"}
POLYNOMIAL: dict[str, tuple[Design, int]] = {
    "ace, ν = 1": (point("ace", correlation=1), 2),
    "ace, ν = 2": (point("ace", correlation=2), 3),
    "ace, ν = 3": (point("ace", correlation=3), 4),
    "mace, ν = 1, T = 3": (point("mace", correlation=1, layers=3, **LINEAR), 4),
    "mace, ν = 2, T = 1": (point("mace", correlation=2, layers=1, **LINEAR), 3),
    "mace, ν = 2, T = 2": (point("mace", correlation=2, layers=2, **LINEAR), 7),
    "botnet, T = 2": (point("botnet", layers=2, **LINEAR), 3),
    "botnet, T = 3": (point("botnet", layers=3, **LINEAR), 4),
    "nequip_linear, T = 3": (point("nequip_linear", layers=3), 4),
    "no self-connection": (point("nequip_nosc_e0", layers=2), 3),
    "repulsion": (point("ace", correlation=1, pair_repulsion="zbl"), 2),
}


@pytest.mark.parametrize("name", POLYNOMIAL)
def test_an_energy_of_correlation_N_needs_N_plus_2_atoms_to_show_nothing_new(name):
    """N_{t+1} = ν (N_t + 1): the joint difference over N + 1 atoms is there, over N + 2 atoms there is none."""
    design, order = POLYNOMIAL[name]
    model = Potential(design, STATISTICS, dtype=torch.float64, seed=2)
    assert energy_body_order(design) == order
    assert terms_of(model, order).max() > ZERO
    assert terms_of(model, order + 1).max() < ZERO
    assert measured_order(model, design.layers, min(order + 1, 6)) == min(order, 6)


@pytest.mark.parametrize(
    "case", ["botnet", "botnet_element", "botnet_element_residual", "botnet_ssh", "nequip_linear", "mace", "ace"]
)
def test_the_last_energy_is_bounded_only_with_a_linear_last_readout(case):
    """An MLP readout mixes all orders, and the design says so; all these are of body order 3 without it."""
    axes = {"layers": 1, "correlation": 2} if case in ("mace", "ace") else {"layers": 2}
    order = 3
    for readout in ("linear", "mlp"):
        design = point(case, readout=readout, **axes)
        model = Potential(design, STATISTICS, dtype=torch.float64)
        beyond = terms_of(model, order + 1)[-1]
        assert energy_body_order(design) == (order if readout == "linear" else None)
        assert (beyond < ZERO) if readout == "linear" else (beyond > PRESENT)


@pytest.mark.parametrize("case", ["botnet", "botnet_element", "botnet_element_residual", "botnet_ssh"])
def test_botnets_energies_are_a_body_ordered_expansion(case):
    """E_t is at most (t+1)-body for t < T, and has terms of t + 1 bodies; E_T only with a linear last readout."""
    model = potential(case)
    T = model.design.layers
    assert model.design.readout == "mlp"
    for t in range(1, T):
        assert terms_of(model, t + 1)[t] > PRESENT
        assert terms_of(model, t + 2)[t] < ZERO
        assert terms_of(model, t + 3)[t] < ZERO
    assert terms_of(model, T + 2)[T] > PRESENT
    linear = Potential(model.design.replace(readout="linear"), STATISTICS, dtype=torch.float64)
    assert terms_of(linear, T + 1)[T] > PRESENT
    assert terms_of(linear, T + 2)[T] < ZERO


def test_layer_energies_add_up_to_the_energy_and_start_with_the_reference():
    model, graph = potential("botnet"), cluster(4).graph()
    terms = model.layer_energies(graph, graph.vectors())
    assert terms.shape == (1 + model.design.layers, 4)
    assert torch.equal(terms.sum(dim=0), model(graph, graph.vectors()))
    E0 = dict(zip(STATISTICS.species, STATISTICS.atomic_energies, strict=True))
    assert terms[0].tolist() == [E0[z] for z in graph.atomic_numbers.tolist()]


def test_repulsion_counts_with_the_reference_and_is_a_pair_energy():
    model = potential("zbl")
    assert terms_of(model, 2, scale=0.7)[0] > PRESENT
    assert terms_of(model, 3, scale=0.7)[0] < ZERO


def test_the_energy_of_gated_nequip_has_no_highest_order():
    model = Potential(point("nequip", layers=1, max_L=1), STATISTICS, dtype=torch.float64)
    assert energy_body_order(model.design) is None
    assert min(float(terms_of(model, n)[-1]) for n in range(2, 6)) > PRESENT


def test_one_layer_reaches_its_cutoff_and_T_layers_T_times_as_far():
    """Receptive field: an atom's energy changes with atoms T steps away along a chain, and no further."""
    chain = Structure(
        np.arange(5)[:, None] * np.array([[2.0, 0.3, 0.0]]), np.zeros((3, 3)), OPEN, np.array([6, 1, 8, 1, 6])
    )
    for layers in (1, 2, 3):
        model = Potential(point("botnet", layers=layers), STATISTICS, dtype=torch.float64)
        graph = chain.graph()
        vectors = graph.vectors().requires_grad_(True)
        (g,) = torch.autograd.grad(model(graph, vectors)[0], vectors)
        felt = g.abs().amax(dim=1) > 1e-14
        reach = torch.maximum(graph.senders, graph.receivers)[felt].max()
        assert int(reach) == layers
