"""Constants in the weights of mace-torch and BOTNet's code that equipot computes itself."""

import math

import torch
from ase.data import chemical_symbols, covalent_radii
from torch import Tensor

from equipot.convert.taken import Tensors
from equipot.design import Design
from equipot.errors import EquipotError


def check_parts(tensors: Tensors, design: Design, species: tuple[int, ...], name: str) -> None:
    """Compares parts that have no trained weights with those that the hyper-parameters name.

    Raises:
        EquipotError: One is missing or left over, or the repulsion of large atoms would be cut off.
    """
    transform = "radial_embedding.distance_transform"
    found = "none"
    if tensors.names(f"{transform}."):
        found = "agnesi" if f"{transform}.q" in tensors else "soft"
    if found != design.distance_transform:
        raise EquipotError(
            f"{name}: the weights belong to the distance transform {found!r}, the hyper-parameters to "
            f"{design.distance_transform!r}: give distance_transform (None, Agnesi or Soft) as in the training."
        )
    repulsion = bool(tensors.names("pair_repulsion_fn."))
    if repulsion != (design.pair_repulsion != "none"):
        raise EquipotError(
            f"{name}: the weights {'have' if repulsion else 'lack'} a pair repulsion (pair_repulsion_fn.…), and the "
            f"hyper-parameters say pair_repulsion = {not repulsion}."
        )
    largest = max(species, key=covalent_radii.__getitem__)
    if repulsion and 2.0 * covalent_radii[largest] > design.r_max:
        raise EquipotError(
            f"{name}: the ZBL repulsion of two {chemical_symbols[largest]} atoms has the range "
            f"{2.0 * covalent_radii[largest]:.2f} Å, the sum of their covalent radii, and mace-torch cuts it off "
            f"abruptly at r_max = {design.r_max:g} Å. equipot's goes to zero there, so the model is not converted."
        )


def check_constants(tensors: Tensors, design: Design, species: tuple[int, ...], name: str) -> None:
    """Compares constants that are stored with those that equipot computes.

    Raises:
        EquipotError: They differ, as where they were trained.
    """
    check_radial(tensors, design, name)
    transform, repulsion = "radial_embedding.distance_transform", "pair_repulsion_fn"
    _check(tensors, name, {
        "r_max": [design.r_max], "num_interactions": [design.layers],
        f"{transform}.q": [0.9183], f"{transform}.p": [4.5791], f"{transform}.a": [1.0805], f"{transform}.alpha": [4.0],
        f"{repulsion}.p": [design.envelope_p], f"{repulsion}.a_exp": [0.3], f"{repulsion}.a_prefactor": [0.4543],
        f"{repulsion}.c": [0.1818, 0.5099, 0.2802, 0.02817],
    })  # fmt: skip
    ours = torch.as_tensor(covalent_radii)[list(species)]
    for key in tensors.names_with("covalent_radii"):
        _same(tensors.take(key).double()[list(species)], ours, f"{name}: {key}")


def check_radial(tensors: Tensors, design: Design, name: str) -> None:
    """Compares the stored constants of the radial basis and its envelope with the hyper-parameters.

    Raises:
        EquipotError: They differ, or the basis has none.
    """
    basis, cutoff = "radial_embedding.bessel_fn", "radial_embedding.cutoff_fn"
    _check(tensors, name, {f"{cutoff}.p": [design.envelope_p], f"{cutoff}.r_max": [design.r_max]})
    if design.radial_basis == "bessel":
        roots = tensors.take(f"{basis}.bessel_weights", (design.num_radial,)).double()
        ours = torch.arange(1, design.num_radial + 1, dtype=torch.float64) * math.pi / design.r_max
        _same(roots, ours, f"{name}: the Bessel roots")
    if design.radial_basis == "gaussian":
        centres = tensors.take(f"{basis}.gaussian_weights", (design.num_radial,)).double()
        ours = torch.linspace(0.0, design.r_max, design.num_radial, dtype=torch.float64)
        _same(centres, ours, f"{name}: the centres of the Gaussians")


def _check(tensors: Tensors, name: str, expected: dict[str, list[float]]) -> None:
    for key, values in expected.items():
        if key in tensors:
            _same(tensors.take(key).double().reshape(-1), torch.tensor(values).double(), f"{name}: {key}")


def _same(theirs: Tensor, ours: Tensor, what: str) -> None:
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=1e-6, atol=1e-7):
        raise EquipotError(
            f"{what} is {theirs.tolist()} in the weights, but {ours.tolist()} by the hyper-parameters and the "
            "published constants. The files do not belong together, or the constants were trained; such ones are not "
            "converted."
        )
