"""Forces, virial and stress, all from one derivative of the energy with respect to the edge vectors."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equipot.geometry.graph import Graph
from equipot.geometry.sums import pool

NodeEnergies = Callable[[Graph, Float[Tensor, "edge xyz"]], Float[Tensor, " node"]]
"""A potential: the graph and its edge vectors r_ij (float64, Å) to one energy for each owned atom (float64, eV)."""


class Prediction(NamedTuple):
    """What a potential predicts for a batch of systems, all in float64.

    Attributes:
        energy: E of each system, eV.
        node_energy: E_i of each owned atom, eV.
        forces: −∂E/∂r_i, eV/Å; on ghosts too.
        virial: −∂E/∂ε = −V σ of each system, eV.
        stress: σ = (1/V) ∂E/∂ε, eV/Å³, tension positive; NaN unless all three directions are periodic.

    Forces, virial and stress are NaN where energies alone were asked for.
    """

    energy: Float[Tensor, " system"]
    node_energy: Float[Tensor, " owned"]
    forces: Float[Tensor, "node xyz"]
    virial: Float[Tensor, "system 3 3"]
    stress: Float[Tensor, "system 3 3"]


def evaluate(
    potential: NodeEnergies, graph: Graph, *, create_graph: bool = False, derivatives: bool = True
) -> Prediction:
    r"""Returns energies, forces, virials and stresses of every system.

        g_e = ∂E/∂r_e,   F_i = Σ_{e: receiver i} g_e − Σ_{e: sender i} g_e,   σ = (1/V) Σ_e r_e ⊗ g_e

    With r_e = r_j + S·cell − r_i a homogeneous strain ε changes every r_e by ε r_e, so the same g gives forces
    and stress, and no strained copy of the structure is needed.

    Args:
        potential: Called as ``potential(graph, vectors)``; returns the energies of the owned atoms.
        graph: The batch. For derivatives of forces with respect to positions or cell, let those require
            gradients and set `create_graph`.
        create_graph: Keep the graph of energies and derivative, for a loss or for higher derivatives.
        derivatives: Whether forces, virial and stress are wanted; without them they are NaN, and the potential
            is not differentiated with respect to the edge vectors.

    Source: the virial theorem in pair form; signs and orders as in ASE (stress positive under tension).
    """
    if not derivatives:
        return _energies(potential, graph, create_graph)
    vectors = graph.vectors()
    if not vectors.requires_grad:
        vectors.requires_grad_(True)
    with torch.enable_grad():
        node_energy = potential(graph, vectors)
        energy = _sum_over_atoms(node_energy, graph)
        (g,) = torch.autograd.grad(
            energy.sum(), vectors, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
    if not create_graph:
        energy, node_energy, vectors = energy.detach(), node_energy.detach(), vectors.detach()
    return _prediction(energy, node_energy, vectors, g, graph)


def from_edge_gradient(
    node_energy: Float[Tensor, " owned"], vectors: Float[Tensor, "edge xyz"], g: Float[Tensor, "edge xyz"], graph: Graph
) -> Prediction:
    """Returns what follows from the energies of the atoms and g = ∂E/∂r of the edges; see `evaluate`."""
    return _prediction(_sum_over_atoms(node_energy, graph), node_energy, vectors, g, graph)


def _prediction(energy: Tensor, node_energy: Tensor, vectors: Tensor, g: Tensor, graph: Graph) -> Prediction:
    forces = pool(g, graph.receivers, graph.num_nodes) - pool(g, graph.senders, graph.num_nodes)
    per_edge = (vectors.unsqueeze(-1) * g.unsqueeze(-2)).flatten(1)
    edge_system = graph.system.index_select(0, graph.receivers)
    strain_gradient = pool(per_edge, edge_system, graph.num_systems).unflatten(1, (3, 3))
    strain_gradient = 0.5 * (strain_gradient + strain_gradient.transpose(1, 2))
    volume = graph.volumes()
    volume = torch.where(graph.pbc.all(dim=1) & (volume > 0), volume, torch.nan)
    return Prediction(energy, node_energy, forces, -strain_gradient, strain_gradient / volume[:, None, None])


def _energies(potential: NodeEnergies, graph: Graph, create_graph: bool) -> Prediction:
    with torch.set_grad_enabled(create_graph):
        node_energy = potential(graph, graph.vectors())
        energy = _sum_over_atoms(node_energy, graph)
    nothing = node_energy.new_full((1, 3, 3), torch.nan).expand(graph.num_systems, 3, 3)
    return Prediction(energy, node_energy, nothing.new_full((graph.num_nodes, 3), torch.nan), nothing, nothing)


def _sum_over_atoms(node_energy: Float[Tensor, " owned"], graph: Graph) -> Float[Tensor, " system"]:
    return pool(node_energy, graph.system[: graph.num_owned], graph.num_systems)
