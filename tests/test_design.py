"""The design space as values: validation, replacement, differences, JSON, named points."""

import inspect
from typing import get_args

import pytest
from pydantic import ValidationError

from equipot.design import Design
from equipot.design_rules import rules
from equipot.errors import EquipotError
from equipot.points import NAMED_POINTS, ace_linear, botnet, mace, named_point, nequip
from equipot.statistics import Statistics

IMPOSSIBLE = [
    ({"channels": (8, 8, 8)}, r"channels=\(8, 8, 8\) has 3 entries, but max_L=1 needs 2 .*give one number for all"),
    ({"channels": (8,)}, r"has 1 entries, but max_L=1 needs 2"),
    ({"channels": 0}, r"channels=0: every degree needs at least one channel"),
    ({"channels": (4, -1)}, r"every degree needs at least one channel"),
    ({"product": "none"}, r"product='none' forms no products, so correlation=3 cannot be reached; set correlation=1"),
    ({"channels": (8, 4)}, r"product='mace' multiplies features of one channel, so all degrees need the same number"),
    ({"product": "none", "correlation": 1, "max_ell": 0}, r"max_L=1 cannot be reached with max_ell=0.*raise max_ell"),
    ({"max_L": 4, "max_ell": 1}, r"max_L=4 cannot be reached: a product of 3 factors .* max_ell=1 has degree ≤ 3"),
    ({"radial_mlp": ()}, r"radial_map='mlp' needs hidden widths .* for none use radial_map='linear'"),
    (
        {"radial_species": "embedding", "radial_map": "linear"},
        r"radial_species='embedding' is an input of the radial MLP; radial_map='linear' has none: set radial_map='mlp'",
    ),
    ({"edge_channels": (4, 4, 4)}, r"edge_channels=\(4, 4, 4\) has 3 entries, but max_L=1 needs 2 .*give one number"),
    ({"edge_channels": (0, 4)}, r"edge_channels=\(0, 4\): the scalars of U h need at least one channel"),
    (
        {"first_layer": "density", "neighbour_count": "per_receiver"},
        r"first_layer='density' has no n̄, so neighbour_count='per_receiver' has no effect there; set it to 'global'",
    ),
    ({"radial_trainable": True, "radial_basis": "chebyshev"}, r"'chebyshev' has nothing to train"),
    ({"radial_basis": "gaussian", "num_radial": 1}, r"'gaussian' needs num_radial ≥ 2"),
    ({"self_connection": "none"}, r"self_connection='none' and self_connection_first=True contradict each other"),
    ({"shift": "none", "trainable_shift": True}, r"trainable_shift=True needs shift='mean'"),
    ({"scale": "none", "trainable_scale": True}, r"trainable_scale=True needs scale='force_rms' or 'energy_std'"),
    (
        {"neighbour_normalisation": "none", "neighbour_count": "per_sender"},
        r"neighbour_count='per_sender' has no effect with neighbour_normalisation='none'",
    ),
    (
        {"neighbour_normalisation": "density", "neighbour_count": "per_receiver"},
        r"no effect with neighbour_normalisation='density'; set it to 'global'",
    ),
    ({"parity": "none"}, r"parity='none' is not defined for products .* use 'natural' or 'full', or product='none'"),
    ({"repulsion_p": 4}, r"repulsion_p=4 has no effect with pair_repulsion='none'; choose 'zbl' or 'zbl_lammps'"),
    ({"repulsion_p": 4, "pair_repulsion": "core"}, r"repulsion_p=4 has no effect with pair_repulsion='core'; choose"),
    (
        {"neighbour_normalisation": "density_mlp", "neighbour_count": "per_receiver"},
        r"no effect with neighbour_normalisation='density_mlp'; set it to 'global'",
    ),
    ({"chebyshev_argument": "distance"}, r"chebyshev_argument='distance' has no effect with radial_basis='bessel'"),
    ({"repulsion_scaled": True}, r"repulsion_scaled=True needs a pair_repulsion and a scale"),
    ({"heads": 2}, r"heads=2: this version trains one energy; set heads=1"),
    ({"chebyshev_lowest": 0}, r"chebyshev_lowest=0 has no effect with radial_basis='bessel'; set it to 1"),
    ({"degrees": (4.0, 5.0)}, r"degrees=\(4\.0, 5\.0\) belongs to coupled channels; set channel_coupling='coupled'"),
    ({"degree_weight_ell": 2.0}, r"degree_weight_ell=2\.0 belongs to coupled channels"),
    ({"degree_rarity": 1.0}, r"degree_rarity=1\.0 belongs to coupled channels"),
    ({"terminal_correlation": 2}, r"terminal_correlation=2 belongs to coupled channels"),
    ({"envelope_power": 1.0}, r"envelope_power=1\.0 needs a transformed .* distance_transform='none' is not; choose"),
    ({"product_r_max": 3.0}, r"product_r_max=3\.0 belongs to coupled channels"),
    ({"inner_envelope": 0.5}, r"inner_envelope=0\.5 belongs to coupled channels"),
    ({"distance_floor": True}, r"distance_floor=True belongs to coupled channels"),
    ({"readout": "sum"}, r"readout='sum' belongs to coupled channels; choose linear, two_linear, mlp, mlp_bias"),
]
_LINEAR: dict = {"degrees": (6.0, 6.0), "num_radial": 6, "max_ell": 2, "correlation": 2}
IMPOSSIBLE_COUPLED = [
    (
        {"degrees": (6.0,)},
        r"degrees=\(6\.0,\) has 1 entries, but correlation=2 needs 2, one for each order .*; give as many",
    ),
    (
        {"degrees": (9.0, 6.0)},
        r"the first is the number of two-body functions, a whole number of at most num_radial=6; lower it or raise num",
    ),
    ({"degrees": (5.5, 6.0)}, r"degrees=\(5\.5, 6\.0\): the first is the number of two-body functions, a whole number"),
    ({"product_r_max": 5.5}, r"product_r_max=5\.5 is beyond r_max=5\.0; .* lower it, raise r_max, or leave it out"),
    (
        {"layers": 2},
        r"layers=2 has no meaning in the one linear layer .* needs layers=1; `ace_linear` sets such axes: leave",
    ),
    ({"readout": "mlp"}, r"readout='mlp' has no meaning .* needs readout='sum'"),
]
WRONG_VALUES = [
    ({"r_max": 0.0}, r"design\.r_max = 0\.0: .*greater than 0"),
    ({"r_max": float("inf")}, r"design\.r_max = inf: .*finite"),
    ({"r_max": float("nan")}, r"design\.r_max = nan"),
    ({"layers": 0}, r"design\.layers = 0: .*greater than or equal to 1"),
    ({"layers": 2.5}, r"design\.layers = 2\.5: .*integer"),
    ({"max_ell": -1}, r"design\.max_ell = -1"),
    ({"max_L": 9}, r"design\.max_L = 9: .*less than or equal to 8"),
    ({"correlation": 6}, r"design\.correlation = 6"),
    ({"parity": "odd"}, r"design\.parity = 'odd': .*'natural', 'full' or 'none'"),
    ({"readout": "MLP"}, r"design\.readout = 'MLP': .*'linear', 'two_linear', 'mlp', 'mlp_bias' or 'sum'"),
    ({"edge_channels": 0}, r"design\.edge_channels = 0: .*greater than or equal to 1"),
    ({"channels": "many"}, r"design\.channels = 'many'"),
    ({"radial_mlp": (64, 0)}, r"design\.radial_mlp = 0: .*greater than or equal to 1"),
    ({"embedding_channels": 0}, r"design\.embedding_channels = 0: .*greater than or equal to 1"),
    ({"envelope_p": 1}, r"design\.envelope_p = 1"),
    ({"readout_hidden": 0}, r"design\.readout_hidden = 0"),
]


