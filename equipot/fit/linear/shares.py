"""What energies and forces count where both scale one set of predicted deviations."""

from collections.abc import Mapping

from equipot.data.dataset import Dataset

FEWEST = 10
"""Of fewer structures the root mean square of error over deviation is uncertain by a quarter and more."""


def labelled(dataset: Dataset) -> dict[str, int]:
    """Returns how many structures of a set have an energy, and how many have forces."""
    frames = dataset.frames
    return {
        "energy": sum(frame.energy is not None for frame in frames),
        "forces": sum(frame.forces is not None for frame in frames),
    }


def shares(structures: Mapping[str, int]) -> dict[str, float]:
    r"""Returns what each kind of label counts, in all 1.

        s_kind = n_kind / Σ n

    with n the numbers of structures: components of the forces of one are not independent. Energies of fewer than
    `FEWEST` structures count nothing where there are forces: each is one number, and one outlier would decide.

    Args:
        structures: By kind, "energy" and "forces"; those that have been compared.
    """
    few = structures.get("forces", 0) > 0 and structures.get("energy", 0) < FEWEST
    n = {kind: 0 if few and kind == "energy" else number for kind, number in structures.items()}
    total = sum(n.values())
    return {kind: number / total for kind, number in n.items()} if total else {}
