"""Data for the calibration benchmark: what is fitted, and test sets that lie ever farther from it.

Every case has structures to fit, structures to calibrate with, a test set like them, and shifted ones.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from ase.data import covalent_radii

from equipot.data.frame import Frame
from equipot.data.read import read_frames

ROOT = Path(__file__).parents[1]
METHOD = "GFN2-xTB"
SEED = 5
LIKE = "like training"


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: To choose it by.
        description: What is fitted and what is left out, in words.
        train: Structures to fit.
        valid: Structures like them, for the scale of deviations.
        tests: Test sets by name, the first is like the training set.
        atomic_energies: E0: a table, or a mode.
        axes: Of linear ACE.
        models: What is fitted to them.
    """

    name: str
    description: str
    train: list[Frame]
    valid: list[Frame]
    tests: dict[str, list[Frame]]
    atomic_energies: Any = "auto"
    axes: dict[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ("ace_linear",)


def molecule_case(data: Path | None, quick: bool) -> Case:
    """3BPA at three temperatures: the project's own data."""
    folder = ROOT / "examples" / "xtb_3bpa"
    sets = {name: read_frames(folder / f"{name}.xyz.gz").frames for name in
            ("train_300K", "valid_300K", "test_300K", "test_600K", "test_1200K")}  # fmt: skip
    step = 20 if quick else 1
    return Case(
        "3bpa", "3BPA, GFN2-xTB (examples/xtb_3bpa): fitted at 300 K; shifted are trajectories at 600 and 1200 K",
        sets["train_300K"][::step], sets["valid_300K"][:: 5 if quick else 1],
        {LIKE: sets["test_300K"][::step], "600 K": sets["test_600K"][::step], "1200 K": sets["test_1200K"][::step]},
        _table(read_frames(folder / "isolated_atoms.xyz.gz").isolated_atoms), {"r_max": 5.5, "product_r_max": 4.4},
    )  # fmt: skip


def displaced_case(data: Path | None, quick: bool) -> Case:
    """Ethanol of rMD17, displaced and stretched, all labelled with xTB."""
    from reference_data.labels import isolated_atoms

    frames = _ethanol(data, "train_01")
    random = np.random.default_rng(SEED)
    start = [frames[i].atoms for i in random.permutation(len(frames))]
    sizes = (40, 20, 12, 8) if quick else (300, 100, 150, 100)
    parts, first = [], 0
    for size in sizes:
        parts.append(start[first : first + size])
        first += size
    displaced = {
        f"displaced {width:g} Å": labelled([_displaced(atoms, width, random) for atoms in parts[3]])
        for width in (0.05, 0.1, 0.2)
    }
    stretched = labelled([_stretched(atoms, random) for atoms in parts[3]])
    isolated = isolated_atoms(["H", "C", "O"], METHOD)
    return Case(
        "ethanol",
        f"Ethanol of rMD17 (PBE dynamics, 500 K), all labels {METHOD}; shifted are other geometries of the same data "
        "with every coordinate displaced by Gaussians, or with one bond 1.1 to 1.5 times as long",
        labelled(parts[0]), labelled(parts[1]),
        {LIKE: labelled(parts[2]), **displaced, "one bond stretched": stretched},
        {atoms.get_chemical_formula(): atoms.info["REF_energy"] for atoms in isolated}, {},
        ("ace_linear", "mace", "nequip"),
    )  # fmt: skip


def distance_case(data: Path | None, quick: bool) -> Case:
    """Ethanol of rMD17 with its own labels, by distance from the structures that were fitted."""
    train, test = _ethanol(data, "train_01"), _ethanol(data, "devtest")
    order = np.random.default_rng(SEED).permutation(len(train))
    fitted, valid = (40, 20) if quick else (100, 100)
    chosen = [train[i] for i in order[:fitted]]
    far = _distance_to(chosen, test)
    thirds = np.array_split(np.argsort(far, kind="stable"), 3)
    names = (LIKE, "middle third", "farthest third")
    step = 20 if quick else 1
    return Case(
        "rmd17",
        f"Ethanol of rMD17, {fitted} structures of train_01 (PBE); tested on devtest in thirds by the distance (rms of "
        "differences of interatomic distances, atoms in the order of the file) to the nearest of those; "
        f"{LIKE}: the nearest third",
        chosen, [train[i] for i in order[fitted : fitted + valid]],
        {name: [test[i] for i in third[::step]] for name, third in zip(names, thirds, strict=True)},
        {"H": -13.568422383046626, "C": -1025.2770951782686, "O": -2035.5709809589698},
    )  # fmt: skip


KNOWN = ("NbMo_SS", "NbTa_SS", "MoW_SS", "TaW_SS")
UNKNOWN = ("NbW_SS", "MoTa_SS")
PURE = ("Nb", "Mo", "Ta", "W")


def alloy_case(data: Path | None, quick: bool) -> Case:
    """NbMoTaW with two binaries, dilute alloys and surfaces left out."""
    frames = read_frames(_folder(data) / "nbmotaw" / "NbMoTaW_train.xyz").frames
    random = np.random.default_rng(SEED)
    order = [frames[i] for i in random.permutation(len(frames))]
    divide = 20 if quick else 1
    taken: dict[str, list[Frame]] = {"train": [], "valid": [], LIKE: []}
    numbers = {"_SS": (150, 25, 50), "_AIMD": (30, 5, 10), "_Elastic": (40, 8, 15)}
    for kind in (*KNOWN, *(f"{z}{suffix}" for z in PURE for suffix in ("_AIMD", "_Elastic"))):
        pool = iter([f for f in order if f.config_type == kind and not _dilute(f)])
        for name, number in zip(taken, numbers["_" + kind.split("_")[1]], strict=True):
            taken[name] += [next(pool) for _ in range(max(2, number // divide))]
    left = {
        "dilute alloys": _first(order, 200 // divide, lambda f: f.config_type in KNOWN and _dilute(f)),
        "unknown alloys": _first(order, 200 // divide, lambda f: f.config_type in UNKNOWN),
        "surfaces": _first(order, 50 // divide, lambda f: f.config_type.endswith("_Surface")),
    }
    return Case(
        "nbmotaw",
        f"NbMoTaW (PBE): fitted to the elements (AIMD, elastic) and to {', '.join(KNOWN)} with 6 to 10 of 16 atoms of "
        f"one element; left out: the same alloys with fewer or more (dilute), all of {', '.join(UNKNOWN)} (unknown), "
        "and all surfaces",
        taken["train"], taken["valid"], {LIKE: taken[LIKE], **left}, "least_squares",
    )  # fmt: skip


CASES: dict[str, Callable[[Path | None, bool], Case]] = {
    "3bpa": molecule_case, "ethanol": displaced_case, "rmd17": distance_case, "nbmotaw": alloy_case,
}  # fmt: skip
NEED_DATA = ("ethanol", "rmd17", "nbmotaw")


def _folder(data: Path | None) -> Path:
    if data is None:
        raise SystemExit("this case needs --data")
    return data


def _table(energies: dict[int, float]) -> dict[str, float]:
    return {Atoms(numbers=[z]).get_chemical_formula(): energy for z, energy in energies.items()}


def _ethanol(data: Path | None, name: str) -> list[Frame]:
    return read_frames(_folder(data) / "rmd17" / f"ethanol_{name}.xyz").frames


def _dilute(frame: Frame) -> bool:
    counts = np.bincount(frame.atoms.numbers)
    return len(counts[counts > 0]) == 2 and counts.max() > 10


def _first(frames: list[Frame], number: int, wanted: Callable[[Frame], bool]) -> list[Frame]:
    return [frame for frame in frames if wanted(frame)][: max(2, number)]


def _distance_to(known: list[Frame], frames: list[Frame]) -> np.ndarray:
    """Of each structure to the nearest of some others of the same molecule, Å."""

    def pairs(frame: Frame) -> np.ndarray:
        return frame.atoms.get_all_distances()[np.triu_indices(len(frame.atoms), 1)]

    there = np.array([pairs(frame) for frame in known])
    return np.array([np.sqrt(np.square(there - pairs(frame)).mean(axis=1)).min() for frame in frames])


def _displaced(atoms: Atoms, width: float, random: np.random.Generator) -> Atoms:
    moved = atoms.copy()
    moved.positions += random.normal(0.0, width, moved.positions.shape)
    return moved


def _stretched(atoms: Atoms, random: np.random.Generator) -> Atoms:
    """A copy with one bond, taken at random, 1.1 to 1.5 times as long; the smaller part moves."""
    radii = covalent_radii[atoms.numbers]
    bonded = (atoms.get_all_distances() < 1.3 * (radii[:, None] + radii)) & ~np.eye(len(atoms), dtype=bool)
    i, j = random.permutation(np.argwhere(np.triu(bonded)))[0]
    parts = [_part(bonded, a, b) for a, b in ((i, j), (j, i))]
    if len(parts[0]) < len(parts[1]):
        i, j, parts = j, i, parts[::-1]
    moved = atoms.copy()
    moved.positions[parts[1]] += (random.uniform(1.1, 1.5) - 1.0) * (atoms.positions[j] - atoms.positions[i])
    return moved


def _part(bonded: np.ndarray, start: int, other: int) -> list[int]:
    """The atoms on the side of `start` of its bond with `other`, which is in no ring."""
    found, edge = {start}, [start]
    while edge:
        i = edge.pop()
        new = {int(k) for k in np.flatnonzero(bonded[i])} - found - ({other} if i == start else set())
        found |= new
        edge += new
    return sorted(found)


def labelled(structures: list[Atoms]) -> list[Frame]:
    """The structures with xTB's labels; where its electrons do not converge they are left out."""
    return list(_labelled(structures))


def _labelled(structures: list[Atoms]) -> Iterator[Frame]:
    from reference_data.labels import label

    for atoms in structures:
        bare = Atoms(atoms.numbers, atoms.positions)
        try:
            found = label(bare, METHOD)
        except CalculationFailed as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        yield Frame(Atoms(found.numbers, found.positions), found.info["REF_energy"], found.arrays["REF_forces"])


sys.path.append(str(ROOT / "scripts"))
