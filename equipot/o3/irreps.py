"""Irreducible representations of O(3) and their direct sums, as values."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import overload

from equipot.errors import EquipotError

_IRREP = re.compile(r"(\d+)([eoy])")
_TERM = re.compile(r"(?:(\d+)\s*x\s*)?(\d+[eoy])")


@dataclass(frozen=True, order=True)
class Irrep:
    """One irreducible representation of O(3): degree l and parity p.

    Ordered by (l, p), that is 0o < 0e < 1o < 1e < ... . It is *natural* where p = (-1)^l, as the spherical
    harmonics are.

    Args:
        l: degree, 0, 1, 2, ...
        p: parity, +1 (even, ``e``) or -1 (odd, ``o``): the factor under inversion.

    Raises:
        EquipotError: l is negative, or p is neither +1 nor -1.
    """

    l: int  # noqa: E741 (the symbol of both papers)
    p: int

    def __post_init__(self) -> None:
        if self.l < 0 or self.p not in (-1, 1):
            raise EquipotError(f"Irrep(l={self.l}, p={self.p}) does not exist: give l >= 0 and p = +1 or -1.")

    @classmethod
    def from_string(cls, text: str) -> "Irrep":
        """Read ``1o``, ``2e``, ... ; ``y`` stands for the natural parity (``3y`` is ``3o``).

        Raises:
            EquipotError: the text is not a degree followed by e, o or y.
        """
        match = _IRREP.fullmatch(text.strip())
        if match is None:
            raise EquipotError(f"{text!r} is not an irrep: write the degree and the parity, e.g. '0e', '1o', '2e'.")
        degree = int(match[1])
        return cls.natural(degree) if match[2] == "y" else cls(degree, 1 if match[2] == "e" else -1)

    @classmethod
    def natural(cls, degree: int) -> "Irrep":
        """The irrep of the spherical harmonics of this degree, p = (-1)^l."""
        return cls(degree, (-1) ** degree)

    @property
    def dim(self) -> int:
        """Number of components, 2l+1."""
        return 2 * self.l + 1

    @property
    def is_scalar(self) -> bool:
        """Whether this is 0e, which no operation of O(3) changes."""
        return self.l == 0 and self.p == 1

    @property
    def is_natural(self) -> bool:
        """Whether p = (-1)^l."""
        return self.p == (-1) ** self.l

    def __mul__(self, other: "Irrep") -> list["Irrep"]:
        """The irreps of the product, l = |l1-l2| ... l1+l2 ascending, each once, with p = p1 p2."""
        return [Irrep(degree, self.p * other.p) for degree in range(abs(self.l - other.l), self.l + other.l + 1)]

    def __str__(self) -> str:
        return f"{self.l}{'e' if self.p == 1 else 'o'}"

    def __repr__(self) -> str:
        return str(self)


class Irreps(tuple[tuple[int, Irrep], ...]):
    """A direct sum of irreps: an immutable, hashable sequence of (multiplicity, Irrep).

    Equality is that of the sequence: ``Irreps("2x0e") != Irreps("0e + 0e")``.

    Args:
        irreps: ``"32x0e + 16x1o"`` (a missing multiplicity is 1, an empty text the empty sum), an Irrep, or
            an iterable of (multiplicity, Irrep or text).

    Raises:
        EquipotError: the text cannot be read, or a multiplicity is negative.
    """

    __slots__ = ()

    def __new__(cls, irreps: "str | Irrep | Iterable[tuple[int, Irrep | str]]" = ()) -> "Irreps":
        """Read the terms; see the class."""
        if isinstance(irreps, cls):
            return irreps
        if isinstance(irreps, Irrep):
            terms = [(1, irreps)]
        elif isinstance(irreps, str):
            terms = _parse(irreps)
        else:
            terms = [(int(mul), ir if isinstance(ir, Irrep) else Irrep.from_string(ir)) for mul, ir in irreps]
        if any(mul < 0 for mul, _ in terms):
            raise EquipotError(f"a multiplicity in {irreps!r} is negative: give 0 or more copies.")
        return super().__new__(cls, terms)

    @classmethod
    def spherical_harmonics(cls, lmax: int) -> "Irreps":
        """``0e + 1o + 2e + ...`` up to lmax: the irreps of the harmonics of a direction."""
        return cls((1, Irrep.natural(degree)) for degree in range(lmax + 1))

    @property
    def dim(self) -> int:
        """Number of components, Σ mul (2l+1)."""
        return sum(mul * ir.dim for mul, ir in self)

    @property
    def num_irreps(self) -> int:
        """Number of irreps counted with multiplicity, Σ mul."""
        return sum(mul for mul, _ in self)

    @property
    def lmax(self) -> int:
        """Highest degree with at least one copy.

        Raises:
            EquipotError: the sum is empty.
        """
        degrees = [ir.l for mul, ir in self if mul > 0]
        if not degrees:
            raise EquipotError("the empty direct sum has no highest degree: give at least one irrep.")
        return max(degrees)

    @property
    def unique(self) -> tuple[Irrep, ...]:
        """The distinct irreps with at least one copy, ascending."""
        return tuple(sorted({ir for mul, ir in self if mul > 0}))

    def count(self, ir: "Irrep | str") -> int:  # type: ignore[override]
        """Number of copies of one irrep, over all terms."""
        wanted = Irrep.from_string(ir) if isinstance(ir, str) else ir
        return sum(mul for mul, irrep in self if irrep == wanted)

    def __contains__(self, ir: object) -> bool:
        return self.count(ir) > 0 if isinstance(ir, (Irrep, str)) else super().__contains__(ir)

    def slices(self) -> list[slice]:
        """Where each term lies in a flat vector of components, in order."""
        slices, start = [], 0
        for mul, ir in self:
            slices.append(slice(start, start + mul * ir.dim))
            start += mul * ir.dim
        return slices

    def simplify(self) -> "Irreps":
        """Drop empty terms and merge neighbours of the same irrep; the order of components stays."""
        terms: list[tuple[int, Irrep]] = []
        for mul, ir in self:
            if terms and terms[-1][1] == ir:
                terms[-1] = (terms[-1][0] + mul, ir)
            elif mul > 0:
                terms.append((mul, ir))
        return Irreps(terms)

    def sorted(self) -> "Irreps":
        """The terms in ascending order of irrep, equal ones in their given order; nothing is merged."""
        return Irreps(sorted(self, key=lambda term: term[1]))

    def filter(self, keep: "Callable[[Irrep], bool] | Iterable[Irrep]") -> "Irreps":
        """The terms whose irrep satisfies a condition, or is in a collection."""
        if not callable(keep):
            kept = frozenset(keep)
            return Irreps(term for term in self if term[1] in kept)
        return Irreps(term for term in self if keep(term[1]))

    def __add__(self, other: "Irreps") -> "Irreps":  # type: ignore[override]
        return Irreps((*self, *other))

    @overload  # type: ignore[override]
    def __getitem__(self, index: int) -> tuple[int, Irrep]: ...
    @overload
    def __getitem__(self, index: slice) -> "Irreps": ...
    def __getitem__(self, index: "int | slice") -> "tuple[int, Irrep] | Irreps":
        part = super().__getitem__(index)
        return Irreps(part) if isinstance(index, slice) else part  # type: ignore[return-value, arg-type]

    def __str__(self) -> str:
        return " + ".join(f"{mul}x{ir}" for mul, ir in self)

    def __repr__(self) -> str:
        return f"Irreps({str(self)!r})"


def _parse(text: str) -> list[tuple[int, Irrep]]:
    """Read a sum such as ``32x0e + 1o``."""
    if not text.strip():
        return []
    terms = []
    for term in text.split("+"):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise EquipotError(
                f"{term.strip()!r} in {text!r} is not an irrep: write terms such as '32x0e' or '1o', joined by '+'."
            )
        terms.append((int(match[1] or 1), Irrep.from_string(match[2])))
    return terms
