"""Compiles generated C++ with the system's compiler, once per content, and loads it.

A compiled library lies in the user's cache folder under the hash of its source, the compiler's version, its options
and what it says about this processor, so a change of any of them compiles anew and nothing stale is ever loaded.
"""

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

HEADERS = [Path(__file__).with_name(name) for name in ("threads.h", "vectors.h")]
"""What every source begins with."""
THREADS = Path(__file__).with_name("threads.cpp")
COMPILERS = ("c++", "g++", "clang++")
OPTIONS = (
    "-std=c++17", "-O2", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-w",
)  # fmt: skip
TIME_LIMIT = 600.0
"""Seconds that one compilation may take."""


@dataclass(frozen=True)
class Target:
    """The compiler and the processor that code is generated for.

    Attributes:
        compiler: Path of the compiler.
        version: First line of what it says about itself.
        options: Its options.
        vector_bytes: Width of the processor's vectors: 64 (AVX-512), 32 (AVX, AVX2) or 16 (SSE, NEON).
        registers: Number of vector registers.
        fingerprint: Hash of all macros that the compiler defines for this processor.
    """

    compiler: str
    version: str
    options: tuple[str, ...]
    vector_bytes: int
    registers: int
    fingerprint: str

    def lanes(self, dtype: torch.dtype) -> int:
        """Number of values in one vector."""
        return self.vector_bytes // dtype.itemsize

    @property
    def vectors(self) -> str:
        """The instruction set by its usual name."""
        arm = {16: "NEON", 32: "SVE", 64: "SVE"} if self.registers == 32 and self.vector_bytes == 16 else None
        return (arm or {16: "SSE", 32: "AVX2", 64: "AVX-512"})[self.vector_bytes]


class CompilationError(RuntimeError):
    """The system's compiler refused generated code; the message holds what it said."""


@lru_cache(maxsize=1)
def target() -> Target | None:
    """Returns the compiler to use and what it knows of this processor; None where there is none.

    `EQUIPOT_CXX` or `CXX` name a compiler; without them, or with a warning where they do not work, c++, g++ and clang++
    are tried. `EQUIPOT_CXX_OPTIONS` is added to the options.
    """
    variables = {os.environ.get(variable, ""): variable for variable in ("CXX", "EQUIPOT_CXX")}
    named = {name: variable for name, variable in variables.items() if name}
    for name in [*reversed(named), *COMPILERS]:
        path = shutil.which(name)
        found = path and _describe(path)
        if found:
            return found
        if name in named:
            logger.warning("%s=%s is no C++ compiler that works here; another one is looked for", named[name], name)
    return None


def _describe(compiler: str) -> Target | None:
    native = "-mcpu=native" if sys.platform == "darwin" else "-march=native"
    macros = _run([compiler, native, "-dM", "-E", "-x", "c++", os.devnull])
    version = _run([compiler, "--version"])
    if macros is None or version is None:
        return None
    names = {line.split()[1] for line in macros.splitlines() if len(line.split()) > 1}
    vector_bytes = 64 if "__AVX512F__" in names else 32 if "__AVX__" in names else 16
    registers = 32 if "__AVX512F__" in names or "__aarch64__" in names else 16
    options = (*OPTIONS, native, *shlex.split(os.environ.get("EQUIPOT_CXX_OPTIONS", "")))
    fingerprint = hashlib.sha256(macros.encode()).hexdigest()[:16]
    return Target(compiler, version.splitlines()[0], options, vector_bytes, registers, fingerprint)


