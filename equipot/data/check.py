"""Checks of one structure and its labels; every failure names file, frame, value, and what to write instead."""

import itertools
from collections.abc import Iterable

import ase
import numpy as np
from ase.data import chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress

from equipot.data.frame import Frame
from equipot.errors import EquipotError
from equipot.geometry import Graph

CLOSEST = 0.2
"""Å; two atoms nearer than this are one atom given twice, or the positions are not in Å."""

SMALLEST_VOLUME = 0.3
"""Å³ per atom; hydrogen at 500 GPa has 1.2."""


def check_structure(atoms: ase.Atoms, where: str) -> None:
    """Raises unless elements, positions and cell of a structure have a meaning.

    Args:
        atoms: The structure.
        where: File and frame, for the message.

    Raises:
        EquipotError: No atoms, a dummy element, numbers that are not finite, or a cell without volume along
            the periodic directions.
    """
    if len(atoms) == 0:
        raise EquipotError(f"{where}: the frame has no atoms. Remove it.")
    if (atoms.numbers < 1).any():
        atom = int(np.flatnonzero(atoms.numbers < 1)[0])
        raise EquipotError(f"{where}: atom {atom} is the dummy element 'X'. Give a chemical element, or remove it.")
    if not np.isfinite(atoms.positions).all():
        atom = int(np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))[0])
        raise EquipotError(
            f"{where}: the position of atom {atom} ({chemical_symbols[atoms.numbers[atom]]}) is "
            f"{atoms.positions[atom].tolist()}; positions must be finite, in Å. Correct or remove the frame."
        )
    _check_cell(atoms, where)


def _check_cell(atoms: ase.Atoms, where: str) -> None:
    cell, pbc = atoms.cell.array, atoms.pbc
    if not np.isfinite(cell).all():
        raise EquipotError(f"{where}: the cell {cell.tolist()} is not finite. Correct or remove the frame.")
    if not pbc.any():
        return
    rows = cell[pbc]
    lengths = np.linalg.norm(rows, axis=1)
    if (lengths < CLOSEST).any() or _unit_volume(rows / lengths[:, None]) < 1e-4:
        raise EquipotError(
            f"{where}: pbc is {_letters(pbc)} but the cell {cell.tolist()} has no volume along the periodic "
            'directions. Give the lattice vectors as rows in Å (Lattice="..."), or pbc="F F F" for a molecule.'
        )
    volume = abs(np.linalg.det(cell)) if pbc.all() else np.inf
    if volume < SMALLEST_VOLUME * len(atoms):
        raise EquipotError(
            f"{where}: the cell has {volume / len(atoms):.3g} Å³ per atom; no matter is that dense. "
            "Lattice vectors must be in Å (1 bohr = 0.529177 Å) and are rows of the cell."
        )


def _unit_volume(directions: np.ndarray) -> float:
    """Length, area or volume spanned by one, two or three unit vectors: 0 where they depend on each other."""
    return float(np.sqrt(max(np.linalg.det(directions @ directions.T), 0.0)))


def _letters(pbc: np.ndarray) -> str:
    return '"' + " ".join("T" if p else "F" for p in pbc) + '"'


def check_distances(frame: Frame, graph: Graph) -> float:
    """Returns the shortest distance between two atoms of a structure, Å; infinite without neighbours.

    Raises:
        EquipotError: It is shorter than `CLOSEST`.
    """
    if graph.num_edges == 0:
        return float("inf")
    lengths = graph.vectors().norm(dim=1)
    edge = int(lengths.argmin())
    shortest = float(lengths[edge])
    if shortest < CLOSEST:
        i, j = int(graph.receivers[edge]), int(graph.senders[edge])
        symbols = frame.atoms.get_chemical_symbols()
        pair = f"atoms {min(i, j)} ({symbols[min(i, j)]}) and {max(i, j)} ({symbols[max(i, j)]})"
        raise EquipotError(
            f"{frame.where}: {pair if i != j else f'atom {i} ({symbols[i]}) and its own image'} are {shortest:.4f} Å "
            f"apart, on top of each other (less than {CLOSEST} Å). Remove the frame or the second atom; positions "
            f"must be Cartesian and in Å{_fractional_hint(frame.atoms)}."
        )
    return shortest


def _fractional_hint(atoms: ase.Atoms) -> str:
    inside = len(atoms) > 1 and (atoms.positions > -0.01).all() and (atoms.positions < 1.01).all()
    return ", and these look like fractional coordinates" if inside and atoms.pbc.any() else ""


def energy_of(value: object, key: str, where: str) -> float:
    """Returns the energy in a label, eV.

    Raises:
        EquipotError: It is not one finite number.
    """
    numbers = _numbers(value, key, where, "an energy is one number in eV")
    if numbers.size != 1:
        raise EquipotError(
            f"{where}: '{key}' holds {numbers.size} numbers; the energy of a structure is one number in eV. Name "
            "the key that holds it with data.energy_key."
        )
    _check_finite(numbers, key, where, "energies are finite numbers in eV")
    return float(numbers.reshape(()))


