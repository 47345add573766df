"""Every value of every axis, one at a time from four points: it says why not, or makes a potential that works."""

from typing import get_args

import pytest
import torch

from equipot.design import Design
from equipot.errors import EquipotError
from equipot.geometry import evaluate
from equipot.models import Potential, describe

from .small import STATISTICS as UNBONDED
from .small import STRUCTURES, cluster, point, relative, rotation

STATISTICS = UNBONDED.model_copy(update={"mean_bonds": (1.0, 3.0, 2.0), "pair_distances": (1.1,) * 6})
OTHER_VALUES = {
    "r_max": 2.5, "layers": 1, "max_ell": 1, "max_L": 0, "channels": 5, "num_radial": 6, "radial_mlp": (5, 5),
    "envelope_p": 3, "embedding_channels": 4, "edge_channels": 4, "correlation": 2, "readout_hidden": 7, "heads": 2,
    "readout_depth": 3, "repulsion_p": 9, "degrees": (3.0, 4.0, 5.0, 6.0), "degree_weight_ell": 0.7,
    "inner_envelope": 1.0, "chebyshev_lowest": 0, "product_r_max": 2.2, "degree_rarity": 0.5,
    "envelope_power": 2.0,
    "terminal_correlation": 1,
}  # fmt: skip
BASES = {
    "ace": point("ace"),
    "ace_linear": point("ace_linear"),
    "nequip": point("nequip", layers=2),
    "mace": point("mace", correlation=2),
    "botnet": point("botnet_ssh", pair_repulsion="zbl"),
    "mace_nonlinear": point("mace_nonlinear", correlation=2, edge_channels=(2, 4)),
    "mace_zbl": point("mace", correlation=1, radial_basis="chebyshev", pair_repulsion="zbl"),
}


def others(axis: str) -> list:
    """The values of an axis: all of a list, both booleans, one other number."""
    field = Design.model_fields[axis]
    if isinstance(field.default, str):
        return list(get_args(field.annotation))
    return [False, True] if isinstance(field.default, bool) else [OTHER_VALUES[axis]]


CHANGES = [(base, axis, value) for base in BASES for axis in Design.model_fields for value in others(axis)]


@pytest.mark.parametrize("base", BASES)
def test_every_value_of_every_axis_works_or_says_why_not(base):
    S = STRUCTURES["crystal"]
    S_turned, S_reflected = S.mapped(rotation(3)), S.mapped(-rotation(3))
    refused = []
    for _, axis, value in (change for change in CHANGES if change[0] == base):
        try:
            design = BASES[base].replace(**{axis: value})
        except EquipotError as error:
            assert str(value) in str(error) or axis in str(error)
            refused.append((axis, value))
            continue
        model = Potential(design, STATISTICS, dtype=torch.float64)
        other = S_turned if design.parity == "none" else S_reflected
        prediction, turned = (evaluate(model, s.graph(design.r_max)) for s in (S, other))
        assert torch.isfinite(prediction.energy).all(), (axis, value)
        assert relative(turned.energy, prediction.energy) < 1e-11, (axis, value)
        assert prediction.forces.abs().max() > 1e-8, (axis, value)
        assert relative(turned.forces.norm(dim=1), prediction.forces.norm(dim=1)) < 1e-10, (axis, value)
    assert ("heads", 2) in refused
    assert len(refused) < (70 if base == "ace_linear" else 25), "five axes are those of coupled channels"


def test_every_axis_changes_the_function_of_some_point():
    """An axis that changes nothing anywhere would be a lie in the description of a model.

    Weights are the same where shapes are. The direction of the edge vectors changes features of odd parity only: an
    energy is the same for all vectors reversed. What matters in training only (trainable_*) adds parameters.
    """
    graph = cluster(5).graph(2.5)
    dead = []
    for axis in Design.model_fields:
        found = False
        for base, design in BASES.items():
            known = fingerprint(Potential(design, STATISTICS, dtype=torch.float64), graph)
            for _, _, value in (c for c in CHANGES if c[:2] == (base, axis) and not found):
                try:
                    other = Potential(design.replace(**{axis: value}), STATISTICS, dtype=torch.float64)
                except EquipotError:
                    continue
                found = found or fingerprint(other, graph) != known
        if not found:
            dead.append(axis)
    assert dead == ["channel_coupling", "heads"], (
        "heads has one value only; coupled channels need other axes changed too"
    )


def fingerprint(model: Potential, graph) -> tuple:
    names = tuple((name, tuple(p.shape)) for name, p in model.named_parameters())
    numbers = [*model.features(graph, graph.vectors()), model(graph, graph.vectors())]
    return names, tuple(torch.cat([x.detach().flatten() for x in numbers]).tolist())


@pytest.mark.parametrize("base", BASES)
def test_descriptions_agree_with_the_model_that_they_describe(base):
    design = BASES[base]
    text = describe(design, STATISTICS.species, STATISTICS)
    model = Potential(design, STATISTICS)
    assert text["parameters"] == sum(p.numel() for p in model.parameters())
    assert 0 < text["active_parameters"] <= text["parameters"]
    assert sum(text["blocks"].values()) == text["parameters"]
    assert text["receptive_field_A"] == design.layers * design.r_max
    assert Design(**text["axes"]) == design
    graph = cluster(4).graph()
    features = model.features(graph, graph.vectors())
    for layer, plan, h in zip(text["layers"], (m.plan for m in model.layers), features, strict=True):
        assert layer["h_out"] == str(plan.out)
        assert h.shape[1] == plan.out.dim
        if base != "ace_linear":
            assert layer["radial_weights"] == plan.convolution.num_weights
        assert layer["operations_per_edge"] > 0
