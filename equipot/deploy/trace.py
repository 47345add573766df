"""Energies, forces and strain gradient of a potential as one graph of tensor operations, for a compiler."""

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.export import Dim, ExportedProgram, export
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from equipot.errors import EquipotError
from equipot.geometry.graph import Graph
from equipot.interactions.radial_spline import RadialSpline
from equipot.kernels.backend import use_backend
from equipot.models.potential import Potential

MOST_ATOMS, MOST_EDGES = 2**24, 2**31
MOST_TABLES = 100
"""Splines of so many pairs of elements can be kept in a compiled potential."""


class Evaluation(torch.nn.Module):
    r"""Node energies, forces and strain gradient of one structure, with the weights as constants.

        g_e = ∂E/∂r_e,   F_i = Σ_{e: receiver i} g_e − Σ_{e: sender i} g_e,   ∂E/∂ε = Σ_e r_e ⊗ g_e

    Args:
        potential: In the form that is to be compiled; its weights must not require gradients.
    """

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(
        self,
        positions: Float[Tensor, "node xyz"],
        cell: Float[Tensor, "1 3 xyz"],
        atomic_numbers: Int[Tensor, " node"],
        senders: Int[Tensor, " edge"],
        receivers: Int[Tensor, " edge"],
        shifts: Float[Tensor, "edge 3"],
    ) -> tuple[Float[Tensor, " node"], Float[Tensor, "node xyz"], Float[Tensor, "3 3"]]:
        """Returns E_i (eV), F_i (eV/Å) and ∂E/∂ε (eV), float64."""
        num_nodes = positions.shape[0]
        pbc = torch.ones(1, 3, dtype=torch.bool, device=positions.device)
        system = torch.zeros_like(atomic_numbers)
        graph = Graph(
            positions, cell, pbc, atomic_numbers, senders, receivers, shifts, system, num_systems=1, num_owned=num_nodes
        )
        vectors = graph.vectors().detach().requires_grad_(True)
        node_energy = self.potential(graph, vectors)
        (g,) = torch.autograd.grad(node_energy.sum(), vectors)
        forces = torch.zeros_like(positions).index_add(0, receivers, g).index_add(0, senders, g, alpha=-1)
        strain_gradient = vectors.detach().transpose(0, 1) @ g
        return node_energy.detach(), forces, 0.5 * (strain_gradient + strain_gradient.transpose(0, 1))


def inputs_of(graph: Graph) -> tuple[Tensor, ...]:
    """Returns what `Evaluation` takes of a graph of one structure."""
    return graph.positions, graph.cell, graph.atomic_numbers, graph.senders, graph.receivers, graph.shifts


def export_evaluation(potential: Potential, example: Graph) -> ExportedProgram:
    """Returns the graph of operations, for any number of atoms and edges from two on.

    Args:
        potential: The potential; it is left as it is.
        example: A structure of at least two atoms and two edges.

    Raises:
        EquipotError: The potential needs what cannot be written as one graph.
    """
    fixed = fixed_form(potential)
    inputs = inputs_of(example)
    traced = make_fx(Evaluation(fixed), tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
    fold_constants(traced)
    atoms, edges = Dim("atoms", min=2, max=MOST_ATOMS), Dim("edges", min=2, max=MOST_EDGES)
    sizes = ({0: atoms}, None, {0: atoms}, {0: edges}, {0: edges}, {0: edges})
    return export(traced, inputs, dynamic_shapes=sizes, strict=False)


def fold_constants(module: GraphModule) -> None:
    """Computes once, here, everything in a graph that depends on constants alone: tables, joined and scaled weights."""
    constants: dict[Node, Tensor] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = getattr(module, node.target)
            if isinstance(value, Tensor):
                constants[node] = value.detach()
        elif node.op == "call_function" and node.all_input_nodes and not _changes_inputs(node):
            if all(source in constants for source in node.all_input_nodes):
                args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), constants.__getitem__)
                made = node.target(*args, **kwargs)
                if isinstance(made, Tensor):
                    constants[node] = made.detach()
    for number, (node, value) in enumerate(constants.items()):
        used = [user for user in node.users if user not in constants]
        if node.op == "call_function" and used:
            name = f"folded_{number}"
            module.register_buffer(name, value.contiguous().clone(), persistent=False)
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.get_attr(name))
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


def _changes_inputs(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is None or schema.is_mutable


def fixed_form(potential: Potential) -> Potential:
    """Returns a copy whose weights are constants and that decides nothing by what its tensors hold."""
    fixed = copy.deepcopy(potential).eval().requires_grad_(False)
    for part in fixed.parts():
        _fix(part)
    if use_backend(fixed, "auto", training=False).name == "reference":
        raise EquipotError(
            "a potential is compiled together with fused operations, and there are none here: "
            "equipot doctor says what is missing (on a CPU a C++ compiler)."
        )
    return fixed


def _fix(part: Potential) -> None:
    """Lets one potential of a sum do the same whatever its tensors hold."""
    part.refuse_unknown = _no_check  # type: ignore[method-assign]
    if isinstance(part.to_edges, RadialSpline):
        if part.to_edges.num_tables > MOST_TABLES:
            raise EquipotError(
                f"the radial splines have {part.to_edges.num_tables} tables, one for each element or pair of "
                f"elements, and a compiled potential holds {MOST_TABLES} at most: compile it with exact radial "
                "functions (--radial exact)."
            )
        part.to_edges.present = part.to_edges.every_table  # type: ignore[method-assign]


def _no_check(species: Tensor, atomic_numbers: Tensor) -> None:
    """The caller has checked the elements."""
