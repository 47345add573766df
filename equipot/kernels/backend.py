"""The choice of a backend for a run: the same sums, evaluated faster."""

import difflib
from typing import NamedTuple

import torch
from torch import nn

from equipot.errors import EquipotError
from equipot.kernels.cpu import ahead, compiler
from equipot.kernels.cuequivariance import available as cuequivariance
from equipot.kernels.cuequivariance.evaluate import module, obstacle
from equipot.kernels.operations import Operation
from equipot.kernels.triton import registry
from equipot.kernels.triton.available import availability

BACKENDS = ("auto", "reference", "cpu", "triton", "cuequivariance")


class Choice(NamedTuple):
    """A backend and why it was taken, in a few words."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"backend {self.name}: {self.reason}"


def check_name(name: str) -> str:
    """Returns the name of a backend as it is.

    Raises:
        EquipotError: There is none of that name; says which is nearest.
    """
    if name not in BACKENDS:
        near = difflib.get_close_matches(str(name), BACKENDS, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise EquipotError(f"backend {name!r} is not known.{hint} Choose one of {', '.join(BACKENDS)}.")
    return name


def choose(name: str, device: torch.device | str = "cpu") -> Choice:
    """Returns the backend that a name means on a device.

    Args:
        name: One of `BACKENDS`; "auto" takes the fastest that works.
        device: Where the tensors are.

    Raises:
        EquipotError: The name is unknown, or the backend does not work here.
    """
    check_name(name)
    place = torch.device(device)
    if name == "reference":
        return Choice(name, "plain torch")
    if name == "auto":
        name = FASTEST.get(place.type, "")
        problem, works = (
            CANDIDATES[name](place) if name else (f"there are no fused operations for {place.type} here", "")
        )
        return Choice("reference", f"plain torch, because {problem}") if problem else Choice(name, works)
    problem, works = CANDIDATES[name](place)
    if problem is not None:
        raise EquipotError(f"backend {name!r} cannot be used: {problem}. 'auto' takes what works here.")
    return Choice(name, works)


def _cpu(place: torch.device) -> tuple[str | None, str]:
    """What is missing, or what will be used."""
    if place.type != "cpu":
        return f"the tensors are on {place.type}, not on the CPU", ""
    here = compiler.target()
    if here is None:
        return "no C++ compiler was found (install g++ or clang++, or name one in EQUIPOT_CXX)", ""
    try:
        compiler.probe()
    except (compiler.CompilationError, OSError) as error:
        return f"the C++ compiler does not work ({str(error).splitlines()[0]})", ""
    return None, f"generated C++ for {here.vectors} by {here.version}"


CANDIDATES = {"cpu": _cpu, "triton": availability, "cuequivariance": cuequivariance.availability}
FASTEST = {"cpu": "cpu", "cuda": "triton"}
"""What "auto" takes on each kind of device."""


def use_backend(module: nn.Module, name: str = "auto", *, training: bool = True) -> Choice:
    """Makes every operation of a module run on a backend, and compiles what it needs.

    Args:
        module: A potential, or any module with operations.
        name: One of `BACKENDS`.
        training: Whether second derivatives will be wanted, so that they are compiled now too.

    Returns:
        The backend taken and why.

    Raises:
        EquipotError: The name is unknown, or the backend does not work here.
    """
    operations = [m for m in module.modules() if isinstance(m, Operation)]
    place = next((t.device for t in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
    choice = choose(name, place)
    if choice.name == "cpu":
        try:
            ahead.compile_operations(operations, training=training)
        except compiler.CompilationError as error:
            if name != "auto":
                raise EquipotError(f"backend 'cpu' cannot be used: {error}") from error
            choice = Choice("reference", f"plain torch, because {str(error).splitlines()[0]}")
    if choice.name == "cuequivariance":
        choice = _prepare_cuequivariance(choice, operations, place)
    if place.type == "cpu":
        registry.take_over_cpu() if choice.name == "triton" else registry.give_back_cpu()
    for operation in operations:
        operation.backend, operation.reason = choice
    return choice


def _prepare_cuequivariance(choice: Choice, operations: list[Operation], place: torch.device) -> Choice:
    """Makes its polynomials; the reason says which products it does not take."""
    left = []
    for kind, key in dict.fromkeys((o.kind, o.key) for o in operations if o.kind in ("convolution", "product")):
        problem = obstacle(kind, key)
        if problem is not None:
            left.append(f"one product {problem}")
            continue
        try:
            module(kind, key, place)
        except ImportError as error:
            raise EquipotError(
                f"backend 'cuequivariance' cannot be used: cuequivariance-torch does not work ({error}); "
                f"install it anew ({cuequivariance.INSTALL}). 'auto' takes what works here."
            ) from error
    return choice._replace(reason="; ".join([choice.reason, *left]))


def choice_of(module: nn.Module) -> Choice:
    """Returns the backend of a module's operations; the reference where it has none."""
    return next((Choice(m.backend, m.reason) for m in module.modules() if isinstance(m, Operation)), _REFERENCE)


def backend_of(module: nn.Module) -> str:
    """Returns the name of `choice_of`."""
    return choice_of(module).name


_REFERENCE = Choice(Operation.backend, Operation.reason)
