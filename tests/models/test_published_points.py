"""Each named point is the published model: same energies, forces, virials and features as a reference forward pass.

The references in tests/oracle/ are written with e3nn's modules from the published equations, in the released
codes' order of irreps, paths and weights; our weights are copied into them, and every layer is compared.
"""

from collections.abc import Callable

import ase
import numpy as np
import pytest
import torch
from oracle.build import botnet_code, mace_code, nequip_current, nequip_published, nequix_code
from oracle.parts import predict
from oracle.weights import features_as_ours, o3

from equipot.design import Design
from equipot.geometry import batch_graphs, evaluate, graph_from_atoms
from equipot.models import Potential
from equipot.points import NAMED_POINTS, mace, mace_nonlinear, named_point, nequip
from equipot.points import nequip_current as nequip_current_point
from equipot.statistics import Statistics

R_MAX = 3.2
STATISTICS = Statistics(
    species=(1, 6, 8),
    atomic_energies=(-0.6, -1.9, -2.7),
    mean_neighbours=2.3,
    mean_neighbours_per_species=(1.9, 3.1, 2.4),
    force_rms=0.83,
    energy_mean=-4.9,
    energy_std=0.4,
    energy_mean_per_species=(-3.0, -7.0, -5.0),
    total_energy_mean=-6.4,
    min_distance=0.9,
)
_SIZE = {"r_max": R_MAX, "num_radial": 5, "radial_mlp": (7, 6)}
_DEEP = {**_SIZE, "channels": 3, "layers": 4, "max_ell": 2, "max_L": 2}
_WIDE = {**_SIZE, "channels": 2, "layers": 3, "max_ell": 3, "max_L": 3}
_SMALL = {**_SIZE, "channels": 3, "layers": 2, "max_ell": 2, "max_L": 1}
_MACE = {**_SIZE, "channels": 3}
_AS_BOTNET_CODE = {
    "radial_trainable": False, "radial_prefactor": "sqrt", "edge_vector": "to_receiver",
    "neighbour_normalisation": "mean",
}  # fmt: skip


def _structures() -> list[ase.Atoms]:
    """A molecule (with all elements, atoms near the cutoff) and a triclinic cell shorter than the cutoff."""
    rng = np.random.default_rng(3)
    lattice = np.array(np.meshgrid(range(2), range(2), range(2))).reshape(3, -1).T * 1.35
    molecule = ase.Atoms("COHHCHOH", positions=lattice + rng.normal(scale=0.15, size=(8, 3)))
    cell = np.array([[2.9, 0.0, 0.0], [0.7, 3.3, 0.0], [-0.5, 0.9, 3.6]])
    fractions = np.array([[0.05, 0.1, 0.0], [0.5, 0.45, 0.55], [0.95, 0.6, 0.2]])
    return [molecule, ase.Atoms("OCH", scaled_positions=fractions, cell=cell, pbc=True)]


