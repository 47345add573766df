"""Potentials that correct a baseline as objects and files: parts, precision, copies, and what is refused."""

import numpy as np
import pytest
import torch

from equipot.deploy import EquipotCalculator
from equipot.errors import EquipotError
from equipot.fit.reference import model_energies, with_energies
from equipot.geometry import evaluate
from equipot.models import Potential
from equipot.models.model_file import converted, fingerprint, load_potential, read_model_header, save_potential
from equipot.models.uncertainty import Uncertainty
from equipot.points import ace_linear
from tests.physics.small import R_MAX, STATISTICS, crystal, point

DESIGN = ace_linear(r_max=1.2 * R_MAX, degrees=(3, 5))


def below(name: str = "mace", **more) -> Potential:
    return Potential(point(name), STATISTICS, **{"dtype": torch.float64, "seed": 4, **more})


def upon(baseline: Potential, **more) -> Potential:
    return Potential(DESIGN, STATISTICS, **{"dtype": torch.float64, "baseline": baseline, **more})


def graph():
    return crystal().graph(1.2 * R_MAX)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_file_holds_all_of_it(tmp_path, dtype):
    first = Potential(
        ace_linear(r_max=R_MAX, degrees=(4,)), STATISTICS, dtype=dtype, baseline=below(dtype=dtype, radial="spline:64")
    )
    potential = upon(first, dtype=dtype)
    path = save_potential(tmp_path / "sum.equipot", potential, provenance={"note": "three parts"})
    again = load_potential(path, check=True)
    assert torch.equal(evaluate(again, graph()).forces, evaluate(potential.eval(), graph()).forces)
    assert [part.radial for part in again.parts()] == ["exact", "exact", "spline:64"]
    header = read_model_header(path)
    assert header.r_max == again.r_max == pytest.approx(1.2 * R_MAX)
    assert [part.design for part in header.parts] == [part.design for part in again.parts()]
    assert header.parameters == again.parameter_counts().parameters == sum(p.numel() for p in potential.parameters())


def test_the_baseline_is_a_copy_without_its_uncertainty(tmp_path):
    baseline = below()
    baseline.uncertainty = Uncertainty(torch.eye(3), torch.ones(3))
    potential = upon(baseline)
    before = evaluate(potential, graph()).energy
    with torch.no_grad():
        baseline.readouts[0].linear.weights["0e"].add_(1.0)
    assert torch.equal(evaluate(potential, graph()).energy, before)
    assert potential.baseline.uncertainty is None
    assert baseline.uncertainty is not None
    path = save_potential(tmp_path / "sum.equipot", potential)
    assert load_potential(path).uncertainty is None


def test_other_precision_other_E0s_other_radial_functions():
    potential = upon(below(radial="spline:64")).eval()
    exact = evaluate(potential, graph())
    single = converted(potential, torch.float32)
    assert {p.dtype for part in single.parts() for p in part.layers.parameters()} == {torch.float32}
    assert torch.allclose(evaluate(single, graph()).forces, exact.forces, atol=1e-4)
    assert [part.radial for part in single.parts()] == ["exact", "spline:64"]
    moved = with_energies(potential, {6: 100.0}, "given")
    change = 100.0 - model_energies(potential)[6]
    assert torch.allclose(evaluate(moved, graph()).energy, exact.energy + change, rtol=1e-12)
    assert torch.equal(evaluate(moved.eval(), graph()).forces, exact.forces)
    assert [part.radial for part in converted(potential, "float64").choose_radial("spline:32").parts()] == [
        "spline:32", "spline:32",
    ]  # fmt: skip


def test_a_calculator_leaves_each_part_its_radial_functions():
    potential = upon(below(radial="spline:64")).eval()
    kept = EquipotCalculator(potential, dtype="float32", backend=None).potential
    assert [part.radial for part in kept.parts()] == ["exact", "spline:64"]
    changed = EquipotCalculator(potential, radial="exact", backend=None).potential
    assert [part.radial for part in changed.parts()] == ["exact", "exact"]


