"""The health check passes what is healthy and finds each illness."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule as ase_molecule

from equipot.deploy.doctor import check_potential
from equipot.errors import EquipotError
from equipot.kernels.backend import choice_of, use_backend
from equipot.kernels.operations import Operation
from equipot.models.model_file import converted
from equipot.models.potential import Potential
from equipot.models.radial_error import radial_spline_error
from equipot.points import named_point
from tests.kernels.fused import needs_compiler

EVERYWHERE = {
    "rotation", "inversion", "translation", "permutation", "net_force", "finite_difference_forces", "cutoff_energy",
    "cutoff_force", "extensivity", "batch", "isolated_atoms", "float32_energy", "float32_forces",
}  # fmt: skip


def failed(checks):
    return {name for name, check in checks.items() if not check.passed}


@pytest.mark.parametrize("name", ["mace", "nequip", "botnet", "ace"])
def test_real_models_are_healthy(potential, triclinic, name):
    axes = {"channels": 4, "r_max": 4.0, "max_ell": 2}
    if name != "ace":
        axes |= {"layers": 2, "max_L": 1}
    model = Potential(named_point(name, **axes), potential.statistics, dtype=torch.float32, seed=1)
    checks = check_potential(model, triclinic)
    assert failed(checks) == set()
    assert set(checks) == EVERYWHERE | {"finite_difference_stress"}
    assert '"value"' in json.dumps([check._asdict() | {"passed": check.passed} for check in checks.values()])
    assert checks["rotation"].value < 1e-11
    assert 0 < checks["float32_forces"].value < 10.0


@pytest.mark.parametrize("pbc", [False, (True, False, True)])
def test_molecules_and_slabs(potential, triclinic, pbc):
    triclinic.pbc = pbc
    use_backend(potential, "reference")
    checks = check_potential(potential, triclinic)
    assert failed(checks) == set()
    assert set(checks) == EVERYWHERE


def test_a_splined_model_is_healthy_and_its_error_is_measured(potential, triclinic):
    model = converted(potential, "float32").choose_radial("spline:128")
    checks = check_potential(model, triclinic)
    assert failed(checks) == set()
    new = {f"spline_{name}" for name in ("energy", "forces", "value", "slope", "curvature")}
    assert set(checks) == EVERYWHERE | {"finite_difference_stress"} | new
    errors = [checks[f"spline_{name}"].value for name in ("value", "slope", "curvature")]
    assert 0 < errors[0] < 1e-5
    assert errors[0] < errors[1] < errors[2] < 1e-2
    assert 0 < checks["spline_forces"].value < 1.0


def test_the_radial_error_falls_with_the_number_of_knots_to_rounding(potential):
    few, many = (radial_spline_error(potential, knots) for knots in (32, 128))
    assert [error.layer for error in few] == list(range(potential.design.layers))
    for a, b in zip(few, many, strict=True):
        assert all(fine < coarse / 30 for fine, coarse in zip(b.rms, a.rms, strict=True))
        assert all(rms <= largest for rms, largest in zip(b.rms, b.largest, strict=True))
    single = radial_spline_error(converted(potential, "float32"), 512)
    assert 1e-9 < single[0].rms[0] < 2e-7, "tables are rounded to float32"


@needs_compiler
def test_fused_operations_are_compared_with_their_definition(potential, triclinic, monkeypatch):
    model = converted(potential, "float64")
    assert use_backend(model, "cpu", training=False).name == "cpu"
    checks = check_potential(model, triclinic)
    assert failed(checks) == set()
    assert set(checks) == EVERYWHERE | {"finite_difference_stress", "backend"}
    assert choice_of(model).name == "cpu"
    right = Operation.fused.fget
    monkeypatch.setattr(
        "equipot.kernels.operations.ConvolutionOperation.forward",
        lambda self, h, Y, R, ends: (
            (1.001 if right(self) else 1.0) * self.reference(h, Y, R, *ends[:2], ends.num_owned)
        ),
    )
    assert failed(check_potential(model, triclinic)) == {"backend"}


def test_isolated_atoms_of_the_pair_potential(pair, molecule):
    """E0 = −3 eV in the statistics and in the function: nothing is left."""
    assert check_potential(pair, molecule)["isolated_atoms"].value == 0.0


class Ill(Potential):
    """A potential with one defect."""

    defect = ""

    def layer_energies(self, graph, vectors):
        terms = super().layer_energies(graph, vectors)
        r = vectors.norm(dim=1)
        pick = torch.zeros(graph.num_owned, dtype=torch.float64)
        extra = {
            "rotation": lambda: pick.index_add(0, graph.receivers, vectors[:, 0] ** 2 * torch.exp(-(r**2))),
            "inversion": lambda: pick.index_add(0, graph.receivers, self._handed(graph, vectors)),
            "permutation": lambda: (
                0.1
                * pick.index_add(0, graph.receivers, torch.exp(-r) * (1 - r / self.r_max) ** 3 * (graph.receivers % 2))
            ),
            "cutoff": lambda: pick.index_add(0, graph.receivers, 0.1 * torch.exp(-r)),
            "forces": lambda: pick.index_add(
                0, graph.receivers, torch.exp(-r.detach()) * (1 - r.detach() / self.r_max) ** 3
            ),
            "batch": lambda: pick + terms[1].sum() * 1e-3,
        }[self.defect]()
        return torch.cat([terms, extra[None]])

    def _handed(self, graph, vectors):
        """The volume spanned by neighbours that follow each other in the list, with its sign."""
        near = vectors * torch.exp(-vectors.norm(dim=1, keepdim=True))
        same = (graph.receivers == graph.receivers.roll(1)) & (graph.receivers == graph.receivers.roll(2))
        return (near * torch.linalg.cross(near.roll(1, 0), near.roll(2, 0))).sum(1) * same


@pytest.mark.parametrize(
    ("defect", "symptom"),
    [
        ("rotation", "rotation"),
        ("inversion", "inversion"),
        ("permutation", "permutation"),
        ("cutoff", "cutoff_energy"),
        ("forces", "finite_difference_forces"),
        ("forces", "finite_difference_stress"),
        ("batch", "batch"),
        ("batch", "extensivity"),
    ],
)
def test_each_illness_is_found(potential, triclinic, monkeypatch, defect, symptom):
    monkeypatch.setattr(Ill, "defect", defect)
    ill = Ill(potential.design, potential.statistics, dtype=torch.float64, seed=1)
    monkeypatch.setattr("equipot.deploy.doctor.converted", lambda model, *_: model)
    assert symptom in failed(check_potential(ill, triclinic))


def test_structures_that_say_nothing(potential):
    for atoms in (Atoms("Ar"), Atoms("Ar2", positions=[[0, 0, 0], [9, 0, 0]]), Atoms()):
        with pytest.raises(EquipotError, match=r"has no two atoms within 4 Å"):
            check_potential(potential, atoms)
    with pytest.raises(EquipotError, match="H, which the potential does not know"):
        check_potential(potential, ase_molecule("CH4"))


def test_the_structure_and_the_potential_are_left_alone(potential, triclinic):
    before, state = triclinic.copy(), {k: v.clone() for k, v in potential.state_dict().items()}
    check_potential(potential, triclinic, seed=5)
    assert triclinic == before
    assert all(torch.equal(value, state[name]) for name, value in potential.state_dict().items())
    assert np.isfinite(triclinic.positions).all()