@pytest.mark.parametrize(("axes", "message"), IMPOSSIBLE, ids=lambda x: str(x)[:40])
def test_impossible_combinations_say_why(axes, message):
    with pytest.raises(EquipotError, match=message):
        Design(**axes)


@pytest.mark.parametrize(("axes", "message"), IMPOSSIBLE_COUPLED, ids=lambda x: str(x)[:40])
def test_impossible_combinations_of_coupled_channels_say_why(axes, message):
    with pytest.raises(EquipotError, match=message):
        ace_linear(**{**_LINEAR, **axes})


def test_the_size_of_linear_ace_follows_from_its_degrees():
    small = ace_linear(degrees=(8, 9, 7))
    assert (small.correlation, small.num_radial, small.max_ell, small.degrees) == (3, 8, 3, (8.0, 9.0, 7.0))
    assert ace_linear(degrees=(8, 9, 7), degree_weight_ell=2).max_ell == 1
    assert ace_linear(correlation=2).degrees == ace_linear().degrees[:2]
    assert ace_linear(radial_basis="legendre").chebyshev_lowest == 1


def test_every_rule_is_tested_here():
    """The number of rules and of the combinations that break them; a new rule needs a case above."""
    plain = Design()
    known = rules(plain)
    assert not any(broken for broken, _ in known)
    reached = set()
    for axes, _ in IMPOSSIBLE:
        broken = plain.model_copy(update=axes)
        reached |= {n for n, (impossible, _) in enumerate(rules(broken)) if impossible}
    assert reached == set(range(len(known)))


