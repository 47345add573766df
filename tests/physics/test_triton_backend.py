"""Whole potentials on Triton's kernels, in Triton's interpreter: energies, forces and a training step's gradients."""

import pytest
import torch

from equipot.geometry import evaluate
from equipot.kernels import backend
from equipot.kernels.triton import registry
from equipot.models import Potential
from equipot.points import mace, nequip
from tests.kernels.fused import relative_error
from tests.kernels.interpreter import needs_interpreter
from tests.physics.small import SMALL, STATISTICS, cluster

CASES = {
    "mace": mace(**{**SMALL, "channels": 2, "max_ell": 1, "max_L": 1, "correlation": 2, "layers": 2}),
    "nequip": nequip(**{**SMALL, "channels": 2, "max_ell": 1, "max_L": 1, "layers": 2}),
}


def step(model: Potential) -> list[torch.Tensor]:
    """Energies and forces, and the gradients of a loss of both."""
    prediction = evaluate(model, cluster(4).graph(), create_graph=True)
    loss = prediction.energy.square().sum() + prediction.forces.square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return [prediction.node_energy.detach(), prediction.forces.detach(), *gradients]


@needs_interpreter
@pytest.mark.parametrize("radial", ["exact", "spline:16"])
@pytest.mark.parametrize("case", CASES)
def test_energies_forces_and_a_training_step(case: str, radial: str) -> None:
    model = Potential(CASES[case], STATISTICS, dtype=torch.float64, seed=7).choose_radial(radial)
    exact = step(model)
    try:
        assert backend.use_backend(model, "triton").name == "triton"
        made = step(model)
    finally:
        registry.give_back_cpu()
    assert max(relative_error(a, b) for a, b in zip(made, exact, strict=True) if b.abs().max() > 0) < 1e-12
    assert any(not torch.equal(a, b) for a, b in zip(made, exact, strict=True))
