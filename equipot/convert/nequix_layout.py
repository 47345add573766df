"""Which arrays a Nequix model has, by its hyper-parameters: names, shapes and the order in a `.nqx` file."""

from collections.abc import Iterator

from ase.data import chemical_symbols

from equipot.convert.layout import UvuPath, pooled_irreps, uvu_paths
from equipot.convert.taken import Options
from equipot.errors import EquipotError
from equipot.o3 import Irrep, Irreps

SCALAR = Irrep(0, 1)
MOST_LAYERS = 12
"""The longest models of the design space."""


class NequixShape:
    """The sizes of a Nequix model.

    Args:
        options: The header of its file; what it says of sizes is read here.
        name: Name of the source, for messages.

    Raises:
        EquipotError: A size is missing or impossible, or the features are such as equipot does not have.
    """

    def __init__(self, options: Options, name: str) -> None:
        self.atomic_numbers = _atomic_numbers(options.get("atomic_numbers"), name)
        self.lmax, self.layers = options.whole("lmax"), options.whole("n_layers")
        self.hidden = _hidden_irreps(options.get("hidden_irreps"), self.lmax, name)
        self.num_radial = options.whole("radial_basis_size")
        width, depth = options.whole("radial_mlp_size"), options.whole("radial_mlp_layers")
        self.indexed = options.choice("index_weights", (True, False))
        self.norm = options.choice("layer_norm", (True, False))
        if not (1 <= self.layers <= MOST_LAYERS and 0 <= depth <= MOST_LAYERS):
            raise EquipotError(
                f"{name}: n_layers = {self.layers} must be 1 to {MOST_LAYERS}, and radial_mlp_layers = {depth} 0 to "
                f"{MOST_LAYERS}."
            )
        if min(self.num_radial, width) < 1:
            raise EquipotError(f"{name}: radial_basis_size and radial_mlp_size must be at least 1.")
        self.radial_mlp = (width,) * depth

    @property
    def num_species(self) -> int:
        """Number of elements."""
        return len(self.atomic_numbers)

    def features(self, layer: int) -> Irreps:
        """Returns the irreps that come into a layer."""
        return Irreps([(self.num_species, SCALAR)]) if layer == 0 else self.hidden

    def out(self, layer: int) -> Irreps:
        """Returns the irreps that leave a layer: scalars only at the last."""
        return self.hidden if layer < self.layers - 1 else self.hidden[:1]

    def update(self, layer: int) -> Irreps:
        """Returns the irreps before a layer's gate."""
        out = self.out(layer)
        gates = sum(mul for mul, ir in out if ir != SCALAR)
        return Irreps([(mul + gates if ir == SCALAR else mul, ir) for mul, ir in out])

    def paths(self, layer: int) -> list[UvuPath]:
        """Returns the paths of a layer's tensor product in the order in which nequix finds them."""
        return uvu_paths(self.features(layer), self.lmax, self.out(layer))

    def arrays(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields the name and shape of each array, in the order in which equinox writes them."""
        yield "atom_energies", (self.num_species,)
        for layer in range(self.layers):
            yield from self._layer(layer)
        yield from _linear("readout", self.hidden[:1], Irreps("1x0e"))

    def _layer(self, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        prefix, h, update = f"layers.{layer}", self.features(layer), self.update(layer)
        pooled = pooled_irreps(self.paths(layer)).simplify()
        widths = [self.num_radial, *self.radial_mlp, pooled.num_irreps]
        for n in range(len(widths) - 1):
            yield f"{prefix}.radial_mlp.layers.{n}.weights", (widths[n], widths[n + 1])
        yield from _linear(f"{prefix}.linear_1", h, h)
        yield from _linear(f"{prefix}.linear_2", pooled, update)
        yield from _linear(f"{prefix}.skip", h, update, (self.num_species,) if self.indexed else ())
        if self.norm:
            yield from ((f"{prefix}.layer_norm.affine_weight.{n}", (mul,)) for n, (mul, _) in enumerate(update))


def linear_names(prefix: str, irreps_in: Irreps, irreps_out: Irreps) -> dict[Irrep, str]:
    """Returns for each irrep that a linear map of e3nn-jax mixes the name of its matrix; irreps stand once each."""
    outs = {ir: (n, mul) for n, (mul, ir) in enumerate(irreps_out)}
    return {
        ir: f"{prefix}._weights.w[{n},{outs[ir][0]}] {mul}x{ir},{outs[ir][1]}x{ir}"
        for n, (mul, ir) in enumerate(irreps_in)
        if ir in outs
    }


def _linear(
    prefix: str, irreps_in: Irreps, irreps_out: Irreps, leading: tuple[int, ...] = ()
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for ir, name in linear_names(prefix, irreps_in, irreps_out).items():
        yield name, (*leading, irreps_in.count(ir), irreps_out.count(ir))


def _atomic_numbers(value: object, name: str) -> tuple[int, ...]:
    """The elements, ascending, as nequix indexes them whatever their order in the header."""
    numbers = (
        [z for z in value if isinstance(z, int) and 0 < z < len(chemical_symbols)] if isinstance(value, list) else []
    )
    if not numbers or len(set(numbers)) != len(numbers) or numbers != value:
        raise EquipotError(f"{name}: atomic_numbers = {value!r} must be a list of distinct atomic numbers.")
    return tuple(sorted(numbers))


def _hidden_irreps(value: object, lmax: int, name: str) -> Irreps:
    """The features between layers: each degree 0 … L once, ascending, of natural parity, L ≤ lmax."""
    if not isinstance(value, str):
        raise EquipotError(f"{name}: hidden_irreps = {value!r} must be a text such as '128x0e + 64x1o'.")
    irreps = Irreps(value)
    if [ir for mul, ir in irreps if mul > 0] != [Irrep.natural(degree) for degree in range(len(irreps))] or not irreps:
        raise EquipotError(
            f"{name}: hidden_irreps = {value!r} must have every degree once, ascending from 0e, with the parity of the "
            "harmonics (0e + 1o + 2e + 3o …). nequix itself cannot evaluate 0o, 1e, 2o …; other orders and left out "
            "degrees are not axes of equipot's design space."
        )
    if irreps.lmax > lmax:
        raise EquipotError(
            f"{name}: hidden_irreps = {value!r} has degree {irreps.lmax}, but the harmonics end at lmax = {lmax}: its "
            "first layer cannot make it, and nequix itself cannot evaluate such a model."
        )
    return irreps
