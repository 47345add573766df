"""Whether cuEquivariance can run here, and by which of its methods."""

import importlib.metadata
import importlib.util

import torch

INSTALL = "pip install 'equipot[cuequivariance]'"


def method_on(device: torch.device) -> str:
    """Returns the method of cuEquivariance for tensors on a device.

    "uniform_1d" is its CUDA kernel for polynomials per channel; "naive" is plain torch, monomial by monomial.
    """
    return "uniform_1d" if device.type == "cuda" else "naive"


def kernels() -> str:
    """Returns the name of the package of GPU kernels for torch's CUDA."""
    return f"cuequivariance-ops-torch-cu{(torch.version.cuda or '12').split('.')[0]}"


def availability(device: torch.device) -> tuple[str | None, str]:
    """Returns what is missing, or what will be used. Nothing is imported."""
    if importlib.util.find_spec("cuequivariance_torch") is None:
        return f"cuequivariance-torch is not installed ({INSTALL})", ""
    version = importlib.metadata.version("cuequivariance-torch")
    if device.type not in ("cpu", "cuda"):
        return f"the tensors are on {device.type}, and its kernels are for CUDA", ""
    if device.type == "cuda":
        if torch.version.cuda is None or not torch.cuda.is_available():
            return "torch sees no CUDA device", ""
        if importlib.util.find_spec("cuequivariance_ops_torch") is None:
            return f"cuequivariance-torch's GPU kernels are not installed (pip install {kernels()})", ""
    how = "uniform_1d" if device.type == "cuda" else "naive on a CPU (for tests: slower than plain torch)"
    return None, f"cuequivariance-torch {version}, {how}, for convolutions and products; plain torch for the rest"
