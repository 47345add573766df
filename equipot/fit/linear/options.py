"""Every choice of a linear fit, as one frozen and validated value."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from equipot.fit.options import LossWeights

Solver = Literal["normal_equations", "qr", "lsqr", "ard"]
Convention = Literal["ace", "training", "per_atom", "total"]

DEFAULT_WEIGHTS: dict[Convention, LossWeights] = {
    "ace": LossWeights(energy=900.0, forces=1.0, stress=1.0),
    "training": LossWeights(energy=100.0, forces=10.0, stress=100.0),
    "per_atom": LossWeights(energy=10000.0, forces=1.0, stress=10000.0),
    "total": LossWeights(energy=25.0, forces=1.0, stress=1.0),
}
"""Weights where none are given. Those of "ace" are the usual 30, 1, 1 on rows, squared."""


class TypeWeights(BaseModel):
    """Factors of the weights of one config_type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: float = Field(default=1.0, ge=0)
    forces: float = Field(default=1.0, ge=0)
    stress: float = Field(default=1.0, ge=0)


class LinearFitOptions(BaseModel):
    """How the weights of a linear model are found.

    What is minimised is  Σ c w λ (prediction − label)²  + (prior strength) · Σ_p Γ_p² w_p²; see
    `equipot.fit.linear.weighting` for c, which the convention sets, and the weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # the solver
    solver: Solver = Field(
        default="normal_equations",
        description="normal_equations (fastest), qr (twice the digits, at two to four times the cost), lsqr "
        "(iterative, with all rows in memory or on disk) or ard (a prior strength for each weight; useless ones become "
        "zero)",
    )
    prior: Literal["evidence", "cross_validation"] | float = Field(
        default="evidence",
        description="strength of the smoothness prior: where the evidence is largest, where the error of left-out "
        "structures is smallest, or a number ≥ 0 in units of the weighted sum of squares",
    )
    smoothness: float = Field(
        default=0.3,
        ge=0,
        description="power of the model's smoothness prior Γ; 0 holds all weights alike (compare log_evidence)",
    )
    folds: int = Field(default=5, ge=2, description="cross_validation: parts that are left out in turn")
    refinements: int = Field(
        default=0,
        ge=0,
        le=20,
        description="normal_equations, ard: passes over the data that correct the weights by the residuals' gradient",
    )
    lsqr_tolerance: float = Field(default=1e-10, gt=0, description="lsqr: relative accuracy of its residuals")
    lsqr_iterations: int = Field(default=10_000, ge=1, description="lsqr: most iterations")
    ard_iterations: int = Field(default=30, ge=1, description="ard: most rounds of new prior strengths")

    keep_weights: bool = Field(
        default=False,
        description="with start.model: leave the weights of the model as they are; only their uncertainty is found",
    )

    # the labels
    convention: Convention = Field(
        default="ace",
        description="how errors of structures of different sizes compare: ace (E/√N, F, −Vσ/√N), training (E/N, F, σ, "
        "each a mean, as in the loss of training), per_atom (E/N, F, σ) or total (E, F, −Vσ)",
    )
    energy_weight: float | None = Field(
        default=None, ge=0, description="weight of squared energy errors; default by convention"
    )
    forces_weight: float | None = Field(
        default=None, ge=0, description="weight of squared force errors; default by convention"
    )
    stress_weight: float | None = Field(
        default=None, ge=0, description="weight of squared stress errors; default by convention"
    )
    config_type_weights: dict[str, TypeWeights] = Field(
        default_factory=dict, description="factors of these weights for each config_type"
    )

    # uncertainty
    uncertainty: bool = Field(default=True, description="keep the posterior covariance of the weights")
    committee: int = Field(
        default=32,
        ge=2,
        description="sets of weights drawn from the posterior; they stand for its covariance where there are "
        "more than 1024 weights",
    )
    calibrate: bool = Field(
        default=True, description="scale predicted deviations to the errors on the validation structures"
    )

    # the machine
    max_memory_GB: float | None = Field(
        default=None, gt=0, description="memory for matrices, GB; default: 60 % of what is available"
    )
    scratch: str | None = Field(default=None, description="lsqr: folder for rows that do not fit into memory")
    seed: int = Field(default=0, ge=0, description="seed of folds and committee")

    @model_validator(mode="after")
    def _consistent(self) -> "LinearFitOptions":
        if not isinstance(self.prior, str) and not 0 <= self.prior < float("inf"):
            raise ValueError(f"prior must be a number ≥ 0, evidence or cross_validation, but is {self.prior}")
        if self.solver == "lsqr" and isinstance(self.prior, str):
            raise ValueError(
                f"lsqr has no factor to find the prior by {self.prior}; give prior as a number, for example one found "
                "on fewer structures with solver: normal_equations"
            )
        if self.solver in ("qr", "ard") and self.prior == "cross_validation":
            raise ValueError(
                f"prior: cross_validation needs solver: normal_equations, not {self.solver}; take it, or "
                "prior: evidence"
            )
        weights = self.label_weights
        if weights.energy == weights.forces == weights.stress == 0:
            raise ValueError("all weights are zero; set energy_weight, forces_weight or stress_weight")
        return self

    @property
    def label_weights(self) -> LossWeights:
        """The three weights, those not given by the convention."""
        default = DEFAULT_WEIGHTS[self.convention]
        given = {"energy": self.energy_weight, "forces": self.forces_weight, "stress": self.stress_weight}
        return default.model_copy(update={kind: value for kind, value in given.items() if value is not None})
