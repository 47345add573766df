"""The whole model: from a graph to one energy per atom."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.basis import RadialBasis
from equipot.design import Design
from equipot.errors import EquipotError
from equipot.geometry import Graph
from equipot.interactions import (
    EXACT,
    Edges,
    Elements,
    ExactRadial,
    RadialSpline,
    interaction_layers,
    num_knots,
    radial_choice,
)
from equipot.kernels import threads
from equipot.kernels.backend import backend_of
from equipot.kernels.operations import EdgeHarmonicsOperation, edge_index, follow_backend
from equipot.kernels.reference import group_by_species
from equipot.models.baseline import NoBaseline
from equipot.models.embedding import element_embedding
from equipot.models.readout import readout
from equipot.models.repulsion import repulsion
from equipot.models.uncertainty import Uncertainty
from equipot.statistics import Statistics


class ParameterCounts(NamedTuple):
    """Numbers of trainable numbers.

    Attributes:
        parameters: All of them.
        active_parameters: Those that the energy depends on; the rest never receive a gradient.
        per_block: All of them, by block.
    """

    parameters: int
    active_parameters: int
    per_block: dict[str, int]


class Potential(nn.Module):
    r"""An interatomic potential: one point of the design space with what was measured from data.

        E_i = E0_{z_i} + ε_i,   ε_i = scale_{z_i} Σ_t readout_t(h_i^(t)) + shift_{z_i} + pair repulsion + ε_i^baseline

    The pair repulsion is multiplied by the scale too where the design says `repulsion_scaled`.

    The last term is there where the potential corrects another one, its baseline (`equipot fit --baseline`), which may
    be any potential. Of that only ε counts: E0 is that of the statistics here. So E0 is counted once, and so is the
    repulsion, which only one of the two may have. Neighbours are those within the larger of the two cutoffs; every
    function of a shorter one is exactly zero beyond it.

    `uncertainty` is that of its weights if they were fitted (`equipot fit`), else None; no prediction depends on it.

    Called with a graph and its edge vectors it returns one energy per owned atom; forces and stress come
    from `equipot.geometry.evaluate`, which is all that knows about derivatives.

    Args:
        design: Which function.
        statistics: Elements, E0, scale, shift, mean numbers of neighbours.
        dtype: Type of weights and features, float32 or float64. Geometry, E0 and sums are always float64.
        seed: Start of the weights; the same seed gives the same weights whatever was drawn before.
        radial: How radial functions are evaluated, "exact" or "spline:KNOTS" (see `RadialSpline`); a choice that
            changes the energy by less than float32 rounds it. That of the baseline stays what it is.
        baseline: The potential that this one corrects, in the same dtype; a copy without its uncertainty is taken.

    Raises:
        EquipotError: The dtype is neither float32 nor float64, `radial` is no such choice, or the baseline lacks an
            element, has another dtype, or has what the design adds a second time.

    Source: Batatia et al. 2025, Methods.
    """

    radial: str
    species_of: Tensor
    E0: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        design: Design,
        statistics: Statistics,
        *,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        radial: str = EXACT,
        baseline: "Potential | None" = None,
    ) -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.float64):
            raise EquipotError(f"dtype={dtype}: a potential is made in torch.float32 or torch.float64.")
        self.design, self.statistics, self.dtype = design, statistics, dtype
        if baseline is not None:
            check_correction(design, statistics.species, dtype, baseline)
        self.baseline = _below(baseline)
        self.r_max: float = max(design.r_max, self.baseline.r_max)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(dtype)
        self.uncertainty: Uncertainty | None = None
        self._choose_radial(radial)

    def parts(self) -> list["Potential"]:
        """Returns this potential, its baseline, the baseline of that, and so on."""
        return [self] if isinstance(self.baseline, NoBaseline) else [self, *self.baseline.parts()]

    def _build(self, dtype: torch.dtype) -> None:
        design, statistics = self.design, self.statistics
        self.embedding = element_embedding(design, len(statistics.species), dtype)
        sign = -1.0 if design.edge_vector == "to_receiver" else 1.0
        self.harmonics = EdgeHarmonicsOperation(design.max_ell, sign, dtype)
        self.radial_basis = RadialBasis(design, dtype, statistics)
        layers = interaction_layers(design, statistics, dtype)
        plans = [layer.plan for layer in layers]
        self.layers = nn.ModuleList(layers)
        self.readouts = nn.ModuleList(
            [readout(design, plan.out, last=plan.index == design.layers - 1, dtype=dtype) for plan in plans]
        )
        self.repulsion = repulsion(design, statistics)
        species_of = torch.full((len(chemical_symbols) + 1,), -1, dtype=torch.int64)
        species_of[list(statistics.species)] = torch.arange(len(statistics.species))
        self.register_buffer("species_of", species_of, persistent=False)
        for name, values, trainable in _energy_terms(design, statistics):
            term = torch.tensor(values, dtype=torch.float64)
            if trainable:
                self.register_parameter(name, nn.Parameter(term))
            else:
                self.register_buffer(name, term)

    def choose_radial(self, radial: str) -> "Potential":
        """Evaluates the radial functions, those of a baseline too, in another way from now on; returns this potential.

        Args:
            radial: "exact", "spline", or "spline:KNOTS".

        Raises:
            EquipotError: It is none of these.
        """
        for part in self.parts():
            part._choose_radial(radial)
        return self

    def _choose_radial(self, radial: str) -> None:
        knots, species = num_knots(radial), self.statistics.species
        self.to_edges: ExactRadial | RadialSpline = ExactRadial(species)
        if knots is not None:
            self.to_edges = RadialSpline(self.design, species, knots, self.dtype)
        self.to_edges.to(self.species_of.device).train(self.training)
        self.radial = radial_choice(radial)
        follow_backend(self.to_edges, self.layers)

    def at_work(self) -> AbstractContextManager[None]:
        """Returns the context for its evaluation and training: it says who uses the threads (`kernels.threads.alone`).

        Radial networks that are evaluated at every edge are torch's work, and leave it its threads.
        """
        return threads.alone(backend_of(self) == "cpu" and all(part.radial != EXACT for part in self.parts()))

    def forward(self, graph: Graph, vectors: Float[Tensor, "edge xyz"]) -> Float[Tensor, " owned"]:
        """Returns the energy of each owned atom, eV, float64.

        Args:
            graph: The atoms and edges.
            vectors: r_ij of each edge, Å, float64; zero-length edges are not allowed.

        Raises:
            EquipotError: An element is not among the model's.
        """
        return self.layer_energies(graph, vectors).sum(dim=0)

    def layer_energies(self, graph: Graph, vectors: Float[Tensor, "edge xyz"]) -> Float[Tensor, "term owned"]:
        """Returns the terms of each atom's energy: E0 + shift + repulsion + baseline, then each layer's readout."""
        first, *read = self.interaction_energies(graph, vectors)
        species = self.species_of.index_select(0, graph.atomic_numbers[: graph.num_owned])
        return torch.stack([self.E0.index_select(0, species) + first, *read])

    def interaction_energies(self, graph: Graph, vectors: Float[Tensor, "edge xyz"]) -> Float[Tensor, "term owned"]:
        """Returns the same terms without E0."""
        species = self.species(graph.atomic_numbers)[: graph.num_owned]
        scale = self.scale.expand_as(self.E0).index_select(0, species)
        constant = self.shift.expand_as(self.E0).index_select(0, species)
        repulsion = self.repulsion(graph, torch.linalg.vector_norm(vectors, dim=1))
        constant = constant + repulsion * (scale if self.design.repulsion_scaled else 1.0)
        constant = constant + self.baseline.interaction_energies(graph, vectors).sum(dim=0)
        features = self.features(graph, vectors)
        read = [head(h).double() * scale for head, h in zip(self.readouts, features, strict=True)]
        return torch.stack([constant, *read])

    def features(self, graph: Graph, vectors: Float[Tensor, "edge xyz"]) -> list[Float[Tensor, "owned _"]]:
        """Returns the features h^(t) of the owned atoms after each layer, flat in the order of `plan.out`."""
        species = self.species(graph.atomic_numbers)
        elements = Elements(
            species,
            group_by_species(species[: graph.num_owned], len(self.statistics.species)),
            self.embedding.vectors(),
        )
        edges = self._edges(graph, vectors, species)
        features = [self.layers[0](elements.embedding.index_select(0, species), edges, elements)]
        for layer in self.layers[1:]:
            features.append(layer(self.exchange(features[-1]), edges, elements))
        return features

    _exchange: Callable[[Tensor], Tensor] = staticmethod(lambda h: h)

    @property
    def exchange(self) -> Callable[[Tensor], Tensor]:
        """What completes the features of owned atoms by those of ghosts, before each layer but the first.

        It is the identity without domain decomposition. A baseline has the same one.
        """
        return self._exchange

    @exchange.setter
    def exchange(self, exchange: Callable[[Tensor], Tensor]) -> None:
        """Gives every part another one."""
        for part in self.parts():
            part._exchange = exchange

    @exchange.deleter
    def exchange(self) -> None:
        """Gives every part the identity again."""
        for part in self.parts():
            del part._exchange

    def species(self, atomic_numbers: Int[Tensor, " node"]) -> Int[Tensor, " node"]:
        """Returns the index of each atom's element in `statistics.species`.

        Raises:
            EquipotError: An element is not among them.
        """
        species = self.species_of.index_select(0, atomic_numbers)
        self.refuse_unknown(species, atomic_numbers)
        return species

    def refuse_unknown(self, species: Int[Tensor, " node"], atomic_numbers: Int[Tensor, " node"]) -> None:
        """Raises an `EquipotError` where an element has no index."""
        if bool((species < 0).any()):
            unknown = sorted({chemical_symbols[z] for z in atomic_numbers[species < 0].tolist()})
            known = ", ".join(chemical_symbols[z] for z in self.statistics.species)
            raise EquipotError(
                f"the structure contains {', '.join(unknown)}, which this potential was not made for (it knows "
                f"{known}). Use a potential trained on data with {', '.join(unknown)}."
            )

    def parameter_counts(self) -> ParameterCounts:
        """Returns how many parameters there are, how many are active, and where they are."""
        per_block: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            block = _block_name(name)
            per_block[block] = per_block.get(block, 0) + parameter.numel()
        active = sum(part._active_parameters() for part in self.parts())
        return ParameterCounts(sum(per_block.values()), active, per_block)

    def _active_parameters(self) -> int:
        probe, graph = _probe(self)
        with torch.enable_grad():
            energy = probe(graph, graph.vectors()).sum()
            gradients = torch.autograd.grad(energy, list(probe.parameters()), allow_unused=True)
        return sum(int((g != 0).sum()) for g in gradients if g is not None)

    def _edges(self, graph: Graph, vectors: Float[Tensor, "edge xyz"], species: Int[Tensor, " node"]) -> Edges:
        lengths, Y = self.harmonics(vectors)
        z_i, z_j = (species.index_select(0, end) for end in (graph.receivers, graph.senders))
        return Edges(
            edge_index(graph.senders, graph.receivers, graph.num_owned),
            Y,
            self.to_edges(self.radial_basis, lengths, z_j, z_i),
        )


def check_correction(design: Design, species: Sequence[int], dtype: torch.dtype, baseline: Potential) -> None:
    """Raises where a potential cannot correct another one.

    Args:
        design: Of the correction.
        species: Its elements.
        dtype: Its precision.
        baseline: The potential below.

    Raises:
        EquipotError: The baseline lacks an element, has another dtype, or has what the design adds a second time.
    """
    lacking = [chemical_symbols[z] for z in species if z not in baseline.statistics.species]
    nuclear = ("zbl", "zbl_lammps")
    repulsive = any(part.design.pair_repulsion in nuclear for part in baseline.parts())
    rules = [
        (bool(lacking),
         f"the baseline does not know {', '.join(lacking)}; it must know every element of the structures: use one "
         "that does"),
        (baseline.dtype != dtype,
         f"the baseline is in {baseline.dtype}, and its correction would be in {dtype}: a potential has one precision; "
         "load the baseline in that of the correction"),
        (repulsive and design.pair_repulsion in nuclear,
         f"the baseline has a pair repulsion, and pair_repulsion={design.pair_repulsion!r} would count it twice; set "
         "design.pair_repulsion=none, or core"),
        (design.shift != "none",
         f"shift={design.shift!r} is the mean of the whole interaction energy, which the baseline has already; set "
         "design.shift=none"),
    ]  # fmt: skip
    for impossible, reason in rules:
        if impossible:
            raise EquipotError(reason + ".")


def _below(baseline: Potential | None) -> Potential | NoBaseline:
    """Returns a copy of the baseline without its uncertainty."""
    if baseline is None:
        return NoBaseline()
    below = copy.deepcopy(baseline)
    below.uncertainty = None
    return below


def _energy_terms(design: Design, statistics: Statistics) -> list[tuple[str, list[float], bool]]:
    """The constants of the energy per element: name, values, whether they are trained."""
    num_species = len(statistics.species)
    mean_shift = design.energy_reference == "mean_shift"
    E0 = [statistics.total_energy_mean] * num_species if mean_shift else list(statistics.atomic_energies)
    scale = {"none": 1.0, "force_rms": statistics.force_rms, "energy_std": statistics.energy_std}[design.scale]
    per_species = design.scale_shift_per_species
    means = list(statistics.energy_mean_per_species) if per_species else [statistics.energy_mean]
    shift = means if design.shift == "mean" and not mean_shift else [0.0] * len(means)
    return [
        ("E0", E0, design.trainable_e0),
        ("scale", [scale] * len(means), design.trainable_scale),
        ("shift", shift, design.trainable_shift),
    ]


def _block_name(parameter: str) -> str:
    parts = parameter.split(".")
    return ".".join(parts[:3]) if parts[0] in ("layers", "readouts") and len(parts) > 2 else parts[0]


def _probe(potential: Potential) -> tuple[Potential, Graph]:
    """A copy with random weights and a random cluster, for counting gradients.

    Every element occurs twice, as sender and as receiver, with eight neighbours: enough for every product, and
    linear in the number of elements.
    """
    generator = torch.Generator().manual_seed(1)
    num_species = len(potential.statistics.species)
    n = max(10, 2 * num_species)
    positions = torch.rand(n, 3, generator=generator, dtype=torch.float64) * potential.r_max * 0.5
    receivers = torch.arange(n).repeat_interleave(8)
    senders = (receivers + torch.tensor([-4, -3, -2, -1, 1, 2, 3, 4]).repeat(n)) % n
    numbers = torch.tensor(potential.statistics.species).repeat(n)[:n]
    graph = Graph(
        positions, torch.zeros(1, 3, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.bool), numbers,
        senders, receivers, torch.zeros(len(senders), 3, dtype=torch.float64),
        torch.zeros(n, dtype=torch.int64), 1, n,
    )  # fmt: skip
    probe = Potential(potential.design, potential.statistics, dtype=torch.float64, seed=1)
    with torch.no_grad():
        for parameter in probe.parameters():  # some start at zero and would hide others
            parameter.add_(0.1 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64))
    return probe, graph
