import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small
import torch
import worker

from equipot.fit.checkpoint import load_checkpoint
from equipot.fit.metrics import errors
from equipot.fit.train import fit
from equipot.models.model_file import load_potential

WORKER = Path(__file__).with_name("worker.py")


def start(task: str, folder: Path, **environment: str) -> subprocess.Popen:
    """Starts a worker; what it prints is in ``output-RANK.txt`` beside `folder`."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with output_of(folder, environment.get("RANK", "0")).open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-W", "error", str(WORKER), task, str(folder)],
            env={**os.environ, **threads, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def output_of(folder: Path, rank: str) -> Path:
    return folder.parent / f"output-{rank}.txt"


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two gloo processes leave, each with its share of every minibatch."""
    folder = tmp_path_factory.mktemp("two")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    processes = [start("together", folder, RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank in (0, 1)]
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], output_of(folder, "0").read_text() + output_of(folder, "1").read_text()
    return folder


@pytest.mark.parametrize("name", list(worker.TOGETHER))
def test_two_processes_equal_one(two, tmp_path, name):
    """Losses, errors and weights to 1e-10; counts of the validation exactly, no structure seen twice."""
    options, axes = worker.TOGETHER[name]
    train, valid, model = small.dataset(7), small.dataset(5, seed=1), small.potential(**axes)
    unreached = {n for n, p in model.named_parameters() if not reached(model, p, train)}
    assert bool(unreached) == (name == "dead-parameters")
    start_values = {n: p.detach().clone() for n, p in model.named_parameters()}
    fit(model, train, valid, options, tmp_path)

    for line_one, line_two in zip(small.records(tmp_path), small.records(two / name), strict=True):
        for key in ("epoch", "step", "lr", "best", *(k for k in line_one if k.endswith("count"))):
            assert line_one[key] == line_two[key]
        numbers = [k for k, v in line_one.items() if isinstance(v, float) and k != "time_s"]
        assert len(numbers) > 10
        assert {k: line_two[k] for k in numbers} == pytest.approx({k: line_one[k] for k in numbers}, rel=1e-10)

    first, second = (load_checkpoint(folder / "last.ckpt") for folder in (tmp_path, two / name))
    for key, value in first["model"].items():
        assert torch.allclose(value, second["model"][key], rtol=1e-10, atol=1e-10), key
    for key in unreached:
        assert torch.equal(second["model"][key], start_values[key])
    assert load_potential(two / name / "best.equipot").design == model.design

    one = errors(model, valid)
    for report in json.loads((two / f"{name}.json").read_text()):
        assert report["total"] == pytest.approx(one, rel=1e-9)
        assert report["weights"] == pytest.approx(small.total_weight(model), rel=1e-9)


@pytest.mark.parametrize("who", [0, 1])
def test_a_validation_of_two_processes_is_left_together_when_one_is_asked_to_stop(two, who):
    """At once, although the other process has one structure more, or one less; and the run goes on bit for bit."""
    report = json.loads((two / f"stopped-{who}.json").read_text())
    assert report == {"ends": [["interrupted", 1, 6]] * 2, "lines": 1}
    small.assert_same_run(two / "straight", two / f"stopped-{who}")


def reached(model, parameter, dataset) -> bool:
    """Whether the energy depends on a parameter."""
    graph = dataset.batch(range(len(dataset))).graph
    energy = model(graph, graph.vectors()).sum()
    (gradient,) = torch.autograd.grad(energy, parameter, allow_unused=True)
    return gradient is not None and bool(gradient.any())


def test_kill_leaves_a_run_that_goes_on_bit_for_bit(tmp_path):
    """A real process, a real SIGTERM, and another process that goes on."""
    process = start("train", tmp_path / "killed")
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    status, steps = output_of(tmp_path / "killed", "0").read_text().splitlines()[-1].split()
    assert process.returncode == 0 and status == "interrupted" and 6 <= int(steps) < 60
    assert errors(load_potential(tmp_path / "killed" / "best.equipot"), small.dataset(5, seed=1))["energy_count"] == 5

    data = small.dataset(8), small.dataset(5, seed=1)
    fit(small.potential(seed=5), *data, worker.slow_options(), tmp_path / "killed", resume=True)
    fit(small.potential(), *data, worker.slow_options(), tmp_path / "straight")
    small.assert_same_run(tmp_path / "straight", tmp_path / "killed")
