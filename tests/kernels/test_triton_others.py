"""Harmonics, linear maps and splines as they run on GPUs, in Triton's interpreter, against the definitions."""

import pytest
import torch

from equipot.kernels import spline as exact_spline
from equipot.kernels.linear_map import linear_map
from equipot.kernels.operations import EdgeHarmonicsOperation, LinearOperation
from equipot.kernels.reference import SpeciesGroups, group_by_species
from equipot.kernels.triton import linear as triton_linear
from equipot.kernels.triton import spline as triton_spline
from equipot.kernels.triton.memory import Memory
from equipot.o3 import Irreps
from tests.kernels import test_cpu_harmonics
from tests.kernels.fused import derivatives, random, relative_error
from tests.kernels.interpreter import needs_interpreter, on_interpreter  # noqa: F401

pytestmark = [needs_interpreter, pytest.mark.usefixtures("on_interpreter")]


CPU_ONLY = ("splined_convolution", "spline_table", "gate", "atomic_basis", "coupled")
"""Operators that only the CPU's backend asks for: on GPUs a spline and a convolution, and plain torch."""


def test_every_fused_operator_is_there_for_gpus() -> None:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("equipot::")]
    on_cpu, on_gpu = ({name for name in names if has(name, key)} for key in ("CPU", "CUDA"))
    assert len(on_gpu) >= 15
    assert not [name for name in on_cpu - on_gpu if not name.removeprefix("equipot::").startswith(CPU_ONLY)]


@pytest.mark.parametrize(("lmax", "dtype", "limit"), [(3, torch.float64, 1e-13), (1, torch.float64, 1e-13),
                                                      (2, torch.float32, 1e-6)])  # fmt: skip
def test_harmonics(lmax: int, dtype: torch.dtype, limit: float) -> None:
    fused, exact = EdgeHarmonicsOperation(lmax, -1.0, dtype), EdgeHarmonicsOperation(lmax, -1.0, torch.float64)
    fused.backend = "triton"
    for count in (0, 70):
        made, wanted = (test_cpu_harmonics.derivatives(x, count) for x in (fused, exact))
        assert max(relative_error(a, b) for a, b in zip(made, wanted, strict=True)) < limit
    assert [x.dtype for x in made] == [torch.float64, dtype, torch.float64, torch.float64, dtype, torch.float64]


def test_harmonics_with_one_cotangent() -> None:
    fused, exact = (EdgeHarmonicsOperation(2, 1.0, torch.float64) for _ in range(2))
    fused.backend = "triton"
    for n, g in ((0, random(5, seed=1)), (1, random(5, 9, seed=2))):
        results = []
        for operation in (fused, exact):
            v = random(5, 3).requires_grad_()
            (first,) = torch.autograd.grad(operation(v)[n], v, g, create_graph=True)
            results.append([first.detach(), *torch.autograd.grad((first * random(5, 3, seed=4)).sum(), v)])
        assert max(relative_error(a, b) for a, b in zip(*results, strict=True)) < 1e-13


def species(nodes: int) -> SpeciesGroups:
    """Four elements, the second of which has no atom."""
    index = torch.tensor([0, 2, 2, 3])[torch.randint(4, (nodes,), generator=torch.Generator().manual_seed(5))]
    return group_by_species(index, 4)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-13), (torch.float32, 4e-6)])
@pytest.mark.parametrize("groups", [None, species(29), species(0)], ids=["one matrix", "per element", "no nodes"])
@pytest.mark.parametrize("case", [("37x0e + 16x1o", "5x0e + 33x1o"), ("3x1o + 2x0e + 2x0o", "2x0o + 7x1o + 4x2e")])
def test_linear_maps(case: tuple[str, str], groups: SpeciesGroups | None, dtype: torch.dtype, limit: float) -> None:
    d = linear_map(*(Irreps(text) for text in case))
    fused, exact = LinearOperation(d, dtype), LinearOperation(d, torch.float64)
    fused.backend = "triton"
    nodes, lead = (29, ()) if groups is None else (len(groups.species), (4,))
    shapes = [(nodes, d.irreps_in.dim), *((*lead, block.mul_in, block.mul_out) for block in d.blocks)]
    x = [random(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]
    made = derivatives(lambda x, *W: fused(x, W, groups), x)
    wanted = derivatives(lambda x, *W: exact(x, W, groups), [y.double() for y in x])
    assert max(relative_error(a, b) for a, b in zip(made, wanted, strict=True)) < limit


def test_linear_maps_where_nothing_may_wait_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_linear, "_capturing", lambda x: True)
    test_linear_maps(("3x1o + 2x0e + 2x0o", "2x0o + 7x1o + 4x2e"), species(29), torch.float64, 1e-13)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("edges", [0, 12])
def test_splines(edges: int, dtype: torch.dtype, limit: float) -> None:
    u = torch.rand(edges, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 4.0
    u[: edges // 4] = 2.5  # many edges in one interval
    table = random(9, 3, dtype=dtype)
    results = []
    for operation, T in ((torch.ops.equipot.spline, table), (exact_spline.spline, table.double())):
        T, x = T.clone().requires_grad_(), u.clone().requires_grad_()
        y = operation(T, x)
        first = torch.autograd.grad(y, (T, x), random(edges, 3, dtype=T.dtype), create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), (T, x))
        results.append([y.detach(), *(g.detach() for g in first), *second])
    assert max(relative_error(a, b) for a, b in zip(*results, strict=True)) < limit


def test_spline_sums_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_spline, "SMALLEST_CHUNK", 3)
    monkeypatch.setattr(triton_spline, "MOST_CHUNKS", 7)
    first, weights = torch.tensor([2, 0, 2, 2, 2, 3, 2, 2]), random(8, 6)
    g = random(8, 5, seed=1)
    made = triton_spline.scatter(g, first, weights, 9)
    assert relative_error(made, exact_spline.scatter(g, first, weights, 9)) < 1e-14


def test_what_is_known_of_a_tensor_is_found_again_when_it_changes() -> None:
    memory: Memory[int] = Memory()
    x = torch.tensor([1, 2])
    assert [memory.get(x, 0, lambda: 5), memory.get(x, 0, lambda: 6), memory.get(x, 1, lambda: 7)] == [5, 5, 7]
    x += 1
    assert memory.get(x, 1, lambda: 8) == 8
