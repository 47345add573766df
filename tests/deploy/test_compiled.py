"""Compiled potentials: the same numbers as the model, for any number of atoms, and refusals that say what to do."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.md.verlet import VelocityVerlet

from equipot.deploy import EquipotCalculator
from equipot.deploy import compiled as module
from equipot.deploy.compiled import CompiledPotential, compile_potential, load_compiled, trial_graph
from equipot.deploy.trace import Evaluation, export_evaluation, fixed_form, inputs_of
from equipot.errors import EquipotError
from equipot.geometry import evaluate
from equipot.models.potential import Potential
from tests.kernels.fused import needs_compiler
from tests.physics.small import STATISTICS
from tests.physics.small import point as small_point

pytestmark = needs_compiler


def small(name: str, dtype: torch.dtype = torch.float64, **axes: object) -> Potential:
    return Potential(small_point(name, **axes), STATISTICS, dtype=dtype)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompiledPotential]:
    """Compiled by the compiler that equipot found, whatever torch would take (g++, or CXX even if it is nothing)."""
    with torch._inductor.config.patch({"cpp.cxx": (None, "/nonexistent")}):
        yield compile_potential(small("mace"), tmp_path_factory.mktemp("compiled") / "small.pt2")


def test_energies_forces_and_stress_are_the_models_at_every_size(made: CompiledPotential) -> None:
    for atoms in (2, 5, 27, 60):
        graph = trial_graph(made.potential, atoms)
        exact, found = evaluate(small("mace"), graph), made.evaluate(graph)
        for name in ("energy", "node_energy", "forces", "virial", "stress"):
            assert torch.allclose(getattr(found, name), getattr(exact, name), rtol=1e-11, atol=1e-11), name


def test_sizes_without_a_compiled_form_go_to_the_model(made: CompiledPotential) -> None:
    graph = trial_graph(made.potential, 1)
    alone = graph if graph.num_edges < 2 else trial_graph(made.potential, 1)
    assert torch.equal(made.evaluate(alone).energy, evaluate(made.potential, alone).energy)


def test_code_that_differs_from_its_model_is_refused(made: CompiledPotential, tmp_path: Path) -> None:
    """Another model is put beside the code: loading must notice."""
    other = compile_into(made.path, tmp_path / "other.pt2", small("mace", layers=1))
    with pytest.raises(EquipotError, match="does not give what its model gives"):
        load_compiled(other)


def compile_into(path: Path, out: Path, potential: Potential) -> Path:
    """A copy of a compiled potential with another model file in it."""
    model = module.save_potential(out.with_suffix(".equipot"), potential)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            content = model.read_bytes() if entry.filename.endswith(".equipot") else old.read(entry)
            new.writestr(entry, content)
    return out


def test_calculator_takes_it_for_dynamics(made: CompiledPotential) -> None:
    atoms = Atoms("OH2", positions=[[0, 0, 0], [0.9, 0.1, 0], [-0.2, 0.9, 0]], cell=[4.0] * 3, pbc=True)
    found, exact = atoms.copy(), atoms.copy()
    found.calc = EquipotCalculator(made.path)
    exact.calc = EquipotCalculator(made.potential)
    for one in (found, exact):
        VelocityVerlet(one, 0.5).run(5)
    assert np.abs(found.positions - exact.positions).max() < 1e-12
    assert np.abs(found.get_stress() - exact.get_stress()).max() < 1e-11
    for name, value in (("dtype", "float32"), ("radial", "spline:64"), ("backend", "reference")):
        with pytest.raises(EquipotError, match=f"{name} .*compile the model again"):
            EquipotCalculator(made.path, **{name: value})


def test_other_torch_or_processor_is_refused(made: CompiledPotential, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.raises(EquipotError, match="equipot compile MODEL"):
        load_compiled(made.path)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.pt2"
    text.write_text("no package")
    with pytest.raises(EquipotError, match="not a compiled potential"):
        load_compiled(text)
    with pytest.raises(EquipotError, match=r"\.pt2"):
        compile_potential(small("mace"), tmp_path / "model.so")


def test_a_damaged_file_is_refused_before_its_code_runs(made: CompiledPotential, tmp_path: Path) -> None:
    """Without the check some of these end the process by a signal."""
    content = bytearray(made.path.read_bytes())
    for start in (len(content) // 8, len(content) // 4, len(content) // 2):
        damaged = content.copy()
        damaged[start : start + 400] = bytes(byte ^ 0x5A for byte in damaged[start : start + 400])
        path = tmp_path / f"{start}.pt2"
        path.write_bytes(damaged)
        with pytest.raises(EquipotError, match=r"is damaged: .* Copy it again"):
            load_compiled(path)


@pytest.mark.parametrize(
    ("name", "radial"),
    [("nequip", "exact"), ("botnet_element", "spline:32"), ("mace_nonlinear", "spline:32"), ("nequix", "exact")],
)
def test_graph_of_operations_holds_for_other_sizes(name: str, radial: str) -> None:
    """Without a compiler of machine code: the exported graph itself, traced with 8 atoms."""
    potential = small(name).choose_radial(radial).eval()
    program = export_evaluation(potential, trial_graph(potential, 8)).module()
    for atoms in (4, 20):
        graph = trial_graph(potential, atoms)
        exact = evaluate(potential, graph)
        node_energy, forces, strain_gradient = program(*inputs_of(graph))
        scale = 1.0 + float(exact.forces.abs().max())
        assert float((node_energy - exact.node_energy).abs().max()) < 1e-11 * scale
        assert float((forces - exact.forces).abs().max()) < 1e-11 * scale
        assert float((strain_gradient + exact.virial[0]).abs().max()) < 1e-10 * scale


def test_folding_leaves_the_potential_alone() -> None:
    potential = small("mace")
    before = {name: value.clone() for name, value in potential.state_dict().items()}
    fixed = fixed_form(potential)
    assert all(not p.requires_grad for p in fixed.parameters()) and all(p.requires_grad for p in potential.parameters())
    Evaluation(fixed)(*inputs_of(trial_graph(potential, 4)))
    assert all(torch.equal(before[name], value) for name, value in potential.state_dict().items())


def test_more_tables_than_it_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of three elements has a table of its own: nine."""
    monkeypatch.setattr("equipot.deploy.trace.MOST_TABLES", 8)
    potential = small("mace", distance_transform="agnesi").choose_radial("spline:16")
    with pytest.raises(EquipotError, match=r"9 tables.*--radial exact"):
        fixed_form(potential)
