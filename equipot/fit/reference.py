"""The energy reference of a model that is trained further: its E0s beside the energies of other data."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch

from equipot.data.atomic_energies import AtomicEnergies, Source, compositions, least_squares
from equipot.data.dataset import Dataset
from equipot.errors import EquipotError
from equipot.fit.metrics import batch_maker, device_of
from equipot.geometry import evaluate
from equipot.kernels.operations import follow_backend
from equipot.models.model_header import built, part_header
from equipot.models.potential import Potential

Choice = Literal["keep", "data", "refit"]

GOOD_ENOUGH = 0.01
"""eV/atom; E0s that leave a smaller rms are kept, whatever a fit would leave."""

MUCH_BETTER = 2.0
"""A fit changes E0s only where it leaves an rms that is smaller by this factor."""


METHODS_DIFFER = 0.5
"""eV/atom; energies of binding by two methods of electronic structure differ by less. Where E0s of isolated atoms leave
more, those of the model were no energies of isolated atoms, whatever it says."""


class Reference(NamedTuple):
    """E0s for a model on other data, and how they were chosen.

    Attributes:
        choice: "keep" those of the model, take those of the "data", or "refit".
        energies: E0 of the elements of the data, by atomic number, eV.
        source: Where they come from; None where they are the model's own.
        remainders: Rms over training structures of what is left of (E − Ê)/N with each choice that there was, eV/atom.
        determined: How many combinations of refitted E0s the compositions determine.
    """

    choice: Choice
    energies: dict[int, float]
    source: Source | None
    remainders: dict[str, float]
    determined: int


def find_reference(
    potential: Potential,
    train: Dataset,
    wanted: str,
    given: AtomicEnergies | None,
    batch_size: int = 16,
    section: str = "start",
) -> Reference:
    r"""Returns the E0s with which a model is trained further.

    With t_s = (E_s − Ê_s)/N_s, what the model leaves of the training energies, refitted E0s are

        E0_z + δ_z,   δ = argmin Σ_s (t_s − Σ_z (n_sz/N_s) δ_z)²

    regularised as in `equipot.data.atomic_energies.least_squares` where structures are few. "auto" keeps the model's
    E0s where their rms is below `GOOD_ENOUGH`, or no refitted ones leave less than half of it; else it takes E0s that
    the data give, if the model's are those of isolated atoms too and they leave less than the model's, and no more than
    `METHODS_DIFFER`; else it refits.

    Args:
        potential: The model, with its own E0s.
        train: Structures to learn from.
        wanted: "auto", "keep", "data" or "refit".
        given: E0s that the data give; None where they give none.
        batch_size: Structures evaluated at a time.
        section: Of the configuration that says what is wanted, for messages.

    Raises:
        EquipotError: E0s of the data are wanted, and there are none or the model has a mean energy in their place;
            or they are to be refitted to data without energies.
    """
    own = model_energies(potential)
    left = energies_left(potential, train, batch_size)
    known = np.isfinite(left)
    counts, left = compositions(train.frames, train.species)[known], left[known]
    candidates: dict[str, Reference] = {}
    rank = int(np.linalg.matrix_rank(counts)) if len(counts) else 0

    def add(choice: Choice, change: np.ndarray, source: Source | None) -> None:
        remainder = left - counts @ change / counts.sum(axis=1)
        rms = float(np.sqrt(np.mean(remainder**2))) if len(remainder) else float("nan")
        energies = {z: own[z] + float(c) for z, c in zip(train.species, change, strict=True)}
        candidates[choice] = Reference(choice, energies, source, {choice: rms}, rank)

    add("keep", np.zeros(len(train.species)), None)
    if given is not None:
        add("data", np.array([given.energies[z] - own[z] for z in train.species]), given.source)
    if len(left):
        add("refit", least_squares(counts, left).energies, "least_squares")
    choice = _best(potential, candidates) if wanted == "auto" else _possible(potential, wanted, candidates, section)
    remainders = {name: each.remainders[name] for name, each in candidates.items()}
    return candidates[choice]._replace(remainders=remainders)


def model_energies(potential: Potential) -> dict[int, float]:
    """Returns the E0 of every element of a model, by atomic number, eV."""
    return dict(zip(potential.statistics.species, potential.E0.tolist(), strict=True))


def energies_left(potential: Potential, dataset: Dataset, batch_size: int = 16) -> np.ndarray:
    """Returns (E − Ê)/N of each structure, eV/atom; NaN where it has no energy."""
    make, left = batch_maker(dataset, device_of(potential)), []
    for start in range(0, len(dataset), batch_size):
        batch = make(range(start, min(start + batch_size, len(dataset))))
        left.append(batch.labels.energy - evaluate(potential, batch.graph, derivatives=False).energy)
    return torch.cat(left).cpu().numpy() / dataset.num_atoms


def _of_isolated_atoms(potential: Potential) -> bool:
    """Whether the interaction energies of a model count from isolated atoms."""
    source = potential.statistics.atomic_energies_source
    return potential.design.energy_reference == "isolated_atoms" and source in ("isolated_atoms", "given")


def _best(potential: Potential, candidates: Mapping[str, Reference]) -> Choice:
    rms = {name: each.remainders[name] for name, each in candidates.items()}
    if "refit" not in rms or rms["keep"] <= max(GOOD_ENOUGH, MUCH_BETTER * rms["refit"]):
        return "keep"
    limit = min(rms["keep"], max(METHODS_DIFFER, MUCH_BETTER * rms["refit"]))
    return "data" if rms.get("data", limit) < limit and _of_isolated_atoms(potential) else "refit"


def _possible(potential: Potential, wanted: str, candidates: Mapping[str, Reference], section: str) -> Choice:
    if wanted == "data" and potential.design.energy_reference == "mean_shift":
        raise EquipotError(
            f"{section}.reference = data, but the design of the model has one mean energy per atom in place of E0s "
            f"(energy_reference = mean_shift). Set {section}.reference=refit."
        )
    if wanted not in candidates:
        lacking = (
            "no isolated atoms of all their elements. Add a frame with one atom and config_type=IsolatedAtom for each, "
            f"give data.atomic_energies, or set {section}.reference=refit"
            if wanted == "data"
            else f"no energies. Set {section}.reference=keep"
        )
        raise EquipotError(f"{section}.reference = {wanted}, but the training files have {lacking}.")
    return candidates[wanted].choice


def with_energies(potential: Potential, energies: Mapping[int, float], source: Source) -> Potential:
    """Returns a model with other E0s of some elements; every other weight and constant, and so all forces, stay.

    Args:
        potential: The model.
        energies: New E0s by atomic number, eV; other elements keep theirs.
        source: Where they come from.
    """
    statistics, own = potential.statistics, model_energies(potential)
    change = [energies.get(z, own[z]) - own[z] for z in statistics.species]
    moved = tuple(e + c for e, c in zip(statistics.atomic_energies, change, strict=True))
    statistics = statistics.model_copy(update={"atomic_energies": moved, "atomic_energies_source": source})
    design = potential.design.with_reference(source)
    header = part_header(potential).model_copy(update={"design": design, "statistics": statistics})
    result = built(header, potential.dtype)
    E0 = potential.E0.new_tensor([energies.get(z, own[z]) for z in statistics.species])
    result.load_state_dict({**potential.state_dict(), "E0": E0})
    follow_backend(result, potential)
    return result.to(device_of(potential)).train(potential.training)
