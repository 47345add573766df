"""Neighbour lists against a search over every image, on the cells that lists get wrong."""

import numpy as np
import pytest
import torch
from ase import Atoms

from equipot.errors import EquipotError
from equipot.geometry import batch_graphs, build_graph, evaluate, graph_from_atoms

from .small import R_MAX, STATISTICS, STRUCTURES, Structure, every_point, potential

CUBE = 3.1 * np.eye(3)


def brute_force(s: Structure, r_max: float) -> dict[tuple[int, ...], np.ndarray]:
    """{(receiver, sender, S1, S2, S3): r_j + S·cell − r_i} over all images that could reach."""
    spread = np.ptp(s.positions, axis=0).sum() if len(s.positions) else 0.0
    reach = []
    for axis in range(3):
        if not s.pbc[axis]:
            reach.append(0)
            continue
        others = [s.cell[k] if s.pbc[k] else None for k in range(3) if k != axis]
        span = [v for v in others if v is not None]
        row = s.cell[axis]
        if span:
            basis = np.linalg.qr(np.array(span).T)[0]
            row = row - basis @ (basis.T @ row)
        reach.append(int(np.ceil((r_max + spread) / np.linalg.norm(row))) + 1)
    found = {}
    shifts = np.array(list(np.ndindex(*(2 * n + 1 for n in reach)))) - np.array(reach)
    for i, r_i in enumerate(s.positions):
        for j, r_j in enumerate(s.positions):
            vectors = r_j - r_i + shifts @ s.cell
            lengths = np.linalg.norm(vectors, axis=1)
            for n in np.flatnonzero(lengths < r_max):
                if i != j or shifts[n].any():
                    found[(i, j, *shifts[n].tolist())] = vectors[n]
    return found


def check(s: Structure, r_max: float = R_MAX) -> int:
    graph, expected = s.graph(r_max), brute_force(s, r_max)
    keys = [
        (i, j, *S)
        for i, j, S in zip(graph.receivers.tolist(), graph.senders.tolist(), graph.shifts.long().tolist(), strict=True)
    ]
    assert len(set(keys)) == len(keys), "an edge is there twice"
    assert set(keys) == set(expected)
    for key, vector in zip(keys, graph.vectors().numpy(), strict=True):
        assert np.abs(vector - expected[key]).max() < 1e-12
    assert graph.receivers.tolist() == sorted(graph.receivers.tolist())
    return len(keys)


@pytest.mark.parametrize("pbc", [(True,) * 3, (True, True, False), (False, True, False), (False,) * 3])
@pytest.mark.parametrize("seed", range(6))
def test_random_triclinic_cells_smaller_than_the_cutoff_with_atoms_outside(pbc, seed):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(1.5, 4.0, 3)) + rng.uniform(-0.9, 0.9, (3, 3))
    n = int(rng.integers(1, 5))
    positions = rng.uniform(-1.5, 2.5, (n, 3)) @ cell
    check(Structure(positions, cell, pbc, np.full(n, 6)))


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("r_max", [1.3, 3.0, 5.5])
def test_the_structures_of_these_tests(name, r_max):
    check(STRUCTURES[name], r_max)


@pytest.mark.parametrize("pbc", [(False,) * 3, (True, False, False), (True, True, False)])
@pytest.mark.parametrize("distance", [2.7, 30.0, 3e3, 1e6])
def test_atoms_that_have_flown_away(pbc, distance):
    """Two clusters and a lone atom at any distance along the free directions; a grid over the space between is none."""
    rng = np.random.default_rng(0)
    cell = np.array([[4.0, 0.3, 0.0], [0.5, 4.5, 0.2], [0.1, 0.0, 5.0]])
    normal = np.cross(cell[0], cell[1]) if pbc[1] else np.array([-0.3, 4.0, 0.0])
    cluster = 2.5 * rng.normal(size=(6, 3))
    away = distance * normal / np.linalg.norm(normal)
    positions = np.concatenate([cluster, cluster + away, [-2.0 * away]])
    graph = Structure(positions, cell=cell, pbc=np.array(pbc), numbers=np.full(13, 6)).graph()
    if distance >= 30.0:
        near = Structure(cluster, cell=cell, pbc=np.array(pbc), numbers=np.full(6, 6)).graph()
        alone = Structure(np.zeros((1, 3)), cell=cell, pbc=np.array(pbc), numbers=np.full(1, 6)).graph()
        assert graph.num_edges == 2 * near.num_edges + alone.num_edges
    else:
        check(Structure(positions, cell=cell, pbc=np.array(pbc), numbers=np.full(13, 6)))


def test_a_long_chain_across_a_huge_space():
    """20 000 atoms on a diagonal of 7e4 Å: neighbours in the chain only, in a box of 1e13 cells of the cutoff."""
    positions = 2.0 * np.arange(20_000)[:, None] * np.ones(3)
    for pbc, cell in ((False, np.zeros((3, 3))), (True, 5e4 * np.eye(3))):
        graph = Structure(positions, cell=cell, pbc=np.full(3, pbc), numbers=np.full(20_000, 6)).graph(5.0)
        assert graph.num_edges == 2 * 19_999
        assert (graph.senders - graph.receivers).abs().max() == 1


