"""What there is to learn from, before training begins."""

import logging

from equipot.data.dataset import Dataset
from equipot.errors import EquipotError
from equipot.fit.options import FitOptions

logger = logging.getLogger("equipot.fit")


def check_labels(name: str, dataset: Dataset, options: FitOptions) -> None:
    """Counts the labels that the loss asks for, and says which are missing.

    Raises:
        EquipotError: There is no structure, or none has a label with a weight.
    """
    if len(dataset) == 0:
        raise EquipotError(f"there are no {name} structures; give at least one (data.train, data.valid)")
    frames, weights = dataset.frames, options.final_loss_weights
    asked = {
        "energy": (weights.energy, sum(f.energy is not None for f in frames)),
        "forces": (weights.forces, sum(f.forces is not None for f in frames)),
        "stress": (weights.stress, sum(f.stress is not None for f in frames)),
    }
    if not any(weight > 0 and count for weight, count in asked.values()):
        raise EquipotError(
            f"no {name} structure has a label to learn from: the loss weighs "
            + ", ".join(f"{label} {weight:g} ({count} labels)" for label, (weight, count) in asked.items())
            + "; set energy_weight, forces_weight or stress_weight for labels that are there"
        )
    logger.info(
        "%s: %d structures, labels: %s", name, len(frames), ", ".join(f"{n} {k}" for k, (_, n) in asked.items())
    )
    if weights.forces > 0 and not asked["forces"][1]:
        logger.warning("no %s structure has forces: the loss is without them", name)
