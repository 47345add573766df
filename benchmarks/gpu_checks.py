"""Checks and timings on one GPU that need no other code: operators, whole potentials, CUDA graphs."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from cases import Model
from tasks import Tasks
from torch import Tensor

from equipot.geometry import Graph, evaluate, graph_from_atoms
from equipot.geometry.graph import batch_graphs
from equipot.kernels import operations, reference
from equipot.kernels.backend import use_backend
from equipot.kernels.linear_map import linear_map
from equipot.kernels.polynomial import Product, convolution
from equipot.models import Potential
from equipot.o3 import Irrep, Irreps
from equipot.statistics import Statistics

DTYPES = (torch.float64, torch.float32)


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers, the same for every dtype but for rounding."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def largest_error(made: list[Tensor], exact: list[Tensor]) -> float:
    """Largest difference over the largest value, over all tensors."""
    pairs = [(a.cpu().double(), b) for a, b in zip(made, exact, strict=True) if b.numel() and float(b.abs().max()) > 0]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def derivatives(function: Callable[..., Tensor], inputs: list[Tensor]) -> dict[str, list[Tensor]]:
    """Value, gradient, and gradient of a random function of the gradient, in every input."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    value = function(*inputs)
    g = random(*value.shape, seed=50, dtype=value.dtype).to(value.device).requires_grad_()
    first = torch.autograd.grad(value, inputs, g, create_graph=True)
    along = [random(*x.shape, seed=51 + n, dtype=x.dtype).to(x.device) for n, x in enumerate(first)]
    second = torch.autograd.grad(first, [g, *inputs], along, allow_unused=True, materialize_grads=True)
    return {"value": [value.detach()], "gradient": [x.detach() for x in first], "second gradient": list(second)}


def _edges(nodes: int, count: int, device: torch.device) -> operations.EdgeIndex:
    generator = torch.Generator().manual_seed(3)
    senders = torch.randint(nodes, (count,), generator=generator)
    receivers = torch.randint(1, nodes - 1, (count,), generator=generator).sort().values
    return operations.edge_index(senders.to(device), receivers.to(device), nodes)