def test_a_very_flat_and_a_strongly_skewed_cell():
    flat = np.array([[1.0, 0.0, 0.0], [0.0, 1.1, 0.0], [0.0, 0.0, 20.0]])
    skewed = np.array([[3.0, 0.0, 0.0], [2.9, 0.8, 0.0], [2.5, 0.7, 1.5]])
    positions = np.array([[0.0, 0.0, 0.0], [0.3, 0.5, 1.0]])
    for cell in (flat, skewed):
        assert check(Structure(positions, cell, (True,) * 3, np.array([6, 8]))) > 20


def test_one_atom_alone_in_a_small_cell_sees_only_its_images():
    graph = Structure(np.zeros((1, 3)), CUBE, (True,) * 3, np.array([6])).graph(3.2)
    assert graph.num_edges == 6
    assert torch.equal(graph.senders, torch.zeros(6, dtype=torch.int64))
    assert sorted(np.linalg.norm(graph.vectors().numpy(), axis=1)) == pytest.approx([3.1] * 6)


def test_a_left_handed_cell_is_a_cell():
    s = STRUCTURES["crystal"]
    check(s._replace(cell=s.cell[[1, 0, 2]]))
    prediction = evaluate(potential("ace"), s._replace(cell=s.cell[[1, 0, 2]]).graph())
    assert torch.allclose(prediction.stress, evaluate(potential("ace"), s.graph()).stress, rtol=1e-10)


def test_a_cell_without_periodicity_is_kept_and_ignored():
    graph = Structure(np.array([[0.0, 0, 0], [2.9, 0, 0]]), CUBE, (False,) * 3, np.array([6, 8])).graph()
    assert graph.num_edges == 2
    assert torch.equal(graph.cell[0], torch.from_numpy(CUBE))


@every_point
def test_atoms_without_neighbours_and_graphs_without_edges_have_energies_and_no_forces(case):
    model = potential(case)
    far = Structure(np.diag([0.0, 50.0, 100.0]), np.zeros((3, 3)), (False,) * 3, np.array([1, 6, 8]))
    alone = far._replace(positions=far.positions[:1], numbers=far.numbers[:1])
    for s in (far, alone, far._replace(cell=300 * np.eye(3), pbc=(True,) * 3)):
        graph = s.graph()
        prediction = evaluate(model, graph)
        assert graph.num_edges == 0
        assert torch.isfinite(prediction.energy).all()
        assert torch.equal(prediction.forces, torch.zeros_like(graph.positions))
        assert torch.equal(prediction.virial, torch.zeros_like(prediction.virial))
    pair = far._replace(positions=np.array([[0.0, 0, 0], [1.1, 0, 0], [0, 50.0, 0]]))
    prediction, single = evaluate(model, pair.graph()), evaluate(model, alone._replace(numbers=np.array([8])).graph())
    assert torch.allclose(prediction.node_energy[2], single.node_energy[0], rtol=0, atol=1e-13)
    assert torch.equal(prediction.forces[2], torch.zeros(3, dtype=torch.float64))
    assert prediction.forces[0].abs().max() > 0


@every_point
def test_a_structure_without_atoms_has_no_energy(case):
    empty = Structure(np.zeros((0, 3)), np.zeros((3, 3)), (False,) * 3, np.zeros(0, int))
    model, other = potential(case), STRUCTURES["cluster"].graph()
    alone = evaluate(model, empty.graph())
    assert (alone.energy.tolist(), alone.forces.shape, alone.node_energy.shape) == ([0.0], (0, 3), (0,))
    together = evaluate(model, batch_graphs([empty.graph(), other])).energy
    assert float(together[0]) == 0.0
    assert torch.allclose(together[1:], evaluate(model, other).energy, rtol=1e-14)


def test_an_ase_structure_gives_the_same_graph():
    s = STRUCTURES["slab"]
    graph = graph_from_atoms(Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc), R_MAX)
    for name in ("positions", "cell", "pbc", "atomic_numbers", "senders", "receivers", "shifts", "system"):
        assert torch.equal(getattr(graph, name), getattr(s.graph(), name)), name
    assert (graph.num_systems, graph.num_owned, graph.num_nodes) == (1, 3, 3)


def test_the_graph_does_not_share_memory_with_the_structure():
    positions = STRUCTURES["cluster"].positions.copy()
    graph = STRUCTURES["cluster"]._replace(positions=positions).graph()
    known = graph.positions.clone()
    positions += 1.0
    assert torch.equal(graph.positions, known)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.array([[0.0, np.nan, 0.0]])}, r"position of atom 0 is \[0.0, nan, 0.0\]"),
        ({"positions": np.array([[0.0, 0.0, np.inf]])}, "must be finite"),
        ({"cell": np.diag([3.0, np.nan, 3.0])}, "rows must be finite lattice vectors"),
        ({"cell": np.diag([3.0, 0.0, 3.0])}, "no volume along the periodic directions"),
        ({"cell": np.ones((3, 3))}, "no volume along the periodic directions"),
    ],
)
def test_structures_without_meaning_are_refused(change, message):
    values = {"positions": np.zeros((1, 3)), "cell": CUBE, "pbc": np.array([True] * 3), **change}
    with pytest.raises(EquipotError, match=message):
        build_graph(**values, atomic_numbers=np.array([STATISTICS.species[0]]), r_max=R_MAX)
