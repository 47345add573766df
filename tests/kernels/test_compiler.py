"""Compilation of generated code: the cache, its safety, and machines without a compiler."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from equipot.errors import EquipotError
from equipot.kernels import backend
from equipot.kernels.cpu import compiler
from equipot.kernels.operations import ConvolutionOperation
from equipot.kernels.polynomial import convolution
from equipot.o3 import Irreps
from tests.kernels.fused import needs_compiler


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and nothing remembered."""
    monkeypatch.setenv("EQUIPOT_CACHE", str(tmp_path))
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()


def forget() -> None:
    for function in (compiler.target, compiler.cache_folder, compiler.probe):
        function.cache_clear()
    compiler._libraries.clear()


def source(value: int) -> str:
    return f'extern "C" int value() {{ return {value}; }}'


@needs_compiler
def test_library_is_compiled_once_and_only_its_owner_can_change_it(fresh: Path) -> None:
    assert compiler.compile_all([source(3), source(4), source(3)]) == 2
    assert compiler.compile_all([source(3)]) == 0
    assert compiler.load(source(3)).value() == 3 and compiler.load(source(4)).value() == 4
    files = list((fresh / "kernels").iterdir())
    assert len(files) in (2, 3) and all(file.suffix == ".so" for file in files)  # the third holds the threads
    assert not any(file.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_IWUSR) for file in files)


@needs_compiler
@pytest.mark.skipif(os.name != "posix", reason="modes of folders")
def test_folder_that_others_may_write_is_not_used(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_folder = fresh / "kernels"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    assert compiler.load(source(5)).value() == 5
    assert not list(open_folder.iterdir()) and "others may write" in caplog.text


@needs_compiler
def test_code_that_is_refused_says_why(fresh: Path) -> None:
    with pytest.raises(compiler.CompilationError, match="refused"):
        compiler.load("this is not C++")
    assert not list((fresh / "kernels").iterdir())


@needs_compiler
def test_several_processes_may_compile_the_same(fresh: Path) -> None:
    program = f"from equipot.kernels.cpu import compiler; print(compiler.load({source(6)!r}).value())"
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in running] == ["6", "6"]


@needs_compiler
def test_a_compiler_that_is_named_and_does_not_work_is_not_passed_over_in_silence(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    monkeypatch.delenv("EQUIPOT_CXX", raising=False)
    assert compiler.target() is not None
    assert "CXX=/nonexistent is no C++ compiler that works here" in caplog.text


def test_without_a_compiler_the_reference_runs(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    for name in ("CXX", "EQUIPOT_CXX"):
        monkeypatch.delenv(name, raising=False)
    operation = ConvolutionOperation(convolution(Irreps("2x0e"), 1, [ir for _, ir in Irreps("0e+1o")]), torch.float64)
    choice = backend.use_backend(operation, "auto")
    assert choice.name == "reference" and "g++" in choice.reason and not operation.fused
    with pytest.raises(EquipotError, match=r"g\+\+"):
        backend.use_backend(operation, "cpu")


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(EquipotError, match="reference"):
        backend.choose("gpu")
