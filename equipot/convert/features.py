"""Irreps of published features as values of the axes max_L, channels and parity."""

from equipot.errors import EquipotError
from equipot.o3 import Irrep, Irreps


def widths_of(irreps: Irreps, what: str, *, layers: int = 2) -> tuple[int, int | tuple[int, ...], str]:
    """Returns max_L, channels and parity of features such as ``128x0e + 128x1o``.

    Args:
        irreps: The features between layers.
        what: Their name, for messages.
        layers: Number of layers; a single one makes scalars only.

    Raises:
        EquipotError: A degree or parity is left out, an irrep stands twice, or its two parities differ in width.
    """
    if layers == 1:
        irreps = irreps[:1]
    present = {ir: mul for mul, ir in irreps}
    if len(present) != len(irreps) or not irreps or Irrep(0, 1) not in present:
        raise EquipotError(f"{what} = {irreps}: equipot's features have each irrep once, and 0e among them.")
    if irreps[0][1] != Irrep(0, 1) and what == "hidden_irreps":
        raise EquipotError(
            f"{what} = {irreps} begin with {irreps[0][1]}, so the published last layer makes no even scalars; such a "
            "model has no energy of its last layer and is not converted."
        )
    degrees = range(irreps.lmax + 1)
    natural, both = {Irrep.natural(L) for L in degrees}, {Irrep(L, p) for L in degrees for p in (1, -1)}
    if set(present) not in (natural, both):
        raise EquipotError(
            f"{what} = {irreps}: equipot's features have every degree up to the highest, of natural parity "
            f"({' + '.join(str(Irrep.natural(L)) for L in degrees)}) or of both."
        )
    widths = [{present[ir] for ir in present if ir.l == L} for L in degrees]
    if any(len(found) > 1 for found in widths):
        raise EquipotError(f"{what} = {irreps}: equipot has one width for both parities of a degree.")
    channels = tuple(found.pop() for found in widths)
    parity = "full" if set(present) == both and both != natural else "natural"
    return irreps.lmax, channels[0] if len(set(channels)) == 1 else channels, parity