def cases(size: int) -> dict[str, Callable[[torch.dtype, str, torch.device], tuple[Callable, list[Tensor]]]]:
    """For each operation: dtype, backend, device → a function and its inputs, with numbers of nodes and channels."""
    nodes, K = 10 * size, 16 * size
    irreps = Irreps(f"{K}x0e + {K + 3}x1o + {max(K // 2, 1)}x1e")
    targets = [Irrep(ell, p) for ell in range(3) for p in (-1, 1)]

    def conv(dtype: torch.dtype, backend: str, device: torch.device) -> tuple[Callable, list[Tensor]]:
        d, e = (
            convolution(irreps, 1 if size == 1 else 3, targets),
            _edges(nodes, nodes * (1 if size == 1 else 20), device),
        )
        operation = operations.ConvolutionOperation(d, dtype)
        shapes = [(nodes, d.irreps_in.dim), (len(e.senders), (d.max_ell + 1) ** 2), (len(e.senders), d.num_weights)]
        return _ready(operation, backend, device, lambda f: lambda *x: f(*x, e)), _inputs(shapes, dtype, device)

    def prod(dtype: torch.dtype, backend: str, device: torch.device) -> tuple[Callable, list[Tensor]]:
        lm = tuple(Irrep(ell, (-1) ** ell) for ell in range(2 if size == 1 else 4))
        d = Product(lm, (Irrep(0, 1), Irrep(1, -1)), 2 if size == 1 else 3, "mace")
        operation = operations.ProductOperation(d, K, dtype)
        groups = reference.group_by_species((torch.arange(nodes) % 3).to(device), 4)
        paths = [d.num_paths(d.irreps_out[n], nu) for n, nu in operation.terms]
        shapes = [(nodes, K * sum(ir.dim for ir in lm)), *((p, 4, K) for p in paths)]
        wrap = lambda f: lambda A, *w: f(A, w, groups)  # noqa: E731
        return _ready(operation, backend, device, wrap), _inputs(shapes, dtype, device)

    def linear(dtype: torch.dtype, backend: str, device: torch.device) -> tuple[Callable, list[Tensor]]:
        d = linear_map(irreps, Irreps(f"{K}x0e + {2 * K}x1o + 3x2e"))
        groups = reference.group_by_species((torch.arange(nodes) % 3).to(device), 4)
        shapes = [(nodes, d.irreps_in.dim), *((4, b.mul_in, b.mul_out) for b in d.blocks)]
        wrap = lambda f: lambda x, *W: f(x, W, groups)  # noqa: E731
        return _ready(operations.LinearOperation(d, dtype), backend, device, wrap), _inputs(shapes, dtype, device)

    def spline(dtype: torch.dtype, backend: str, device: torch.device) -> tuple[Callable, list[Tensor]]:
        u = 100.0 * torch.rand(50 * size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        wrap = lambda f: f  # noqa: E731
        function = _ready(operations.SplineOperation(dtype), backend, device, wrap)
        return function, [random(110, K, seed=2, dtype=dtype).to(device), u.to(device)]

    def harmonics(dtype: torch.dtype, backend: str, device: torch.device) -> tuple[Callable, list[Tensor]]:
        operation = operations.EdgeHarmonicsOperation(3, -1.0, dtype)
        wrap = lambda f: lambda v: torch.cat([x.double().flatten() for x in f(v)])  # noqa: E731
        return _ready(operation, backend, device, wrap), [random(100 * size, 3, seed=1).to(device)]

    return {"convolution": conv, "product": prod, "linear": linear, "spline": spline, "harmonics": harmonics}


def _ready(operation: operations.Operation, backend: str, device: torch.device, wrap: Callable) -> Callable:
    operation = operation.to(device)
    operation.backend = backend
    return wrap(operation)


def _inputs(shapes: list[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    return [random(*shape, seed=n, dtype=dtype).to(device) for n, shape in enumerate(shapes)]


def check_operator(name: str, size: int, device: torch.device) -> dict[str, Any]:
    """Largest relative errors of value, gradient and second gradient, and whether two runs agree bit for bit."""
    make, found = cases(size)[name], {}
    cpu = torch.device("cpu")
    for dtype in DTYPES:
        exact_function, exact_inputs = make(torch.float64, "reference", cpu)
        function, inputs = make(dtype, "triton", device)
        exact = derivatives(exact_function, [x.to(dtype).double() for x in exact_inputs])
        made, again = derivatives(function, inputs), derivatives(function, inputs)
        errors = {key: largest_error(made[key], exact[key]) for key in exact}
        same = all(torch.equal(a, b) for key in made for a, b in zip(made[key], again[key], strict=True))
        found[str(dtype).removeprefix("torch.")] = {**errors, "repeatable": same}
    return found


def potential_of(model: Model, tasks: Tasks, system: str, dtype: torch.dtype) -> tuple[Potential, Graph]:
    """A potential with random weights, and the batch of a system."""
    structures = tasks.structures(system)[1]
    species = tuple(sorted({int(z) for a in structures for z in a.numbers}))
    zeros, count = (0.0,) * len(species), tasks.size(model, system)
    neighbours = count["edges"] / count["atoms"]
    facts = Statistics(
        species=species, atomic_energies=zeros, mean_neighbours=neighbours, force_rms=1.0,
        mean_neighbours_per_species=(neighbours,) * len(species), energy_mean_per_species=zeros,
    )  # fmt: skip
    graph = batch_graphs([graph_from_atoms(a, model.design.r_max) for a in structures])
    return Potential(model.design, facts, dtype=dtype, seed=0), graph


def _step(potential: Potential, graph: Graph) -> list[Tensor]:
    prediction = evaluate(potential, graph, create_graph=True)
    loss = prediction.energy.square().sum() + prediction.forces.square().sum()
    parameters = list(potential.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return [prediction.energy.detach(), prediction.forces.detach(), *gradients]


def check_potential(model: Model, tasks: Tasks, system: str, device: torch.device) -> dict[str, Any]:
    """Largest relative errors of energies, forces and a training step's gradients against plain torch in float64."""
    weights = potential_of(model, tasks, system, torch.float32)[0].state_dict()
    exact_potential, graph = potential_of(model, tasks, system, torch.float64)
    exact_potential.load_state_dict(weights)
    exact, found = _step(exact_potential, graph), {}
    for dtype in DTYPES:
        potential = potential_of(model, tasks, system, dtype)[0]
        potential.load_state_dict(weights)
        potential.to(device)
        use_backend(potential, "triton")
        made = _step(potential, graph.to(device))
        names = {"energy": slice(0, 1), "forces": slice(1, 2), "gradients": slice(2, None)}
        errors = {name: largest_error(made[part], exact[part]) for name, part in names.items()}
        found[str(dtype).removeprefix("torch.")] = errors
    return found


def time_graph(model: Model, tasks: Tasks, system: str, device: torch.device, repeats: int) -> dict[str, Any]:
    """Energy and forces of a fixed list of neighbours: eagerly, and as one launch of a CUDA graph; ms."""
    potential, graph = potential_of(model, tasks, system, torch.float32)
    potential = potential.to(device).eval().requires_grad_(False)
    graph = graph.to(device)
    use_backend(potential, "triton", training=False)
    potential.species(graph.atomic_numbers)  # complains here of unknown elements, where it may wait for the GPU
    potential.refuse_unknown = lambda *_: None  # type: ignore[method-assign]
    vectors = graph.vectors().detach()

    def work() -> tuple[Tensor, Tensor]:
        v = vectors.detach().requires_grad_()
        energy = potential(graph, v).sum()
        (g,) = torch.autograd.grad(energy, v)
        forces = torch.zeros_like(graph.positions).index_add(0, graph.receivers, g).index_add(0, graph.senders, -g)
        return energy.detach(), forces

    eager = work()
    found: dict[str, Any] = {**tasks.size(model, system), "eager_ms": _median(work, repeats, device)}
    if device.type != "cuda":
        return {**found, "captured": "not captured: there is no CUDA device"}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        replayed = work()
    captured.replay()
    same = largest_error(list(replayed), [x.cpu().double() for x in eager])
    return {**found, "captured_ms": _median(captured.replay, repeats, device), "difference": same}


def _median(work: Callable[[], Any], repeats: int, device: torch.device) -> float:
    work()
    samples = []
    for _ in range(repeats):
        _wait(device)
        begin = time.perf_counter()
        work()
        _wait(device)
        samples.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(samples)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
