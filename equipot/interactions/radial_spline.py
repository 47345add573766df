"""Radial functions amortised: every layer's functions on knots, and splines from there to the edges."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.basis import RadialBasis
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.interactions.radial_points import Radial, RadialLayer, RadialPoints
from equipot.kernels.operations import Splined, SplineOperation, SplineTableOperation
from equipot.kernels.spline import DEGREE, rows_of

EXACT = "exact"
DEFAULT_KNOTS = 256
MIN_KNOTS, MAX_KNOTS = 16, 4096


def radial_choice(text: str) -> str:
    """Returns a choice of how radial functions are evaluated as it is written down: "exact" or "spline:KNOTS".

    Raises:
        EquipotError: It is neither, or the number of knots is out of bounds.
    """
    number = num_knots(text)
    return EXACT if number is None else f"spline:{number}"


def num_knots(text: str) -> int | None:
    """Returns the number of knots of such a choice; None for "exact".

    Raises:
        EquipotError: As `radial_choice`.
    """
    found = re.fullmatch(r"exact|spline(?::(\d+))?", text)
    if found is None:
        raise EquipotError(
            f"radial = {text!r}: choose exact, spline ({DEFAULT_KNOTS} knots) or spline:KNOTS, such as spline:256."
        )
    if text == EXACT:
        return None
    number = int(found[1] or DEFAULT_KNOTS)
    if not MIN_KNOTS <= number <= MAX_KNOTS:
        raise EquipotError(f"radial = {text!r}: the number of knots must be between {MIN_KNOTS} and {MAX_KNOTS}.")
    return number


def default_radial(design: Design, dtype: torch.dtype) -> str:
    """Returns the choice for a new training: splines where they cost less, and their error is below rounding.

    That is in float32, for radial networks that see the distance alone; linear maps cost no more than a spline.
    """
    cheaper = design.radial_map == "mlp" and tables_of(design) == "nothing"
    return radial_choice("spline") if cheaper and dtype == torch.float32 else EXACT


def tables_of(design: Design) -> str:
    """Returns what the radial functions of a design depend on beside r: "nothing", the "sender", or the "pair"."""
    layers = [design.of_layer(index) for index in range(design.layers)]
    by_pair = design.distance_transform != "none" or design.inner_envelope > 0 or design.distance_floor
    if by_pair or any(layer.radial_species == "embedding" for layer in layers):
        return "pair"
    return "sender" if any(layer.radial_map == "linear_species" for layer in layers) else "nothing"


class RadialSpline(nn.Module):
    r"""Splined radial functions: R(r) = Σ_q B_q T[q], with T from the functions at r = h, 2h … r_max, h = r_max / n.

    The functions are evaluated in float64 on the knots of one table, of one for each sender's element, or of one for
    each pair of elements that is present, whatever they depend on; then T is cast to the model's precision. In training
    this is done at each step, and gradients flow through T to the weights; their cost is independent of the number of
    edges. In evaluation (`eval()`) the tables are kept until a weight changes.

    Args:
        design: The axes of the radial functions.
        species: Atomic numbers of the elements.
        knots: n.
        dtype: Of tables and values.
    """

    distances: Tensor
    species: Tensor

    def __init__(self, design: Design, species: Sequence[int], knots: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.r_max, self.knots, self.dtype = design.r_max, knots, dtype
        self.depends_on = tables_of(design)
        distances = torch.arange(1, knots + 1, dtype=torch.float64) * (design.r_max / knots)
        self.register_buffer("distances", distances, persistent=False)
        self.register_buffer("species", torch.tensor(species), persistent=False)
        self.spline = SplineOperation(dtype)
        self.table = SplineTableOperation(knots, torch.float64)
        self._kept: dict[RadialLayer, _Kept] = {}

    def forward(
        self,
        basis: RadialBasis,
        lengths: Float[Tensor, " edge"],
        sender_species: Int[Tensor, " edge"],
        receiver_species: Int[Tensor, " edge"],
    ) -> Radial:
        """Returns the way for these edges; from the cutoff on all functions are zero."""
        beyond = float(self.knots + DEGREE)
        u = torch.where(lengths < self.r_max, lengths * (self.knots / self.r_max), beyond)
        present: tuple[int, ...] = (0,)
        if self.depends_on != "nothing":
            pair = sender_species * len(self.species) + receiver_species
            number = pair if self.depends_on == "pair" else sender_species
            present, position = self.present(number)
            u = u + position * rows_of(self.knots)

        def at_edges(layer: RadialLayer) -> tuple[Splined | Float[Tensor, "edge _"], ...]:
            R, *others = self.tables(layer, basis, present)
            return Splined(R, u, self.spline), *(self.spline(table, u) for table in others)

        return at_edges

    @property
    def num_tables(self) -> int:
        """How many tables there are if every element, or pair of elements, is present."""
        return {"nothing": 1, "sender": len(self.species), "pair": len(self.species) ** 2}[self.depends_on]

    def present(self, number: Int[Tensor, " edge"]) -> tuple[tuple[int, ...], Int[Tensor, " edge"]]:
        """Returns the tables to be made, and which of them each edge needs; `number` says it among all tables."""
        found, position = torch.unique(number, return_inverse=True)
        return tuple(found.tolist()), position

    def every_table(self, number: Int[Tensor, " edge"]) -> tuple[tuple[int, ...], Int[Tensor, " edge"]]:
        """As `present`, with all tables whatever the edges are: for a compiler, which cannot know them."""
        return tuple(range(self.num_tables)), number

    def tables(
        self, layer: RadialLayer, basis: RadialBasis, present: tuple[int, ...] = (0,)
    ) -> tuple[Float[Tensor, "row _"], ...]:
        """Returns the coefficients of a layer's functions, table below table.

        Args:
            layer: The layer.
            basis: The radial basis.
            present: Numbers of the tables: 0, elements of senders z_j, or pairs z_j S + z_i of S elements.
        """
        weights = [*layer.radial_weights(), *basis.parameters()]
        if self.training or torch.compiler.is_compiling() or any(w.is_inference() for w in weights):
            self._kept.clear()
            return self._made(layer, basis, present)
        state = (present, tuple((w.data_ptr(), w._version) for w in weights))
        if layer not in self._kept or self._kept[layer].state != state:
            with torch.no_grad():
                self._kept[layer] = _Kept(state, self._made(layer, basis, present))
        tables = self._kept[layer].tables
        if not torch.is_grad_enabled() or not any(w.requires_grad for w in weights):
            return tables
        return _Remembered.apply(lambda: self._made(layer, basis, present), tables, *weights)

    def _made(self, layer: RadialLayer, basis: RadialBasis, present: Sequence[int]) -> tuple[Tensor, ...]:
        tables = []
        for functions, W in layer.radial_factors(self._points(basis, present)):
            tables.append(self.table(functions, W).to(self.dtype))
        return tuple(tables)

    def _points(self, basis: RadialBasis, present: Sequence[int]) -> RadialPoints:
        """The knots of these tables, in float64."""
        Z = self.species
        number = torch.tensor(present, dtype=torch.int64, device=Z.device).repeat_interleave(self.knots)
        sender, receiver = self.elements(number)
        features = basis.in_float64(self.distances.repeat(len(present)), Z[sender], Z[receiver])
        return RadialPoints(features, sender, receiver)

    def elements(self, number: Int[Tensor, " point"]) -> tuple[Int[Tensor, " point"], Int[Tensor, " point"]]:
        """Returns the elements of sender and receiver that tables of these numbers are for."""
        S = len(self.species)
        return number.div(S, rounding_mode="floor") if self.depends_on == "pair" else number, number.remainder(S)


class _Kept(NamedTuple):
    """Tables, and the state of the weights that they were made from."""

    state: tuple[Any, ...]
    tables: tuple[Tensor, ...]


class _Remembered(torch.autograd.Function):
    """Tables known already; they are made once more if a gradient in the weights is asked for after all."""

    @staticmethod
    def forward(
        ctx: Any, make: Callable[[], tuple[Tensor, ...]], tables: tuple[Tensor, ...], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.make = make
        ctx.save_for_backward(*weights)
        return tuple(table.view_as(table) for table in tables)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        trained = [w for w in ctx.saved_tensors if w.requires_grad]
        with torch.enable_grad():
            made = [(table, g) for table, g in zip(ctx.make(), gradients, strict=True) if table.requires_grad]
            found = torch.autograd.grad(
                [table for table, _ in made], trained, [g for _, g in made], create_graph=True, allow_unused=True
            )
        by_weight = iter(found)
        return None, None, *(next(by_weight) if w.requires_grad else None for w in ctx.saved_tensors)
