"""Whether Triton's kernels can run here, and on what."""

import importlib.metadata
import importlib.util

import torch

from equipot.kernels.triton.registry import interpreted

OLDEST = (7, 0)
"""Compute capability that Triton needs: Volta."""


def availability(device: torch.device) -> tuple[str | None, str]:
    """Returns what is missing, or what will be used."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (it comes with torch's CUDA builds on Linux, or: pip install triton)", ""
    version = importlib.metadata.version("triton")
    if device.type == "cpu":
        if interpreted():
            return None, f"Triton {version}'s interpreter on the CPU, for tests only"
        return (
            "the tensors are on the CPU; move the model to a GPU (device 'cuda'), or set TRITON_INTERPRET=1 before the "
            "start to have Triton's interpreter run the kernels, which is for tests"
        ), ""
    if device.type != "cuda":
        return f"the tensors are on {device.type}, and Triton's kernels here are for CUDA", ""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device", ""
    found = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    if found < OLDEST:
        return f"{name} has compute capability {found[0]}.{found[1]}, less than {OLDEST[0]}.{OLDEST[1]}", ""
    return None, f"Triton {version} on {name}"
