"""What of mace-torch's nonlinear models and edge irreps is read, and what is refused by name."""

from dataclasses import replace

import pytest
import torch

from equipot.convert.mace import potential_of
from equipot.convert.source import Source
from equipot.errors import EquipotError

from .golden import FOLDER, read_golden

NONLINEAR = "RealAgnosticResidualNonLinearInteractionBlock"


def source(name: str, **options) -> Source:
    found = read_golden(FOLDER / f"{name}.npz").source
    return replace(found, options={**found.options, **options})


def test_the_axes_are_those_of_the_named_point():
    design = potential_of(source("mace_nonlinear")).design
    assert (design.radial_scaling, design.radial_species) == ("layer_norm", "embedding")
    assert (design.message_nonlinearity, design.message_residual, design.self_connection) == ("gate", True, "plain")
    assert (design.neighbour_normalisation, design.first_layer) == ("density_mlp", "same")
    assert (design.readout, design.readout_depth, design.envelope_on) == ("mlp_bias", 2, "weights")
    later = potential_of(source("mace_nonlinear_later")).design
    assert (later.first_layer, later.self_connection_first, later.message_species) == ("linear", False, "first")
    assert (later.readout, later.readout_depth) == ("mlp", 1)


def test_edge_irreps_that_h_lacks_have_no_weights_here():
    """U h has no 2e where h has none, so edge_irreps = 4x1o + 3x0e + 2x2e are channels (3, 4)."""
    potential = potential_of(source("mace_edge_irreps"))
    assert (potential.design.edge_channels, potential.design.edge_channels_first) == ((3, 4), False)
    assert str(potential.layers[1].plan.up) == "3x0e + 4x1o"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "mace_nonlinear", {"interaction_cls": "RealAgnosticResidualInteractionBlock"},
            "interaction_cls_first = 'RealAgnosticResidualNonLinear.*in all layers, or in all but the first",
        ),
        (
            "mace_nonlinear", {"interaction_cls": "RealAgnosticAttResidualInteractionBlock"},
            "interaction_cls = 'RealAgnosticAttResidualInteractionBlock' is not a value that equipot has",
        ),
        ("mace_nonlinear_later", {"interaction_cls": "RealAgnosticInteractionBlock"}, "block without self-connection"),
        ("mace_edge_irreps", {"edge_irreps": "2x0e + 1x0e + 4x1o"}, r"edge_irreps = .* each irrep once, 0e among them"),
        ("mace_edge_irreps", {"edge_irreps": "4x1o"}, "edge_irreps = 4x1o: .*0e among them"),
        ("mace_nonlinear", {"readout_cls": "GeneralNonLinearBiasReadoutBlock"}, "readout_cls = 'GeneralNonLinearBias"),
        ("mace_nonlinear", {"embedding_specs": ["total_charge"]}, "embedding_specs"),
        ("mace_nonlinear", {"model": "PolarMACE"}, "model = 'PolarMACE' is not a value that equipot has"),
        ("mace_nonlinear", {"edge_irreps": "3x0e + 2x1o"}, "linear_up|number of weights|weights instead of"),
    ],
    ids=lambda x: str(x)[:60],
)  # fmt: skip
def test_refusals_name_what_is_lacking(name, options, message):
    with pytest.raises(EquipotError, match=message):
        potential_of(source(name, **options))


def test_a_parameter_that_nobody_reads_is_an_error():
    found = source("mace_nonlinear")
    extra = {**found.tensors, "interactions.0.gamma": torch.ones(2, dtype=torch.float64)}
    with pytest.raises(EquipotError, match=r"would leave out interactions.0.gamma \(2,\)"):
        potential_of(replace(found, tensors=extra))
    fewer = {name: tensor for name, tensor in found.tensors.items() if name != "interactions.1.alpha"}
    with pytest.raises(EquipotError, match=r"no 'interactions\.1\.alpha'"):
        potential_of(replace(found, tensors=fewer))
