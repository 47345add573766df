"""Convolution and product by cuEquivariance's plain-torch method against their definitions, and what it says."""

import importlib.util
import math

import pytest
import torch

from equipot.errors import EquipotError
from equipot.geometry import evaluate
from equipot.kernels import backend
from equipot.kernels.cuequivariance import evaluate as cuequivariance
from equipot.kernels.cuequivariance.segments import Polynomial, of_convolution, of_product
from equipot.kernels.operations import ConvolutionOperation, LinearOperation, Operation, ProductOperation, edge_index
from equipot.kernels.polynomial import Product
from equipot.kernels.reference import group_by_species
from equipot.models import Potential
from equipot.points import mace, nequip
from tests.kernels import test_cpu_product, test_triton_convolution
from tests.kernels.fused import derivatives, random, relative_error
from tests.physics.small import SMALL, STATISTICS, cluster

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("cuequivariance_torch") is None,
    reason="cuequivariance-torch is not installed: pip install 'equipot[cuequivariance]'",
)
CONVOLUTIONS, PRODUCTS = test_triton_convolution.CASES, test_cpu_product.CASES
SPECIES = test_cpu_product.SPECIES


def on_cuequivariance(operation: Operation) -> Operation:
    assert backend.use_backend(operation, "cuequivariance").name == "cuequivariance"
    assert operation.segmented and not operation.fused
    return operation


def product_inputs(name: str, dtype: torch.dtype, nodes: int, species: int) -> list[torch.Tensor]:
    d, channels = PRODUCTS[name]
    shapes = [(d.num_paths(ir, nu), species, channels) for ir in d.irreps_out for nu in range(1, d.correlation + 1)]
    weights = [random(*shape, seed=9 + n, dtype=dtype) for n, shape in enumerate(s for s in shapes if s[0] > 0)]
    return [random(nodes, channels * sum(ir.dim for ir in d.irreps_in), dtype=dtype), *weights]


def row_of(p: Polynomial, inputs: list[torch.Tensor]) -> torch.Tensor:
    """The sum of a description's monomials for one row of each buffer."""
    buffers = [x.view(b.segments, 1 if b.shared else p.width) for x, b in zip(inputs, p.inputs, strict=True)]
    out = torch.zeros(p.output.segments, p.width, dtype=torch.float64)
    for factors, monomials in p.sums.items():
        for (*segments, made), coefficient in monomials:
            parts = [buffers[n][s].expand(p.width) for n, s in zip(factors, segments, strict=True)]
            out[made] += coefficient * torch.stack(parts).prod(0)
    return out.flatten()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_description_of_a_convolution_is_the_sum_over_one_edge(name: str) -> None:
    d = CONVOLUTIONS[name]
    p, x = of_convolution(d), [random(1, n, seed=n) for n in (d.irreps_in.dim, (d.max_ell + 1) ** 2, d.num_weights)]
    assert p.width == math.gcd(*(mul for mul, _ in d.irreps_in))
    one = edge_index(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 1)
    assert relative_error(row_of(p, [y[0] for y in x]), ConvolutionOperation(d, torch.float64)(*x, one)[0]) < 1e-14


@pytest.mark.parametrize("name", PRODUCTS)
def test_description_of_a_product_is_the_sum_over_its_paths(name: str) -> None:
    A, *weights = product_inputs(name, torch.float64, 1, 1)
    operation, groups = ProductOperation(*PRODUCTS[name], torch.float64), group_by_species(SPECIES[:1] * 0, 1)
    made = row_of(of_product(*PRODUCTS[name]), [torch.cat([w.flatten() for w in weights]), A[0]])
    assert relative_error(made, operation(A, weights, groups)[0]) < 1e-14


@needs_package
@pytest.mark.parametrize(
    ("name", "dtype", "limit"),
    [*((name, torch.float64, 1e-13) for name in CONVOLUTIONS), ("scalars", torch.float32, 3e-6)],
)
def test_convolution_and_derivatives_are_those_of_the_definition(name: str, dtype: torch.dtype, limit: float) -> None:
    d, e = CONVOLUTIONS[name], test_triton_convolution.edges()
    x = test_triton_convolution.inputs(d, dtype)
    operation, exact = on_cuequivariance(ConvolutionOperation(d, dtype)), ConvolutionOperation(d, torch.float64)
    made, wanted = (
        derivatives(lambda *x: f(*x, e), [y.to(f.dtype) for y in x])  # noqa: B023
        for f in (operation, exact)
    )
    assert max(relative_error(a, b) for a, b in zip(made, wanted, strict=True)) < limit


