"""What is measured: models with the names that each code gives their parts, and the rows of the table."""

import fnmatch
from dataclasses import dataclass, field
from typing import Any, Literal

from equipot.design import Design
from equipot.points import botnet_ssh, mace, nequip_current

Kind = Literal["train", "md", "memory", "threads"]


@dataclass(frozen=True)
class Model:
    """One architecture.

    Attributes:
        name: As in the names of the rows.
        peer: The code that it is compared with: "mace", "nequip" or "botnet".
        architecture: Options of that code's constructor.
        design: The same for equipot.
    """

    name: str
    peer: str
    architecture: dict[str, Any]
    design: Design


_BOTH_PARITIES = " + ".join(f"80x{ell}{p}" for ell in range(4) for p in "oe")
_NEQUIP = {"parity": True, "radial_mlp_depth": 2, "radial_mlp_width": 64}
MODELS = {
    model.name: model
    for model in (
        Model("mace-128", "mace", {"hidden_irreps": "128x0e + 128x1o"}, mace(channels=128)),
        Model("mace-32", "mace", {"hidden_irreps": "32x0e + 32x1o"}, mace(channels=32)),
        Model("mace-256-L2", "mace", {"hidden_irreps": "256x0e + 256x1o + 256x2e"}, mace(channels=256, max_L=2)),
        Model(
            "nequip-l2", "nequip", {**_NEQUIP, "num_layers": 4, "l_max": 2, "num_features": 32},
            nequip_current(radial_mlp=(64, 64)),
        ),
        Model(
            "nequip-S", "nequip", {"preset": "S"},
            nequip_current(layers=2, max_L=1, channels=(128, 64), parity="natural", embedding_channels=32),
        ),
        Model(
            "nequip-paper", "nequip", {**_NEQUIP, "num_layers": 5, "l_max": 3, "num_features": 64},
            nequip_current(layers=5, max_L=3, channels=64, radial_mlp=(64, 64)),
        ),
        Model("botnet", "botnet", {"hidden_irreps": _BOTH_PARITIES}, botnet_ssh()),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: To choose it by.
        model: Name of the model.
        kind: A training step, a step of dynamics, the memory of a training step, or threads.
        system: "3bpa-5" (five molecules), "3bpa-1", "si-512".
        dtype: Of weights and features.
        target: Smallest ratio to the peer's default that was asked for.
        tuned_target: Smallest ratio to the peer with allocator variables.
        goal: Ratio that we want.
        work: For rows of threads: what is done, "train" or "md".
        busy: For rows of threads: another process keeps one core busy.
        slow: A step of the peer takes many seconds: never more than five repeats.
        quick: Part of `--quick`.
    """

    name: str
    model: str
    kind: Kind
    system: str
    dtype: str = "float32"
    target: float | None = None
    tuned_target: float | None = None
    goal: float | None = None
    work: Literal["train", "md"] = "train"
    busy: bool = False
    slow: bool = False
    quick: bool = field(default=False)

    @property
    def described(self) -> Model:
        """The model."""
        return MODELS[self.model]

    @property
    def does(self) -> str:
        """Whether workers train or run dynamics."""
        return self.work if self.kind == "threads" else ("train" if self.kind == "memory" else self.kind)


def _threads(name: str, work: Literal["train", "md"], system: str, busy: bool, target: float) -> Row:
    return Row(name, "mace-128", "threads", system, target=target, work=work, busy=busy)


_FIVE, _ONE, _SILICON = "3bpa-5", "3bpa-1", "si-512"
ROWS = (
    Row("mace-128 train", "mace-128", "train", _FIVE, target=15, tuned_target=12, goal=20, quick=True),
    Row("mace-128 train float64", "mace-128", "train", _FIVE, "float64", target=12),
    Row("mace-128 md 27", "mace-128", "md", _ONE, target=15, goal=25, quick=True),
    Row("mace-128 md 512", "mace-128", "md", _SILICON, target=20, goal=35),
    Row("mace-32 train", "mace-32", "train", _FIVE, target=12),
    Row("mace-32 md 27", "mace-32", "md", _ONE, target=15),
    Row("mace-32 md 512", "mace-32", "md", _SILICON, target=20),
    Row("nequip-l2 train", "nequip-l2", "train", _FIVE, target=15, quick=True),
    Row("nequip-l2 md 27", "nequip-l2", "md", _ONE, target=15, quick=True),
    Row("nequip-l2 md 512", "nequip-l2", "md", _SILICON, target=25),
    Row("nequip-S train", "nequip-S", "train", _FIVE, target=4),
    Row("nequip-S md 27", "nequip-S", "md", _ONE, target=4),
    Row("mace-256-L2 train", "mace-256-L2", "train", _FIVE, target=15, goal=25, slow=True),
    Row("nequip-paper train", "nequip-paper", "train", _FIVE, target=25, slow=True),
    Row("botnet train", "botnet", "train", _FIVE, target=25, slow=True),
    Row("mace-128 memory", "mace-128", "memory", _FIVE, target=5),
    Row("botnet memory", "botnet", "memory", _FIVE, target=8, slow=True),
    _threads("threads train", "train", _FIVE, False, 1.6),
    _threads("threads md 512", "md", _SILICON, False, 1.6),
    _threads("threads train busy", "train", _FIVE, True, 1 / 1.1),
    _threads("threads md 512 busy", "md", _SILICON, True, 1 / 1.1),
)


def chosen(pattern: str, quick: bool) -> list[Row]:
    """The rows whose name matches one of the comma-separated patterns (shell's, or a part of the name)."""
    parts = [part.strip() for part in pattern.split(",") if part.strip()]
    rows = [row for row in ROWS if row.quick or not quick or parts]
    return [row for row in rows if not parts or any(fnmatch.fnmatch(row.name, p) or p in row.name for p in parts)]
