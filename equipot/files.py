"""Files that are either the old or the new one, whatever happens while they are written."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> Path:
    """Replaces `path` by what `write` writes: to a file beside it, flushed to the disk, then renamed.

    Args:
        path: The file to replace; its folder is made where there is none.
        write: Called with the path of the temporary file, which has the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
