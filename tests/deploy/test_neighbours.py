"""The skin list gives exactly what a fresh list gives, and seldom searches."""

import numpy as np
import pytest
import torch
from ase import Atoms

from equipot.deploy.neighbours import SkinNeighbours
from equipot.errors import EquipotError
from equipot.geometry import graph_from_atoms

R_MAX = 3.7


def edges(graph):
    """Edges as a set, with lengths."""
    columns = [graph.receivers, graph.senders, *graph.shifts.long().T]
    return dict(zip(zip(*(c.tolist() for c in columns), strict=True), graph.vectors().norm(dim=1), strict=True))


def walk(atoms, steps, size, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        atoms.positions += size * rng.standard_normal(atoms.positions.shape)
        yield atoms


@pytest.mark.parametrize("pbc", [True, False, (True, False, True)])
def test_equal_to_a_fresh_list_along_a_trajectory(triclinic, pbc):
    triclinic.pbc = pbc
    neighbours = SkinNeighbours(R_MAX, 0.6)
    for atoms in walk(triclinic, 60, 0.02):
        graph, lengths = neighbours.graph(atoms)
        fresh = {k: r for k, r in edges(graph_from_atoms(atoms, R_MAX)).items() if r < R_MAX}
        mine = edges(graph)
        assert mine.keys() == fresh.keys()
        assert all(torch.equal(mine[key], fresh[key]) for key in mine)
        assert torch.equal(lengths, graph.vectors().norm(dim=1))
        assert bool((graph.receivers.diff() >= 0).all())
    assert 1 < neighbours.searches < 20


def test_the_answer_does_not_depend_on_when_the_search_was_made(triclinic):
    """Same edges in the same order, so that a restarted run repeats every bit."""
    old = SkinNeighbours(R_MAX, 0.6)
    old.graph(triclinic)
    triclinic.positions += 0.1 * np.random.default_rng(1).uniform(-1, 1, (5, 3))
    late, _ = old.graph(triclinic)
    fresh, _ = SkinNeighbours(R_MAX, 0.6).graph(triclinic)
    assert old.searches == 1
    for name in ("senders", "receivers", "shifts", "positions"):
        assert torch.equal(getattr(late, name), getattr(fresh, name))


def test_searches_again_when_it_must(triclinic):
    neighbours = SkinNeighbours(R_MAX, 0.6)
    neighbours.graph(triclinic)

    def searches_after(change):
        before = neighbours.searches
        change()
        neighbours.graph(triclinic)
        return neighbours.searches - before

    def move(distance):
        triclinic.positions[2, 1] += distance

    assert searches_after(lambda: None) == 0
    assert searches_after(lambda: move(0.29)) == 0
    assert searches_after(lambda: move(0.02)) == 1
    assert searches_after(lambda: triclinic.set_cell(1.001 * triclinic.cell)) == 1
    assert searches_after(lambda: triclinic.set_pbc((True, True, False))) == 1
    assert searches_after(lambda: triclinic.set_atomic_numbers([6] * 5)) == 1
    assert searches_after(lambda: triclinic.pop()) == 1
    assert searches_after(triclinic.wrap) == 1


def test_atom_that_jumps_by_a_lattice_vector(triclinic):
    neighbours = SkinNeighbours(R_MAX, 0.6)
    before, _ = neighbours.graph(triclinic)
    triclinic.positions[1] += triclinic.cell[0]
    after, _ = neighbours.graph(triclinic)
    torch.testing.assert_close(sorted(map(float, edges(after).values())), sorted(map(float, edges(before).values())))


def test_no_neighbours_and_no_atoms():
    neighbours = SkinNeighbours(R_MAX, 0.6)
    for atoms in (Atoms("Ar"), Atoms("Ar2", positions=[[0, 0, 0], [9, 0, 0]]), Atoms()):
        graph, lengths = neighbours.graph(atoms)
        assert graph.num_edges == len(lengths) == 0
        assert graph.num_nodes == len(atoms)


@pytest.mark.parametrize("skin", [-0.1, np.nan, np.inf])
def test_senseless_skin(skin):
    with pytest.raises(EquipotError, match=r"skin = .*give a finite length"):
        SkinNeighbours(R_MAX, skin)


def test_collapsed_cell():
    atoms = Atoms("Ar4", positions=0.1 * np.eye(4, 3), cell=[0.3, 0.3, 0.3], pbc=True)
    with pytest.raises(EquipotError, match=r"the cell has 0\.027 Å³ for 4 atoms.*it has collapsed"):
        SkinNeighbours(R_MAX, 0.5).graph(atoms)
