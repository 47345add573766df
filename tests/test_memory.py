"""Memory of freed tensors stays with the process, unless the user has said otherwise."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from equipot.memory import keep_freed_memory
import torch

def faults():
    for _ in range(20):
        torch.ones(40_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(40_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
done = keep_freed_memory()
print(done, given_back, faults())
"""


def run(**variables: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**environment, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    done, before, after = run()
    assert done == "True"
    assert int(after) < 0.05 * int(before)  # 160 MB are 40,000 pages each time


def test_what_the_user_has_set_is_left_alone() -> None:
    assert run(MALLOC_TRIM_THRESHOLD_="1000000")[0] == "False"