def _potential(design: Design, seed: int) -> Potential:
    """A potential with random weights everywhere, trainable roots and the weights of norms included."""
    potential = Potential(design, STATISTICS, dtype=torch.float64, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in potential.named_parameters():
            if any(part in name for part in ("bias", "norms", "pair_embedding", "alpha", "beta")):
                parameter += torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
    if design.radial_trainable:
        with torch.no_grad():
            roots = potential.radial_basis.functions.frequencies
            roots += 0.1 * torch.rand(roots.shape, generator=generator, dtype=torch.float64)
    if design.feature_norm == "layer":
        with torch.no_grad():
            for weight in (w for layer in potential.layers for w in layer.norm_update.parameters()):
                weight += torch.linspace(-0.3, 0.3, len(weight), dtype=torch.float64)
    return potential


Reference = Callable[[Potential], torch.nn.Module]


def _botnet(name: str, first: str, later: str, size: dict, **reference) -> tuple[Design, Reference]:
    return named_point(name, **size), lambda potential: botnet_code(potential, first, later, **reference)


def _nequip(name: str, form: str, size: dict, *, every: bool = False) -> tuple[Design, Reference]:
    """NequIP as the ablation's code writes it: the block there, 1/n̄, √(2/r_c) and edges to the receiver."""
    design = named_point(name, **size)
    return design, lambda potential: botnet_code(potential, form, form, silu=False, every=every)


def _nonlinear(axes: dict, layers: tuple[int, ...], **reference) -> tuple[Design, Reference]:
    """MACE with the nonlinear residual block in these layers; others are MACE's ordinary blocks."""
    size = {**_MACE, "max_ell": 2, "readout_hidden": 5}
    design = mace_nonlinear(**{**size, **axes})
    residual_first = design.message_species == "none"
    values = {"residual_first": residual_first, "cutoff_on_basis": design.envelope_on == "basis", "biased": True}
    return design, lambda potential: mace_code(potential, nonlinear=layers, **{**values, **reference})


_FIRST_LINEAR = {"first_layer": "linear"}
_FIRST_NOT_RESIDUAL = {"first_layer": "linear", "residual_first": False}


def _mace(axes: dict, residual_first: bool = True, **reference) -> tuple[Design, Reference]:
    design = mace(residual_first=residual_first, **{**_MACE, **axes})
    return design, lambda potential: mace_code(potential, residual_first=residual_first, **reference)


CASES: dict[str, tuple[Design, Reference]] = {
    "botnet": _botnet("botnet", "first", "residual", _DEEP),
    "botnet_ssh": _botnet("botnet_ssh", "first", "residual", _SMALL),
    "botnet_element": _botnet("botnet_element", "first", "residual", _SMALL, element=True),
    "botnet_element_residual": _botnet("botnet_element_residual", "residual", "residual", _SMALL, element=True),
    "botnet, degree 3": _botnet("botnet", "first", "residual", _WIDE),
    "nequip_ablation, ablation": _nequip("nequip_ablation", "gate", _SMALL),
    "nequip_e0_ssh, ablation": _nequip("nequip_e0_ssh", "gate", {**_SMALL, "layers": 3}),
    "nequip_linear, ablation": _nequip("nequip_linear", "residual", {**_SMALL, "layers": 3}),
    "nequip_bo, ablation": _nequip("nequip_bo", "gate", _SMALL, every=True),
    "nequip_shifted, ablation": _nequip("nequip_shifted", "gate", _SMALL),
    "nequip_e0, ablation": _nequip("nequip_e0", "gate", _SMALL),
    "nequip_ssh, ablation": _nequip("nequip_ssh", "gate", _SMALL),
    "nequip_nosc_e0, ablation": _nequip("nequip_nosc_e0", "no_sc", _SMALL),
    "nequip_nosc_e0_ssh, ablation": _nequip("nequip_nosc_e0_ssh", "no_sc", _SMALL),
    "nequip": (nequip(**_DEEP), nequip_published),
    "nequip, degree 3": (nequip(**_WIDE), nequip_published),
    "nequip_current": (nequip_current_point(**_DEEP), nequip_current),
    "nequip_current, widths": (
        nequip_current_point(
            **{**_WIDE, "channels": (4, 3, 2, 2), "embedding_channels": 5, "parity": "natural"},
            neighbour_count="per_sender", scale_shift_per_species=True, shift="mean", radial_trainable=False,
        ),
        lambda potential: nequip_current(potential, per_type=True),
    ),
    "nequix": (named_point("nequix", **{**_DEEP, "channels": (4, 3, 2)}), nequix_code),
    "nequix, one matrix per element, no norm": (
        named_point("nequix", **{**_WIDE, "channels": (5, 3, 2, 1)}, self_connection="indexed", feature_norm="none"),
        nequix_code,
    ),
    "invariant": (named_point("invariant", **{**_SIZE, "channels": 4}), nequip_current),
    "ace": (
        named_point("ace", **_MACE),
        lambda potential: mace_code(potential, residual_first=False, element=True, linear=True),
    ),
    "mace": _mace({}),
    "mace, L = 0": _mace({"max_L": 0}),
    "mace, L = 2": _mace({"max_L": 2, "channels": 2}),
    "mace, first layer not residual": _mace({}, False),
    "mace, correlation 2, 3 layers": _mace({"max_L": 2, "correlation": 2, "layers": 3}, False),
    "mace, correlation 1": _mace({"max_L": 3, "correlation": 1}),
    "mace, shared product": _mace({"max_ell": 2, "product_weights": "shared"}),
    "mace, density": _mace({"max_ell": 2, "neighbour_normalisation": "density"}, density=True),
    "mace, density, not residual": _mace({"max_ell": 2, "neighbour_normalisation": "density"}, False, density=True),
    "mace, envelope on weights": _mace(
        {"max_ell": 2, "envelope_on": "weights", "neighbour_normalisation": "density"}, density=True,
        cutoff_on_basis=False,
    ),
    "mace, Agnesi and ZBL": _mace(
        {"max_ell": 2, "distance_transform": "agnesi", "pair_repulsion": "zbl"}, transform="agnesi", repulsion=True
    ),
    "mace_nonlinear": _nonlinear({}, (0, 1)),
    "mace_nonlinear, L = 0": _nonlinear({"max_L": 0, "max_ell": 3}, (0, 1)),
    "mace_nonlinear, envelope on basis": _nonlinear({"envelope_on": "basis", "correlation": 2}, (0, 1)),
    "mace_nonlinear, later, 3 layers": _nonlinear({**_FIRST_NOT_RESIDUAL, "layers": 3, "correlation": 2}, (1, 2)),
    "mace_nonlinear, later, first residual": _nonlinear(
        {**_FIRST_LINEAR, "readout": "mlp", "readout_depth": 1}, (1,), biased=False
    ),
    "mace_nonlinear, later, first density": _nonlinear(
        {**_FIRST_NOT_RESIDUAL, "first_layer": "density", "envelope_on": "basis"}, (1,), density=True
    ),
    "mace_nonlinear, few edge channels": _nonlinear(
        {"edge_channels": 2, "edge_channels_first": False, "max_L": 2}, (0, 1), edge="2x0e+2x1o+2x2e"
    ),
    "mace_nonlinear, many edge channels": _nonlinear(
        {"edge_channels": (5, 4), "layers": 3, "correlation": 2}, (0, 1, 2), edge="5x0e+4x1o", edge_first=True
    ),
    "mace, edge channels": _mace({"edge_channels": (2, 4), "layers": 3}, edge="2x0e+4x1o", edge_first=True),
    "mace, edge channels without vectors": _mace(
        {"edge_channels": (2, 0), "edge_channels_first": False}, False, edge="2x0e"
    ),
    "mace, last readout": _mace({"readout_layers": "last", "max_ell": 2}, every=False),
    "mace, soft": _mace({"max_ell": 2, "distance_transform": "soft"}, transform="soft"),
}  # fmt: skip

SLOW: dict[str, tuple[Design, Reference]] = {
    "mace, correlation 4": _mace({"max_L": 1, "max_ell": 2, "correlation": 4, "channels": 2}),
    "mace, ℓ = 4": _mace({"max_L": 2, "max_ell": 4, "channels": 2}),
    "botnet, 5 layers, degree 3": _botnet("botnet", "first", "residual", {**_WIDE, "layers": 5}),
    "nequip, 5 layers, degree 3": (nequip(**{**_WIDE, "layers": 5}), nequip_published),
}  # fmt: skip


def assert_equal(design: Design, reference: Reference, seed: int) -> None:
    potential = _potential(design, seed)
    oracle = reference(potential)
    ours_by_name = potential.named_parameters()
    assert sum(p.numel() for p in oracle.parameters()) == sum(
        p.numel() for name, p in ours_by_name if ".product." not in name
    )
    answers = [predict(oracle, atoms, STATISTICS.species, design.r_max) for atoms in _structures()]
    graph = batch_graphs([graph_from_atoms(atoms, design.r_max) for atoms in _structures()])
    ours = evaluate(potential, graph)

    interaction = potential.layer_energies(graph, graph.vectors())[1:].sum(dim=0).detach().abs().max()
    forces = torch.cat([answer.forces for answer in answers])
    assert interaction > 1e-3 and forces.abs().max() > 1e-3  # something to compare
    _close(ours.node_energy, torch.cat([answer.node_energy for answer in answers]), 1e-10 * interaction)
    _close(ours.energy, torch.stack([answer.energy for answer in answers]), 1e-10 * interaction * graph.num_nodes)
    _close(ours.forces, forces, 1e-9 * forces.abs().max())
    virial = torch.stack([answer.virial for answer in answers])
    _close(ours.virial, virial, 1e-9 * virial.abs().max())

    blocks = getattr(oracle, "blocks", None) or oracle.layers
    for t, h in enumerate(potential.features(graph, graph.vectors())):
        theirs = torch.cat([answer.features[t] for answer in answers])
        expected = features_as_ours(theirs, o3.Irreps(_irreps_out(blocks[t], theirs.shape[1])))
        _close(h.detach(), expected, 1e-10 * expected.abs().max())


def _close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


def _irreps_out(block: torch.nn.Module, width: int) -> o3.Irreps:
    return block.product.target if hasattr(block, "product") else block.irreps_out


def test_every_named_point_has_a_reference():
    """Linear ACE has no reference code with the same orthonormal functions; tests/models/test_linear_ace.py has it."""
    assert {name.split(",")[0] for name in CASES} == set(NAMED_POINTS) - {"ace_linear"}


@pytest.mark.parametrize("name", CASES)
def test_named_point_is_the_published_model(name):
    assert_equal(*CASES[name], seed=0)


_E0, _MEAN = STATISTICS.atomic_energies, (STATISTICS.total_energy_mean,) * 3
_RMS, _SHIFT = STATISTICS.force_rms, STATISTICS.energy_mean


@pytest.mark.parametrize(
    ("name", "E0", "scale", "shift"),
    [
        ("ace", _E0, _RMS, 0.0),
        ("botnet", _E0, 1.0, 0.0),
        ("botnet_ssh", _E0, _RMS, _SHIFT),
        ("mace", _E0, _RMS, _SHIFT),
        ("nequip", _E0, _RMS, _SHIFT),
        ("nequip_shifted", _MEAN, 1.0, 0.0),
        ("nequip_e0", _E0, 1.0, 0.0),
        ("nequip_ssh", _MEAN, _RMS, 0.0),
        ("nequip_e0_ssh", _E0, _RMS, _SHIFT),
        ("nequip_nosc_e0", _E0, 1.0, 0.0),
        ("nequip_nosc_e0_ssh", _E0, _RMS, _SHIFT),
        ("nequip_current", _E0, _RMS, 0.0),
        ("nequix", _E0, _RMS, _SHIFT),
    ],
)
def test_constants_of_the_energy(name, E0, scale, shift):
    size = {**_SIZE, "channels": 2, "max_L": 0, "max_ell": 1}
    potential = Potential(named_point(name, **size), STATISTICS, dtype=torch.float64)
    assert potential.E0.tolist() == list(E0)
    assert (potential.scale.tolist(), potential.shift.tolist()) == ([scale], [shift])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("name", CASES)
def test_named_point_is_the_published_model_for_more_weights(name, seed):
    assert_equal(*CASES[name], seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_larger_points_are_the_published_models(name):
    assert_equal(*SLOW[name], seed=0)
