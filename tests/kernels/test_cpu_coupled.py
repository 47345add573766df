"""The operations of linear ACE in C++ against their definitions, and the physics of both."""

import itertools

import pytest
import torch

from equipot.kernels import backend
from equipot.kernels.coupled import CoupledProduct
from equipot.kernels.coupled_operations import AtomicBasisOperation, CoupledBasisOperation, CoupledEnergyOperation
from equipot.kernels.operations import edge_index
from equipot.kernels.reference import group_by_species
from equipot.o3 import spherical_harmonics
from tests.kernels.fused import derivatives, needs_compiler, random, relative_error

CASES = {
    "two factors": CoupledProduct(2, 2, 3, (5.0, 5.0), 1.0),
    "four factors, two elements": CoupledProduct(2, 3, 4, (8.0, 7.0, 6.0, 6.0), 1.0),
    "four factors of high degree": CoupledProduct(1, 4, 3, (8.0, 8.0, 8.0, 9.0), 1.0),
    "five factors": CoupledProduct(1, 2, 2, (8.0, 8.0, 8.0, 8.0, 9.0), 1.0),
}
SPECIES = torch.tensor([2, 0, 2, 2, 0, 2, 2, 2, 2, 2, 2, 2])  # the second of three is absent
every_case = pytest.mark.parametrize("d", CASES.values(), ids=CASES.keys())


def worst(made: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return max(relative_error(a, b) for a, b in zip(made, wanted, strict=True))


def energies(d: CoupledProduct, dtype: torch.dtype, species: torch.Tensor, rows: int = 3) -> tuple:
    groups = group_by_species(species, 3)
    fused, exact = CoupledEnergyOperation(d, dtype), CoupledEnergyOperation(d, torch.float64)
    fused.backend = "cpu"
    x = [random(len(species), d.dim, dtype=dtype), random(rows, d.num_functions, seed=5, dtype=dtype)]
    return lambda A, c: fused(A, c, groups), lambda A, c: exact(A, c, groups), x


@needs_compiler
@every_case
def test_energies_and_derivatives_are_those_of_the_definition(d: CoupledProduct) -> None:
    fused, exact, x = energies(d, torch.float64, SPECIES)
    assert worst(derivatives(fused, x), derivatives(exact, x)) < 1e-12


@needs_compiler
def test_single_precision() -> None:
    fused, exact, x = energies(CASES["four factors, two elements"], torch.float32, SPECIES)
    assert worst(derivatives(fused, x), derivatives(exact, [y.double() for y in x])) < 1e-5


@needs_compiler
def test_weights_that_all_elements_share() -> None:
    fused, exact, x = energies(CASES["four factors, two elements"], torch.float64, SPECIES, rows=1)
    assert worst(derivatives(fused, x), derivatives(exact, x)) < 1e-12


@needs_compiler
def test_many_atoms_and_threads() -> None:
    """Gradients of weights are sums over all atoms, in an order that the number of threads does not change."""
    fused, exact, x = energies(CASES["four factors, two elements"], torch.float64, torch.arange(150) % 3)
    alone = derivatives(fused, x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = derivatives(fused, x)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert worst(alone, derivatives(exact, x)) < 1e-12


@needs_compiler
def test_no_atoms_and_no_functions() -> None:
    fused, _, x = energies(CASES["two factors"], torch.float64, SPECIES[:0])
    made = derivatives(fused, x)
    assert made[0].shape == (0,)
    assert all(float(g.abs().sum()) == 0.0 for g in made)
    fused, _, x = energies(CoupledProduct(1, 1, 2, (3.0,), 1.0), torch.float64, SPECIES)
    assert all(float(g.abs().sum()) == 0.0 for g in derivatives(fused, x)[:1])


@needs_compiler
@every_case
def test_functions_and_their_gradient_are_those_of_the_definition(d: CoupledProduct) -> None:
    fused, exact = CoupledBasisOperation(d, torch.float64), CoupledBasisOperation(d, torch.float64)
    fused.backend = "cpu"
    A, g = random(11, d.dim).requires_grad_(), random(11, d.num_functions, seed=3)
    for operation in (fused, exact):
        assert operation(A).shape == (11, d.num_functions)
    assert relative_error(fused(A).detach(), exact(A).detach()) < 1e-12
    first = [torch.autograd.grad(operation(A), A, g)[0] for operation in (fused, exact)]
    assert relative_error(*first) < 1e-12


@pytest.mark.parametrize("name", ["reference", pytest.param("cpu", marks=needs_compiler)])
def test_energy_is_the_weighted_sum_of_the_functions(name: str) -> None:
    d = CASES["four factors, two elements"]
    energy, basis = CoupledEnergyOperation(d, torch.float64), CoupledBasisOperation(d, torch.float64)
    energy.backend = basis.backend = name
    A, c = random(len(SPECIES), d.dim), random(3, d.num_functions, seed=2)
    exact = (basis(A) * c[SPECIES]).sum(dim=1)
    assert relative_error(energy(A, c, group_by_species(SPECIES, 3)), exact) < 1e-12


@needs_compiler
@pytest.mark.parametrize("num_radial", [1, 3, 8, 11])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_one_particle_basis_and_derivatives(num_radial: int, dtype: torch.dtype, limit: float) -> None:
    d = CoupledProduct(3, 2, num_radial, (1.0,), 1.0)
    fused, exact = AtomicBasisOperation(d, dtype), AtomicBasisOperation(d, torch.float64)
    fused.backend = "cpu"
    receivers = torch.tensor([0, 0, 0, 2, 2, 3, 3, 3, 3, 3])
    edges = edge_index(torch.zeros_like(receivers), receivers, 5)
    species = torch.tensor([0, 2, 2, 2, 0, 0, 2, 1, 0, 2])
    x = [random(10, num_radial, dtype=dtype), random(10, 9, seed=1, dtype=dtype)]
    made = derivatives(lambda R, Y: fused(R, Y, species, edges), x)
    wanted = derivatives(lambda R, Y: exact(R, Y, species, edges), [y.double() for y in x])
    assert made[0].shape == (5, d.dim)
    assert worst(made, wanted) < limit


@needs_compiler
def test_one_particle_basis_has_third_derivatives_and_takes_threads() -> None:
    receivers = torch.arange(60).repeat_interleave(4)
    edges = edge_index(receivers, receivers, 60)
    d = CoupledProduct(2, 3, 4, (1.0,), 1.0)
    fused, exact = AtomicBasisOperation(d, torch.float64), AtomicBasisOperation(d, torch.float64)
    fused.backend = "cpu"
    R, Y = random(240, 4).requires_grad_(), random(240, 16, seed=1).requires_grad_()
    before = torch.get_num_threads()
    found = []
    try:
        torch.set_num_threads(3)
        for operation in (fused, exact):
            value = operation(R, Y, receivers % 2, edges).pow(4).sum()
            for _ in range(2):
                value = sum(g.pow(2).sum() for g in torch.autograd.grad(value, (R, Y), create_graph=True))
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, (R, Y))]))
    finally:
        torch.set_num_threads(before)
    assert relative_error(*found) < 1e-11


