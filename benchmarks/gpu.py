"""Everything about one GPU: correctness of the Triton backend, training and dynamics against the peers, CUDA graphs.

    python benchmarks/gpu.py --out gpu.json                          ours alone
    python benchmarks/gpu.py --peers FOLDER --out gpu.json           with mace-torch and nequip, also accelerated
    python benchmarks/gpu.py --dry-run                               tiny sizes in Triton's interpreter, without a GPU

FOLDER holds peers-mace/ and peers-nequip/ as in README.md, with CUDA builds of torch, and in peers-mace also
cuequivariance-torch and cuequivariance-ops-torch. What fails is said in the document; the rest goes on.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton looks when it is first imported

import gpu_checks
import torch
from cases import MODELS, Model
from machine import describe
from processes import Worker
from tasks import Tasks

from equipot.points import mace, nequip_current

WARM_UP_SECONDS, TURN_SECONDS = 3.0, 0.5
_TINY = {"r_max": 1.3, "channels": 2, "max_ell": 1, "max_L": 1, "num_radial": 3, "radial_mlp": (4,), "layers": 2}
TINY = (
    Model("mace-128", "mace", {"hidden_irreps": "2x0e + 2x1o"}, mace(**_TINY, correlation=2)),
    Model(
        "nequip-l2", "nequip", {"parity": True, "num_layers": 2, "l_max": 1, "num_features": 2}, nequip_current(**_TINY)
    ),
)
CODES = {
    "equipot triton": {"script": "work_equipot.py", "backend": "triton", "radial": "exact"},
    "equipot triton, splines": {"script": "work_equipot.py", "backend": "triton", "radial": "spline"},
    "equipot reference": {"script": "work_equipot.py", "backend": "reference", "radial": "exact"},
    "mace": {"script": "work_mace.py"},
    "mace, cuequivariance": {"script": "work_mace.py", "accelerated": True},
    "nequip": {"script": "work_nequip.py"},
    "nequip, compiled": {"script": "work_nequip.py", "compiled": True},
}
"""What is timed: a worker and what is special in its task."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, help="write the JSON document to this file; otherwise it is printed")
    add("--peers", type=Path, help="folder with peers-mace/ and peers-nequip/")
    add("--sizes", default="27,512,4096,32768", help="atoms: 27 is a molecule, others are silicon, 8 times a cube")
    add("--parts", default="operators,potentials,graphs,speed", help="which parts, comma-separated")
    add("--models", default="mace-128,nequip-l2", help="which models, comma-separated")
    add("--repeats", type=int, default=7, help="turns of every code, 5 at least")
    add("--dtype", default="float32", help="of the timings")
    add("--dry-run", action="store_true", help="run every part once, tiny, in Triton's interpreter on the CPU")
    found = parser.parse_args()
    if found.dry_run:
        found.sizes, found.repeats = "27", 1
    elif found.repeats < 5:
        parser.error("--repeats: medians need at least 5")
    return found


