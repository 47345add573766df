"""`equipot doctor`: what there is on this machine to compute with."""

import importlib.util
import os
import platform
from importlib import metadata
from typing import Any

from equipot.cli.output import Json, command, print_json, print_table


@command
def doctor(json: Json = False) -> None:
    """Say what this machine computes with: backends, compiler, cache, threads, versions.

    Names each backend, and why one cannot be used.
    """
    found = _machine()
    if json:
        print_json(found)
        return
    print_table("Backends", ["backend", "works", "what it is, or what is missing"], found["backends"])
    rows = [[name.replace("_", " "), str(value)] for name, value in found.items() if name != "backends"]
    print_table("Machine", ["", ""], rows)


def _machine() -> dict[str, Any]:
    import torch

    from equipot.kernels.backend import choose
    from equipot.kernels.cpu.compiler import cache_folder, target

    place = "cuda" if torch.cuda.is_available() else "cpu"
    here, folder = target(), cache_folder()
    kept = list(folder.glob("*.so"))
    return {
        "backends": [_backend(name) for name in ("reference", "cpu", "triton", "cuequivariance")],
        "auto": str(choose("auto", place)),
        "device": torch.cuda.get_device_name() if place == "cuda" else "CPU, torch sees no GPU",
        "compiler": f"{here.version} ({here.compiler})" if here else "none (EQUIPOT_CXX names one)",
        "options": " ".join(here.options) if here else "–",
        "vectors": f"{here.vectors}, {8 * here.vector_bytes} bits" if here else "–",
        "cache_folder": f"{folder} ({len(kept)} kernels, {sum(f.stat().st_size for f in kept) / 1e6:.1f} MB)",
        "threads": f"{torch.get_num_threads()} of torch, {os.cpu_count()} cores",
        "triton": _version("triton"),
        "cuequivariance": _version("cuequivariance"),
        "torch": torch.__version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
    }


def _backend(name: str) -> list[str]:
    """Returns name, whether it works on its own kind of device, and what is to be said about it."""
    from equipot.errors import EquipotError
    from equipot.kernels.backend import choose

    try:
        return [name, "yes", choose(name, "cpu" if name in ("reference", "cpu") else "cuda").reason]
    except EquipotError as error:
        return [name, "no", str(error).split("cannot be used: ")[-1].removesuffix(" 'auto' takes what works here.")]


def _version(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        return "not installed"
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "installed"