@needs_package
@pytest.mark.parametrize("species", [4, 1])
@pytest.mark.parametrize(
    ("name", "dtype", "limit"),
    [*((name, torch.float64, 1e-13) for name in PRODUCTS), ("one factor", torch.float32, 3e-6)],
)
def test_product_and_derivatives_are_those_of_the_definition(
    name: str, dtype: torch.dtype, limit: float, species: int
) -> None:
    groups, x = group_by_species(SPECIES, 4), product_inputs(name, dtype, len(SPECIES), species)
    operation = on_cuequivariance(ProductOperation(*PRODUCTS[name], dtype))
    exact = ProductOperation(*PRODUCTS[name], torch.float64)
    made, wanted = (
        derivatives(lambda A, *w: f(A, w, groups), [y.to(f.dtype) for y in x])  # noqa: B023
        for f in (operation, exact)
    )
    assert max(relative_error(a, b) for a, b in zip(made, wanted, strict=True)) < limit


@needs_package
def test_nothing_to_sum() -> None:
    d, none = CONVOLUTIONS["scalars"], torch.zeros(0, dtype=torch.int64)
    h, Y, R = (x[:n] for x, n in zip(test_triton_convolution.inputs(d, torch.float64), (6, 0, 0), strict=True))
    a = on_cuequivariance(ConvolutionOperation(d, torch.float64))(h, Y, R, edge_index(none, none, 5))
    assert a.shape == (5, d.irreps_out.dim) and not a.any()
    A, *weights = product_inputs("one factor", torch.float64, 0, 4)
    operation = on_cuequivariance(ProductOperation(*PRODUCTS["one factor"], torch.float64))
    assert operation(A, weights, group_by_species(none, 4)).shape == A.shape


@needs_package
@pytest.mark.parametrize("design", [mace, nequip])
def test_potentials_and_a_training_step(design) -> None:
    """Used without gradients first: what is kept from there serves training too."""
    cuequivariance.module.cache_clear()
    axes = {**SMALL, "channels": 2, "max_ell": 1, "max_L": 1, "layers": 2}
    model = Potential(design(**axes), STATISTICS, dtype=torch.float64, seed=7)
    graph = cluster(4).graph()

    def step() -> list[torch.Tensor]:
        prediction = evaluate(model, graph, create_graph=True)
        loss = prediction.energy.square().sum() + prediction.forces.square().sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        return [prediction.node_energy.detach(), prediction.forces.detach(), *gradients]

    exact = step()
    with torch.inference_mode():
        choice = backend.use_backend(model, "cuequivariance")
        model(graph, graph.vectors())
    assert choice.name == backend.backend_of(model) == "cuequivariance" and "naive" in choice.reason
    made = step()
    assert max(relative_error(a, b) for a, b in zip(made, exact, strict=True) if b.abs().max() > 0) < 1e-12
    assert any(not torch.equal(a, b) for a, b in zip(made, exact, strict=True))


@needs_package
def test_products_that_are_too_large_stay_with_plain_torch_which_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = ProductOperation(*PRODUCTS["two factors, an output that nothing makes"], torch.float64)
    monkeypatch.setattr(cuequivariance, "MOST_MONOMIALS", 3)
    choice = backend.use_backend(operation, "cuequivariance")
    assert not operation.segmented and choice.reason.endswith("; one product has 11 monomials, more than 3")
    chain = Product(test_cpu_product.irreps("0e"), test_cpu_product.irreps("0e"), 5, "symmetric")
    assert "5 factors" in str(cuequivariance.obstacle("product", f"{chain.key}|2"))
    assert cuequivariance.obstacle(LinearOperation.kind, "") is not None


def test_auto_does_not_take_it() -> None:
    assert "cuequivariance" not in backend.FASTEST.values()


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"cuequivariance_torch"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in found else None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.13.0")
    assert "slower than plain torch" in backend.choose("cuequivariance", "cpu").reason
    for device, problem in (("meta", "on meta"), ("cuda", "no CUDA device")):
        with pytest.raises(EquipotError, match=problem):
            backend.choose("cuequivariance", device)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    with pytest.raises(EquipotError, match="pip install cuequivariance-ops-torch-cu13"):
        backend.choose("cuequivariance", "cuda")
    found.add("cuequivariance_ops_torch")
    assert "uniform_1d" in backend.choose("cuequivariance", "cuda").reason
    found.clear()
    with pytest.raises(EquipotError, match=r"not installed \(pip install 'equipot\[cuequivariance\]'\)"):
        backend.choose("cuequivariance", "cpu")


@needs_package
def test_an_installation_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cuequivariance.module.cache_clear()
    operation = ConvolutionOperation(CONVOLUTIONS["scalars"], torch.float64)
    with monkeypatch.context() as broken:
        broken.delattr("cuequivariance_torch.SegmentedPolynomial")
        with pytest.raises(EquipotError, match="does not work"):
            backend.use_backend(operation, "cuequivariance")
    assert operation.backend == "reference"
    if importlib.util.find_spec("cuequivariance_ops_torch") is None:
        monkeypatch.setattr(cuequivariance, "method_on", lambda device: "uniform_1d")
        with pytest.warns(UserWarning, match="not available"), pytest.raises(EquipotError, match="cannot be loaded"):
            backend.use_backend(operation, "cuequivariance")
