"""Where and when a benchmark ran: processor, memory, versions, commit, and the machine's own rates."""

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from processes import Worker

_REPOSITORY = Path(__file__).parents[1]
_PLACES = ("--data", "--peers", "--out", "--plots")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=_REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _command() -> str:
    """The command, with the names of options instead of folders and files of this machine."""
    words = [f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    for place, word in enumerate(words[:-1]):
        if word in _PLACES:
            words[place + 1] = word.removeprefix("--").upper()
    return " ".join(["python", *words])


def _field(path: str, name: str) -> str:
    """The first value of a field in a file such as /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")


def describe() -> dict[str, Any]:
    """Date, commit and hardware."""
    flags = _field("/proc/cpuinfo", "flags").split()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cpu_family_model": f"{_field('/proc/cpuinfo', 'cpu family')}/{_field('/proc/cpuinfo', 'model')}",
        "vector": [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve") if f in flags],
        "cores": os.cpu_count(), "memory": _field("/proc/meminfo", "MemTotal"),
        "system": platform.platform(terse=True), "python": platform.python_version(),
        "load_average": os.getloadavg(), "command": _command(),
    }  # fmt: skip


def rates(threads: int, quick: bool) -> dict[str, float]:
    """The rates of matrix products and of copies, with so many threads: the best of five, in a process of its own."""
    task = {"kind": "rates", "threads": threads, "gemm_size": 1024 if quick else 2048, "copy_MB": 256}
    worker = Worker(sys.executable, "work_machine.py", task)
    try:
        worker.time(1)
        known = worker.facts()
    finally:
        worker.close()
    return {key: value for key, value in known.items() if key.startswith(("gemm", "copy"))}
