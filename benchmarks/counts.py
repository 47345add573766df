r"""The operations and bytes that a model needs at least, counted from the descriptions of its layers.

Counted are multiply-adds (2 FLOP each) of a computation that repeats nothing: only non-zero Clebsch–Gordan terms,
products of sorted factors with the weights folded into one coefficient for each element, element lookup instead of
one-hot vectors, no gradient that is not wanted. Functions of single numbers (activations, Bessel functions, harmonics)
and everything that costs O(1) per atom or edge are left out. For one layer, its parts and how often each is evaluated:

=====================  ===============================================  ==========  ==========
part                   multiply-adds of one evaluation                  E and F     training
=====================  ===============================================  ==========  ==========
linear maps            dim K K' per irrep and atom                      2           6
radial MLP             Σ of the matrices' sizes per edge                2           6
radial spline          columns of R per edge, 6 coefficients            13          26
convolution            (non-zero terms + 2 l₃ + 1 per path) K per edge  1 + 3       4 + 9
the first layer's      the same; its h do not depend on positions       1 + 2       3 + 7
product: monomials     one per monomial of degree ≥ 2 and channel       1 + 2       3 + 8
product: coefficients  one per non-zero U[M, monomial] and channel      1 + 1       2 + 5
=====================  ===============================================  ==========  ==========

The gradient of a linear map with respect to its input costs as much as the map; the loss of a training step contains
that gradient, and its derivative with respect to weights needs the tangent, its transpose, and two outer products: 6.
The convolution is linear in h, Y and R: three gradients, and for the derivative of those with respect to what leads to
weights (h and R, not Y) nine more. The spline has its six values and six slopes once, a sum with the gradient of R, and
in training twice six in the table's gradient; the table is the MLP on its knots, counted per step, as is the folding of
weights into coefficients in training.

Bytes: every array of nodes or edges that must exist between two operations is written once and read by those that
need it: 5 passes over it for energy and forces, 12 for a training step. What one operation keeps in registers or in the
first cache is not counted, nor are gathered features of neighbours, which come from a cache if atoms are sorted in
space. With the exact radial network R is such an array; with the spline it is not.
"""

from dataclasses import dataclass
from itertools import pairwise

from equipot.design import Design
from equipot.interactions.plan import LayerPlan, plan_layers
from equipot.kernels.polynomial import Convolution, Product
from equipot.o3 import Irreps

KNOTS = 128
PASSES = {"forces": 5, "train": 12}
_LINEAR = {"forces": 2, "train": 6}
_SPLINE = {"forces": 13, "train": 26}
_CONVOLUTION = {"forces": 4, "train": 13}
_CONVOLUTION_FIRST = {"forces": 3, "train": 10}
_MONOMIALS = {"forces": 3, "train": 11}
_COEFFICIENTS = {"forces": 2, "train": 7}


@dataclass(frozen=True)
class Count:
    """What a computation needs.

    Attributes:
        flop: Twice the multiply-adds.
        bytes: Read and written.
        parts: Multiply-adds by part.
    """

    flop: float
    bytes: float
    parts: dict[str, float]


def count(
    design: Design, work: str, radial: str, *, atoms: int, edges: int, species: int, item: int = 4
) -> Count:  # fmt: skip
    """Returns what energy and forces, or a training step, of a system need.

    Args:
        design: The model.
        work: "forces" or "train".
        radial: "exact" or "spline".
        atoms: Number of atoms.
        edges: Number of edges.
        species: Number of elements.
        item: Bytes of a number: 4 or 8.
    """
    plans = plan_layers(design, species)
    parts: dict[str, float] = {}
    for plan in plans:
        for name, value in _layer(design, plan, work, radial, (atoms, edges, species)).items():
            parts[name] = parts.get(name, 0.0) + value
    traffic = PASSES[work] * item * sum(_array_numbers(design, plan, radial, atoms, edges) for plan in plans)
    geometry = edges * (8 * (3 + 1 + 1) + item * PASSES[work] * (design.max_ell + 1) ** 2)
    return Count(2.0 * sum(parts.values()), traffic + geometry, parts)


