"""The design matrix of linear ACE: against its definition, finite differences, and the energies of a random model."""

import pytest
import torch
from torch import Tensor

from equipot.errors import EquipotError
from equipot.kernels.backend import use_backend
from equipot.kernels.coupled import CoupledProduct
from equipot.kernels.coupled_rows import Atoms, CoupledRows, CoupledRowsOperation, EdgeBasis, harmonics_with_gradient
from equipot.kernels.operations import edge_index
from tests.kernels.fused import needs_compiler, random, relative_error

CASES = {
    "two elements, four factors": CoupledProduct(2, 2, 3, (5.0, 6.0, 6.0, 6.0), 1.0),
    "three elements": CoupledProduct(3, 1, 2, (5.0, 5.0, 5.0), 1.0),
    "five factors": CoupledProduct(1, 2, 2, (8.0, 8.0, 7.0, 7.0, 8.0), 1.0),
}
every_case = pytest.mark.parametrize("d", CASES.values(), ids=CASES.keys())
either = pytest.mark.parametrize("name", ["reference", pytest.param("cpu", marks=needs_compiler)])
SYSTEM = torch.tensor([0] * 9 + [1] * 3 + [3])  # the third is empty, the last one an atom without neighbours


def structure(d: CoupledProduct, positions: Tensor) -> tuple[EdgeBasis, Atoms]:
    """Everyone who is in the same system and nearer than 3 is a neighbour."""
    distances = torch.cdist(positions, positions)
    near = (distances < 3) & (SYSTEM.unsqueeze(1) == SYSTEM) & ~torch.eye(len(positions), dtype=torch.bool)
    receivers, senders = torch.nonzero(near).T
    vectors = positions[senders] - positions[receivers]
    r = vectors.norm(dim=1, keepdim=True)
    a = torch.arange(1, d.num_radial + 1, dtype=torch.float64) / 2
    envelope, slope = (1 - r / 3) ** 3, -((1 - r / 3) ** 2)
    R = envelope * torch.exp(-a * r)
    Y, dY = harmonics_with_gradient(vectors, d.max_ell)
    basis = EdgeBasis(vectors, R, slope * torch.exp(-a * r) - a * R, Y, dY)
    species = torch.arange(len(positions)) % 5 % d.num_species
    return basis, Atoms(edge_index(senders, receivers, len(positions)), species, SYSTEM, 4)


def made(
    operation: CoupledRowsOperation, positions: Tensor, width: int | None = None, *, seed: int | None = None
) -> CoupledRows:
    """Rows added to zeros, or to random numbers."""
    basis, atoms = structure(operation.description, positions)
    width = operation.num_columns if width is None else width
    shapes = ((4, width), (len(positions), 3, width), (4, 6, width))
    start = [torch.zeros(s, dtype=torch.float64) if seed is None else random(*s, seed=seed) for s in shapes]
    operation(basis, atoms, rows := CoupledRows(*start))
    return rows


def with_columns(d: CoupledProduct, name: str, columns: Tensor | None = None) -> CoupledRowsOperation:
    every = torch.arange(d.num_species * d.num_functions).view(d.num_species, -1)
    operation = CoupledRowsOperation(d, every if columns is None else columns)
    use_backend(operation, name)
    return operation


POSITIONS = random(len(SYSTEM), 3, seed=3) * 1.3


@needs_compiler
@every_case
def test_rows_are_those_of_the_definition(d: CoupledProduct) -> None:
    fused, exact = (made(with_columns(d, name), POSITIONS) for name in ("cpu", "reference"))
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(fused, exact, strict=True))


@either
@every_case
def test_forces_and_virials_are_derivatives_of_the_energies(d: CoupledProduct, name: str) -> None:
    operation, step = with_columns(d, name), 1e-4

    def slope(direction: Tensor) -> Tensor:
        a, b = (made(operation, POSITIONS + s * step * direction).energy for s in (1, -1))
        return (a - b) / (2 * step)

    rows = made(operation, POSITIONS)
    moved = random(len(SYSTEM), 3, seed=8)
    along = torch.zeros_like(rows.energy).index_add(0, SYSTEM, (rows.forces * moved.unsqueeze(2)).sum(dim=1))
    assert relative_error(-along, slope(moved)) < 1e-6
    for v, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[a, b] = 1.0
        assert relative_error(rows.virial[:, v], slope(POSITIONS @ strain)) < 1e-6


