"""Which irreps each layer of a design makes: its shapes, before any weight exists."""

from dataclasses import dataclass

from equipot.design import Design
from equipot.errors import EquipotError
from equipot.kernels.gate_map import SCALAR, gate_irreps_in
from equipot.kernels.polynomial import Convolution, Product, convolution, reachable
from equipot.o3 import Irrep, Irreps


@dataclass(frozen=True)
class LayerPlan:
    """The irreps of one layer; irreps that no path can reach are absent.

    Attributes:
        index: 0 for the first layer.
        h: Irreps of the features that come in.
        up: Irreps of U h.
        convolution: The paths of the pooled tensor product.
        message: Irreps after W: those of A, and gates where γ needs them.
        A: Irreps of the one-particle basis.
        product: The product basis, or None where B = A.
        update: Irreps before the nonlinearity (D B + S h).
        out: Irreps of the features that go out.
    """

    index: int
    h: Irreps
    up: Irreps
    convolution: Convolution
    message: Irreps
    A: Irreps
    product: Product | None
    update: Irreps
    out: Irreps


def embedding_width(design: Design, num_species: int) -> int:
    """Width of h⁰, the elements' embedding.

    Raises:
        EquipotError: `embedding_channels` is given for one-hot vectors and is not the number of elements.
    """
    if design.element_embedding != "one_hot":
        return design.embedding_channels or design.channels_per_degree[0]
    if design.embedding_channels not in (None, num_species):
        raise EquipotError(
            f"embedding_channels={design.embedding_channels}, but one-hot vectors of {num_species} elements have width "
            f"{num_species} (element_embedding='one_hot'): leave embedding_channels out, or choose another embedding."
        )
    return num_species


def plan_layers(design: Design, num_species: int) -> list[LayerPlan]:
    """Returns the plan of every layer of a design for this number of elements."""
    h = Irreps([(embedding_width(design, num_species), SCALAR)])
    plans = []
    for index in range(design.layers):
        plan = _plan_layer(design, index, h)
        plans.append(plan)
        h = plan.out
    return plans


def _plan_layer(design: Design, index: int, h: Irreps) -> LayerPlan:
    wanted = _feature_irreps(design, last=index == design.layers - 1)
    make = _plan_without_product if design.product == "none" else _plan_with_product
    return make(design, index, h, wanted)


def _plan_without_product(design: Design, index: int, h: Irreps, wanted: Irreps) -> LayerPlan:
    polar = design.parity != "none"
    up = _edge_irreps(design.of_layer(index), h)
    made = convolution(up, design.max_ell, [ir for _, ir in wanted], polar=polar).irreps_out
    out = Irreps([(mul, ir) for mul, ir in wanted if ir in made])
    update = gate_irreps_in(out) if design.nonlinearity == "gate" else out
    conv = convolution(up, design.max_ell, [ir for _, ir in update], polar=polar)
    return LayerPlan(index, h, up, conv, _message_irreps(design.of_layer(index), update), update, None, update, out)


def _plan_with_product(design: Design, index: int, h: Irreps, wanted: Irreps) -> LayerPlan:
    parities = {"natural": (1,), "full": (1, -1)}[design.parity]
    candidates = sorted(Irrep(ell, (-1) ** ell * p) for ell in range(design.max_ell + 1) for p in parities)
    up = _edge_irreps(design.of_layer(index), h)
    conv = convolution(up, design.max_ell, candidates)
    types = tuple(ir for _, ir in conv.irreps_out)
    A = Irreps([(design.channels_per_degree[0], ir) for ir in types])
    kept = [(mul, ir) for mul, ir in wanted if reachable(types, ir, design.correlation, design.product)]
    out = Irreps(kept)
    product = Product(types, tuple(ir for _, ir in kept), design.correlation, design.product)
    update = gate_irreps_in(out) if design.nonlinearity == "gate" else out
    return LayerPlan(index, h, up, conv, _message_irreps(design.of_layer(index), A), A, product, update, out)


def _edge_irreps(layer: Design, h: Irreps) -> Irreps:
    """Irreps of U h: those of h, with channels of their own where the design gives them."""
    if layer.edge_channels is None:
        return h
    widths = layer.edge_channels_per_degree
    return Irreps([(widths[ir.l], ir) for _, ir in h if widths[ir.l] > 0])


def _message_irreps(layer: Design, A: Irreps) -> Irreps:
    return gate_irreps_in(A) if layer.message_nonlinearity == "gate" else A


def _feature_irreps(design: Design, *, last: bool) -> Irreps:
    widths = design.channels_per_degree
    if last and design.last_layer == "scalars":
        return Irreps([(widths[0], SCALAR)])
    parities = {"natural": lambda L: [(-1) ** L], "full": lambda L: [-1, 1], "none": lambda L: [1]}[design.parity]
    return Irreps([(mul, Irrep(L, p)) for L, mul in enumerate(widths) for p in parities(L)])
