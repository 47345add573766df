"""Every choice of a training run, as one frozen and validated value."""

from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Optimiser = Literal["adam", "amsgrad", "adamw", "muon", "schedulefree"]
Schedule = Literal["constant", "plateau", "cosine", "exponential"]
LossForm = Literal["mse", "mae", "huber"]


class LossWeights(BaseModel):
    """The three weights of the loss; see `equipot.fit.loss` for the formula."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: float = Field(ge=0)
    forces: float = Field(ge=0)
    stress: float = Field(ge=0)


class Stage(BaseModel):
    """A change of loss weights and learning rate from some moment of the run on.

    What a stage does not name stays as it was before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    from_epoch: int | None = Field(default=None, ge=1, description="first epoch of the stage (epochs count from 0)")
    from_progress: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="fraction of the run at which the stage begins, at the next epoch",
    )
    energy_weight: float | None = Field(default=None, ge=0, description="weight of the energy term from here on")
    forces_weight: float | None = Field(default=None, ge=0, description="weight of the forces term from here on")
    stress_weight: float | None = Field(default=None, ge=0, description="weight of the stress term from here on")
    lr_factor: float = Field(default=1.0, gt=0, description="the learning rate is multiplied by this from here on")
    warmup_steps: int = Field(
        default=100,
        ge=0,
        description="steps over which the learning rate rises from zero again, while the optimiser's second moments "
        "follow the gradients of the new weights",
    )

    @model_validator(mode="after")
    def _one_beginning(self) -> "Stage":
        if (self.from_epoch is None) == (self.from_progress is None):
            raise ValueError("a stage needs exactly one of from_epoch and from_progress")
        return self