@pytest.mark.parametrize(("axes", "message"), WRONG_VALUES, ids=lambda x: str(x)[:40])
def test_wrong_values_name_the_axis_what_was_given_and_what_is_allowed(axes, message):
    with pytest.raises(EquipotError, match=message):
        Design(**axes)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("chanels", "channels"),
        ("maxL", "max_L"),
        ("rmax", "r_max"),
        ("num_layers", "layers"),
        ("self_conection", "self_connection"),
    ],
)
def test_an_unknown_axis_gets_the_nearest(given, nearest):
    with pytest.raises(EquipotError, match=f"unknown design axis '{given}'. Did you mean '{nearest}'"):
        Design(**{given: 3})
    with pytest.raises(EquipotError, match=f"Did you mean '{nearest}'"):
        Design().replace(**{given: 3})
    with pytest.raises(EquipotError, match=f"Did you mean '{nearest}'"):
        named_point("mace", **{given: 3})


def test_an_axis_like_no_other_gets_the_list():
    with pytest.raises(EquipotError, match=r"unknown design axis 'qqqqq'\. The axes are: r_max, layers, .*heads\."):
        Design(qqqqq=1)


def test_a_design_is_frozen_and_a_value():
    d = mace()
    with pytest.raises(ValidationError, match="frozen"):
        d.layers = 3
    assert d == mace()
    assert hash(d) == hash(mace())
    assert d != mace(layers=3)
    assert len({mace(), mace(), botnet()}) == 2


def test_replace_validates_and_leaves_the_original():
    d = mace()
    wider = d.replace(channels=32, max_L=2)
    assert (wider.channels, wider.max_L, d.channels, d.max_L) == (32, 2, 128, 1)
    with pytest.raises(EquipotError, match="forms no products"):
        d.replace(product="none")
    assert d.replace() == d


def test_axes_of_the_first_layer():
    """`first_layer` and `edge_channels_first` are resolved for one layer, and leave the others as they are."""
    d = named_point("mace_nonlinear", first_layer="linear", edge_channels=(4, 2), edge_channels_first=False)
    first = d.of_layer(0)
    assert first.differences(mace()).keys() <= {"envelope_on", "readout", "readout_depth", "edge_channels_first"}
    assert (first.self_connection, first.neighbour_normalisation, first.edge_channels) == ("species", "mean", None)
    assert d.of_layer(1) == d
    assert mace().of_layer(0) == mace(first_layer="linear").of_layer(0) == mace()
    assert mace(first_layer="density").of_layer(0) == mace(neighbour_normalisation="density")
    assert mace(self_connection="none", self_connection_first=False, first_layer="linear").of_layer(0) == mace(
        self_connection="none", self_connection_first=False
    )
    assert (d.edge_channels_per_degree, mace(edge_channels=3).edge_channels_per_degree) == ((4, 2), (3, 3))


def test_differences_are_the_path_between_two_points():
    a, b = botnet(), mace()
    path = a.differences(b)
    assert path["layers"] == (5, 2)
    assert path["product"] == ("none", "mace")
    assert "max_ell" not in path
    assert a.replace(**{axis: theirs for axis, (_, theirs) in path.items()}) == b
    assert a.differences(a) == {}
    assert {axis: (y, x) for axis, (x, y) in path.items()} == b.differences(a)


@pytest.mark.parametrize("name", NAMED_POINTS)
def test_every_named_point_survives_json(name):
    d = named_point(name)
    assert Design.model_validate_json(d.model_dump_json()) == d
    assert Design(**d.model_dump()) == d
    assert Design(**d.model_dump(mode="json")) == d


def test_a_design_read_from_json_is_validated_too():
    text = mace().model_dump_json()
    for old, new in (('"layers":2', '"layers":0'), ('"product":"mace"', '"product":"none"'), ("r_max", "rmax")):
        assert old in text
        with pytest.raises(ValueError, match="validation error"):
            Design.model_validate_json(text.replace(old, new, 1))


def test_every_axis_is_described():
    for axis, field in Design.model_fields.items():
        assert field.description, axis


@pytest.mark.parametrize("name", NAMED_POINTS)
def test_named_points_take_axes_and_are_documented(name):
    function = NAMED_POINTS[name]
    assert function.__name__ == name
    assert inspect.getdoc(function)
    assert named_point(name, r_max=6.5, num_radial=24).differences(named_point(name)).keys() == {"r_max", "num_radial"}
    assert named_point(name, r_max=6.5).r_max == 6.5
    assert named_point(name.replace("_", "-").upper()) == named_point(name)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("mase", "mace"),
        ("bot-net", "botnet"),
        ("nequip-liner", "nequip_linear"),
        ("ACEE", "ace"),
        ("nequipp", "nequip"),
    ],
)
def test_an_unknown_point_gets_the_nearest(given, nearest):
    with pytest.raises(EquipotError, match=f"unknown point '{given}'. Did you mean '{nearest}'.*ace, .*invariant"):
        named_point(given)


