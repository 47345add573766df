"""The machine's own rates: matrix products and copies, by torch."""

import time

import loop
import torch


def best(work, repeats):
    """The shortest of some times, s."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def gemm_gflops(size, dtype):
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2e-9 * size**3 / best(lambda: torch.mm(a, b, out=out), 5)


def copy_gb_per_s(megabytes):
    a = torch.ones(megabytes * 2**18, dtype=torch.float32)
    b = torch.empty_like(a)
    return 2e-9 * a.numel() * 4 / best(lambda: b.copy_(a), 5)


class Rates:
    def __init__(self, task):
        self.size, self.megabytes = task["gemm_size"], task["copy_MB"]

    def run(self, steps):
        self.rates = {
            "gemm_float32_GFLOPs": gemm_gflops(self.size, torch.float32),
            "gemm_float64_GFLOPs": gemm_gflops(self.size, torch.float64),
            "copy_GBs": copy_gb_per_s(self.megabytes),
        }

    def facts(self):
        return self.rates


if __name__ == "__main__":
    loop.serve(lambda task: (Rates(task), {"torch": torch.__version__}))
