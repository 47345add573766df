"""What a converter reads, each thing once: what nobody read is an error, so nothing is silently dropped."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from equipot.errors import EquipotError

_REQUIRED = object()


class Options:
    """The hyper-parameters of a published model, by the names of its own constructor.

    Args:
        values: Names and plain values.
        name: Name of the source, for messages.
        assumed: Takes the hyper-parameters that are not among the values and got their default.
    """

    def __init__(self, values: Mapping[str, Any], name: str, assumed: dict[str, Any] | None = None) -> None:
        self._values, self._name, self._read = dict(values), name, set[str]()
        self._assumed = {} if assumed is None else assumed

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """Returns a hyper-parameter.

        Raises:
            EquipotError: It is missing and has no default.
        """
        self._read.add(key)
        value = self._values.get(key, default)
        if value is _REQUIRED:
            raise EquipotError(
                f"{self._name}: the hyper-parameter {key!r} is missing. Add it to the JSON file beside the weights "
                f"(it holds {', '.join(sorted(self._values)) or 'nothing'})."
            )
        if key not in self._values and value not in (None, False):
            self._assumed[key] = value
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """Returns a hyper-parameter that is a number.

        Raises:
            EquipotError: It is missing or no number.
        """
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise EquipotError(f"{self._name}: {key} = {value!r} must be a number.")
        if not math.isfinite(value):
            raise EquipotError(f"{self._name}: {key} = {value!r} must be a finite number.")
        return value

    def whole(self, key: str, default: Any = _REQUIRED) -> int:
        """Returns a hyper-parameter that is a whole number.

        Raises:
            EquipotError: It is missing or no whole number.
        """
        value = self.number(key, default)
        if value != int(value):
            raise EquipotError(f"{self._name}: {key} = {value!r} must be a whole number.")
        return int(value)

    def choice(
        self, key: str, known: Mapping[Any, Any] | Sequence[Any], default: Any = _REQUIRED, why: str = ""
    ) -> Any:
        """Returns a hyper-parameter that has one of some values, or what stands for its value.

        Args:
            key: Its name.
            known: The values that equipot has, or a mapping from them to what they mean here.
            default: Value where the source does not say.
            why: Why others are refused, or what to do then.

        Raises:
            EquipotError: Any other value: it is refused by name, never approximated.
        """
        value = self.get(key, default)
        hashable = tuple(value) if isinstance(value, list) else value
        if hashable not in known:
            allowed = ", ".join(repr(each) for each in known)
            raise EquipotError(
                f"{self._name}: {key} = {value!r} is not a value that equipot has ({allowed}). "
                + (why or "Such a model cannot be converted; nothing is approximated.")
            )
        return known[hashable] if isinstance(known, Mapping) else value

    def ignore(self, *keys: str) -> None:
        """Marks hyper-parameters that do not change the function."""
        self._read.update(keys)

    def finish(self) -> None:
        """Ends the reading.

        Raises:
            EquipotError: Some hyper-parameters were not read: they may change the function.
        """
        unread = sorted(set(self._values) - self._read)
        if unread:
            listed = ", ".join(f"{key} = {self._values[key]!r}" for key in unread[:6])
            raise EquipotError(
                f"{self._name}: equipot does not know the hyper-parameter{'s' if len(unread) > 1 else ''} {listed}. "
                "Such a model is not converted, because its function may differ; remove what does not matter from "
                "the JSON file."
            )


class Tensors:
    """The weights of a published model by name.

    Args:
        values: Names and tensors; empty ones (absent biases) are left out.
        name: Name of the source, for messages.
    """

    def __init__(self, values: Mapping[str, Tensor], name: str) -> None:
        self._values = {key: value for key, value in values.items() if value.numel() > 0}
        self._name, self._read = name, set[str]()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def names(self, prefix: str = "") -> list[str]:
        """Returns the names that begin with a prefix, in the order of the file."""
        return [name for name in self._values if name.startswith(prefix)]

    def names_with(self, part: str) -> list[str]:
        """Returns the names that contain a text."""
        return [name for name in self._values if part in name]

    def take(self, key: str, shape: Sequence[int] | None = None) -> Tensor:
        """Returns a tensor, on the CPU and detached; with a shape it must have that many numbers.

        Raises:
            EquipotError: It is missing or of another size, or not finite.
        """
        if key not in self._values:
            near = [name for name in self._values if name.rsplit(".", 1)[0] == key.rsplit(".", 1)[0]][:5]
            raise EquipotError(
                f"{self._name}: the weights have no {key!r}{'; there are ' + ', '.join(near) if near else ''}. The "
                "file does not belong to these hyper-parameters, or is of another version."
            )
        self._read.add(key)
        tensor = self._values[key].detach().cpu()
        if shape is not None and tensor.numel() != int(torch.tensor(list(shape)).prod()):
            raise EquipotError(
                f"{self._name}: {key} has shape {tuple(tensor.shape)}, but the hyper-parameters ask for "
                f"{tuple(shape)}: they do not belong together."
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise EquipotError(f"{self._name}: {key} has non-finite numbers; take a checkpoint from before that.")
        return tensor if shape is None else tensor.reshape(tuple(shape))

    def ignore(self, prefixes: Iterable[str] = (), suffixes: Iterable[str] = ()) -> None:
        """Marks tensors that are constants of the architecture, which equipot computes itself."""
        starts, ends = tuple(prefixes), tuple(suffixes)
        self._read.update(name for name in self._values if name.startswith(starts) or name.endswith(ends))

    def finish(self) -> None:
        """Ends the reading.

        Raises:
            EquipotError: Some tensors were not used.
        """
        unread = [name for name in self._values if name not in self._read]
        if unread:
            listed = ", ".join(f"{name} {tuple(self._values[name].shape)}" for name in unread[:5])
            more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
            raise EquipotError(
                f"{self._name}: the conversion would leave out {listed}{more}. The model has parts that its "
                "hyper-parameters do not name, so it is not converted."
            )