def _layer(design: Design, plan: LayerPlan, work: str, radial: str, size: tuple[int, int, int]) -> dict[str, float]:
    """Multiply-adds of one layer, by part."""
    atoms, edges, species = size
    first, layer = plan.index == 0, design.of_layer(plan.index)
    convolution = _CONVOLUTION_FIRST if first else _CONVOLUTION
    parts = {
        "linear": _LINEAR[work] * atoms * _linear_per_atom(layer, plan),
        "convolution": convolution[work] * edges * _convolution_per_edge(plan.convolution),
        **_radial(layer, plan, work, radial, edges),
    }
    if plan.product is not None:
        channels = layer.channels_per_degree[0]
        monomials, coefficients, folded = _product(plan.product)
        parts["product"] = atoms * channels * (_MONOMIALS[work] * monomials + _COEFFICIENTS[work] * coefficients)
        if work == "train":
            parts["folding"] = 3.0 * species * channels * folded
    return parts


def _linear_per_atom(layer: Design, plan: LayerPlan) -> int:
    """W and P, D, S and U of one atom; in the first layer U h and S h are looked up by element."""
    total = _matrix(plan.convolution.irreps_out, plan.message)
    if layer.message_species == "all" or (layer.message_species == "first" and plan.index == 0):
        total += _matrix(plan.message, plan.message)
    if plan.product is not None:
        made = Irreps([(layer.channels_per_degree[0], ir) for ir in plan.product.irreps_out])
        total += _matrix(made, plan.update)
    if plan.index > 0:
        total += _matrix(plan.h, plan.up)
        total += 0 if layer.self_connection == "none" else _matrix(plan.h, plan.update)
    return total


def _matrix(irreps_in: Irreps, irreps_out: Irreps) -> int:
    return sum(ir.dim * irreps_in.count(ir) * mul for mul, ir in irreps_out)


def _convolution_per_edge(description: Convolution) -> int:
    """Non-zero terms, and one product with R per output component, each for all channels of its path."""
    total = 0
    for path in description.paths:
        alone = Convolution(description.irreps_in, description.max_ell, (path,))
        total += path.mul * (alone.num_terms + path.ir_out.dim)
    return total


def _radial(layer: Design, plan: LayerPlan, work: str, radial: str, edges: int) -> dict[str, float]:
    weights = plan.convolution.num_weights
    widths = [layer.num_radial, *(layer.radial_mlp if layer.radial_map == "mlp" else ()), weights]
    network = sum(a * b for a, b in pairwise(widths))
    if radial == "exact":
        return {"radial": float(_LINEAR[work] * edges * network)}
    table = 3.0 * KNOTS * network if work == "train" else 0.0
    return {"radial": float(_SPLINE[work] * edges * weights), "radial table": table}


def _product(description: Product) -> tuple[int, int, int]:
    """Monomials of degree ≥ 2, non-zero coefficients with folded weights, and non-zero U with all paths."""
    monomials = sum(len(m.last) for m in description.monomials[1:])
    coefficients = folded = 0
    for out in description.irreps_out:
        for nu in range(1, description.correlation + 1):
            _, U = description.coefficients(out, nu)
            coefficients += int((U.abs().amax(dim=1) > 1e-12).sum()) if U.shape[1] else 0
            folded += int((U.abs() > 1e-12).sum())
    return monomials, coefficients, folded


def _array_numbers(design: Design, plan: LayerPlan, radial: str, atoms: int, edges: int) -> float:
    """Numbers in the arrays between the operations of a layer: h, U h, a, A, B and h', and R."""
    B = 0 if plan.product is None else sum(design.channels_per_degree[0] * ir.dim for ir in plan.product.irreps_out)
    node = plan.h.dim + plan.up.dim + plan.convolution.irreps_out.dim + plan.message.dim + B + plan.out.dim
    return atoms * node + (edges * plan.convolution.num_weights if radial == "exact" else 0)
