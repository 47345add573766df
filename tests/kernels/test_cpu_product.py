"""The product basis in generated C++ against its definition: value, gradient, second gradient, every input."""

import pytest
import torch

from equipot.kernels import backend
from equipot.kernels.cpu.product import width
from equipot.kernels.nesting import nest
from equipot.kernels.operations import ProductOperation
from equipot.kernels.polynomial import Product
from equipot.kernels.reference import SpeciesGroups, group_by_species
from equipot.o3 import Irrep
from tests.kernels.fused import derivatives, needs_compiler, random, relative_error


def irreps(names: str) -> tuple[Irrep, ...]:
    return tuple(Irrep.from_string(name) for name in names.split())


CASES = {
    "one factor": (Product(irreps("0e 1o"), irreps("0e 1o"), 1, "mace"), 8),
    "two factors, an output that nothing makes": (Product(irreps("0e 1o"), irreps("0e 0o 1o"), 2, "symmetric"), 3),
    "three factors": (Product(irreps("0e 1o 2e"), irreps("0e 1o"), 3, "mace"), 19),
    "both parities": (Product(irreps("0e 0o 1e"), irreps("0o 1e"), 3, "symmetric"), 4),
    "four factors": (Product(irreps("0e 1o"), irreps("0e 1o"), 4, "symmetric"), 5),
}
SPECIES = torch.tensor([3, 0, 3, 3, 0, 1, 3])  # the third of four is absent


def prepare(name: str, dtype: torch.dtype, groups: SpeciesGroups, num_species: int = 4) -> tuple:
    d, channels = CASES[name]
    fused, exact = ProductOperation(d, channels, dtype), ProductOperation(d, channels, torch.float64)
    fused.backend = "cpu"
    paths = [d.num_paths(d.irreps_out[n], nu) for n, nu in exact.terms]
    weights = [random(p, num_species, channels, seed=9 + n, dtype=dtype) for n, p in enumerate(paths)]
    A = random(len(groups.species), channels * sum(ir.dim for ir in d.irreps_in), dtype=dtype)
    return (
        lambda A, *w: fused(A, w, groups),
        lambda A, *w: exact(A, w, groups),
        [A, *weights],
    )


@needs_compiler
@pytest.mark.parametrize(
    ("name", "dtype", "limit"),
    [*((name, torch.float64, 1e-13) for name in CASES), ("three factors", torch.float32, 3e-6)],
)
def test_value_and_derivatives_are_those_of_the_definition(name: str, dtype: torch.dtype, limit: float) -> None:
    fused, exact, x = prepare(name, dtype, group_by_species(SPECIES, 4))
    made, wanted = derivatives(fused, x), derivatives(exact, [y.double() for y in x])
    assert max(relative_error(a, b) for a, b in zip(made, wanted, strict=True)) < limit


@needs_compiler
def test_weights_that_all_elements_share() -> None:
    fused, exact, x = prepare("three factors", torch.float64, group_by_species(SPECIES, 4), num_species=1)
    pairs = zip(derivatives(fused, x), derivatives(exact, x), strict=True)
    assert max(relative_error(a, b) for a, b in pairs) < 1e-13


