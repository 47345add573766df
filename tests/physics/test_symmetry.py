"""O(3), translations and permutations: features turn with their irreps, energies stay, forces and stress turn."""

import numpy as np
import torch

from equipot.geometry import batch_graphs, evaluate
from equipot.o3 import Irreps, wigner_D

from .small import STRUCTURES, Structure, cluster, every_point, potential, relative, rotation

TOLERANCE = 1e-11
OPERATIONS = {"rotation": rotation(1), "inversion": -np.eye(3), "reflection": -rotation(2)}


def turned(h: torch.Tensor, irreps: Irreps, Q: np.ndarray) -> torch.Tensor:
    """D(Q) h for flat features [node, Σ (2l+1) mul], [m, channel] within an irrep."""
    det = round(float(np.linalg.det(Q)))
    proper = torch.from_numpy(det * Q)
    parts = []
    for (mul, ir), where in zip(irreps, irreps.slices(), strict=True):
        D = wigner_D(ir.l, proper) * (1.0 if det == 1 else float(ir.p))
        parts.append((D @ h[:, where].unflatten(1, (ir.dim, mul))).flatten(1))
    return torch.cat(parts, dim=1)


def everything() -> list[Structure]:
    return list(STRUCTURES.values())


def graph_of(structures):
    return batch_graphs([s.graph() for s in structures])


@every_point
def test_features_turn_with_their_irreps_and_outputs_with_the_structure(case):
    model = potential(case)
    graph = graph_of(everything())
    before, features = evaluate(model, graph), model.features(graph, graph.vectors())
    for name in ["rotation"] if model.design.parity == "none" else OPERATIONS:
        Q = OPERATIONS[name]
        mapped = graph_of([s.mapped(Q) for s in everything()])
        for layer, h, h_mapped in zip(model.layers, features, model.features(mapped, mapped.vectors()), strict=True):
            assert relative(h_mapped, turned(h, layer.plan.out, Q)) < TOLERANCE, (name, layer.plan.index)
        after, T = evaluate(model, mapped), torch.from_numpy(Q)
        assert relative(after.node_energy, before.node_energy) < TOLERANCE, name
        assert relative(after.forces, before.forces @ T.T) < TOLERANCE, name
        assert relative(after.virial, T @ before.virial @ T.T) < TOLERANCE, name
        assert relative(after.stress[0], T @ before.stress[0] @ T.T) < TOLERANCE, name


def test_without_parity_mirror_images_differ():
    """Rotations are all that such a model respects, so it tells a chiral molecule from its mirror image."""
    model, S = potential("nequip, no parity"), cluster(5)
    energies = [evaluate(model, s.graph()).energy for s in (S, S.mapped(-rotation(2)))]
    assert relative(energies[1], energies[0]) > 1e-6


@every_point
def test_every_irrep_of_every_layer_is_alive(case):
    """Equivariance of features that are zero would say nothing: each irrep differs from zero and from atom to atom."""
    model = potential(case)
    graph = graph_of(everything())
    for layer, h in zip(model.layers, model.features(graph, graph.vectors()), strict=True):
        for (mul, ir), where in zip(layer.plan.out, layer.plan.out.slices(), strict=True):
            assert h[:, where].std(dim=0).max() > 1e-8, f"{mul}x{ir} of layer {layer.plan.index}"


@every_point
def test_a_translation_changes_nothing(case):
    model = potential(case)
    before = evaluate(model, graph_of(everything()))
    shift = np.array([1.7, -20.3, 5.1])
    after = evaluate(model, graph_of([s._replace(positions=s.positions + shift) for s in everything()]))
    assert relative(after.node_energy, before.node_energy) < TOLERANCE
    assert relative(after.forces, before.forces) < TOLERANCE
    totals = torch.zeros(4, 3, dtype=torch.float64).index_add(0, graph_of(everything()).system, before.forces)
    assert totals.abs().max() < TOLERANCE * before.forces.abs().max()


@every_point
def test_atoms_of_one_element_are_interchangeable(case):
    model = potential(case)
    order = np.array([3, 0, 4, 2, 1])
    s = cluster(5)
    before = evaluate(model, s.graph())
    after = evaluate(model, s._replace(positions=s.positions[order], numbers=s.numbers[order]).graph())
    assert relative(after.energy, before.energy) < TOLERANCE
    assert relative(after.node_energy, before.node_energy[order]) < TOLERANCE
    assert relative(after.forces, before.forces[order]) < TOLERANCE


@every_point
def test_the_choice_of_lattice_vectors_and_of_images_changes_nothing(case):
    model = potential(case)
    s = STRUCTURES["crystal"]
    before = evaluate(model, s.graph())
    cell = np.array([[1, 1, 0], [0, 1, 0], [0, -2, 1]]) @ s.cell
    after = evaluate(model, s._replace(positions=s.positions + [[0, 0, 0], [3, -2, 1]] @ s.cell, cell=cell).graph())
    assert relative(after.energy, before.energy) < TOLERANCE
    assert relative(after.forces, before.forces) < TOLERANCE
    assert relative(after.stress, before.stress) < TOLERANCE
