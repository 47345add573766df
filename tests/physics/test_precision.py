"""Energies in float64 whatever the weights; nothing global is touched."""

import numpy as np
import pytest
import torch

from equipot.errors import EquipotError
from equipot.geometry import batch_graphs, evaluate
from equipot.models import Potential

from .small import CASES, STATISTICS, STRUCTURES, Structure, cluster, every_plain_point, every_point, potential


@every_point
def test_single_precision_agrees_with_double(case):
    exact = potential(case)
    model = Potential(exact.design, STATISTICS, dtype=torch.float32)
    model.load_state_dict({name: value.float() for name, value in exact.state_dict().items()} | energy_terms(exact))
    assert all(p.dtype == (torch.float64 if n in TERMS else torch.float32) for n, p in model.named_parameters())
    graph = batch_graphs([s.graph() for s in STRUCTURES.values()])
    known, single = evaluate(exact, graph), evaluate(model, graph)
    assert all(value.dtype == torch.float64 for value in single)
    assert all(h.dtype == torch.float32 for h in model.features(graph, graph.vectors()))
    assert (single.node_energy - known.node_energy).abs().max() < 2e-5 * (1 + float(known.node_energy.abs().max()))
    assert (single.forces - known.forces).abs().max() < 2e-4 * (1 + float(known.forces.abs().max()))


TERMS = ("E0", "scale", "shift")


def energy_terms(model: Potential) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name in TERMS}


@pytest.mark.parametrize("case", ["ace", "botnet", "mace", "nequip_current"])
def test_large_reference_energies_cost_no_precision(case):
    """With E0 = −50,000 eV a float32 model has the interaction energy that it has with E0 = 0, to 1e-9 eV."""
    heavy = STATISTICS.model_copy(update={"atomic_energies": (-50_000.0,) * 3})
    light = STATISTICS.model_copy(update={"atomic_energies": (0.0,) * 3})
    graph = batch_graphs([cluster(5, seed).graph() for seed in range(3)])
    with_E0, without = (evaluate(Potential(CASES[case], s, dtype=torch.float32), graph) for s in (heavy, light))
    assert (with_E0.energy + 5 * 50_000.0 - without.energy).abs().max() < 1e-9
    assert torch.equal(with_E0.forces, without.forces)
    assert without.energy.abs().max() > 1e-3


def test_positions_far_from_the_origin_cost_no_precision():
    """Edge vectors are differences in float64, cast afterwards: 10 km away a float32 model gives the same forces."""
    model = Potential(CASES["mace"], STATISTICS, dtype=torch.float32)
    s = cluster(4)
    near, far = evaluate(model, s.graph()), evaluate(model, s._replace(positions=s.positions + 4096.0).graph())
    assert (near.forces - far.forces).abs().max() < 1e-5 * near.forces.abs().max()


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_the_defaults_of_torch_neither_matter_nor_change(default):
    before = torch.get_default_dtype()
    graph = STRUCTURES["crystal"].graph()
    known = evaluate(Potential(CASES["mace"], STATISTICS), graph)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_default_dtype(default)
    try:
        model = Potential(CASES["mace"], STATISTICS)
        prediction = evaluate(model, STRUCTURES["crystal"].graph())
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(before)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state), "making a potential must not consume random numbers"
    assert torch.equal(prediction.energy, known.energy)
    assert torch.equal(prediction.forces, known.forces)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@every_plain_point
def test_a_seed_fixes_the_weights(case):
    torch.manual_seed(torch.initial_seed() % 1000 + 1)
    one = Potential(CASES[case], STATISTICS, seed=3)
    torch.rand(5)
    again, other = Potential(CASES[case], STATISTICS, seed=3), Potential(CASES[case], STATISTICS, seed=4)
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@every_point
def test_equal_input_gives_equal_bits(case):
    model = potential(case)
    graph = batch_graphs([s.graph() for s in STRUCTURES.values()])
    one, again = evaluate(model, graph), evaluate(model, graph)
    assert torch.equal(one.energy, again.energy)
    assert torch.equal(one.forces, again.forces)


def test_other_dtypes_are_refused():
    with pytest.raises(EquipotError, match=r"torch\.float16.*float32 or torch\.float64"):
        Potential(CASES["mace"], STATISTICS, dtype=torch.float16)


def test_an_unknown_element_is_named():
    silicon = Structure(np.zeros((1, 3)), np.zeros((3, 3)), (False,) * 3, np.array([14]))
    with pytest.raises(EquipotError, match=r"contains Si.*it knows\s+H, C, O"):
        evaluate(potential("ace"), silicon.graph())