@either
def test_columns_that_are_not_wanted_are_not_made(name: str) -> None:
    """Columns in any order, with gaps, that some centres share, in rows where there is something already."""
    d = CASES["two elements, four factors"]
    every = made(with_columns(d, "reference"), POSITIONS)
    generator = torch.Generator().manual_seed(0)
    columns = torch.randperm(2 * d.num_functions + 9, generator=generator)[: 2 * d.num_functions]
    columns = columns.view(2, -1).clone()
    columns[torch.rand(columns.shape, generator=generator) < 0.3] = -1
    columns[1, :5] = columns[0, :5] = torch.tensor([3, 4, 5, 6, 7])
    width = 2 * d.num_functions + 20
    rows = made(with_columns(d, name, columns), POSITIONS, width, seed=1)
    for k, (x, all_of) in enumerate(zip(rows, every, strict=True)):
        expected = random(*x.shape, seed=1)
        for z in range(2):
            kept = torch.nonzero(columns[z] >= 0).flatten()
            expected.index_add_(x.ndim - 1, columns[z, kept], all_of[..., z * d.num_functions + kept])
        assert relative_error(x, expected) < 1e-12, k


@either
def test_what_is_not_wanted_is_none(name: str) -> None:
    operation = with_columns(CASES["three elements"], name)
    every = made(operation, POSITIONS)
    basis, atoms = structure(operation.description, POSITIONS)
    for k, x in enumerate(every):
        alone = CoupledRows(*(torch.zeros_like(x) if n == k else None for n in range(3)))
        operation(basis, atoms, alone)
        assert torch.equal(alone[k], x)


@either
def test_rows_of_atoms_add_up_to_those_of_systems(name: str) -> None:
    operation = with_columns(CASES["three elements"], name)
    nodes = operation.node_rows(*structure(operation.description, POSITIONS))
    energy = made(operation, POSITIONS).energy
    assert relative_error(torch.zeros_like(energy).index_add(0, SYSTEM, nodes), energy) < 1e-12


@needs_compiler
@pytest.mark.parametrize("shared", [False, True])
def test_threads_change_nothing(shared: bool) -> None:
    d = CASES["two elements, four factors"]
    operation = with_columns(d, "cpu", torch.arange(d.num_functions).expand(2, -1) if shared else None)
    alone = made(operation, POSITIONS)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = made(operation, POSITIONS)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@needs_compiler
def test_no_edges_and_many() -> None:
    """More neighbours than lanes, and none at all."""
    d = CASES["two elements, four factors"]
    for scale in (100.0, 0.2):
        fused, exact = (made(with_columns(d, name), POSITIONS * scale) for name in ("cpu", "reference"))
        pairs = zip(fused, exact, strict=True)
        assert all(relative_error(a, b) < 1e-12 if scale < 1 else float(a.abs().max()) == 0.0 for a, b in pairs)


def test_harmonics_and_their_gradient() -> None:
    vectors, direction = random(20, 3), random(20, 3, seed=1)
    for sign in (1.0, -1.0):
        Y, dY = harmonics_with_gradient(vectors, 4, sign)
        a, b = (harmonics_with_gradient(vectors + s * 1e-5 * direction, 4, sign)[0] for s in (1, -1))
        assert relative_error((dY * direction.unsqueeze(1)).sum(dim=2), (a - b) / 2e-5) < 1e-8
        assert relative_error(Y[:, 1:4] / 3**0.5, sign * vectors / vectors.norm(dim=1, keepdim=True)) < 1e-12


def test_columns_and_rows_that_do_not_fit_are_refused() -> None:
    d = CASES["three elements"]
    with pytest.raises(EquipotError, match=r"columns have shape .* give one for each"):
        CoupledRowsOperation(d, torch.zeros(2, d.num_functions, dtype=torch.int64))
    with pytest.raises(EquipotError, match=r"rows of shape \(.*\), contiguous, .* columns or more"):
        made(with_columns(d, "reference"), POSITIONS, 5)
