"""Domain decomposition: senders that are ghosts, and the exchange of their features between layers."""

import numpy as np
import pytest
import torch

from equipot.geometry import Graph, batch_graphs, evaluate
from equipot.models import Potential

from .small import CASES, STATISTICS, STRUCTURES, every_point, potential, relative


def with_ghosts(graph: Graph) -> tuple[Graph, torch.Tensor]:
    """The same atoms without a cell: every image that is seen becomes an atom of its own, which sees nothing.

    Returns the graph and, for each of its atoms, the owned atom of which it is a copy.
    """
    n = graph.num_nodes
    images = torch.cat([graph.senders[:, None].double(), graph.shifts], dim=1)
    ghosts, sender = torch.unique(images[graph.shifts.any(dim=1)], dim=0, return_inverse=True)
    senders = graph.senders.clone()
    senders[graph.shifts.any(dim=1)] = n + sender
    owner = torch.cat([torch.arange(n), ghosts[:, 0].long()])
    positions = torch.cat([graph.positions, graph.positions[owner[n:]] + ghosts[:, 1:] @ graph.cell[0]])
    open_graph = Graph(
        positions=positions,
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        atomic_numbers=graph.atomic_numbers[owner],
        senders=senders,
        receivers=graph.receivers,
        shifts=torch.zeros_like(graph.shifts),
        system=torch.zeros(len(owner), dtype=torch.int64),
        num_systems=1,
        num_owned=n,
    )
    return open_graph, owner


@every_point
def test_ghosts_with_exchanged_features_give_the_periodic_energies_and_forces(case):
    model = potential(case)
    calls = []
    for s in (STRUCTURES["crystal"], STRUCTURES["slab"]):
        graph = s.graph()
        expected = evaluate(model, graph)
        ghosts, owner = with_ghosts(graph)
        assert ghosts.num_nodes > graph.num_nodes

        def fill(h: torch.Tensor, owner: torch.Tensor = owner) -> torch.Tensor:
            calls.append(h.shape[0])
            return h.index_select(0, owner)

        model.exchange = fill
        prediction = evaluate(model, ghosts)
        del model.exchange
        forces = torch.zeros_like(expected.forces).index_add(0, owner, prediction.forces)
        assert prediction.node_energy.shape == expected.node_energy.shape
        assert relative(prediction.node_energy, expected.node_energy) < 1e-12
        assert relative(forces, expected.forces) < 1e-10
        assert relative(prediction.virial, expected.virial) < 1e-10
    assert calls == [2] * (model.design.layers - 1) + [3] * (model.design.layers - 1), "one exchange between two layers"


@pytest.mark.parametrize("case", ["ace", "zbl"])
def test_one_layer_needs_no_exchange(case):
    graph = STRUCTURES["crystal"].graph()
    ghosts, owner = with_ghosts(graph)
    expected, prediction = evaluate(potential(case), graph), evaluate(potential(case), ghosts)
    assert relative(prediction.energy, expected.energy) < 1e-12
    forces = torch.zeros_like(expected.forces).index_add(0, owner, prediction.forces)
    assert relative(forces, expected.forces) < 1e-10


def test_training_sees_through_the_exchange():
    """The gradient of an energy with respect to the weights is that of the periodic structure."""
    model = Potential(CASES["mace"], STATISTICS, dtype=torch.float64)
    graph = STRUCTURES["crystal"].graph()
    ghosts, owner = with_ghosts(graph)
    weights = list(model.parameters())
    expected = torch.autograd.grad(
        model(graph, graph.vectors()).sum(), weights, materialize_grads=True, allow_unused=True
    )
    model.exchange = lambda h: h.index_select(0, owner)
    found = torch.autograd.grad(
        model(ghosts, ghosts.vectors()).sum(), weights, materialize_grads=True, allow_unused=True
    )
    assert max(relative(a, b) for a, b in zip(found, expected, strict=True) if b.abs().max() > 1e-10) < 1e-9


def test_a_batch_counts_its_atoms_and_systems():
    graphs = [s.graph() for s in STRUCTURES.values()]
    graph = batch_graphs(graphs)
    assert graph.num_systems == 4
    assert graph.num_owned == graph.num_nodes == sum(g.num_nodes for g in graphs)
    assert graph.num_edges == sum(g.num_edges for g in graphs)
    assert torch.equal(graph.system[graph.senders], graph.system[graph.receivers])
    assert np.all(np.diff(graph.receivers.numpy()) >= 0)
    assert torch.allclose(graph.vectors(), torch.cat([g.vectors() for g in graphs]), rtol=0, atol=0)
