"""Structures: the graph of a batch, its neighbour lists, and derivatives of the energy."""

from equipot.geometry.derivatives import NodeEnergies, Prediction, evaluate
from equipot.geometry.graph import Graph, batch_graphs
from equipot.geometry.neighbors import build_graph, graph_from_atoms
from equipot.geometry.sums import VOIGT, pool, voigt

__all__ = [
    "VOIGT",
    "Graph",
    "NodeEnergies",
    "Prediction",
    "batch_graphs",
    "build_graph",
    "evaluate",
    "graph_from_atoms",
    "pool",
    "voigt",
]
