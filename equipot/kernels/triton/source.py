"""Pieces of generated Triton source that all operations share, and how a source text becomes kernels.

Triton reads its kernels' source from a file, so each text lies in the user's cache folder under its hash; it is plain
Python, readable, one function per group of paths.
"""

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from equipot.kernels.cpu.compiler import cache_folder

HEAD = "import triton\nimport triton.language as tl\n"
LANES = 32
"""Threads of a warp."""


class Tile(NamedTuple):
    """How channels are shared out.

    Attributes:
        block: Channels of one program.
        blocks: Programs that cover all channels.
    """

    block: int
    blocks: int


def tile(mul: int, dtype: torch.dtype) -> Tile:
    """Returns the channels of a program of one warp: two float32 or one float64 per thread, fewer where many idle.

    A rule and not a measurement on the spot, so that sums over channels are the same in every run.
    """
    wide = LANES * 8 // dtype.itemsize
    blocks = {block: -(-mul // block) for block in (wide, LANES)}
    waste = {block: block * count - mul for block, count in blocks.items()}
    block = wide if mul > LANES and waste[wide] <= waste[LANES] + mul // 8 else LANES
    while block > 4 and block // 2 >= mul:
        block //= 2
    return Tile(block, -(-mul // block))


class Code:
    """Lines of Python with indentation."""

    def __init__(self, head: str = HEAD) -> None:
        self.lines = [head] if head else []
        self.depth = 0

    def __call__(self, line: str) -> None:
        """Adds a line."""
        self.lines.append("    " * self.depth + line)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """What is written inside is indented under this line."""
        self(head)
        self.depth += 1
        yield
        self.depth -= 1

    @contextmanager
    def function(self, name: str, arguments: Iterable[str], number: str = "") -> Iterator[None]:
        """A function for the GPU; `number` names an argument that changes from call to call."""
        self.lines.append("\n")
        self(f"@triton.jit(do_not_specialize=[{number!r}])" if number else "@triton.jit")
        with self.block(f"def {name}({', '.join(arguments)}):"):
            yield

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def scalar(dtype: torch.dtype) -> str:
    """The Triton type of one value."""
    return {torch.float32: "tl.float32", torch.float64: "tl.float64"}[dtype]


def combination(terms: Iterable[tuple[float, str]]) -> str:
    """A sum of coefficients times names."""
    return " + ".join(name if C == 1.0 else f"{C!r} * {name}" for C, name in terms).replace("+ -", "- ")


def channels(code: Code, tile: Tile, mul: int) -> str:
    """Writes k, the channels of this program's block, and returns the mask's arguments for loads."""
    code(f"k = block * {tile.block} + tl.arange(0, {tile.block})")
    if tile.block * tile.blocks == mul:
        return ""
    code(f"inside = k < {mul}")
    return ", mask=inside"


@dataclass(frozen=True)
class Kernel:
    """A generated kernel.

    Attributes:
        source: Text of its module.
        name: Its name there.
        arguments: What it is called with, by name.
        units: Second size of its grid; the first is the number of nodes, or of other rows.
    """

    source: str
    name: str
    arguments: tuple[str, ...]
    units: int


MOST_LINES = 700
"""Lines of one kernel: Triton's compiler takes time with the square of them."""


class Function(NamedTuple):
    """A function for some of the work.

    Attributes:
        name: Its name.
        source: Its text.
        blocks: Number of channel blocks; it is called with `block`.
    """

    name: str
    source: Code
    blocks: int


def assemble(
    name: str, functions: Sequence[Function], arguments: Sequence[str], row: str, inner: Sequence[str]
) -> tuple[Kernel, ...]:
    """Returns kernels whose programs each call one function; as many kernels as keep each of them short.

    Args:
        name: Of each kernel.
        functions: All that is to be called; their units are numbered through.
        arguments: Of the kernels.
        row: What the first index of the grid is called.
        inner: Arguments of the functions, `block` aside: the kernels', `row`, and `part`, the number of the unit.
    """
    groups: list[list[Function]] = [[]]
    for function in functions:
        if groups[-1] and sum(len(f.source.lines) for f in (*groups[-1], function)) > MOST_LINES:
            groups.append([])
        groups[-1].append(function)
    kernels, part = [], 0
    for group in groups:
        code = Code()
        for function in group:
            code.lines += function.source.lines
        with code.function(name, arguments):
            code(f"{row} = tl.program_id(0).to(tl.int64)")
            code("unit = tl.program_id(1)")
            code(f"part = unit + {part}")
            _switch(code, group, inner)
        units = sum(function.blocks for function in group)
        kernels.append(Kernel(str(code), name, tuple(arguments), units))
        part += units
    return tuple(kernels)


def _switch(code: Code, functions: Sequence[Function], inner: Sequence[str]) -> None:
    """Writes which function works on which unit."""
    first = 0
    for n, function in enumerate(functions):
        call = f"{function.name}({', '.join(inner)}, unit - {first})"
        first += function.blocks
        if len(functions) == 1:
            code(call)
            continue
        with code.block("else:" if n == len(functions) - 1 else f"{'elif' if n else 'if'} unit < {first}:"):
            code(call)


def launch(kernel: Kernel, rows: int, values: Mapping[str, Tensor | int]) -> None:
    """Runs one program of one warp per row and unit.

    Args:
        kernel: What to run.
        rows: First size of the grid; for 0 nothing is done.
        values: By name: tensors, all on one device, and numbers. A tensor that is missing is not read by this kernel.
    """
    if rows == 0:
        return
    function = getattr(load(kernel.source), kernel.name)
    spare = next(x for x in values.values() if isinstance(x, Tensor))
    given = (values.get(name, spare) for name in kernel.arguments)
    arguments = [x.contiguous() if isinstance(x, Tensor) else x for x in given]
    with torch.cuda.device_of(spare):
        function[rows, kernel.units](*arguments, num_warps=1)


def launch_all(kernels: Iterable[Kernel], rows: int, values: Mapping[str, Tensor | int]) -> None:
    """Runs kernels that share the work, one after the other; see `launch`."""
    for kernel in kernels:
        launch(kernel, rows, values)


@lru_cache(maxsize=4096)
def load(source: str) -> ModuleType:
    """Returns the module of a source text."""
    name = "equipot_triton_" + hashlib.sha256(source.encode()).hexdigest()[:32]
    path = cache_folder() / f"{name}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != source:
        _write(path, source)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Triton asks for the module of a function by its name
    spec.loader.exec_module(module)
    return module


def _write(path: Path, source: str) -> None:
    """Writes beside the final place and renames, so that no process ever reads half a file."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".py")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(source)
    Path(name).replace(path)
