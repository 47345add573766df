"""What a model file says about itself, and the potential that this describes, but for its weights."""

from typing import Any, Optional

import torch
from pydantic import BaseModel, ConfigDict

from equipot.design import Design
from equipot.interactions import EXACT
from equipot.models.baseline import NoBaseline
from equipot.models.potential import Potential
from equipot.statistics import Statistics


class PartHeader(BaseModel):
    """A potential without its weights.

    `design` and `statistics` define the function, `radial` says how its radial functions are evaluated (a choice of the
    run that trained it; files of earlier versions have exact ones), and `baseline` is the potential that it corrects,
    if it does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    design: Design
    statistics: Statistics
    radial: str = EXACT
    baseline: Optional["PartHeader"] = None

    @property
    def parts(self) -> list["PartHeader"]:
        """This one, its baseline, the baseline of that, and so on."""
        return [self] if self.baseline is None else [self, *self.baseline.parts]

    @property
    def r_max(self) -> float:
        """Cutoff of the whole, Å."""
        return max(part.design.r_max for part in self.parts)

    @property
    def identity(self) -> str:
        """What of it, its baseline aside, goes into a fingerprint."""
        radial = "" if self.radial == EXACT else self.radial
        return self.design.model_dump_json() + self.statistics.model_dump_json() + radial


class ModelHeader(PartHeader):
    """What a model file says about itself; readable without building the model.

    Beside what describes the potential: `dtype` the precision its parameters are stored in, `parameters` their number,
    `provenance` how it was made (data hash, resolved configuration with its seeds, final errors; whatever JSON can
    hold).
    """

    format_version: int
    units: dict[str, str]
    versions: dict[str, str]
    dtype: str
    parameters: int
    provenance: dict[str, Any]


def part_header(potential: Potential) -> PartHeader:
    """Returns what describes a potential."""
    below = potential.baseline
    return PartHeader(
        design=potential.design,
        statistics=potential.statistics,
        radial=potential.radial,
        baseline=None if isinstance(below, NoBaseline) else part_header(below),
    )


def built(header: PartHeader, dtype: torch.dtype) -> Potential:
    """Returns the potential that a header describes, with weights of no meaning yet."""
    below = None if header.baseline is None else built(header.baseline, dtype)
    return Potential(header.design, header.statistics, dtype=dtype, radial=header.radial, baseline=below)