@needs_compiler
def test_many_atoms_and_threads() -> None:
    """More atoms than a tile holds; gradients of weights are sums over all of them, in one order."""
    groups = group_by_species(torch.arange(200) % 3, 4)
    fused, exact, x = prepare("three factors", torch.float64, groups)
    alone = derivatives(fused, x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = derivatives(fused, x)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert max(relative_error(a, b) for a, b in zip(alone, derivatives(exact, x), strict=True)) < 1e-13


@needs_compiler
def test_no_atoms() -> None:
    fused, _, x = prepare("three factors", torch.float64, group_by_species(SPECIES[:0], 4))
    made = derivatives(fused, x)
    assert made[0].shape == (0, 19 * 4)
    assert all(float(g.abs().sum()) == 0.0 for g in made)


@needs_compiler
@pytest.mark.parametrize("given", [(True, False), (False, True)])
def test_gradients_asked_for_alone_are_the_same(given: tuple[bool, bool]) -> None:
    """Of A alone, of C alone, and of a function of one of them alone."""
    d, channels = CASES["two factors, an output that nothing makes"]
    operation = torch.ops.equipot.product
    A, C = random(7, 4 * channels), random(1, len(d.terms), channels, seed=1)
    x = [A.requires_grad_(), C.requires_grad_()]
    value = (operation(A * 1.0, C * 1.0, None, None, d.key) ** 2).sum()
    every = torch.autograd.grad(value, x, create_graph=True)
    n = given.index(True)
    (alone,) = torch.autograd.grad(value, x[n], create_graph=True)
    assert torch.equal(alone, every[n])
    both = torch.autograd.grad((alone**2).sum(), x, retain_graph=True)
    for m in range(2):
        assert torch.equal(torch.autograd.grad((alone**2).sum(), x[m], retain_graph=True)[0], both[m])


@needs_compiler
def test_derivatives_are_derivatives() -> None:
    d, channels = CASES["two factors, an output that nothing makes"]
    groups = group_by_species(SPECIES, 4)
    A = random(7, 4 * channels).requires_grad_()
    C = random(4, len(d.terms), channels, seed=1).requires_grad_()

    def operation(A: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
        return torch.ops.equipot.product(A, C, groups.order, groups.starts, d.key)

    assert torch.autograd.gradcheck(operation, (A, C))
    assert torch.autograd.gradgradcheck(operation, (A, C))


@needs_compiler
def test_operators_keep_torchs_rules() -> None:
    d, channels = CASES["two factors, an output that nothing makes"]
    groups = group_by_species(SPECIES, 4)
    A = random(7, 4 * channels).requires_grad_()
    C = random(4, len(d.terms), channels, seed=1).requires_grad_()
    gB = random(7, 5 * channels, seed=2).requires_grad_()
    rest = (groups.order, groups.starts, d.key)
    torch.library.opcheck(torch.ops.equipot.product.default, (A, C, *rest))
    torch.library.opcheck(torch.ops.equipot.product_backward.default, (gB, A, C, *rest, [True, False]))


@needs_compiler
def test_third_derivative_says_what_to_do() -> None:
    d, channels = CASES["three factors"]
    A = random(7, 9 * channels).requires_grad_()
    C = random(1, len(d.terms), channels, seed=1)
    (first,) = torch.autograd.grad(
        torch.ops.equipot.product(A, C, None, None, d.key).square().sum(), A, create_graph=True
    )
    (second,) = torch.autograd.grad(first.square().sum(), A, create_graph=True)
    with pytest.raises(RuntimeError, match="backend 'reference'"):
        torch.autograd.grad(second.sum(), A)


def test_coefficients_are_kept_until_weights_change() -> None:
    d, channels = CASES["one factor"]
    operation = ProductOperation(d, channels, torch.float64)
    weights = [torch.nn.Parameter(random(1, 2, channels, seed=n)) for n, _ in enumerate(operation.terms)]
    assert operation.coefficients(weights).requires_grad
    for w in weights:
        w.requires_grad_(False)
    kept = operation.coefficients(weights)
    assert operation.coefficients(weights) is kept
    weights[0].mul_(2.0)
    changed = operation.coefficients(weights)
    assert torch.equal(changed[:, 0], 2.0 * kept[:, 0]) and torch.equal(changed[:, 1:], kept[:, 1:])


@needs_compiler
def test_sources_compiled_ahead_are_those_that_run() -> None:
    module = ProductOperation(*CASES["three factors"], torch.float64)
    assert backend.use_backend(module, "auto").name == "cpu" and module.fused


@needs_compiler
def test_products_of_too_many_terms_stay_with_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("operations", "cpu.product"):
        monkeypatch.setattr(f"equipot.kernels.{module}.MAX_TERMS", 3)
    module = ProductOperation(*CASES["three factors"], torch.float64)
    assert backend.use_backend(module, "cpu").name == "cpu" and not module.fused


@pytest.mark.parametrize("name", CASES)
def test_key_names_the_description(name: str) -> None:
    d, channels = CASES[name]
    assert Product.from_key(d.key) == d == Product.from_key(f"{d.key}|{channels}")


@pytest.mark.parametrize("name", CASES)
def test_prefixes_hold_every_term_once(name: str) -> None:
    terms = CASES[name][0].terms
    prefixes = nest(terms)
    held = []
    for n, prefix in enumerate(prefixes):
        assert prefix.parent < n
        if prefix.parent >= 0:
            assert prefix.factors == tuple(sorted((*prefixes[prefix.parent].factors, prefix.last)))
        for bracket in prefix.brackets:
            held += [(t, bracket.output, tuple(sorted((*prefix.factors, c)))) for t, c in bracket.linear]
            held += [(bracket.constant, bracket.output, prefix.factors)] * (bracket.constant >= 0)
    assert sorted(held) == [(t, *term) for t, term in enumerate(terms)]


@pytest.mark.parametrize(("channels", "lanes"), [(128, 16), (17, 16), (16, 16), (8, 8), (5, 8), (3, 4), (1, 1)])
def test_width_wastes_no_step(channels: int, lanes: int) -> None:
    assert width(channels, 16) == lanes