@needs_compiler
def test_operators_keep_torchs_rules() -> None:
    d = CASES["two factors"]
    groups = group_by_species(SPECIES, 3)
    A = random(len(SPECIES), d.dim).requires_grad_()
    W = random(3, d.program.num_pairs, seed=1).requires_grad_()
    g, h = random(len(SPECIES), seed=2).requires_grad_(), random(len(SPECIES), d.dim, seed=3).requires_grad_()
    rest = (groups.order, groups.starts)
    operators = torch.ops.equipot
    torch.library.opcheck(operators.coupled_energy.default, (A, W, *rest, True, d.key))
    torch.library.opcheck(operators.coupled_energy_weights.default, (g, h, A, *rest, d.key))
    torch.library.opcheck(operators.coupled_basis.default, (A, d.key))
    receivers = torch.tensor([0, 0, 1, 1])
    edges = (torch.tensor([0, 1, 1, 0]), edge_index(receivers, receivers, 3).starts, 2)
    R, Y = random(4, 3).requires_grad_(), random(4, 9, seed=1).requires_grad_()
    gA = random(3, 54, seed=2).requires_grad_()
    torch.library.opcheck(operators.atomic_basis.default, (R, Y, *edges))
    torch.library.opcheck(operators.atomic_basis_radial.default, (gA, Y, *edges))
    torch.library.opcheck(operators.atomic_basis_angular.default, (gA, R, *edges))


