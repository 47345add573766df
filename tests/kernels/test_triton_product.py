"""The product basis's Triton kernels, in Triton's interpreter, against the definition."""

import pytest
import torch

from equipot.kernels.cpu.product_source import Pass
from equipot.kernels.operations import ProductOperation
from equipot.kernels.polynomial import Product
from equipot.kernels.reference import SpeciesGroups, group_by_species
from equipot.kernels.triton import product_source, source
from equipot.kernels.triton.chunks import chunks, sum_chunks
from equipot.o3 import Irrep
from tests.kernels.fused import derivatives, random, relative_error
from tests.kernels.interpreter import needs_interpreter, on_interpreter  # noqa: F401

pytestmark = needs_interpreter


def irreps(text: str) -> tuple[Irrep, ...]:
    return tuple(Irrep.from_string(ir) for ir in text.split())


CASES = {
    "one factor": (Product(irreps("0e 1o"), irreps("0e 1o"), 1, "mace"), 3),
    "two factors, an output that nothing makes": (Product(irreps("0e 1o"), irreps("0o 0e 1o"), 2, "mace"), 33),
    "three factors": (Product(irreps("0e 1o"), irreps("0e 1o"), 3, "mace"), 2),
    "both parities": (Product(irreps("0e 0o 1e"), irreps("0o 1e"), 3, "symmetric"), 5),
    "four factors": (Product(irreps("0e 1o"), irreps("0e"), 4, "symmetric"), 1),
}
SPECIES = torch.tensor([3, 0, 3, 1, 3])  # the third of four is absent


def prepare(name: str, dtype: torch.dtype, groups: SpeciesGroups, num_species: int = 4) -> tuple:
    d, channels = CASES[name]
    fused, exact = ProductOperation(d, channels, dtype), ProductOperation(d, channels, torch.float64)
    fused.backend = "triton"
    paths = [d.num_paths(d.irreps_out[n], nu) for n, nu in exact.terms]
    weights = [random(p, num_species, channels, seed=9 + n, dtype=dtype) for n, p in enumerate(paths)]
    A = random(len(groups.species), channels * sum(ir.dim for ir in d.irreps_in), dtype=dtype)
    return lambda A, *w: fused(A, w, groups), lambda A, *w: exact(A, w, groups), [A, *weights]


@pytest.mark.parametrize(
    ("name", "dtype", "limit"),
    [*((name, torch.float64, 1e-13) for name in CASES), ("three factors", torch.float32, 3e-6)],
)
@pytest.mark.usefixtures("on_interpreter")
def test_value_and_derivatives_are_those_of_the_definition(name: str, dtype: torch.dtype, limit: float) -> None:
    fused, exact, x = prepare(name, dtype, group_by_species(SPECIES, 4))
    made, wanted = derivatives(fused, x), derivatives(exact, [y.double() for y in x])
    assert max(relative_error(a, b) for a, b in zip(made, wanted, strict=True)) < limit


@pytest.mark.usefixtures("on_interpreter")
def test_weights_that_all_elements_share() -> None:
    fused, exact, x = prepare("three factors", torch.float64, group_by_species(SPECIES, 4), num_species=1)
    pairs = zip(derivatives(fused, x), derivatives(exact, x), strict=True)
    assert max(relative_error(a, b) for a, b in pairs) < 1e-13


@pytest.mark.usefixtures("on_interpreter")
def test_work_shared_out_over_several_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_source, "MOST_LINES", 20)
    monkeypatch.setattr(product_source, "MOST_TERMS", 5)
    monkeypatch.setattr(source, "MOST_LINES", 60)
    monkeypatch.setitem(CASES, "in parts", (CASES["three factors"][0], 7))  # channels that no other test has compiled
    fused, exact, x = prepare("in parts", torch.float64, group_by_species(SPECIES, 4))
    work = Pass((True, True, True), (True, True, True))
    assert len(product_source.values_kernels(CASES["in parts"][0], 7, torch.float64, work, True)[0]) > 1
    assert len(product_source.weights_kernels(CASES["in parts"][0], 7, torch.float64, work, True)) > 1
    pairs = zip(derivatives(fused, x), derivatives(exact, x), strict=True)
    assert max(relative_error(a, b) for a, b in pairs) < 1e-13


@pytest.mark.usefixtures("on_interpreter")
def test_no_atoms() -> None:
    fused, _, x = prepare("three factors", torch.float64, group_by_species(SPECIES[:0], 4))
    made = derivatives(fused, x)
    assert made[0].shape == (0, 4 * 2) and all(float(g.abs().sum()) == 0.0 for g in made)


@pytest.mark.parametrize("given", [(True, False), (False, True)])
@pytest.mark.usefixtures("on_interpreter")
def test_gradients_asked_for_alone_are_the_same(given: tuple[bool, bool]) -> None:
    """Of A alone, of C alone, and of a function of one of them alone."""
    d, channels = CASES["two factors, an output that nothing makes"]
    operation = torch.ops.equipot.product
    x = [random(3, 4 * channels).requires_grad_(), random(1, len(d.terms), channels, seed=1).requires_grad_()]
    value = (operation(x[0] * 1.0, x[1] * 1.0, None, None, d.key) ** 2).sum()
    every = torch.autograd.grad(value, x, create_graph=True)
    n = given.index(True)
    (alone,) = torch.autograd.grad(value, x[n], create_graph=True)
    assert torch.equal(alone, every[n])
    both = torch.autograd.grad((alone**2).sum(), x, retain_graph=True)
    for m in range(2):
        assert torch.equal(torch.autograd.grad((alone**2).sum(), x[m], retain_graph=True)[0], both[m])


@pytest.mark.parametrize("counts", [[5, 0, 1, 9], [0, 0], [4], [0, 17, 3]])
@pytest.mark.usefixtures("on_interpreter")
def test_chunks_hold_each_row_once(counts: list[int]) -> None:
    rows = sum(counts)
    starts = torch.tensor([0, *counts]).cumsum(0)
    found = chunks(starts, rows, 4)
    x = random(rows, 3)
    pairs = zip(found.begin.tolist(), found.end.tolist(), strict=True)
    parts = torch.stack([x[a:b].sum(dim=0) for a, b in pairs]) if rows else x
    wanted = torch.stack([part.sum(dim=0) for part in x.split(counts)])
    assert torch.allclose(sum_chunks(parts, found), wanted, atol=1e-14, rtol=0)
    assert all(b - a <= 4 for a, b in zip(found.begin.tolist(), found.end.tolist(), strict=True))
