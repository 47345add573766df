"""Linear maps per irrep in generated C++ against their definition: value, gradient, second gradient, every input."""

import pytest
import torch

from equipot.interactions.linear import EmbeddingLinear, IndexedLinear, Linear, SpeciesLinear
from equipot.kernels import backend
from equipot.kernels.linear_map import LinearMap, linear_map
from equipot.kernels.operations import LinearOperation
from equipot.kernels.reference import SpeciesGroups, group_by_species
from equipot.o3 import Irreps
from tests.kernels.fused import derivatives, needs_compiler, random, relative_error

pytestmark = needs_compiler
CASES = {
    "one scalar": ("1x0e", "1x0e"),
    "tails of every kind": ("37x0e + 16x1o + 3x2e", "5x0e + 33x1o + 130x2e"),
    "any order": ("3x1o + 20x0e + 2x0o", "2x0o + 17x1o + 4x0e"),
    "irreps that one side lacks": ("3x0e + 2x1e + 5x2e", "4x0o + 8x0e + 3x2e + 6x3o"),
    "more channels than are copied at a time": ("530x0e + 1040x1o", "18x0e + 6x1o"),
    "nothing in common": ("3x0e", "2x0o"),
}
NODES = 29


def species(nodes: int = NODES) -> SpeciesGroups:
    """Four elements, the second of which has no atom."""
    index = torch.tensor([0, 2, 2, 3])[torch.randint(4, (nodes,), generator=torch.Generator().manual_seed(5))]
    return group_by_species(index, 4)


def both(case: str, dtype: torch.dtype) -> tuple[LinearOperation, LinearOperation]:
    d = linear_map(*(Irreps(text) for text in CASES[case]))
    fused, exact = LinearOperation(d, dtype), LinearOperation(d, torch.float64)
    fused.backend = "cpu"
    return fused, exact


def inputs(d: LinearMap, rows: int | None, dtype: torch.dtype, nodes: int = NODES) -> list[torch.Tensor]:
    lead = () if rows is None else (rows,)
    shapes = [(nodes, d.irreps_in.dim), *((*lead, block.mul_in, block.mul_out) for block in d.blocks)]
    return [random(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-13), (torch.float32, 4e-6)])
@pytest.mark.parametrize("groups", [None, species()], ids=["one matrix", "a matrix per element"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "nothing in common"])
def test_value_and_derivatives_are_those_of_the_definition(
    case: str, groups: SpeciesGroups | None, dtype: torch.dtype, limit: float
) -> None:
    fused, exact = both(case, dtype)
    x = inputs(fused.description, None if groups is None else 4, dtype)
    made = derivatives(lambda x, *W: fused(x, W, groups), x)
    wanted = derivatives(lambda x, *W: exact(x, W, groups), [y.double() for y in x])
    assert max(relative_error(a, b) for a, b in zip(made, wanted, strict=True)) < limit