@needs_compiler
def test_derivatives_are_derivatives() -> None:
    d = CoupledProduct(1, 1, 2, (2.0, 4.0, 5.0, 5.0), 1.0)
    groups = group_by_species(SPECIES[:4], 3)

    def operation(A: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        return torch.ops.equipot.coupled_energy(A, W, groups.order, groups.starts, True, d.key)[0]

    x = random(4, d.dim).requires_grad_(), random(3, d.program.num_pairs, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(operation, x)
    assert torch.autograd.gradgradcheck(operation, x)


@needs_compiler
def test_third_derivatives_say_what_to_do() -> None:
    fused, exact, (A, c) = energies(CASES["four factors, two elements"], torch.float64, SPECIES)

    def third(function) -> torch.Tensor:
        x = A.clone().requires_grad_()
        value = function(x, c).square().sum()
        for _ in range(2):
            value = torch.autograd.grad(value, x, create_graph=True)[0].square().sum()
        return torch.autograd.grad(value, x)[0]

    assert float(third(exact).abs().sum()) > 0
    with pytest.raises(RuntimeError, match="backend 'reference'"):
        third(fused)


@needs_compiler
def test_shapes_that_do_not_fit_are_refused() -> None:
    d = CASES["two factors"]
    with pytest.raises(ValueError, match="is needed"):
        torch.ops.equipot.coupled_energy(random(4, d.dim + 1), random(1, d.program.num_pairs), None, None, True, d.key)
    with pytest.raises(ValueError, match="one-particle basis"):
        starts = torch.tensor([0, 2])
        torch.ops.equipot.atomic_basis(random(3, 4), random(2, 9), torch.zeros(3, dtype=torch.int64), starts, 1)


@needs_compiler
def test_the_choice_of_a_backend_reaches_them() -> None:
    model = torch.nn.Sequential(
        AtomicBasisOperation(CASES["two factors"], torch.float64),
        CoupledEnergyOperation(CASES["two factors"], torch.float64),
    )
    backend.use_backend(model, "cpu")
    assert all(operation.fused for operation in model)
    backend.use_backend(model, "reference")
    assert not any(operation.fused for operation in model)


def neighbourhood(d: CoupledProduct, vectors: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
    """B of one atom with these neighbours."""
    lengths = vectors.norm(dim=1)
    powers = torch.arange(1, d.num_radial + 1, dtype=torch.float64)
    R = torch.exp(-powers * lengths.unsqueeze(1) / 2)
    Y = spherical_harmonics(vectors / lengths.unsqueeze(1), d.max_ell)
    receivers = torch.zeros_like(species)
    basis, functions = AtomicBasisOperation(d, torch.float64), CoupledBasisOperation(d, torch.float64)
    basis.backend = functions.backend = backend.choose("auto").name
    return functions(basis(R, Y, species, edge_index(receivers, receivers, 1)))[0]


@every_case
def test_functions_do_not_change_with_rotation_inversion_and_order(d: CoupledProduct) -> None:
    vectors, species = random(9, 3, seed=4), torch.arange(9) % d.num_species
    B = neighbourhood(d, vectors, species)
    Q, _ = torch.linalg.qr(random(3, 3, seed=5))
    for R in (Q, -Q, -torch.eye(3, dtype=torch.float64)):
        assert relative_error(neighbourhood(d, vectors @ R.T, species), B) < 1e-12
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert relative_error(neighbourhood(d, vectors[order], species[order]), B) < 1e-12


@pytest.mark.parametrize("nu", [2, 3, 4])
def test_body_order(nu: int) -> None:
    """A function of ν factors has no part that needs ν + 1 neighbours at once, but one that needs ν."""
    d = CoupledProduct(2, 2, 2, (4.0, 5.0, 6.0, 6.0), 1.0)
    chosen = [k for k, function in enumerate(d.functions) if function.order == nu]

    def together(count: int) -> torch.Tensor:
        """Σ over subsets of neighbours of (−1)^(those left out) B(subset)."""
        vectors, species = random(count, 3, seed=6), torch.arange(count) % 2
        total = torch.zeros(len(chosen), dtype=torch.float64)
        for size in range(1, count + 1):
            for subset in itertools.combinations(range(count), size):
                some = torch.tensor(subset)
                total += (-1) ** (count - size) * neighbourhood(d, vectors[some], species[some])[chosen]
        return total.abs().max()

    assert together(nu) > 1e-4
    assert together(nu + 1) < 1e-13
