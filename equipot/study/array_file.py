"""What is known about a set of structures, as arrays in a file."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, TypeVar
from zipfile import BadZipFile

import numpy as np

from equipot.errors import EquipotError

SomeArrays = TypeVar("SomeArrays", bound="Arrays")


@dataclass(frozen=True)
class Arrays:
    """Arrays, one field each, that an .npz file can keep.

    Attributes:
        content: What they are, in words.
        single: Names of those that a file has in single precision.
    """

    content: ClassVar[str]
    single: ClassVar[Sequence[str]]

    def save(self, path: Path) -> None:
        """Writes the arrays to an .npz file, some in single precision."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        np.savez_compressed(path, **arrays | {name: arrays[name].astype(np.float32) for name in self.single})

    @classmethod
    def load(cls: type[SomeArrays], path: Path) -> SomeArrays:
        """Reads the arrays of an .npz file that `save` wrote.

        Raises:
            EquipotError: There is no such file, or it holds something else.
        """
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return cls(**{f.name: np.asarray(file[f.name], dtype=np.float64) for f in fields(cls)})
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise EquipotError(
                f"{path} does not hold {cls.content} of equipot ({error}); restore it, or repeat the run that wrote it."
            ) from error