def forces_of(value: object, num_atoms: int, key: str, where: str) -> np.ndarray:
    """Returns the forces in a label, [node 3], eV/Å.

    Raises:
        EquipotError: They are not three finite numbers for each atom.
    """
    numbers = _numbers(value, key, where, "forces are three numbers for each atom, in eV/Å")
    if numbers.size != 3 * num_atoms or (numbers.ndim == 2 and numbers.shape[1] != 3):
        raise EquipotError(
            f"{where}: '{key}' has shape {list(numbers.shape)}, but the frame has {num_atoms} atoms; forces are three "
            f"numbers for each atom, shape [{num_atoms}, 3], in eV/Å (extended XYZ: {key}:R:3 in Properties)."
        )
    forces = numbers.reshape(num_atoms, 3)
    _check_finite(forces, key, where, "forces are finite numbers in eV/Å")
    return forces


def tensor_of(value: object, key: str, where: str) -> np.ndarray:
    """Returns a stress or virial in a label as a symmetric [3 3].

    Six numbers are in Voigt order xx yy zz yz xz xy (ASE's, not LAMMPS's); nine are the rows of the tensor.

    Raises:
        EquipotError: It is not six or nine finite numbers, or not symmetric.
    """
    numbers = _numbers(value, key, where, "a stress or virial is six or nine numbers").reshape(-1)
    if numbers.size not in (6, 9):
        raise EquipotError(
            f"{where}: '{key}' has {numbers.size} numbers; a stress or virial has nine (rows of the tensor) or six "
            "(xx yy zz yz xz xy)."
        )
    _check_finite(numbers, key, where, "stresses are finite numbers in eV/Å³, virials in eV")
    tensor = voigt_6_to_full_3x3_stress(numbers) if numbers.size == 6 else numbers.reshape(3, 3)
    asymmetry = np.abs(tensor - tensor.T).max()
    if asymmetry > 0.02 * np.abs(tensor).max() + 1e-6:
        raise EquipotError(
            f"{where}: '{key}' is not symmetric (entries differ by {asymmetry:.3g}); a stress or virial is. Nine "
            "numbers are xx xy xz yx yy yz zx zy zz, six are xx yy zz yz xz xy."
        )
    return 0.5 * (tensor + tensor.T)


def weight_of(value: object, key: str, where: str) -> float:
    """Returns a weight.

    Raises:
        EquipotError: It is not one finite number ≥ 0.
    """
    numbers = _numbers(value, key, where, "a weight is one number ≥ 0")
    if numbers.size != 1 or not np.isfinite(numbers).all() or numbers.min() < 0:
        raise EquipotError(
            f"{where}: {key} = {value}; a weight is one finite number ≥ 0 (0 leaves the frame out of the loss)."
        )
    return float(numbers.reshape(()))


def _numbers(value: object, key: str, where: str, rule: str) -> np.ndarray:
    try:
        numbers = np.asarray(value)
        if numbers.dtype.kind not in "iuf":
            raise TypeError("not numbers")
        return numbers.astype(np.float64)
    except (TypeError, ValueError):
        shown = repr(value) if len(repr(value)) < 60 else f"{type(value).__name__}"
        raise EquipotError(
            f"{where}: '{key}' is {shown}, which is not numeric; {rule}. Correct the file, or name another key."
        ) from None


def _check_finite(numbers: np.ndarray, key: str, where: str, rule: str) -> None:
    if np.isfinite(numbers).all():
        return
    place = ""
    if numbers.ndim == 2:
        place = f" on atom {int(np.flatnonzero(~np.isfinite(numbers).all(axis=1))[0])}"
    bad = numbers[~np.isfinite(numbers)].flat[0]
    raise EquipotError(
        f"{where}: '{key}' is {bad}{place}; {rule}. Remove the frame, or remove the label to train without it."
    )


def check_species(
    frames: Iterable[Frame], species: Iterable[int], owner: str, remedy: str = "train on structures that contain"
) -> None:
    """Raises if a structure has an element that the model or the training set does not have.

    Args:
        frames: The structures.
        species: Known atomic numbers.
        owner: Who knows them, such as "the training set" or "the model".
        remedy: What else to do than to remove such structures, before the names of the elements.

    Raises:
        EquipotError: Names the element and the first such structure.
    """
    known = set(species)
    for frame in frames:
        unknown = sorted({int(z) for z in frame.atoms.numbers} - known)
        if unknown:
            raise EquipotError(
                f"{frame.where}: contains {symbols_of(unknown)}, unknown to {owner}, which has {symbols_of(known)}. "
                f"Remove such frames, or {remedy} {symbols_of(unknown)}."
            )


def check_weights(frames: Iterable[Frame]) -> None:
    """Raises if every structure has weight zero, so that nothing would be learned."""
    frames = list(frames)
    if not any(f.weight * max(f.energy_weight, f.forces_weight, f.stress_weight) > 0 for f in frames):
        raise EquipotError(
            f"all {len(frames)} training structures have weight 0, so there is nothing to learn. Check config_weight "
            "in the files and data.config_type_weights."
        )


def symbols_of(numbers: Iterable[int]) -> str:
    """Returns chemical symbols as a list in words, in order of atomic number."""
    return ", ".join(chemical_symbols[z] for z in sorted(numbers))


def first_few(items: Iterable[object], count: int = 5) -> str:
    """Returns the first items as words, with dots if there are more."""
    items = list(itertools.islice(items, count + 1))
    return ", ".join(str(item) for item in items[:count]) + (", …" if len(items) > count else "")
