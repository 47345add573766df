"""Things that can be used but look wrong, said in sentences for the log."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.geometry import find_mic

from equipot.data.check import first_few
from equipot.data.dataset import Dataset
from equipot.data.frame import Frame
from equipot.geometry import Graph
from equipot.units import GPA

SAMPLE = 20_000
"""Atoms looked at where all would take long."""

PAIRS = 500
"""Pairs of structures whose displacement is looked at."""

LARGE_FORCE = 30.0
"""eV/Å; above it, and far above the others, a force is an outlier."""

NET_FORCE = 0.05
"""Of the sum of |F_i|; a larger net force is not rounding."""

STIFFEST = 500.0
"""eV/Å²; the stiffest bonds (CO, N₂) have about 290 by the measure of `bond_response`."""

SOFTEST = 8.0
"""eV/Å²; covalent bonds among `COVALENT` have 30 to 290 by the same measure, and 0.6 to 6 in Hartree/bohr."""

COVALENT = (1, 6, 7, 8)
"""Elements (H, C, N, O) whose bonds with each other are stiff wherever they occur."""

NOBLE = (2, 10, 18, 36, 54, 86)
"""Elements whose neighbours are no bond lengths away."""

BONDED = 1.25
"""Times the sum of the covalent radii; a longer distance between `COVALENT` is no bond."""

FAR_APART = 1.6
"""Times the sum of the covalent radii; nearest neighbours are at 0.8 to 1.3, or 1.9 times that in bohr."""

LARGE_STRESS = 1.0
"""eV/Å³ (160 GPa); a larger median is rare in eV/Å³ and usual in GPa or kbar."""


def doubts(dataset: Dataset) -> list[str]:
    """Returns what looks wrong in a set of structures; an empty list is a good sign."""
    found = [
        _large_forces(dataset.frames),
        _net_forces(dataset.frames),
        *_bonds(dataset),
        _far_apart(dataset),
        *_stresses(dataset.frames),
        _close_atoms(dataset),
        _duplicates(dataset.frames),
        _single_precision(dataset.frames),
        _boxed_atoms(dataset.frames),
    ]
    return [text for text in found if text]


def _large_forces(frames: Sequence[Frame]) -> str:
    labelled = [(frame, float(np.abs(frame.forces).max())) for frame in frames if frame.forces is not None]
    if not labelled:
        return ""
    typical = float(np.median([largest for _, largest in labelled]))
    outliers = sorted(
        (item for item in labelled if item[1] > max(LARGE_FORCE, 10 * typical)), key=lambda item: -item[1]
    )
    if not outliers:
        return ""
    worst = first_few((f"{frame.name} ({largest:.1f})" for frame, largest in outliers), 3)
    return (
        f"{len(outliers)} structure(s) have force components beyond {max(LARGE_FORCE, 10 * typical):.0f} eV/Å, where "
        f"{typical:.1f} is a typical largest one: {worst}. They dominate a squared loss; remove them, lower their "
        "config_weight, or use fit.loss: huber."
    )


def _net_forces(frames: Sequence[Frame]) -> str:
    labelled = [(frame, frame.forces) for frame in frames if frame.forces is not None and len(frame.atoms) > 1]
    net = np.array([np.linalg.norm(forces.sum(axis=0)) for _, forces in labelled])
    total = np.array([np.linalg.norm(forces, axis=1).sum() for _, forces in labelled])
    wrong = np.flatnonzero(net > NET_FORCE * total + 0.05)
    if not len(wrong):
        return ""
    worst = int(wrong[net[wrong].argmax()])
    return (
        f"{len(wrong)} of {len(labelled)} structures have a net force, up to {net[worst]:.3g} eV/Å "
        f"({labelled[worst][0].name}); no potential can have one. Are atoms or forces missing, or was a field applied?"
    )


def bond_response(dataset: Dataset) -> tuple[float, float, int]:
    r"""Returns how forces answer to the lengths of bonds: correlation, slope in eV/Å², number of bonds.

        f = (F_j − F_i) · r̂_ij,   correlation and slope of f against |r_ij|, pairs of elements centred apart

    over the nearest neighbour j of every atom i. A stretched bond pulls back, so both are negative; gradients in
    place of forces make them positive, and forces in kcal/mol/Å make the slope 23 times too steep.
    """
    return _response(*_all_bonds(dataset, labelled=True))


def _all_bonds(dataset: Dataset, *, labelled: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what `_nearest_bonds` finds in a sample of the structures, or of those that have forces."""
    bonds = [
        _nearest_bonds(frame, graph)
        for frame, graph in _sample(dataset)
        if graph.num_edges > 0 and (frame.forces is not None or not labelled)
    ]
    none = (np.zeros(0, dtype=int), np.zeros(0), np.zeros(0))
    pair, length, answer = (np.concatenate(columns) for columns in zip(none, *bonds, strict=True))
    return pair, length, answer


