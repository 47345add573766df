"""The self-test of a model file: one tiny structure with the energies and forces it had when it was saved."""

import numpy as np
import torch

from equipot.errors import EquipotError
from equipot.geometry.derivatives import evaluate
from equipot.geometry.graph import Graph
from equipot.geometry.neighbors import build_graph
from equipot.models.potential import Potential

MAX_ATOMS = 6
TOLERANCES = {torch.float32: 2e-3, torch.float64: 1e-8}
"""Allowed difference relative to 1 + the largest force, eV/Å (float32: room for other machines' kernels)."""


def self_test_tensors(potential: Potential) -> dict[str, torch.Tensor]:
    """A small cluster of the model's elements and what the model predicts for it, in float64.

    The atoms stand on a jittered simple cubic grid a little wider than the shortest distance in training, so that
    the answer is of ordinary size and every neighbour shell is present.
    """
    statistics = potential.statistics
    species = (statistics.species * MAX_ATOMS)[:MAX_ATOMS]
    spacing = min(max(1.3 * statistics.min_distance, 1.0), 0.7 * potential.r_max)
    grid = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1)], dtype=float)
    jitter = np.random.default_rng(0).uniform(-0.1, 0.1, grid.shape)
    positions = torch.from_numpy(spacing * (grid + jitter))
    numbers = torch.tensor(species, dtype=torch.int64)
    prediction = evaluate(potential, _graph(potential, positions, numbers))
    return {
        "positions": positions,
        "atomic_numbers": numbers,
        "node_energy": prediction.node_energy.detach().to("cpu", torch.float64),
        "forces": prediction.forces.detach().to("cpu", torch.float64),
    }


def check_self_test(
    potential: Potential, stored: dict[str, torch.Tensor], stored_dtype: torch.dtype, *, name: str
) -> None:
    """Compare the potential with its stored self-test.

    Args:
        potential: the potential as loaded, in its present precision and on its device.
        stored: what `self_test_tensors` gave when the model was saved.
        stored_dtype: the precision it was saved in; the coarser of the two sets the tolerance.
        name: how to call the model in the error.

    Raises:
        EquipotError: energies or forces differ by more than rounding explains.
    """
    missing = [part for part in ("positions", "atomic_numbers", "node_energy", "forces") if part not in stored]
    if missing:
        raise EquipotError(
            f"{name} has no self-test ({', '.join(missing)} missing): it was changed by hand, and cannot be checked."
        )
    prediction = evaluate(potential, _graph(potential, stored["positions"], stored["atomic_numbers"]))
    scale = 1.0 + stored["forces"].abs().max().item()
    tolerance = max(TOLERANCES[potential.dtype], TOLERANCES[stored_dtype]) * scale
    energy = (prediction.node_energy.detach().cpu() - stored["node_energy"]).abs().max().item()
    forces = (prediction.forces.detach().cpu() - stored["forces"]).abs().max().item()
    if not max(energy, forces) <= tolerance:
        raise EquipotError(
            f"{name}: on this machine the model does not give the energies and forces that were stored with it "
            f"(they differ by {1000 * energy:.3g} meV and {1000 * forces:.3g} meV/Å; {1000 * tolerance:.3g} are "
            f"allowed). Another version of torch ({torch.__version__}), of equipot or another device computes "
            "something else: do not use it here before that is understood."
        )


def _graph(potential: Potential, positions: torch.Tensor, numbers: torch.Tensor) -> Graph:
    graph = build_graph(positions.numpy(), np.zeros((3, 3)), np.zeros(3, dtype=bool), numbers.numpy(), potential.r_max)
    return graph.to(next(potential.parameters()).device)
