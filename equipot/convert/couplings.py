"""Published weights of the product basis: their paths, their signs, and other bases of the same products."""

from itertools import permutations

import torch
from torch import Tensor

from equipot.convert.phases import sign
from equipot.convert.taken import Tensors
from equipot.convert.target import Target
from equipot.errors import EquipotError
from equipot.o3 import Irrep, Irreps, chained_couplings
from equipot.o3.coupling import CouplingPath, coupling_paths

_EXACT = 1e-10
"""Largest remainder of a change of basis, relative to the couplings; true ones leave 1e-15."""
_EXACT_SINGLE = 1e-5
"""The same where the published couplings are stored in float32."""


def product_weights(
    target: Target, tensors: Tensors, prefix: str, which: tuple[int, Irreps, Irrep], convention: str
) -> dict[str, Tensor]:
    """Returns our weights of one output irrep, by parameter name: [path, species, channel] for each order ν.

    Without the coupling matrices U in the file, the paths must be the published chains, whose signs follow from the
    convention. With them, they decide: chains up to sign, or any other basis of the same symmetric products (as the
    reduced one of cuequivariance), which is changed to ours exactly.

    Args:
        target: The potential to fill.
        tensors: The published weights.
        prefix: Name of the contraction of this irrep.
        which: The layer, the published irreps of A, and the irrep that leaves.
        convention: Convention of the published Wigner 3j symbols.

    Raises:
        EquipotError: The number of weights or U do not belong to these irreps.
    """
    index, A, out = which
    product = target.layers[index].plan.product
    if product is None or out not in product.irreps_out:
        _leave_out(tensors, prefix)
        return {}
    found = {}
    for nu in range(1, product.correlation + 1):
        name = "weights_max" if nu == product.correlation else f"weights.{product.correlation - 1 - nu}"
        theirs = tensors.take(f"{prefix}.{name}").transpose(0, 1)  # [path, species, channel]
        key = f"layers.{index}.product.weights.{out}_nu{nu}"
        U = tensors.take(f"{prefix}.U_matrix_{nu}") if f"{prefix}.U_matrix_{nu}" in tensors else None
        if target.has(key):
            change = _change(_Case(A, product.irreps_in, out, nu), U, theirs.shape[0], convention, prefix)
            found[key] = torch.einsum("qp,psk->qsk", change.to(theirs.dtype), theirs)
    return found


class _Case(tuple[Irreps, tuple[Irrep, ...], Irrep, int]):
    """Published irreps of A, ours among them, the irrep that leaves, and the order ν."""

    def __new__(cls, A: Irreps, ours: tuple[Irrep, ...], out: Irrep, nu: int) -> "_Case":
        return super().__new__(cls, (Irreps([(1, ir) for _, ir in A]), ours, out, nu))


def _change(case: _Case, U: Tensor | None, num_paths: int, convention: str, where: str) -> Tensor:
    """The matrix [our path, published path] from their weights to ours."""
    A, _, out, nu = case
    theirs = coupling_paths(A, out, nu, natural_intermediates=nu == 4)
    chains = _chains(case, theirs, convention) if len(theirs) == num_paths else None
    if U is None:
        if chains is None:
            raise EquipotError(
                f"{where}: there are {num_paths} weights of order {nu} where the published couplings have "
                f"{len(theirs)} paths. The model was made with another basis (use_reduced_cg): give its state dict "
                "with the matrices U_matrix_…, and it will be changed to ours."
            )
        return chains
    if chains is not None:
        for signs in ("0.4", "0.6"):
            if _same_couplings(U, A, out, nu, signs):
                return _chains(case, theirs, signs)
    return _basis_change(case, U, where)


def _chains(case: _Case, theirs: tuple[CouplingPath, ...], convention: str) -> Tensor:
    """Signs, at the place of each published chain whose factors all occur here."""
    A, ours, out, nu = case
    irreps = Irreps([(1, ir) for ir in ours])
    place = {
        (tuple(irreps[f][1] for f in path.factors), path.coupled): n
        for n, path in enumerate(coupling_paths(irreps, out, nu, natural_intermediates=nu >= 4))
    }
    change = torch.zeros(len(place), len(theirs), dtype=torch.float64)
    for p, path in enumerate(theirs):
        factors = tuple(A[f][1] for f in path.factors)
        q = place.get((factors, path.coupled))
        if q is not None:
            change[q, p] = _chain_sign(path, factors, convention)
    return change


def _chain_sign(path: CouplingPath, factors: tuple[Irrep, ...], convention: str) -> int:
    value = 1
    for k in range(1, len(factors)):
        value *= sign(path.coupled[k].l, path.coupled[k - 1].l, factors[k].l, convention)
    return value


def _same_couplings(U: Tensor, A: Irreps, out: Irrep, nu: int, convention: str) -> bool:
    """Whether U are the published chains in this convention."""
    ours = chained_couplings(A, out, nu, natural_intermediates=nu == 4)
    paths = coupling_paths(A, out, nu, natural_intermediates=nu == 4)
    signs = [_chain_sign(path, tuple(A[f][1] for f in path.factors), convention) for path in paths]
    expected = ours * torch.tensor(signs, dtype=torch.float64)
    return torch.allclose(U.double().reshape(expected.shape), expected, atol=1e-6, rtol=0.0)


def _basis_change(case: _Case, U: Tensor, where: str) -> Tensor:
    """Writes each symmetrised published coupling as a combination of our chains, by least squares without remainder."""
    A, ours, out, nu = case
    shape = (out.dim, *[A.dim] * nu, U.shape[-1])
    if U.numel() != int(torch.tensor(shape).prod()):
        raise EquipotError(f"{where}.U_matrix_{nu} has shape {tuple(U.shape)}, not one of {A} of order {nu}.")
    components = torch.cat([torch.arange(A.dim)[s] for s, (_, ir) in zip(A.slices(), A, strict=True) if ir in ours])
    theirs = U.double().reshape(shape)
    for axis in range(1, nu + 1):
        theirs = theirs.index_select(axis, components)
    basis = _symmetrised(chained_couplings(Irreps([(1, ir) for ir in ours]), out, nu, natural_intermediates=nu >= 4))
    symmetric = _symmetrised(theirs)
    change = torch.linalg.lstsq(basis, symmetric, driver="gelsd").solution
    remainder = (basis @ change - symmetric).abs().max()
    limit = _EXACT if U.dtype == torch.float64 else _EXACT_SINGLE
    if remainder > limit * symmetric.abs().max().clamp(min=1.0):
        raise EquipotError(
            f"{where}.U_matrix_{nu} holds couplings that equipot's product basis does not span (remainder "
            f"{float(remainder):.1e}): the model is not converted."
        )
    return change


def _symmetrised(U: Tensor) -> Tensor:
    """[component, path], averaged over the orders of the factors."""
    nu = U.dim() - 2
    orders = list(permutations(range(1, nu + 1)))
    total = sum((U.permute(0, *order, nu + 1) for order in orders), torch.zeros_like(U))
    return total.flatten(0, -2) / len(orders)


def _leave_out(tensors: Tensors, prefix: str) -> None:
    """Marks the weights of an irrep that no product reaches: it is zero in the published model."""
    for name in tensors.names(f"{prefix}."):
        if name.startswith((f"{prefix}.weights", f"{prefix}.U_matrix")):
            tensors.take(name)
