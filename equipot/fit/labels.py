"""What there is to learn from, before training begins."""

import logging

from equipot.data.dataset import Dataset
from equipot.errors import EquipotError
from equipot.fit.options import FitOptions

logger = logging.getLogger("equipot.fit")


def label_numbers(dataset: Dataset) -> dict[str, int]:
    """Returns how many structures have an energy, how many have forces, and how many a stress."""
    return {
        "energy": sum(frame.energy is not None for frame in dataset.frames),
        "forces": sum(frame.forces is not None for frame in dataset.frames),
        "stress": sum(frame.stress is not None for frame in dataset.frames),
    }


def learns_derivatives(dataset: Dataset, options: FitOptions) -> bool:
    """Returns whether any stage weighs forces or stresses of which there are labels.

    If not, the loss is one of energies alone, and a step needs no derivative with respect to positions.
    """
    numbers = label_numbers(dataset)
    stages = [options.loss_weights(stage) for stage in range(len(options.stages) + 1)]
    return any((w.forces > 0 and numbers["forces"]) or (w.stress > 0 and numbers["stress"]) for w in stages)


def check_labels(name: str, dataset: Dataset, options: FitOptions) -> None:
    """Counts the labels that the loss asks for, and says which are missing.

    Raises:
        EquipotError: There is no structure, or none has a label with a weight.
    """
    if len(dataset) == 0:
        raise EquipotError(f"there are no {name} structures; give at least one (data.train, data.valid)")
    weights, numbers = options.final_loss_weights, label_numbers(dataset)
    asked = {label: (getattr(weights, label), number) for label, number in numbers.items()}
    if not any(weight > 0 and count for weight, count in asked.values()):
        raise EquipotError(
            f"no {name} structure has a label to learn from: the loss weighs "
            + ", ".join(f"{label} {weight:g} ({count} labels)" for label, (weight, count) in asked.items())
            + "; set energy_weight, forces_weight or stress_weight for labels that are there"
        )
    logger.info("%s: %d structures, labels: %s", name, len(dataset), ", ".join(f"{n} {k}" for k, n in numbers.items()))
    if weights.forces > 0 and not numbers["forces"]:
        logger.warning("no %s structure has forces: the loss is without them", name)
