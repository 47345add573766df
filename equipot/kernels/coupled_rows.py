"""Rows of the design matrix of linear ACE: energies, forces and virials as functions linear in the weights.

    energy   [s, p]     Σ_{i in s} B_i[f]
    forces   [j, c, p]  −∂/∂r_{j,c} Σ_i B_i[f]
    virial   [s, v, p]  Σ_{e in s} r_e ⊗ ∂B/∂r_e, in the order xx yy zz yz xz xy

where column p belongs to function f of centres of species z. All float64.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equipot.errors import EquipotError
from equipot.geometry import VOIGT, pool
from equipot.kernels.coupled import CoupledProduct
from equipot.kernels.coupled_operations import AtomicBasisOperation, CoupledBasisOperation, CpuOperation
from equipot.kernels.coupled_reference import ReferenceCoupled
from equipot.kernels.operations import EdgeIndex
from equipot.o3 import spherical_harmonics


class EdgeBasis(NamedTuple):
    """Radial functions and harmonics of the edges, with derivatives.

    Attributes:
        vectors: From receiver to sender, Å.
        R: Radial functions.
        dR: Their derivatives by the distance, 1/Å.
        Y: Harmonics of the directions.
        dY: Their derivatives by the vectors, 1/Å.
    """

    vectors: Float[Tensor, "edge 3"]
    R: Float[Tensor, "edge n"]
    dR: Float[Tensor, "edge n"]
    Y: Float[Tensor, "edge lm"]
    dY: Float[Tensor, "edge lm 3"]


class Atoms(NamedTuple):
    """Who sends to whom, what they are and where they belong.

    Attributes:
        edges: Senders and receivers.
        species: Index of each node's element.
        system: System of each node.
        num_systems: Number of systems.
    """

    edges: EdgeIndex
    species: Int[Tensor, " node"]
    system: Int[Tensor, " node"]
    num_systems: int


class CoupledRows(NamedTuple):
    """Rows to add to; None for what is not wanted."""

    energy: Float[Tensor, "system column"] | None
    forces: Float[Tensor, "node 3 column"] | None
    virial: Float[Tensor, "system 6 column"] | None


def harmonics_with_gradient(
    vectors: Float[Tensor, "edge 3"], lmax: int, sign: float = 1.0
) -> tuple[Float[Tensor, "edge lm"], Float[Tensor, "edge lm 3"]]:
    """Returns Y(s r̂) for degrees up to lmax, and its derivatives by the vectors r, 1/Å.

    Args:
        vectors: r, Å.
        lmax: Highest degree.
        sign: s, ±1.
    """
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    directions = vectors / lengths
    tangents = torch.eye(3, dtype=vectors.dtype, device=vectors.device).unsqueeze(1).expand(3, len(vectors), 3)

    if lmax == 0:
        return torch.ones_like(lengths), torch.zeros_like(vectors).unsqueeze(1)

    def harmonics(r: Tensor) -> Tensor:
        return spherical_harmonics(sign * r, lmax)

    slopes = torch.func.vmap(lambda t: torch.func.jvp(harmonics, (directions,), (t,))[1], out_dims=2)(tangents)
    radial = (slopes * directions.unsqueeze(1)).sum(dim=2, keepdim=True)
    return harmonics(directions), (slopes - radial * directions.unsqueeze(1)) / lengths.unsqueeze(2)


class CoupledRowsOperation(CpuOperation):
    """Makes rows of the design matrix.

    Args:
        description: The functions.
        columns: Column of each function for centres of each species; −1 for those that are not wanted, which are never
            made.
    """

    kind = "coupled_rows"
    columns: Tensor

    def __init__(self, description: CoupledProduct, columns: Int[Tensor, "species function"]) -> None:
        super().__init__(description, torch.float64)
        if tuple(columns.shape) != (description.num_species, description.num_functions):
            raise EquipotError(
                f"columns have shape {tuple(columns.shape)}; there are {description.num_species} species and "
                f"{description.num_functions} functions: give one for each, −1 for those that are not wanted."
            )
        self.register_buffer("columns", columns.to(torch.int64).contiguous(), persistent=False)
        self.num_columns = int(columns.max()) + 1 if columns.numel() else 0
        self.atomic_basis = AtomicBasisOperation(description, torch.float64)
        self.functions = CoupledBasisOperation(description, torch.float64)

    @torch.no_grad()
    def forward(self, basis: EdgeBasis, atoms: Atoms, out: CoupledRows) -> None:
        """Adds the rows of these atoms to `out`, whose columns beyond those of functions stay as they are."""
        for rows in out:
            if rows is not None and (rows.shape[-1] < self.num_columns or not rows.is_contiguous()):
                kind = "" if rows.is_contiguous() else "not "
                raise EquipotError(
                    f"rows of shape {tuple(rows.shape)}, {kind}contiguous, cannot be added to: give contiguous ones of "
                    f"{self.num_columns} columns or more."
                )
        A = self._sums(basis, atoms)
        if out.energy is not None:
            self._add_energies(self.functions(A), atoms, out.energy)
        if out.forces is None and out.virial is None:
            return
        if self.fused:
            torch.ops.equipot.coupled_rows(
                out.forces, out.virial, A, basis.R, basis.dR, basis.Y, basis.dY, basis.vectors, atoms.edges.senders,
                atoms.edges.starts, atoms.species, atoms.system, self.columns, self.key,
            )  # fmt: skip
        else:
            _add_rows(self, A, basis, atoms, out)

    @torch.no_grad()
    def node_rows(
        self, basis: EdgeBasis, atoms: Atoms, num_columns: int | None = None
    ) -> Float[Tensor, "owned column"]:
        """Returns the functions of each owned atom in their columns."""
        B = self.functions(self._sums(basis, atoms))
        rows = B.new_zeros((len(B), self.num_columns if num_columns is None else num_columns))
        for z, columns in enumerate(self.columns):
            chosen = torch.nonzero(atoms.species[: len(B)] == z).flatten()
            made = torch.nonzero(columns >= 0).flatten()
            rows[chosen.unsqueeze(1), columns[made]] = B.index_select(0, chosen).index_select(1, made)
        return rows

    def _sums(self, basis: EdgeBasis, atoms: Atoms) -> Tensor:
        return self.atomic_basis(basis.R, basis.Y, atoms.species.index_select(0, atoms.edges.senders), atoms.edges)

    def _add_energies(self, B: Tensor, atoms: Atoms, energy: Tensor) -> None:
        for z, columns in enumerate(self.columns):
            chosen = torch.nonzero(atoms.species[: len(B)] == z).flatten()
            made = torch.nonzero(columns >= 0).flatten()
            of = atoms.system.index_select(0, chosen)
            sums = pool(B.index_select(0, chosen).index_select(1, made), of, len(energy))
            energy.index_add_(1, columns[made], sums)


def _add_rows(operation: CoupledRowsOperation, A: Tensor, basis: EdgeBasis, atoms: Atoms, out: CoupledRows) -> None:
    """The definition: atom by atom, derivatives of all functions along the derivatives of A by every edge vector."""
    d, functions = operation.description, operation.functions.reference
    directions = basis.vectors / torch.linalg.vector_norm(basis.vectors, dim=1, keepdim=True)
    along = basis.dR.unsqueeze(1) * directions.unsqueeze(2)
    slopes = torch.einsum("el,ecn->ecln", basis.Y, along) + torch.einsum("elc,en->ecln", basis.dY, basis.R)
    for i, (first, last) in enumerate(zip(atoms.edges.starts, atoms.edges.starts[1:], strict=False)):
        edges = slice(int(first), int(last))
        if first == last:
            continue
        senders, vectors = atoms.edges.senders[edges], basis.vectors[edges]
        tangents = A.new_zeros((len(senders), 3, d.num_species, d.num_lm, d.num_radial))
        tangents[torch.arange(len(senders)), :, atoms.species[senders]] = slopes[edges]
        columns = operation.columns[atoms.species[i]]
        made = torch.nonzero(columns >= 0).flatten()
        T = _along(functions, A[i], tangents.flatten(2)).index_select(2, made)
        column = columns[made]
        if out.forces is not None:
            out.forces[i].index_add_(1, column, T.sum(dim=0))
            out.forces.index_add_(2, column, -pool(T, senders, len(out.forces)))
        if out.virial is not None:
            virial = torch.stack([(vectors[:, b, None] * T[:, a]).sum(dim=0) for b, a in VOIGT])
            out.virial[atoms.system[i]].index_add_(1, column, virial)


def _along(functions: ReferenceCoupled, A: Tensor, tangents: Tensor) -> Tensor:
    """Derivatives of one atom's functions along tangents [edge, 3, dim]."""

    def along(t: Tensor) -> Tensor:
        return torch.func.jvp(lambda x: functions.basis(x.unsqueeze(0))[0], (A,), (t,))[1]

    return torch.func.vmap(torch.func.vmap(along))(tangents)
