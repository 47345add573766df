"""The weights of a new potential, put in one by one; a weight that nobody put in is an error."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from equipot.convert.layout import UvuPath, by_output
from equipot.convert.phases import sign
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.interactions import Interaction
from equipot.models import Potential
from equipot.o3 import Irrep
from equipot.statistics import Statistics


class Target:
    """A potential whose weights are replaced by published ones.

    Args:
        design: The point of the design space.
        statistics: Elements and measured constants.
        dtype: Precision of the published weights.
        name: Name of the source, for messages.
    """

    def __init__(self, design: Design, statistics: Statistics, dtype: torch.dtype, name: str) -> None:
        self.potential = Potential(design, statistics, dtype=dtype)
        self._state = self.potential.state_dict()
        self._open, self._name = set(self._state), name

    @property
    def layers(self) -> list[Interaction]:
        """The layers of the potential."""
        return [layer for layer in self.potential.layers if isinstance(layer, Interaction)]

    def has(self, key: str) -> bool:
        """Whether the potential has such a parameter."""
        return key in self._state

    def put(self, key: str, values: Tensor) -> None:
        """Replaces one parameter or constant.

        Raises:
            EquipotError: There is none of this name, it was put in before, or the shape is another.
        """
        if key not in self._open:
            raise EquipotError(f"{self._name}: there is no place for {key} (or it was filled twice).")
        place = self._state[key]
        if tuple(place.shape) != tuple(values.shape):
            raise EquipotError(f"{self._name}: {key} has shape {tuple(values.shape)} instead of {tuple(place.shape)}.")
        place.copy_(values)
        self._open.remove(key)

    def put_blocks(self, prefix: str, blocks: Mapping[Irrep, Tensor]) -> None:
        """Replaces the matrices of a linear map, one for each irrep.

        Blocks of irreps that the potential's map lacks act on features that are always zero, or make features that
        nothing reads; they are left out.
        """
        for ir, block in blocks.items():
            if self.has(f"{prefix}.{ir}"):
                self.put(f"{prefix}.{ir}", block)

    def put_radial(self, index: int, hidden: Sequence[Tensor], last: Tensor, columns: Tensor, signs: Tensor) -> None:
        """Replaces a layer's radial network; `last` has the published columns, `columns` our order of them."""
        for n, W in enumerate(hidden):
            self.put(f"layers.{index}.radial.weights.{n}", W)
        self.put(f"layers.{index}.radial.weights.{len(hidden)}", last[:, columns] * signs.to(last.dtype))

    def put_mix(self, index: int, paths: Sequence[UvuPath], blocks: Mapping[Irrep, Tensor]) -> None:
        """Replaces W, the map after the pooling, whose rows stand in the order of the published pooled paths."""
        rows = self.mix_rows(index, paths)
        for ir, block in blocks.items():
            key = f"layers.{index}.mix.weights.{ir}"
            if self.has(key):
                # rows of features that are always zero are absent here, and do not count in 1/√(rows)
                self.put(key, block[rows[ir]] * math.sqrt(len(rows[ir]) / block.shape[0]))

    def columns(self, index: int, paths: Sequence[UvuPath], convention: str = "0.6") -> tuple[Tensor, Tensor]:
        """Returns for each of a layer's radial weights its published column, and its sign.

        Args:
            index: The layer.
            paths: The published paths in the order of their weights.
            convention: Convention of the published Wigner 3j symbols; see `equipot.convert.phases`.

        Raises:
            EquipotError: The published model lacks a path.
        """
        starts = _starts(paths)
        columns, signs = [], []
        for path in self.layers[index].plan.convolution.paths:
            start = starts.get((path.ir_in, path.ell, path.ir_out))
            if start is None:
                raise EquipotError(f"{self._name}: layer {index} has no path {path.ir_in} × ℓ = {path.ell}.")
            columns.append(torch.arange(path.mul) + start)
            signs.append(torch.full((path.mul,), sign(path.ir_in.l, path.ell, path.ir_out.l, convention)))
        return torch.cat(columns), torch.cat(signs)

    def mix_rows(self, index: int, paths: Sequence[UvuPath]) -> dict[Irrep, Tensor]:
        """Returns for each irrep the published row of each of our pooled channels."""
        rows: dict[Irrep, list[Tensor]] = {}
        starts: dict[Irrep, dict[tuple[Irrep, int, Irrep], int]] = {}
        for ir in {path.ir_out for path in paths}:
            starts[ir] = _starts([path for path in by_output(list(paths)) if path.ir_out == ir])
        for path in self.layers[index].plan.convolution.paths:
            start = starts[path.ir_out][path.ir_in, path.ell, path.ir_out]
            rows.setdefault(path.ir_out, []).append(torch.arange(path.mul) + start)
        return {ir: torch.cat(found) for ir, found in rows.items()}

    def put_energy(self, E0: Tensor, scale: Tensor | float = 1.0, shift: Tensor | float = 0.0) -> None:
        """Replaces E0, scale and shift; one number each or one for each element."""
        for key, value in (("E0", E0), ("scale", scale), ("shift", shift)):
            values = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
            self.put(key, values.expand_as(self._state[key]))

    def finish(self) -> Potential:
        """Returns the potential.

        Raises:
            EquipotError: Some of its weights were not replaced.
        """
        if self._open:
            missing = ", ".join(sorted(self._open)[:5])
            raise EquipotError(f"{self._name}: the published model has no weights for {missing}; it is not converted.")
        return self.potential


def _starts(paths: Sequence[UvuPath]) -> dict[tuple[Irrep, int, Irrep], int]:
    starts, start = {}, 0
    for path in paths:
        starts[path.ir_in, path.ell, path.ir_out] = start
        start += path.mul
    return starts
