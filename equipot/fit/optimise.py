"""Optimisers, and averages of the weights."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from equipot.errors import EquipotError
from equipot.fit.options import FitOptions


@runtime_checkable
class Optimiser(Protocol):
    """What a step needs of an optimiser."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters, each with its "lr"."""

    def step(self) -> Any:
        """Changes the parameters by their gradients; a parameter without one stays."""

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the next step depends on besides parameters and gradients."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""


class Together:
    """Several optimisers, each with parameters of its own, that step as one."""

    def __init__(self, optimisers: Sequence[Optimiser]) -> None:
        self.optimisers = tuple(optimisers)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all."""
        return [group for optimiser in self.optimisers for group in optimiser.param_groups]

    def step(self) -> None:
        """Steps each."""
        for optimiser in self.optimisers:
            optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of all."""
        return {"optimisers": [optimiser.state_dict() for optimiser in self.optimisers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores each."""
        for optimiser, part in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(part)


def trainable(model: Module) -> dict[str, Parameter]:
    """Returns the parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def check_patterns(key: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    """Finds out whether every shell pattern of an option matches a parameter.

    Args:
        key: The option.
        patterns: Its value.
        names: Of all parameters.

    Raises:
        EquipotError: A pattern matches none; says what names there are.
    """
    unmatched = [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]
    if unmatched:
        raise EquipotError(
            f"{key}: the pattern {unmatched[0]!r} matches no parameter; there are {', '.join(grouped(names))}"
        )


def grouped(names: Sequence[str], most: int = 12) -> list[str]:
    """Returns names, or groups of them such as "layers.0.* (12 parameters)" where there are more than a short list has.

    Args:
        names: Parts are separated by points; a group has its first parts in common, as many as make the list short.
        most: Entries of the list.
    """
    for depth in range(max((name.count(".") for name in names), default=0) + 1, 0, -1):
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(".".join(name.split(".")[:depth]), []).append(name)
        if len(groups) <= most:
            break
    listed = [f"{head}.* ({len(g)} parameters)" if len(g) > 1 else g[0] for head, g in groups.items()]
    return listed if len(listed) <= most else [*listed[: most - 1], f"… ({len(listed) - most + 1} more)"]


@contextmanager
def only_trained(model: Module, patterns: Sequence[str]) -> Iterator[None]:
    """A context in which the parameters whose names match no shell pattern are not trained.

    Raises:
        EquipotError: A pattern matches no parameter.
    """
    check_patterns("fit.train_only", patterns, [name for name, _ in model.named_parameters()])
    frozen = [p for name, p in trainable(model).items() if not any(fnmatchcase(name, each) for each in patterns)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def build_optimiser(model: Module, options: FitOptions) -> Optimiser:
    """Returns the optimiser that `options` names.

    Raises:
        EquipotError: The model has nothing to train, a pattern of `weight_decay_on` matches no parameter, or
            the optimiser is not installed.
    """
    parameters = trainable(model)
    if not parameters:
        raise EquipotError("the model has no trainable parameters; nothing can be fitted")
    if options.optimiser == "muon":
        matrices = {name: p for name, p in parameters.items() if p.ndim == 2 and min(p.shape) > 1}
        others = {name: p for name, p in parameters.items() if name not in matrices}
        parts = [_muon(_groups(matrices, options, parameters), options)] if matrices else []
        if others:
            parts.append(torch.optim.AdamW(_groups(others, options, parameters), **_adam(options)))
        return Together(parts)
    groups = _groups(parameters, options, parameters)
    if options.optimiser == "schedulefree":
        return _schedule_free(groups, options)
    if options.optimiser == "adamw":
        return torch.optim.AdamW(groups, **_adam(options))
    return torch.optim.Adam(groups, amsgrad=options.optimiser == "amsgrad", **_adam(options))


def _adam(options: FitOptions) -> dict[str, Any]:
    return {"lr": options.lr, "betas": options.betas, "fused": True}


def _groups(
    parameters: Mapping[str, Parameter], options: FitOptions, everything: Mapping[str, Parameter]
) -> list[dict[str, Any]]:
    """Returns the parameters in two groups, with and without weight decay, leaving out an empty one."""
    if options.weight_decay > 0:
        check_patterns("fit.weight_decay_on", options.weight_decay_on, list(everything))
    decaying = {name for name in parameters if any(fnmatchcase(name, p) for p in options.weight_decay_on)}
    groups = (
        ([p for name, p in parameters.items() if name in decaying], options.weight_decay),
        ([p for name, p in parameters.items() if name not in decaying], 0.0),
    )
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def _muon(groups: list[dict[str, Any]], options: FitOptions) -> Optimiser:
    try:
        from torch.optim import Muon
    except ImportError as error:
        raise EquipotError(
            f"optimiser muon needs torch >= 2.9, but this is torch {torch.__version__}; "
            "update torch or set optimiser: adamw"
        ) from error
    return Muon(groups, lr=options.lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")


def check_optimiser(options: FitOptions) -> None:
    """Finds out whether the optimiser is installed, before any work is done.

    Raises:
        EquipotError: It is not; says how to install it.
    """
    parameter = torch.nn.Parameter(torch.zeros(1, 1))
    if options.optimiser == "schedulefree":
        _schedule_free([{"params": [parameter]}], options)
    if options.optimiser == "muon":
        _muon([{"params": [parameter]}], options)


def _schedule_free(groups: list[dict[str, Any]], options: FitOptions) -> Optimiser:
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError as error:
        raise EquipotError(
            "optimiser schedulefree is not installed; run `pip install equipot[schedulefree]` or set optimiser: adamw"
        ) from error
    optimiser = AdamWScheduleFree(groups, lr=options.lr, betas=options.betas)
    optimiser.train()
    return optimiser


@runtime_checkable
class Average(Protocol):
    """The weights that are validated and saved, made from those that are trained."""

    def update(self) -> None:
        """Takes in the weights after a step."""

    def applied(self) -> AbstractContextManager[None]:
        """Returns a context in which the model has the averaged weights; afterwards its own again."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""


class NoAverage:
    """The trained weights themselves."""

    def update(self) -> None:
        """Does nothing."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Changes nothing."""
        yield

    def state_dict(self) -> dict[str, Any]:
        """Returns the empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Does nothing."""


class ExponentialAverage:
    r"""Exponential moving average of the weights.

        θ̄_t = d_t θ̄_{t−1} + (1 − d_t) θ_t,   d_t = min(decay, (1 + t)/(10 + t)),   θ̄_0 = θ_0

    The rising d_t lets the first, bad weights be forgotten soon.

    Source: as `num_updates` in torch_ema, with which the published NequIP models were trained.
    """

    def __init__(self, parameters: Sequence[Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.updates = 0
        self.averages = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights after a step."""
        self.updates += 1
        d = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - d)

    def applied(self) -> AbstractContextManager[None]:
        """Returns a context in which the model has the averaged weights."""
        return weights_replaced(self.parameters, self.averages)

    def state_dict(self) -> dict[str, Any]:
        """Returns the averages and their number of updates."""
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.updates = state["updates"]
        with torch.no_grad():
            for average, saved in zip(self.averages, state["averages"], strict=True):
                average.copy_(saved)


class ScheduleFreeAverage(NoAverage):
    """The average that schedule-free AdamW keeps itself, as part of the optimiser's state."""

    def __init__(self, optimiser: Any, parameters: Sequence[Parameter]) -> None:
        self.optimiser = optimiser
        self.parameters = list(parameters)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the model the averaged weights, and its own back afterwards to the last bit."""
        own = [p.detach().clone() for p in self.parameters]
        self.optimiser.eval()
        try:
            yield
        finally:
            self.optimiser.train()
            overwrite(self.parameters, own)


def build_average(model: Module, optimiser: Optimiser, options: FitOptions) -> Average:
    """Returns the average of the weights that goes with the optimiser."""
    parameters = list(trainable(model).values())
    if options.optimiser == "schedulefree":
        return ScheduleFreeAverage(optimiser, parameters)
    if options.ema_decay is None:
        return NoAverage()
    return ExponentialAverage(parameters, options.ema_decay)


@contextmanager
def weights_replaced(parameters: Iterable[Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Gives parameters other values for a while; afterwards they have the same bits as before."""
    parameters = list(parameters)
    own = [p.detach().clone() for p in parameters]
    overwrite(parameters, values)
    try:
        yield
    finally:
        overwrite(parameters, own)


@torch.no_grad()
def overwrite(parameters: Iterable[Parameter], values: Sequence[Tensor]) -> None:
    """Gives parameters other values, in place."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