def test_a_point_like_no_other_gets_the_list():
    with pytest.raises(EquipotError, match=r"unknown point 'xyz123'\. The named points are: ace, "):
        named_point("xyz123")


def test_what_distinguishes_the_published_points():
    """One line of the paper's table each: what changes from NequIP to BOTNet to MACE."""
    gated = named_point("nequip_e0_ssh")
    assert gated.differences(named_point("nequip_linear")) == {"nonlinearity": ("gate", "none")}
    assert gated.differences(named_point("nequip_bo")) == {"readout_layers": ("last", "every")}
    assert set(gated.differences(named_point("nequip_e0"))) == {"scale", "shift"}
    assert (nequip().nonlinearity, nequip().readout_layers, nequip().parity) == ("gate", "last", "full")
    assert botnet().differences(named_point("botnet_element")) == {"radial_map": ("mlp", "linear_species")}
    assert set(botnet().differences(named_point("botnet_ssh"))) == {"scale", "shift"}
    first = mace().differences(mace(residual_first=False))
    assert first == {"self_connection_first": (True, False), "message_species": ("none", "first")}
    nonlinear = mace().differences(named_point("mace_nonlinear"))
    assert nonlinear["message_nonlinearity"] == ("none", "gate") and nonlinear["message_residual"] == (False, True)
    assert (mace().layers, mace().correlation, botnet().layers, botnet().correlation) == (2, 3, 5, 1)


def statistics(**changes) -> Statistics:
    values = {
        "species": (1, 8),
        "atomic_energies": (-13.0, -2000.0),
        "mean_neighbours": 10.0,
        "mean_neighbours_per_species": (8.0, 12.0),
        "energy_mean_per_species": (-1.0, -2.0),
    }
    return Statistics(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"species": (8, 1)}, "distinct atomic numbers in ascending order"),
        ({"species": (1, 1)}, "distinct atomic numbers"),
        ({"species": ()}, "distinct atomic numbers"),
        ({"species": (0, 8)}, "atomic numbers from 1 to"),
        ({"species": (1, 400)}, "atomic numbers from 1 to"),
        ({"atomic_energies": (-13.0,)}, "atomic_energies has 1 entries for 2 species"),
        ({"mean_neighbours_per_species": (8.0,) * 3}, "mean_neighbours_per_species has 3 entries for 2 species"),
        ({"mean_neighbours": 0.0}, "greater than 0"),
        ({"force_rms": 0.0}, "greater than 0"),
        ({"energy_std": -1.0}, "greater than 0"),
        ({"min_distance": -1.0}, "greater than or equal to 0"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_statistics_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        statistics(**changes)


def test_statistics_survive_json_to_the_last_digit():
    s = statistics(atomic_energies=(-13.663181292231226, -2042.2803260447), force_rms=1.0 / 3.0)
    assert Statistics.model_validate_json(s.model_dump_json()) == s


def test_axes_with_choices_list_them_in_their_type():
    """Every string axis is a closed list of values, so that a misspelt value cannot pass."""
    for axis, field in Design.model_fields.items():
        if isinstance(field.default, str):
            assert all(isinstance(value, str) for value in get_args(field.annotation)), axis
            assert field.default in get_args(field.annotation)


@pytest.mark.parametrize(
    "degrees", [[], 8, None, "abc", [float("nan"), 6], [8, "x"], [8, -3], [0.5], [8, True]], ids=str
)
def test_degrees_that_are_none_say_what_they_are(degrees):
    with pytest.raises(
        EquipotError, match=r"design\.degrees = .*such as \[16, 18, 15, 14\]; \[12\] is a pair potential"
    ):
        ace_linear(degrees=degrees)


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"degrees": [8, 1]}, r"D_2 = 1 has no function; give at least 2, or leave it out"),
        ({"degrees": [8, 6, 2.5]}, r"D_3 = 2\.5 has no function; give at least 3"),
        ({"degrees": [8.5, 6]}, r"the first is the number of two-body functions, a whole number"),
        ({"degree_weight_ell": 0}, r"degree_weight_ell = 0: .*greater than 0"),
        ({"degree_weight_ell": "x"}, r"degree_weight_ell = 'x'"),
        ({"correlation": "x"}, r"correlation = 'x'"),
    ],
    ids=str,
)
def test_sizes_of_linear_ace_that_cannot_be_say_why(axes, said):
    with pytest.raises(EquipotError, match=said):
        ace_linear(**axes)