def _response(pair: np.ndarray, length: np.ndarray, answer: np.ndarray) -> tuple[float, float, int]:
    """Returns what `bond_response` does, of some bonds."""
    if not len(pair):
        return 0.0, 0.0, 0
    _, group, size = np.unique(pair, return_inverse=True, return_counts=True)
    x = length - (np.bincount(group, length) / size)[group]
    y = answer - (np.bincount(group, answer) / size)[group]
    if x @ x < 1e-12 or y @ y < 1e-12:
        return 0.0, 0.0, 0
    return float(x @ y / np.sqrt((x @ x) * (y @ y))), float(x @ y / (x @ x)), len(x)


def _sample(dataset: Dataset) -> list[tuple[Frame, Graph]]:
    """Every k-th structure, so that there are at most `SAMPLE` atoms or one structure."""
    step = max(1, int(np.ceil(dataset.num_atoms.sum() / SAMPLE)))
    numbers = np.arange(0, len(dataset.frames), step)
    within = np.cumsum(np.asarray(dataset.num_atoms)[numbers]) <= SAMPLE
    within[:1] = True
    return [(dataset.frames[k], dataset.graphs[k]) for k in numbers[within]]


def _nearest_bonds(frame: Frame, graph: Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns pair of elements, length and f of the bond from each atom to its nearest neighbour."""
    vectors, i, j = graph.vectors().numpy(), graph.receivers.numpy(), graph.senders.numpy()
    lengths = np.linalg.norm(vectors, axis=1)
    order = np.lexsort((lengths, i))
    nearest = order[np.unique(i[order], return_index=True)[1]]
    i, j, r, d = i[nearest], j[nearest], vectors[nearest], lengths[nearest]
    forces = np.zeros_like(frame.atoms.positions) if frame.forces is None else frame.forces
    z_i, z_j = frame.atoms.numbers[i], frame.atoms.numbers[j]
    pair = np.minimum(z_i, z_j) * len(chemical_symbols) + np.maximum(z_i, z_j)
    other = i != j
    return pair[other], d[other], (((forces[j] - forces[i]) * r).sum(axis=1) / d)[other]


def _relative(pair: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns both elements of bonds, and their lengths in units of the sum of the covalent radii."""
    a, b = np.divmod(pair, len(chemical_symbols))
    return a, b, length / (covalent_radii[a] + covalent_radii[b])


def _far_apart(dataset: Dataset) -> str:
    """Distances of nearest neighbours tell bohr from Å, except in noble gases."""
    pair, length, _ = _all_bonds(dataset, labelled=False)
    a, b, relative = _relative(pair, length)
    relative = relative[~np.isin(a, NOBLE) & ~np.isin(b, NOBLE)]
    if len(relative) < 20 or np.median(relative) < FAR_APART:
        return ""
    return (
        f"atoms are far apart: nearest neighbours are at {np.median(relative):.2f} times the sum of covalent radii "
        "(about 1 in molecules and solids, about 1.9 if the unit is bohr). Positions and cells must be in Å (1 bohr = "
        "0.529177 Å)."
    )


def _bonds(dataset: Dataset) -> list[str]:
    pair, length, answer = _all_bonds(dataset, labelled=True)
    correlation, slope, count = _response(pair, length, answer)
    a, b, relative = _relative(pair, length)
    stiff = np.isin(a, COVALENT) & np.isin(b, COVALENT) & (relative < BONDED)
    stiff_correlation, stiff_slope, stiff_count = _response(pair[stiff], length[stiff], answer[stiff])
    if stiff_count >= 50 and stiff_correlation < -0.3 and -stiff_slope < SOFTEST:
        return [
            f"forces look too small by their unit: bonds among H, C, N and O have a stiffness of {-stiff_slope:.2g} "
            "eV/Å², where 30 to 290 is usual. Forces must be in eV/Å (1 Hartree/bohr = 51.4221 eV/Å, 1 Rydberg/bohr = "
            "25.7110 eV/Å), energies in eV (1 Hartree = 27.2114 eV)."
        ]
    if count < 50:
        return []
    if correlation > 0.3:
        return [
            f"forces look like gradients: over {count} nearest neighbours, stretched bonds push atoms apart "
            f"(correlation {correlation:+.2f}; forces have a negative one). Forces are minus the energy's gradient."
        ]
    if correlation < -0.3 and -slope > STIFFEST:
        return [
            f"forces look too large by their unit: bonds have a stiffness of {-slope:.0f} eV/Å², where the stiffest "
            "known have about 290. Forces must be in eV/Å (1 kcal/mol/Å = 0.0433641 eV/Å, 1 kJ/mol/Å = 0.0103643 eV/Å)."
        ]
    return []


def _stresses(frames: Sequence[Frame]) -> list[str]:
    labelled = [frame for frame in frames if frame.stress is not None]
    if not labelled:
        return []
    size = float(np.median([np.abs(frame.stress).max() for frame in labelled if frame.stress is not None]))
    if size == 0:
        return ["every stress is zero: is it a placeholder? data.stress_key: none leaves it out."]
    if size > LARGE_STRESS:
        return [
            f"the median of the largest stress component is {size:.3g} eV/Å³ ({GPA * size:.0f} GPa); is the unit GPa "
            "or kbar? Stresses must be in eV/Å³ (1 GPa = 0.00624151 eV/Å³, 1 kbar = 0.000624151 eV/Å³)."
        ]
    return _stress_sign(labelled)


def stress_response(frames: Sequence[Frame]) -> tuple[float, int]:
    """Returns the correlation of tr σ with the volume among structures of one composition, and their number.

    A crystal under tension is larger, so it is positive; with the opposite sign of σ it is negative.
    """
    groups = defaultdict(list)
    for frame in frames:
        if frame.stress is not None:
            values = np.log(frame.atoms.get_volume() / len(frame.atoms)), np.trace(frame.stress)
            groups[_composition(frame), frame.config_type].append(values)
    sums, count = np.zeros(3), 0
    for group in groups.values():
        V, trace = np.array(group).T
        if len(group) < 5 or np.ptp(V) < 0.01 or np.ptp(trace) == 0:
            continue
        x, y = V - V.mean(), trace - trace.mean()
        sums += (x @ x, y @ y, x @ y)
        count += len(group)
    return (float(sums[2] / np.sqrt(sums[0] * sums[1])), count) if count else (0.0, 0)


def _composition(frame: Frame) -> tuple[int, ...]:
    """Elements and their numbers in the smallest formula unit."""
    numbers, counts = np.unique(frame.atoms.numbers, return_counts=True)
    return *numbers.tolist(), *(counts // np.gcd.reduce(counts)).tolist()


def _stress_sign(frames: Sequence[Frame]) -> list[str]:
    correlation, count = stress_response(frames)
    if count < 10 or correlation > -0.5:
        return []
    return [
        f"stresses look like they have the opposite sign: among {count} structures they fall with the volume "
        f"(correlation {correlation:+.2f}). Stress is (1/V) dE/dstrain, positive under tension; negate it, or give it "
        "as a virial (−V stress)."
    ]


def _close_atoms(dataset: Dataset) -> str:
    close = []
    for number in np.flatnonzero(dataset.min_distances < 1.3):
        frame, graph = dataset.frames[number], dataset.graphs[number]
        lengths = graph.vectors().norm(dim=1)
        edge = int(lengths.argmin())
        a, b = sorted(int(graph.atomic_numbers[k[edge]]) for k in (graph.senders, graph.receivers))
        if float(lengths[edge]) < 0.5 * (covalent_radii[a] + covalent_radii[b]):
            close.append(f"{frame.name} ({chemical_symbols[a]}–{chemical_symbols[b]} {float(lengths[edge]):.2f} Å)")
    if not close:
        return ""
    return f"{len(close)} structure(s) have atoms nearer than half a bond length: {first_few(close, 3)}. Is this meant?"


def fingerprint(frame: Frame) -> bytes:
    """Returns bytes that are the same for structures with the same atoms to 1e-5 Å."""
    parts = (
        frame.atoms.numbers,
        frame.atoms.pbc,
        frame.atoms.positions,
        frame.atoms.cell.array * frame.atoms.pbc[:, None],
    )
    rounded = [np.round(np.asarray(part, dtype=float), 5) + 0.0 for part in parts]
    return b"".join(part.tobytes() for part in rounded)


def _duplicates(frames: Sequence[Frame]) -> str:
    first: dict[bytes, Frame] = {}
    twice = [
        (first[key].name, frame.name)
        for frame in frames
        if first.setdefault(key := fingerprint(frame), frame) is not frame
    ]
    if not twice:
        return ""
    return f"{len(twice)} structure(s) occur twice: {first_few((f'{b} = {a}' for a, b in twice), 3)}."


def leakage(train: Sequence[Frame], other: Sequence[Frame], name: str) -> list[str]:
    """Returns a sentence if structures of a validation or test set are in the training set too."""
    known = {fingerprint(frame): frame.name for frame in train}
    shared = [(frame.name, known[key]) for frame in other if (key := fingerprint(frame)) in known]
    if not shared:
        return []
    return [
        f"{len(shared)} of {len(other)} structures of the {name} set are in the training set too: "
        f"{first_few((f'{b} = {a}' for a, b in shared), 3)}. Its errors will look too good."
    ]


def _single_precision(frames: Sequence[Frame]) -> str:
    E = np.array([frame.energy for frame in frames if frame.energy is not None])
    if len(E) < 10 or np.abs(E).min() < 1000 or not (E.astype(np.float32) == E).all():
        return ""
    step = float(np.spacing(np.float32(np.abs(E).max())))
    return f"energies were stored in single precision, in steps of {1000 * step:.2g} meV; errors cannot be smaller."


def _boxed_atoms(frames: Sequence[Frame]) -> str:
    boxed = [f for f in frames if len(f.atoms) == 1 and f.atoms.pbc.any() and f.atoms.cell.lengths().min() > 7]
    if not boxed:
        return ""
    return (
        f"{len(boxed)} structure(s) have one atom in a large periodic cell (first: {boxed[0].name}); if they are "
        "isolated atoms, write config_type=IsolatedAtom, so that their energy is the E0."
    )


def correlated(frames: Sequence[Frame]) -> list[str]:
    """Returns a sentence if consecutive structures resemble each other, as in one trajectory.

    Compares the mean displacement of atoms from one structure to the next with that to the one half the set away,
    among the structures with the same elements in the same order and without the displacement of the whole.
    """
    groups = defaultdict(list)
    for frame in frames:
        groups[frame.atoms.numbers.tobytes(), frame.atoms.pbc.tobytes()].append(frame)
    runs = max(groups.values(), key=len, default=[])
    if len(runs) < 20 or len(runs) < 0.9 * len(frames):
        return []
    near, far = (_displacement(runs, apart) for apart in (1, len(runs) // 2))
    if near > 0.5 * far:
        return []
    return [
        f"consecutive structures resemble each other (they move {near:.2f} Å, {far:.2f} Å over half the set): a random "
        "split of one trajectory makes validation errors look too good. Give a file with data.valid if there is one."
    ]


def _displacement(frames: Sequence[Frame], apart: int) -> float:
    """Mean distance, by the nearest image, between atoms of structures that lie `apart` in the list; up to `PAIRS`."""
    starts = np.unique(np.linspace(0, len(frames) - apart - 1, PAIRS).astype(int))
    means = []
    for k in starts:
        a, b = frames[k].atoms, frames[k + apart].atoms
        shift, _ = find_mic(b.positions - a.positions, a.cell, a.pbc)
        means.append(np.linalg.norm(shift - shift.mean(axis=0), axis=1).mean())
    return float(np.mean(means))
