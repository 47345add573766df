"""What a design is, in numbers: parameters, paths, body order, receptive field, cost."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from equipot.design import Design
from equipot.interactions import CoupledPlan, LayerPlan, plan_coupled, plan_layers
from equipot.interactions.pair_embedding import radial_inputs
from equipot.kernels.polynomial import Product
from equipot.models.potential import Potential
from equipot.o3 import Irrep, Irreps, clebsch_gordan
from equipot.statistics import Statistics


def describe(design: Design, species: Sequence[int], measured: Statistics | None = None) -> dict[str, Any]:
    r"""Returns the numbers of a design for these elements, ready for a table or JSON.

    Operations are the multiplications of one energy, forward, each with the addition that follows it; forces
    cost about three times as much. They are counted from the descriptions: non-zero coefficients only, each
    monomial once. A backend may do more.

        counted per edge    Y by its recurrence (in the total only, as all layers share it); the matrices of R;
                            coupling, one for each coefficient and channel; weighting by R with the pooling
        counted per atom    the matrices U, W, P, Q, V, D and S; the monomials of A, one each and channel, and their sum
                            with the coefficients w·U, one for each component M, monomial and channel; readouts; with
                            coupled channels two for each coupled component and for each product of two of them
        not counted         distances, radial basis, envelope and distance transform; activations, gates and norms;
                            N and its density; repulsion, scale and shift; and what is done once for each element:
                            the contraction w·U of path weights, the embedding, the matrices that S makes of it

    Args:
        design: The axes.
        species: Atomic numbers.
        measured: Of the training set, of these elements: its fractions and bonds matter to `degree_rarity` and
            `terminal_correlation`. Without it fractions are alike, and no element is terminal.

    Returns:
        axes, species, parameters, active_parameters, blocks {block: parameters}, receptive_field_A, layers
        [{h_in, A, h_out, paths, radial_weights, product_paths, body_order, exact, operations_per_edge,
        operations_per_atom}], energy_body_order, energy_exact, operations_per_edge, operations_per_atom. Body orders
        are exact where the point is polynomial, and None (unbounded) elsewhere.

    Source: body orders: Batatia et al. 2025, N_{t+1} = ν (N_t + 1), N_0 = 0.
    """
    species = tuple(sorted(set(species)))
    numbers = _placeholder(species, measured)
    potential = Potential(design, numbers)
    counts = potential.parameter_counts()
    layers = _describe_layers(design, numbers)
    return {
        "axes": design.model_dump(mode="json"),
        "species": list(species),
        "parameters": counts.parameters,
        "active_parameters": counts.active_parameters,
        "blocks": counts.per_block,
        "receptive_field_A": design.layers * design.r_max,
        "layers": layers,
        "energy_body_order": energy_body_order(design),
        "energy_exact": energy_body_order(design) is not None,
        "operations_per_edge": _harmonics(design.max_ell) + sum(layer["operations_per_edge"] for layer in layers),
        "operations_per_atom": sum(layer["operations_per_atom"] for layer in layers),
    }


def body_orders(design: Design) -> list[int | None]:
    """Returns the body order of each layer's features, None where it is unbounded.

    Features that are polynomials of correlation order N in the neighbours' one-particle basis have body
    order N + 1. It is exact: every A has scalars, whose highest power is among the products of every layer.
    Gates, norms and learned densities are not polynomial.
    """
    polynomial = True
    orders: list[int | None] = []
    N = 0
    for index in range(design.layers):
        polynomial = polynomial and _is_polynomial(design.of_layer(index))
        N = design.correlation * (N + 1)
        orders.append(N + 1 if polynomial else None)
    return orders


def _is_polynomial(design: Design) -> bool:
    linear = design.nonlinearity == design.message_nonlinearity == design.feature_norm == "none"
    return linear and design.neighbour_normalisation not in ("density", "density_mlp")


def energy_body_order(design: Design) -> int | None:
    """Returns the highest body order of the energy, None if unbounded (an MLP readout makes it so)."""
    unbounded = design.readout in ("mlp", "mlp_bias") and design.readout_activation != "none"
    return None if unbounded else body_orders(design)[-1]


def _describe_layers(design: Design, numbers: Statistics) -> list[dict[str, Any]]:
    orders, num_species = body_orders(design), len(numbers.species)
    if design.channel_coupling == "coupled":
        return [_describe_coupled(plan_coupled(design, numbers), orders[0])]
    plans = plan_layers(design, num_species)
    return [_describe_layer(design, plan, num_species, order) for plan, order in zip(plans, orders, strict=True)]


def _describe_coupled(plan: CoupledPlan, order: int | None) -> dict[str, Any]:
    """The one layer of linear ACE; its paths are the functions of each order, those of pairs first."""
    product = plan.product
    program, radial = product.program, product.num_radial
    return {
        "h_in": str(plan.h),
        "A": " + ".join(
            f"{product.num_species * radial}x{Irrep(ell, (-1) ** ell)}" for ell in range(product.max_ell + 1)
        ),
        "h_out": str(plan.out),
        "paths": product.num_functions,
        "radial_weights": radial,
        "product_paths": {"0e": [plan.num_pair, *product.counts_by_order.values()]},
        "body_order": order,
        "exact": True,
        "operations_per_edge": product.num_lm * radial + plan.num_pair,
        "operations_per_atom": 2 * (len(program.dst) + program.num_pairs),
    }


def _describe_layer(design: Design, plan: LayerPlan, num_species: int, order: int | None) -> dict[str, Any]:
    product = plan.product
    return {
        "h_in": str(plan.h),
        "A": str(plan.A),
        "h_out": str(plan.out),
        "paths": len(plan.convolution.paths),
        "radial_weights": plan.convolution.num_weights,
        "product_paths": _product_paths(product) if product else {},
        "body_order": order,
        "exact": order is not None,
        "operations_per_edge": _operations_per_edge(design, plan),
        "operations_per_atom": _operations_per_atom(design, plan),
    }


def _product_paths(product: Product) -> dict[str, list[int]]:
    orders = range(1, product.correlation + 1)
    return {str(out): [product.num_paths(out, nu) for nu in orders] for out in product.irreps_out}


def _operations_per_edge(design: Design, plan: LayerPlan) -> int:
    design = design.of_layer(plan.index)
    weights = plan.convolution.num_weights
    inputs = radial_inputs(design, plan.h.count(Irrep(0, 1)))
    widths = {"mlp": (inputs, *design.radial_mlp, weights), "fixed": (0, weights)}.get(
        design.radial_map, (design.num_radial, weights)
    )
    radial = sum(a * b for a, b in pairwise(widths))
    paths = plan.convolution.paths
    coupling = sum(path.mul * _coefficients(path.ir_in.l, path.ell, path.ir_out.l) for path in paths)
    weighting = sum(path.mul * path.ir_out.dim for path in paths)
    return radial + coupling + weighting


def _harmonics(max_ell: int) -> int:
    """Y_1 = √3 r̂, and every higher degree from the products of the one before with r̂."""
    higher = sum(3 * (2 * ell - 1) + _coefficients(ell - 1, 1, ell) for ell in range(2, max_ell + 1))
    return (3 if max_ell > 0 else 0) + higher


def _coefficients(l1: int, l2: int, l3: int) -> int:
    return int((clebsch_gordan(l1, l2, l3).abs() > 1e-12).sum())


def _operations_per_atom(design: Design, plan: LayerPlan) -> int:
    design = design.of_layer(plan.index)
    total = _linear(plan.h, plan.up) + _linear(plan.convolution.irreps_out, plan.message)
    if design.message_species == "all" or (design.message_species == "first" and plan.index == 0):
        total += _linear(plan.message, plan.message)
    if design.message_residual:
        total += _linear(plan.up, plan.message)
    if design.message_nonlinearity != "none":
        total += _linear(plan.A, plan.A)
    if design.self_connection != "none" and (plan.index > 0 or design.self_connection_first):
        total += _linear(plan.h, plan.update)
    if plan.product is not None:
        channels = design.channels_per_degree[0]
        total += channels * _product_terms(plan.product)
        total += _linear(Irreps([(channels, ir) for ir in plan.product.irreps_out]), plan.update)
    return total + _readout(design, plan)


def _readout(design: Design, plan: LayerPlan) -> int:
    scalars, hidden = plan.out.count(Irrep(0, 1)), design.readout_hidden
    if plan.index < design.layers - 1:
        return scalars if design.readout_layers == "every" else 0
    if design.readout == "linear":
        return scalars
    depth = design.readout_depth if design.readout in ("mlp", "mlp_bias") else 1
    return scalars * hidden + (depth - 1) * hidden * hidden + hidden


def _product_terms(product: Product) -> int:
    """Monomials of degree 2 and more, and pairs of a component M and a monomial that some path joins."""
    formed = sum(len(monomials.last) for monomials in product.monomials[1:])
    applied = 0
    for out in product.irreps_out:
        for nu in range(1, product.correlation + 1):
            if product.num_paths(out, nu):
                applied += int((product.coefficients(out, nu)[1].abs() > 1e-12).any(dim=1).sum())
    return formed + applied


def _linear(irreps_in: Irreps, irreps_out: Irreps) -> int:
    return sum(irreps_in.count(ir) * mul * ir.dim for mul, ir in irreps_out if ir in irreps_in)


def _placeholder(species: tuple[int, ...], measured: Statistics | None) -> Statistics:
    zeros, ones = (0.0,) * len(species), (1.0,) * len(species)
    return Statistics(
        species=species,
        atomic_energies=zeros,
        mean_neighbours=1.0,
        mean_neighbours_per_species=ones,
        energy_mean_per_species=zeros,
        species_fractions=(measured and measured.species_fractions) or (1.0 / len(species),) * len(species),
        mean_bonds=measured.mean_bonds if measured else (),
    )
