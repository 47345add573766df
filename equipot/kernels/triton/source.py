"""Pieces of generated Triton source that all operations share, and how a source text becomes kernels.

Triton reads its kernels' source from a file, so each text lies in the user's cache folder under its hash; it is plain
Python, readable, one function per group of paths.
"""

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
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
        self.lines = [head]
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
    def function(self, name: str, arguments: Iterable[str]) -> Iterator[None]:
        """A function for the GPU."""
        self.lines.append("\n")
        self("@triton.jit")
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


def switch(code: Code, calls: Sequence[tuple[str, int]], arguments: Sequence[str]) -> None:
    """Writes which function works on which unit.

    Args:
        code: Where to write.
        calls: Functions, and the number of channel blocks of each; units are numbered through.
        arguments: Arguments of all; `block` is added.
    """
    first = 0
    for n, (name, blocks) in enumerate(calls):
        call = f"{name}({', '.join([*arguments, f'unit - {first}' if first else 'unit'])})"
        if len(calls) == 1:
            code(call)
            return
        first += blocks
        head = f"{'elif' if n else 'if'} unit < {first}:" if n < len(calls) - 1 else "else:"
        with code.block(head):
            code(call)


@dataclass(frozen=True)
class Kernel:
    """A generated kernel.

    Attributes:
        source: Text of its module.
        name: Its name there.
        arguments: What it is called with, by name.
        units: Second size of its grid; the first is the number of nodes.
    """

    source: str
    name: str
    arguments: tuple[str, ...]
    units: int


def launch(kernel: Kernel, nodes: int, tensors: dict[str, Tensor]) -> None:
    """Runs one program of one warp per node and unit.

    Args:
        kernel: What to run.
        nodes: Number of nodes; for none nothing is done.
        tensors: By name, all on one device and contiguous; a name that is missing is not read by this kernel.
    """
    if nodes == 0:
        return
    function = getattr(load(kernel.source), kernel.name)
    spare = tensors[next(name for name in kernel.arguments if name in tensors)]
    arguments = [tensors.get(name, spare).contiguous() for name in kernel.arguments]
    with torch.cuda.device_of(spare):
        function[nodes, kernel.units](*arguments, num_warps=1)


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