@pytest.mark.parametrize("groups", [None, species(200)], ids=["one matrix", "a matrix per element"])
def test_threads_change_nothing(groups: SpeciesGroups | None) -> None:
    """Every number is summed by one thread, in the same order."""
    d = linear_map(Irreps("70x0e + 40x1o"), Irreps("64x0e + 130x1o"))
    operation = LinearOperation(d, torch.float32)
    operation.backend = "cpu"
    x = inputs(d, None if groups is None else 4, torch.float32, nodes=200)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(derivatives(lambda x, *W: operation(x, W, groups), x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("nodes", [0, 1])
def test_few_nodes(nodes: int) -> None:
    fused, exact = both("tails of every kind", torch.float64)
    x = inputs(fused.description, None, torch.float64, nodes)
    made, wanted = (derivatives(lambda x, *W, f=f: f(x, W), x) for f in (fused, exact))
    assert max(relative_error(a, b) for a, b in zip(made, wanted, strict=True)) < 1e-13


def test_nothing_in_common_is_zero() -> None:
    fused, _ = both("nothing in common", torch.float64)
    assert torch.equal(fused(torch.ones(5, 3, dtype=torch.float64), []), torch.zeros(5, 2, dtype=torch.float64))


def test_derivatives_are_those_of_finite_differences_to_the_third() -> None:
    d = linear_map(Irreps("2x0e + 1x1o"), Irreps("1x1o + 3x0e"))
    groups = group_by_species(torch.tensor([1, 0, 1]), 2)
    x, W = random(3, d.irreps_in.dim).requires_grad_(), random(2, d.num_weights, seed=1).requires_grad_()

    def y(x: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        return torch.ops.equipot.irreps_linear(x, W, groups.order, groups.starts, d.key)

    def first(x: torch.Tensor, W: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((y(x, W) ** 3).sum(), (x, W), create_graph=True)

    torch.autograd.gradcheck(y, (x, W))
    torch.autograd.gradgradcheck(y, (x, W))
    torch.autograd.gradgradcheck(first, (x, W))


@pytest.mark.parametrize("needed", [(0,), (1,)])
def test_gradients_asked_for_alone_are_the_same(needed: tuple[int, ...]) -> None:
    fused, _ = both("any order", torch.float64)
    x = [y.requires_grad_() for y in inputs(fused.description, None, torch.float64)]
    value = (fused(x[0] * 1.0, [W * 1.0 for W in x[1:]]) ** 2).sum()
    every = torch.autograd.grad(value, x, retain_graph=True)
    some = torch.autograd.grad(value, [x[n] for n in needed])
    assert all(torch.equal(every[n], g) for n, g in zip(needed, some, strict=True))


def test_operators_keep_torchs_rules() -> None:
    d, groups = linear_map(Irreps("3x0e + 2x1o"), Irreps("2x1o + 5x0e + 1x2e")), species(7)
    x, W = random(7, d.irreps_in.dim).requires_grad_(), random(4, d.num_weights).requires_grad_()
    gy = random(7, d.irreps_out.dim).requires_grad_()
    end = (groups.order, groups.starts, d.key)
    torch.library.opcheck(torch.ops.equipot.irreps_linear.default, (x, W, *end))
    torch.library.opcheck(torch.ops.equipot.irreps_linear_transposed.default, (gy, W, *end))
    torch.library.opcheck(torch.ops.equipot.irreps_linear_outer.default, (x, gy, *end))
    torch.library.opcheck(torch.ops.equipot.irreps_linear.default, (x, random(1, d.num_weights), None, None, d.key))


def test_operands_of_other_widths_are_refused() -> None:
    fused, _ = both("one scalar", torch.float64)
    with pytest.raises(ValueError, match="shapes"):
        fused(random(3, 2), [random(1, 1)])
    with pytest.raises(ValueError, match="shapes"):
        torch.ops.equipot.irreps_linear(random(3, 1), random(1, 2), None, None, fused.key)


@pytest.mark.parametrize("case", CASES)
def test_key_names_the_description(case: str) -> None:
    d = linear_map(*(Irreps(text) for text in CASES[case]), fan=3.0)
    assert LinearMap.from_key(d.key) == d


@pytest.mark.parametrize("kind", [SpeciesLinear, IndexedLinear, EmbeddingLinear])
def test_layers_give_the_same_on_either_backend(kind: type[SpeciesLinear]) -> None:
    irreps, groups, embedding = (Irreps("6x0e + 3x1o"), Irreps("4x1o + 5x0e")), species(), random(4, 4, seed=8)
    layer = kind(*irreps, 4, torch.float64)
    x = random(NODES, irreps[0].dim)
    expected = layer(x, groups, embedding).detach()
    backend.use_backend(layer, "cpu")
    assert relative_error(layer(x, groups, embedding).detach(), expected) < 1e-13


def test_parameters_keep_their_names_and_components_their_variance() -> None:
    torch.manual_seed(0)
    layer = Linear(Irreps("64x0e + 200x1o"), Irreps("100x1o + 50x0e"), torch.float64)
    assert sorted(layer.state_dict()) == ["weights.0e", "weights.1o"]
    backend.use_backend(layer, "cpu")
    y = layer(random(400, 664))
    assert float(y.detach().var()) == pytest.approx(1.0, rel=0.03)


def test_weights_that_are_not_trained_may_change_all_the_same() -> None:
    layer = Linear(Irreps("3x0e + 2x1o"), Irreps("2x1o + 4x0e"), torch.float64).requires_grad_(False)
    backend.use_backend(layer, "cpu")
    x = random(5, 9)
    with torch.inference_mode():
        before = layer(x)
    layer.weights["0e"].mul_(2.0)
    after = layer(x)
    assert torch.equal(after[:, 6:], 2.0 * before[:, 6:]) and torch.equal(after[:, :6], before[:, :6])
    layer.load_state_dict({name: -W for name, W in layer.state_dict().items()})
    assert torch.equal(layer(x), -after)
    torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