def attempt(document: dict[str, Any], name: str, work: Callable[[], Any]) -> None:
    """Keeps the result of some work, or how it failed, under its name; says which."""
    try:
        document[name] = work()
    except Exception as error:  # whatever it is, it is a result, and the other parts go on
        last = traceback.format_exc().strip().splitlines()[-6:]
        document[name] = {"failure": f"{type(error).__name__}: {error}"[:2000], "traceback": last}
    print(f"{name}: {json.dumps(document[name])[:400]}", file=sys.stderr, flush=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def hardware() -> dict[str, Any]:
    """The GPU and the versions."""
    names = ("torch", "triton", "equipot", "numpy", "ase")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    facts: dict[str, Any] = {**describe(), "versions": versions, "cuda": torch.version.cuda}
    facts["command"] = " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    if torch.cuda.is_available():
        p = torch.cuda.get_device_properties(0)
        facts["gpu"] = {
            "name": p.name, "memory_GB": p.total_memory / 1024**3, "multiprocessors": p.multi_processor_count,
            "capability": f"{p.major}.{p.minor}",
        }  # fmt: skip
    return facts


def _system(atoms: int) -> str:
    return "3bpa-1" if atoms == 27 else f"si-{atoms}"


def _python(code: str, peers: Path | None) -> str:
    """The interpreter of a code's environment."""
    if code.startswith("equipot"):
        return sys.executable
    if peers is None:
        raise FileNotFoundError("no --peers")
    return str(peers / f"peers-{code.split(',')[0]}" / "bin" / "python")


def time_code(code: str, task: dict[str, Any], a: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a step of one code, all samples, memory and versions."""
    options = dict(CODES[code])
    script = options.pop("script")
    if a.dry_run and options.get("radial") == "spline":
        options["radial"] = "spline:16"
    worker = Worker(_python(code, a.peers), script, {**task, **options})
    try:
        spent, first = 0.0, None
        while first is None or (spent < WARM_UP_SECONDS and not a.dry_run):
            one = worker.time(1)["wall_ms"]
            first, spent = first or one, spent + one / 1e3
        steps = 1 if a.dry_run else max(1, int(TURN_SECONDS * 1e3 / worker.time(1)["wall_ms"]))
        samples = [worker.time(steps)["wall_ms"] for _ in range(a.repeats)]
        facts = worker.facts()
    finally:
        worker.close()
    return {
        "ms": statistics.median(samples), "samples_ms": samples, "steps_of_a_turn": steps, "first_step_ms": first,
        "peak_gpu_MB": facts.get("peak_gpu_MB"), **worker.started["versions"],
    }  # fmt: skip


def rows(models: list[Model], a: argparse.Namespace) -> list[tuple[str, Model, str, str]]:
    """(name, model, kind, system) of what is timed: training steps and steps of dynamics of every size."""
    sizes = [int(n) for n in a.sizes.split(",")]
    found = []
    for model in models:
        batch = "3bpa-1" if a.dry_run else "3bpa-5"
        found.append((f"{model.name} train {batch}", model, "train", batch))
        found += [(f"{model.name} train {n}", model, "train", _system(n)) for n in sizes if n != 27]
        found += [(f"{model.name} md {n}", model, "md", _system(n)) for n in sizes]
    return found


def speed(document: dict[str, Any], models: list[Model], tasks: Tasks, a: argparse.Namespace) -> None:
    """Every row with every code, one after the other, so that each has the GPU's memory for itself."""
    for name, model, kind, system in rows(models, a):
        document[name] = found = {}
        task = tasks.task(model, kind, system, a.dtype, os.cpu_count() or 1 if not a.dry_run else 1)
        codes = [code for code in CODES if code.startswith("equipot") or code.split(",")[0] == model.peer]
        for code in codes:
            attempt(found, code, lambda code=code, task=task: time_code(code, task, a))
        times = {code: found[code]["ms"] for code in codes if "ms" in found[code]}
        ours = min((t for code, t in times.items() if code.startswith("equipot triton")), default=None)
        peer = min((t for code, t in times.items() if not code.startswith("equipot")), default=None)
        found["ratio_to_the_faster_peer"] = peer / ours if ours and peer else None


def main() -> None:
    a = arguments()
    device = torch.device("cpu" if a.dry_run else "cuda")
    models = [model for model in (TINY if a.dry_run else MODELS.values()) if model.name in a.models.split(",")]
    parts: dict[str, dict[str, Any]] = {part: {} for part in a.parts.split(",")}
    document: dict[str, Any] = {"machine": hardware(), "dry_run": a.dry_run, **parts}
    size = 1 if a.dry_run else 8
    with tempfile.TemporaryDirectory() as folder:
        tasks = Tasks(Path(folder), None, {"device": str(device)})
        for name in gpu_checks.cases(size) if "operators" in parts else ():
            attempt(parts["operators"], name, lambda n=name: gpu_checks.check_operator(n, size, device))
        for model in models:
            if "potentials" in parts:
                work = lambda m=model: gpu_checks.check_potential(m, tasks, "3bpa-1", device)  # noqa: E731
                attempt(parts["potentials"], model.name, work)
            for n in (int(n) for n in a.sizes.split(",") if "graphs" in parts and int(n) <= 4096):
                work = lambda m=model, n=n: gpu_checks.time_graph(m, tasks, _system(n), device, a.repeats)  # noqa: E731
                attempt(parts["graphs"], f"{model.name} {n}", work)
        if "speed" in parts:
            speed(parts["speed"], models, tasks, a)
    text = json.dumps(document, indent=1)
    if a.out:
        a.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