def _run(command: Sequence[str], text: str | None = None) -> str | None:
    """What a command prints; None where it fails."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def load(source: str) -> ctypes.CDLL:
    """Returns the library of a source text, compiled if no one has compiled it before.

    Raises:
        CompilationError: There is no compiler, or it refused the source.
    """
    known = _libraries.get(source)
    if known is None:
        known = ctypes.CDLL(str(_library_path(source)))
        threads = _threads()
        if threads is not None:
            pointer = ctypes.c_void_p.in_dll(known, "run_on_threads")
            pointer.value = ctypes.cast(threads.run, ctypes.c_void_p).value
        _libraries[source] = known
    return known


@lru_cache(maxsize=1)
def _threads() -> ctypes.CDLL | None:
    """The one library whose threads all others work on; None, with a warning, where it does not work."""
    try:
        return ctypes.CDLL(str(_library_path(THREADS.read_text(encoding="utf-8"))))
    except (CompilationError, OSError) as error:
        logger.warning("compiled operations use one thread, because their threads do not work here: %s", error)
        return None


def compile_all(sources: Sequence[str]) -> int:
    """Compiles several sources side by side; returns how many were not in the cache.

    Raises:
        CompilationError: There is no compiler, or it refused a source.
    """
    todo = missing(sources)
    if todo:
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            list(pool.map(_library_path, todo))
    return len(todo)


def missing(sources: Sequence[str]) -> list[str]:
    """Returns those sources, each once, that are not in the cache.

    Raises:
        CompilationError: There is no compiler.
    """
    return [source for source in dict.fromkeys(sources) if not _cached(source).exists()]


_libraries: dict[str, ctypes.CDLL] = {}


@lru_cache(maxsize=1)
def probe() -> None:
    """Compiles and loads a line, to learn whether compiler and cache folder work at all.

    Raises:
        CompilationError: The compiler refused it.
        OSError: The library cannot be loaded.
    """
    load('extern "C" int probe() { return 1; }')


def _library_path(source: str) -> Path:
    path = _cached(source)
    if not path.exists():
        _build(source, path)
    return path


def _cached(source: str) -> Path:
    here = target_or_error()
    content = "\n".join([_complete(source), here.compiler, here.version, here.fingerprint, *here.options])
    return cache_folder() / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.so"


def _complete(source: str) -> str:
    return "".join(header.read_text(encoding="utf-8") for header in HEADERS) + source


def target_or_error() -> Target:
    """Returns the compiler to use.

    Raises:
        CompilationError: There is none.
    """
    here = target()
    if here is None:
        raise CompilationError("no C++ compiler was found (tried EQUIPOT_CXX, CXX, c++, g++, clang++)")
    return here


def _build(source: str, path: Path) -> None:
    """Compiles beside the final place and renames, so that no process ever sees half a library."""
    here = target_or_error()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, path.name)
        command = [here.compiler, *here.options, "-shared", "-x", "c++", "-", "-o", str(made)]
        try:
            done = subprocess.run(
                command, input=_complete(source), capture_output=True, text=True, timeout=TIME_LIMIT, check=False
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompilationError(f"{here.compiler} could not be run: {error}") from error
        if done.returncode != 0:
            raise CompilationError(f"{here.compiler} refused generated code:\n{done.stderr[:2000]}")
        made.chmod(stat.S_IRUSR | stat.S_IXUSR)
        made.replace(path)


@lru_cache(maxsize=1)
def cache_folder() -> Path:
    """Returns the folder of compiled libraries, which only this user can write.

    `EQUIPOT_CACHE` names it; otherwise it is in the user's cache folder. Where that cannot be made or others may
    write there, a folder for this process alone takes its place, and a line in the log says so.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equipot"
    folder = Path(os.environ.get("EQUIPOT_CACHE") or default) / "kernels"
    problem = _unsafe(folder)
    if problem is None:
        return folder
    private = tempfile.TemporaryDirectory(prefix="equipot-kernels-")
    _private.append(private)
    logger.warning("compiled kernels are kept for this process only: %s", problem)
    return Path(private.name)


_private: list[tempfile.TemporaryDirectory] = []


def _unsafe(folder: Path) -> str | None:
    """Why a folder cannot hold code to be loaded, or None."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return f"{folder} cannot be used ({error})"
    if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to {folder} (chmod 700 mends that)"
    return None