class FitOptions(BaseModel):
    """How a potential is trained.

    The defaults are meant to give a good first model. The learning rate at a step is

        lr · warm-up · shape(progress) · plateau factor · stage factors

    with warm-up = min(1, (step + 1)/warmup_steps), anew in a stage with warm-up, and progress = max(step/all steps,
    minutes/max_minutes), so that a schedule fits the time that there is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # the loss
    energy_weight: float = Field(default=100.0, ge=0, description="weight of the energy term, on errors in eV/atom")
    forces_weight: float = Field(default=10.0, ge=0, description="weight of the forces term, on errors in eV/Å")
    stress_weight: float = Field(default=100.0, ge=0, description="weight of the stress term, on errors in eV/Å³")
    loss: LossForm = Field(
        default="mse",
        description="form of an error in the loss: squared, absolute, or Huber (squared, then absolute)",
    )
    huber_delta: float = Field(
        default=0.01,
        gt=0,
        description="where Huber turns from squared to absolute, in eV/atom, eV/Å and eV/Å³",
    )
    stages: tuple[Stage, ...] = Field(
        default=(),
        description="changes of the loss weights and learning rate during the run, in order of time",
    )

    # the step
    optimiser: Optimiser = Field(
        default="amsgrad",
        description="adam, amsgrad, adamw, muon (matrices by Muon, the rest by AdamW) or schedulefree (AdamW "
        "that needs no schedule; install equipot[schedulefree])",
    )
    lr: float = Field(default=0.01, gt=0, description="largest learning rate; 0.001 by default with start.model")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="decay of Adam's two running moments")
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="weight decay; coupled (L2) for adam and amsgrad, decoupled for the others",
    )
    weight_decay_on: tuple[str, ...] = Field(
        default=("*",), description="shell patterns of the parameter names that decay"
    )
    train_only: tuple[str, ...] = Field(
        default=("*",),
        min_length=1,
        description="shell patterns of the names of the parameters that are trained; all others stay as they are",
    )
    keep_start: bool = Field(
        default=False,
        description="the weights before the first step count as the first best model, so that the result is never "
        "worse; true by default where the training starts from a model",
    )
    clip: float | None = Field(default=10.0, gt=0, description="largest norm of the gradient; null switches it off")
    ema_decay: float | None = Field(
        default=0.99,
        gt=0,
        lt=1,
        description="decay of the moving average of the weights, which is what is validated and saved; null "
        "for the plain weights (schedulefree has its own average and does not use this)",
    )

    # the schedule
    schedule: Schedule = Field(
        default="cosine", description="shape of the learning rate: constant, plateau, cosine or exponential"
    )
    final_lr_fraction: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="learning rate at the end over the largest, for cosine and exponential",
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps over which the learning rate rises from zero")
    plateau_factor: float = Field(default=0.8, gt=0, lt=1, description="plateau: factor of the learning rate")
    plateau_patience: int = Field(
        default=50,
        ge=1,
        description="plateau: validations without a better loss before the learning rate falls",
    )
    min_lr: float = Field(default=1e-6, ge=0, description="plateau: the run ends when the learning rate is below this")

    # the data of a step
    batch_size: int | None = Field(
        default=5,
        ge=1,
        description="structures in a step, over all processes together; null with batch_atoms",
    )
    batch_atoms: int | None = Field(
        default=None, ge=1, description="instead of batch_size: atoms in a step, over all processes together"
    )
    valid_batch_size: int = Field(default=16, ge=1, description="structures evaluated at a time in validation")

    # how long
    max_epochs: int = Field(default=200, ge=1, description="passes over the training structures")
    max_minutes: float | None = Field(
        default=None,
        gt=0,
        description="wall time of training, earlier parts of a resumed run included; the schedule then "
        "follows the clock where that is ahead of the epochs, and a resumed run is not equal bit for bit",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="stop after so many validations without a better loss, in the last stage",
    )
    validate_every: int = Field(default=1, ge=1, description="epochs between validations")
    checkpoint_seconds: float = Field(
        default=60.0,
        ge=0,
        description="least time between checkpoints (an interrupted run always writes one)",
    )

    # the rest
    seed: int = Field(default=0, ge=0, description="seed of the order in which structures are seen")
    tensorboard: bool = Field(default=False, description="also write the metrics for TensorBoard, in RUN/tensorboard")

    @model_validator(mode="after")
    def _consistent(self) -> "FitOptions":
        if (self.batch_size is None) == (self.batch_atoms is None):
            raise ValueError(
                "give exactly one of batch_size (structures) and batch_atoms (atoms); set the other to null"
            )
        if self.optimiser == "schedulefree" and self.schedule != "constant":
            raise ValueError(
                f"optimiser schedulefree replaces the schedule, but schedule is {self.schedule!r}; "
                "set schedule: constant"
            )
        if not (0 <= self.betas[0] < 1 and 0 <= self.betas[1] < 1):
            raise ValueError(f"betas must lie in [0, 1), but are {self.betas}")
        return self

    @model_validator(mode="after")
    def _some_weight(self) -> "FitOptions":
        for index in range(len(self.stages) + 1):
            weights = self.loss_weights(index)
            if weights.energy == weights.forces == weights.stress == 0:
                raise ValueError(
                    f"all weights of the loss are zero in stage {index}; set energy_weight or forces_weight"
                )
        return self

    @model_validator(mode="after")
    def _stages_in_order(self) -> "FitOptions":
        for key in ("from_epoch", "from_progress"):
            beginnings = [getattr(stage, key) for stage in self.stages if getattr(stage, key) is not None]
            if any(b <= a for a, b in pairwise(beginnings)):
                raise ValueError(f"stages must follow each other in time, but {key} is {beginnings}")
        return self

    def loss_weights(self, stage: int) -> LossWeights:
        """Returns the weights of the loss after the first `stage` changes."""
        weights = {"energy": self.energy_weight, "forces": self.forces_weight, "stress": self.stress_weight}
        for change in self.stages[:stage]:
            named = {
                "energy": change.energy_weight,
                "forces": change.forces_weight,
                "stress": change.stress_weight,
            }
            weights |= {name: value for name, value in named.items() if value is not None}
        return LossWeights(**weights)

    @property
    def final_loss_weights(self) -> LossWeights:
        """The weights of the last stage, by which every validation of the run is judged."""
        return self.loss_weights(len(self.stages))