def test_the_fingerprint_is_also_of_the_baseline():
    assert fingerprint(upon(below())) == fingerprint(upon(below()))
    found = {
        fingerprint(upon(below(**more))) for more in ({}, {"seed": 5}, {"radial": "spline:64"}, {"name": "botnet"})
    }
    assert len(found) == 4


def test_parameters_of_the_baseline_are_counted_as_such():
    baseline = below()
    counts, own = upon(baseline).parameter_counts(), Potential(DESIGN, STATISTICS).parameter_counts()
    assert counts.per_block["baseline"] == baseline.parameter_counts().parameters
    assert counts.parameters == own.parameters + counts.per_block["baseline"]
    assert counts.active_parameters == own.active_parameters + baseline.parameter_counts().active_parameters


def test_the_correction_may_know_fewer_elements():
    two = STATISTICS.model_copy(
        update={
            "species": (6, 8), "atomic_energies": (-1.0, -2.0), "mean_neighbours_per_species": (1.0, 1.0),
            "energy_mean_per_species": (0.0, 0.0), "species_fractions": (0.5, 0.5),
        }
    )  # fmt: skip
    baseline = below()
    potential = Potential(DESIGN, two, dtype=torch.float64, baseline=baseline)
    alone = Potential(DESIGN, two, dtype=torch.float64)
    forces = evaluate(baseline, graph()).forces + evaluate(alone, graph()).forces
    assert torch.allclose(evaluate(potential, graph()).forces, forces, atol=1e-12)
    other = crystal()._replace(numbers=crystal().numbers * 0 + 1).graph()
    with pytest.raises(EquipotError, match="contains H, which this potential was not made for"):
        evaluate(potential, other)


def test_what_does_not_go_together_is_refused():
    baseline = below()
    foreign = STATISTICS.model_copy(update={"species": (1, 6, 14)})
    with pytest.raises(EquipotError, match="the baseline does not know Si"):
        Potential(DESIGN, foreign, dtype=torch.float64, baseline=baseline)
    with pytest.raises(EquipotError, match=r"in torch\.float64, and its correction would be in torch\.float32"):
        upon(baseline, dtype=torch.float32)
    with pytest.raises(EquipotError, match=r"design\.shift=none"):
        Potential(DESIGN.replace(shift="mean"), STATISTICS, dtype=torch.float64, baseline=baseline)
    repulsive = Potential(
        ace_linear(r_max=R_MAX, degrees=(4,)), STATISTICS, dtype=torch.float64,
        baseline=Potential(point("mace", pair_repulsion="zbl"), STATISTICS, dtype=torch.float64),
    )  # fmt: skip
    with pytest.raises(EquipotError, match="count it twice"):
        Potential(DESIGN.replace(pair_repulsion="zbl_lammps"), STATISTICS, dtype=torch.float64, baseline=repulsive)


def test_a_core_goes_on_top_of_any_repulsion():
    """It is nothing where there are data, so a linear ACE as it is by default may correct any potential."""
    close = crystal()._replace(positions=0.15 * crystal().positions, cell=9.0 * np.eye(3)).graph(1.2 * R_MAX)
    for baseline in (
        below(),
        upon(below()),
        Potential(point("mace", pair_repulsion="zbl"), STATISTICS, dtype=torch.float64),
    ):
        walled = evaluate(upon(baseline), close).energy
        free = Potential(DESIGN.replace(pair_repulsion="none"), STATISTICS, dtype=torch.float64, baseline=baseline)
        r = float(torch.linalg.vector_norm(close.vectors(), dim=1).min())
        core = 500 * (0.7 * (0.76 + 0.66) / r - 1) ** 3
        assert float(walled - evaluate(free, close).energy) == pytest.approx(core, rel=1e-6)
