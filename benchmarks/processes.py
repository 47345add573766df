"""Each code in a process of its own, which takes steps when it is told to, so that codes can take turns."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).parent / "workers"
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "10000000000",
    "MALLOC_TOP_PAD_": "1000000000",
}
"""Variables that keep glibc's malloc from returning memory to the system, which costs the peers much of their time."""


class WorkerError(RuntimeError):
    """A worker ended before it answered."""


class Worker:
    """One code in a process of its own.

    Args:
        python: The interpreter of the code's environment.
        script: File name in `workers/`.
        task: What it prepares: `kind` ("train", "md", "point"), `threads`, and what else the script reads.
        variables: Further environment variables.
    """

    def __init__(self, python: str, script: str, task: dict[str, Any], variables: dict[str, str] | None = None) -> None:
        threads = str(task["threads"])
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **(variables or {})}
        if python != sys.executable:
            environment.pop("PYTHONPATH", None)
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [python, str(WORKERS / script), json.dumps(task)], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1,
        )  # fmt: skip
        self.started = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ANSWER"):
                return json.loads(line.removeprefix("ANSWER"))
        code = self.process.wait()
        self.errors.seek(0)
        last = "\n".join(self.errors.read().strip().splitlines()[-3:])
        raise WorkerError(f"{self.process.args[1]} ended with status {code}: {last}")  # type: ignore[index]

    def _tell(self, command: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
        except BrokenPipeError:
            pass
        return self._answer()

    def time(self, steps: int) -> dict[str, float]:
        """Takes steps; returns cpu_ms and wall_ms of one of them, and their number."""
        return self._tell({"do": "steps", "steps": steps})

    def facts(self) -> dict[str, Any]:
        """What it knows: forces at the start, memory, parameters."""
        return self._tell({"do": "facts"})

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


@contextmanager
def busy_core() -> Iterator[None]:
    """A context in which another process keeps one core busy: the first that this one may use, where one can choose."""
    code = "import os\ntry: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nexcept AttributeError: pass\n"
    process = subprocess.Popen([sys.executable, "-c", code + "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
