"""A potential on top of another one is exported as one graph of operations."""

import torch

from equipot.deploy.trace import export_evaluation, inputs_of
from equipot.geometry import evaluate
from equipot.models import Potential
from equipot.points import ace_linear
from tests.kernels.fused import needs_compiler
from tests.physics.small import R_MAX, STATISTICS, cluster, crystal, point


@needs_compiler
def test_a_sum_is_one_graph_of_operations():
    below = Potential(point("mace"), STATISTICS, dtype=torch.float64, seed=1, radial="spline:32").eval()
    design = ace_linear(r_max=1.2 * R_MAX, degrees=(3, 5, 5))
    upon = Potential(design, STATISTICS, dtype=torch.float64, seed=2, baseline=below).eval()
    program = export_evaluation(upon, crystal().graph(upon.r_max)).module()
    for structure in (cluster(5), crystal()):
        graph = structure.graph(upon.r_max)
        exact = evaluate(upon, graph)
        node_energy, forces, strain_gradient = program(*inputs_of(graph))
        assert torch.allclose(node_energy, exact.node_energy, rtol=1e-11)
        assert torch.allclose(forces, exact.forces, atol=1e-10)
        assert torch.allclose(strain_gradient, -exact.virial[0], atol=1e-10)
