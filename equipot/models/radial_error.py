"""How far splined radial functions are from the exact ones, measured."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equipot.interactions.layer import Interaction
from equipot.interactions.radial_points import RadialPoints
from equipot.interactions.radial_spline import MIN_KNOTS, RadialSpline
from equipot.kernels.spline import spline
from equipot.models.model_file import converted
from equipot.models.potential import Potential

MAX_TABLES = 16
"""Pairs of elements that are looked at, where radial functions depend on them."""


class RadialError(NamedTuple):
    """The error of one layer's splines, relative to the root mean square of the same derivative.

    Attributes:
        layer: 0 for the first.
        rms: Of R, R′ and R″, as root mean square over distances, paths and channels.
        largest: The largest of them.
    """

    layer: int
    rms: tuple[float, float, float]
    largest: tuple[float, float, float]


def radial_spline_error(
    potential: Potential, knots: int, *, shortest: float = 0.5, points: int = 2000
) -> list[RadialError]:
    """Returns the errors of R, R′ and R″ on knots against the exact functions, for each layer.

    Tables are rounded to the potential's precision, as in use; everything else is in float64.

    Args:
        potential: The potential, whatever it was trained with.
        knots: Number of knots.
        shortest: Smallest distance, Å; the largest is the cutoff.
        points: Number of distances, evenly spaced.
    """
    double = converted(potential, torch.float64, "cpu")
    S, r_max = len(double.statistics.species), double.r_max
    splines = RadialSpline(double.design, double.statistics.species, knots, torch.float64)
    tables = range({"nothing": 1, "sender": S, "pair": S * S}[splines.depends_on])[:MAX_TABLES]
    r = torch.linspace(shortest, r_max, points, dtype=torch.float64)
    found = []
    layers: list[Interaction] = list(double.layers)  # type: ignore[arg-type]
    for index, layer in enumerate(layers):
        errors, sizes = [torch.zeros(0)] * 3, [torch.zeros(0)] * 3
        for number in tables:
            exact = exact_derivatives(double, index, r, number)
            with torch.no_grad():
                table = splines.tables(layer, double.radial_basis, (number,))[0]
            table = table.to(potential.dtype).double()
            for k in range(3):
                y = spline(table, r * (knots / r_max), k) * (knots / r_max) ** k
                errors[k] = torch.cat([errors[k], (y - exact[k]).flatten()])
                sizes[k] = torch.cat([sizes[k], exact[k].flatten()])
        scale = [float(size.square().mean().sqrt()) for size in sizes]
        rms = [float(error.square().mean().sqrt()) / s for error, s in zip(errors, scale, strict=True)]
        largest = [float(error.abs().max()) / s for error, s in zip(errors, scale, strict=True)]
        found.append(RadialError(index, (rms[0], rms[1], rms[2]), (largest[0], largest[1], largest[2])))
    return found


def exact_derivatives(
    potential: Potential, layer: int, r: Float[Tensor, " point"], table: int = 0
) -> list[Float[Tensor, "point weights"]]:
    """Returns R, R′ and R″ of one layer at distances r.

    Args:
        potential: In float64.
        layer: 0 for the first.
        r: Distances, Å, float64.
        table: For which elements, where radial functions depend on them; see `RadialSpline.tables`.
    """
    splines = RadialSpline(potential.design, potential.statistics.species, MIN_KNOTS, torch.float64)
    module: Interaction = potential.layers[layer]  # type: ignore[assignment]
    return _derivatives(_functions(potential, module, splines, table), r)


def _functions(
    potential: Potential, layer: Interaction, splines: RadialSpline, number: int
) -> Callable[[Float[Tensor, " point"]], Float[Tensor, "point weights"]]:
    """R of one layer as a function of distances between the elements of one table."""
    sender, receiver = splines.elements(torch.tensor([number]))
    Z = splines.species

    def R(r: Float[Tensor, " point"]) -> Float[Tensor, "point weights"]:
        j, i = sender.expand(len(r)), receiver.expand(len(r))
        return layer.radial_functions(RadialPoints(potential.radial_basis(r, Z[j], Z[i]), j, i))[0]

    return R


def _derivatives(
    function: Callable[[Float[Tensor, " point"]], Float[Tensor, "point weights"]], r: Float[Tensor, " point"]
) -> list[Float[Tensor, "point weights"]]:
    """Value, first and second derivative, each point depending on its own distance alone."""
    r = r.clone().requires_grad_(True)
    found = [function(r)]
    for _ in range(2):
        found.append(_slope(found[-1], r))
    return [y.detach() for y in found]


def _slope(y: Float[Tensor, "point weights"], r: Float[Tensor, " point"]) -> Float[Tensor, "point weights"]:
    """∂y/∂r for every column, as the derivative of Σ v ∂y/∂r with respect to v."""
    v = torch.ones_like(y, requires_grad=True)
    (g,) = torch.autograd.grad(y, r, v, create_graph=True)
    (slope,) = torch.autograd.grad(g.sum(), v, create_graph=True)
    return slope
