"""Radial basis functions of the distance, with their distance transforms and envelope."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from ase.data import covalent_radii
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipot.basis.cutoff import polynomial_envelope
from equipot.basis.short_range import DistanceFloor, NoFloor, shortest_distances
from equipot.design import Design
from equipot.statistics import Statistics

_SMALLEST = 1e-9
"""Of a transformed distance: u^κ has no slope at u = 0, which is where the envelope vanishes, or beyond it."""


class RadialFeatures(NamedTuple):
    """What the radial networks see of each edge.

    Attributes:
        basis: Values e_n(r), times the envelope unless the design puts it on the weights.
        envelope: Envelope still to be multiplied on the weights; ones if it is in `basis` already.
        pair: Two-body functions of a coupled design, where they differ from `basis`, which is that of the products.
    """

    basis: Float[Tensor, "edge radial"]
    envelope: Float[Tensor, "edge 1"]
    pair: Float[Tensor, "edge radial"] | None = None


class RadialBasis(nn.Module):
    r"""The basis e_n(r) f(r / r_max).

        bessel      c · sin(w_n r) / r,   w_n = n π / r_max,   c = √(2/r_max) or 2/r_max
        chebyshev   T_n(2u − 1),          u = r / r_max, or the distance transform of r; or T_n(r) itself
        legendre    √(2n + 1) P_n(2u − 1), n from 0
        gaussian    exp(−(r − μ_n)² / 2Δ²), μ_n evenly spaced on [0, r_max], Δ their spacing

    With `envelope_power` κ the envelope f is multiplied by u^κ of the transformed distance. The products of a coupled
    design may have a shorter cutoff than its two-body functions, and an inner envelope; with `distance_floor`
    neither sees distances shorter than in training.
    Evaluated in float64 and cast afterwards: near r_max the envelope is a difference of nearly equal terms.

    Args:
        design: The axes radial_*, envelope_* and distance_transform.
        dtype: Type of the result and of trainable frequencies.
        statistics: Measured distances, where the transform makes use of them.

    Source: Bessel: Gasteiger et al., ICLR 2020, Eq. 7. Prefactors: BOTNet and MACE; nequip.
    """

    def __init__(self, design: Design, dtype: torch.dtype, statistics: Statistics | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        self.p, self.power = design.envelope_p, design.envelope_power
        self.envelope_on_basis = design.envelope_on == "basis"
        own = {"product_r_max": None, "inner_envelope": 0.0}
        same = all(getattr(design, axis) == x for axis, x in own.items())
        self.pair = None if same else RadialBasis(design.replace(**own), dtype, statistics)
        self.floor = DistanceFloor(statistics) if design.distance_floor else NoFloor()
        self.inner = InnerEnvelope(design) if design.inner_envelope > 0 else NoInnerEnvelope()
        if design.product_r_max is not None:
            design = design.replace(product_r_max=None, r_max=design.product_r_max)
        self.r_max = design.r_max
        self.transform = DISTANCE_TRANSFORMS[design.distance_transform](design.r_max, statistics)
        self.functions = RADIAL_BASES[design.radial_basis](design, dtype)

    def forward(
        self,
        lengths: Float[Tensor, " edge"],
        Z_sender: Int[Tensor, " edge"],
        Z_receiver: Int[Tensor, " edge"],
    ) -> RadialFeatures:
        """Returns the basis for edges of these lengths (Å, float64) between these elements."""
        basis, envelope, pair = self.in_float64(lengths, Z_sender, Z_receiver)
        return RadialFeatures(
            basis.to(self.dtype), envelope.to(self.dtype), None if pair is None else pair.to(self.dtype)
        )

    def in_float64(
        self,
        lengths: Float[Tensor, " edge"],
        Z_sender: Int[Tensor, " edge"],
        Z_receiver: Int[Tensor, " edge"],
    ) -> RadialFeatures:
        """Returns the same before it is cast."""
        pair = None if self.pair is None else self.pair.in_float64(lengths, Z_sender, Z_receiver).basis
        inner = self.inner(lengths, Z_sender, Z_receiver)
        lengths = self.floor(lengths, Z_sender, Z_receiver)
        u = self.transform(lengths, Z_sender, Z_receiver)
        near = u.clamp(min=_SMALLEST).pow(self.power) if self.power > 0 else torch.ones_like(u)
        envelope = (polynomial_envelope(lengths / self.r_max, self.p) * near).unsqueeze(-1)
        basis = self.functions(u)
        ones = torch.ones_like(envelope)
        on_basis, on_weights = (envelope, ones) if self.envelope_on_basis else (ones, envelope)
        return RadialFeatures(basis * on_basis * inner, on_weights, pair)


class Bessel(nn.Module):
    """Spherical Bessel functions of order zero, c · sin(w_n r) / r; w_n in units of π / r_max."""

    frequencies: Tensor

    def __init__(self, design: Design, dtype: torch.dtype) -> None:
        super().__init__()
        self.r_max = design.r_max
        self.prefactor = {"sqrt": math.sqrt(2.0 / self.r_max), "full": 2.0 / self.r_max}[design.radial_prefactor]
        n = torch.arange(1, design.num_radial + 1, dtype=torch.float64)
        _keep(self, "frequencies", n, design.radial_trainable, dtype)

    def forward(self, r: Float[Tensor, " edge"]) -> Float[Tensor, "edge radial"]:
        """Returns the functions at distances r, Å."""
        r = r.unsqueeze(-1)
        return self.prefactor * torch.sin(self.frequencies.double() * (math.pi / self.r_max) * r) / r


class Chebyshev(nn.Module):
    """Chebyshev polynomials, from T_1 or T_0, of 2 r / r_max − 1 (2u − 1 with a transform onto [0, 1]), or of r."""

    def __init__(self, design: Design, dtype: torch.dtype) -> None:
        super().__init__()
        self.num, self.lowest = design.num_radial, design.chebyshev_lowest
        scaled = _onto_unit_interval(design)
        self.slope, self.offset = {"scaled": scaled, "distance": (1.0, 0.0)}[design.chebyshev_argument]

    def forward(self, r: Float[Tensor, " edge"]) -> Float[Tensor, "edge radial"]:
        """Returns the polynomials."""
        T = _chebyshev(self.slope * r + self.offset, self.num + self.lowest)
        return torch.stack(T[self.lowest :], dim=-1)


class Legendre(nn.Module):
    """Legendre polynomials P_0 … P_{n−1} of 2 r / r_max − 1 (2u − 1 with a transform onto [0, 1]), of norm 1 there."""

    in_chebyshev: Tensor

    def __init__(self, design: Design, dtype: torch.dtype) -> None:
        super().__init__()
        self.num = design.num_radial
        self.slope, self.offset = _onto_unit_interval(design)
        x = np.cos(np.pi * (np.arange(self.num) + 0.5) / self.num)  # Gauss–Chebyshev: exact up to these degrees
        values = np.polynomial.legendre.legvander(x, self.num - 1) * np.sqrt(2 * np.arange(self.num) + 1)
        T = np.polynomial.chebyshev.chebvander(x, self.num - 1) * np.where(np.arange(self.num) > 0, 2.0, 1.0)
        self.register_buffer("in_chebyshev", torch.from_numpy(T.T @ values / self.num), persistent=False)

    def forward(self, r: Float[Tensor, " edge"]) -> Float[Tensor, "edge radial"]:
        """Returns √(2n + 1) P_n, as sums of Chebyshev polynomials."""
        T = torch.stack(_chebyshev(self.slope * r + self.offset, self.num), dim=-1)
        return T @ self.in_chebyshev


def _chebyshev(x: Tensor, count: int) -> list[Tensor]:
    """T_0 … by T_{m+n} = 2 T_m T_n − T_{m−n}, from halves: compilers that inline a three-term recurrence never end."""
    T = [torch.ones_like(x), x]
    for n in range(2, count):
        m = n - n // 2
        T.append(2.0 * T[m] * T[n // 2] - T[m - n // 2])
    return T[:count]


class Gaussian(nn.Module):
    """Gaussians of equal width, evenly spaced on [0, r_max]."""

    centres: Tensor

    def __init__(self, design: Design, dtype: torch.dtype) -> None:
        super().__init__()
        self.spacing = design.r_max / (design.num_radial - 1)
        centres = torch.linspace(0.0, design.r_max, design.num_radial, dtype=torch.float64)
        _keep(self, "centres", centres, design.radial_trainable, dtype)

    def forward(self, r: Float[Tensor, " edge"]) -> Float[Tensor, "edge radial"]:
        """Returns the functions at distances r, Å."""
        return torch.exp(-0.5 * ((r.unsqueeze(-1) - self.centres.double()) / self.spacing) ** 2)


class NoTransform(nn.Module):
    """The distance itself."""

    def forward(self, r: Tensor, Z_sender: Tensor, Z_receiver: Tensor) -> Tensor:
        """Returns r."""
        return r


class _PairTransform(nn.Module):
    radii: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("radii", torch.as_tensor(covalent_radii, dtype=torch.float64), persistent=False)

    def pair_radius(self, Z_sender: Tensor, Z_receiver: Tensor) -> Tensor:
        return self.radii.index_select(0, Z_sender) + self.radii.index_select(0, Z_receiver)


class Agnesi(_PairTransform):
    r"""The Agnesi transform, 1 / (1 + a (r/r₀)^q / (1 + (r/r₀)^{q−p})), r₀ half the sum of covalent radii.

    Source: Witt et al., J. Chem. Phys. 159, 164101 (2023); constants as in mace-torch.
    """

    q, p, a = 0.9183, 4.5791, 1.0805

    def forward(self, r: Tensor, Z_sender: Tensor, Z_receiver: Tensor) -> Tensor:
        """Returns the transformed distance, between 0 (far) and 1 (r = 0)."""
        x = r / (0.5 * self.pair_radius(Z_sender, Z_receiver))
        return 1.0 / (1.0 + self.a * x.pow(self.q) / (1.0 + x.pow(self.q - self.p)))


class AgnesiBond(_PairTransform):
    r"""An Agnesi transform that is steepest at r₀, about the shortest distance of a pair, and zero at r_max.

        u = 1 / (1 + a (r/r₀)⁴ / (1 + (r/r₀)²)),   a = 10/13,   result (u − u(r_max)) / (1 − u(r_max))

    Polynomials of it resolve distances about r₀ most finely. r₀ is the sum of covalent radii, or, for elements that are
    not bonded to each other, the shortest distance in the training set.

    Args:
        r_max: Where it becomes zero, Å.
        statistics: Elements and shortest distances.

    Source: Witt et al., J. Chem. Phys. 159, 164101 (2023), Eq. 17, with p = 2 and q = 4.
    """

    a = 10.0 / 13.0
    shortest: Tensor

    def __init__(self, r_max: float, statistics: Statistics | None) -> None:
        super().__init__()
        self.r_max = r_max
        self.register_buffer("shortest", shortest_distances(statistics), persistent=False)

    def forward(self, r: Tensor, Z_sender: Tensor, Z_receiver: Tensor) -> Tensor:
        """Returns the transformed distance, between 0 (r_max) and 1 (r = 0)."""
        r0 = torch.maximum(self.pair_radius(Z_sender, Z_receiver), self.shortest[Z_sender, Z_receiver])
        last = self._agnesi(self.r_max / r0)
        return (self._agnesi(r / r0) - last) / (1.0 - last)

    def _agnesi(self, s: Tensor) -> Tensor:
        s = s * s
        return 1.0 / (1.0 + self.a * s * s / (1.0 + s))


class Soft(_PairTransform):
    r"""A smooth floor: p₀ + (r − p₀) · ½(1 + tanh(α (r − m))), which is r at long and p₀ at short range.

    With R the sum of covalent radii: p₀ = 3R/4, p₁ = 4R/3, m their mean, α = 4 / (p₁ − p₀).

    Source: mace-torch's soft transform.
    """

    def forward(self, r: Tensor, Z_sender: Tensor, Z_receiver: Tensor) -> Tensor:
        """Returns the transformed distance, Å."""
        R = self.pair_radius(Z_sender, Z_receiver)
        p0, p1 = 0.75 * R, 4.0 / 3.0 * R
        return p0 + (r - p0) * 0.5 * (1.0 + torch.tanh(4.0 / (p1 - p0) * (r - 0.5 * (p0 + p1))))


class NoInnerEnvelope(nn.Module):
    """No inner envelope."""

    def forward(self, r: Tensor, Z_sender: Tensor, Z_receiver: Tensor) -> float:
        """Returns 1."""
        return 1.0


class InnerEnvelope(_PairTransform):
    r"""1 − f(r / a) with the polynomial envelope f: zero at r = 0, one from r = a on, a a fraction of the radii's sum.

    It is twice continuously differentiable.
    """

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.fraction, self.p = design.inner_envelope, design.envelope_p

    def forward(
        self, r: Float[Tensor, " edge"], Z_sender: Int[Tensor, " edge"], Z_receiver: Int[Tensor, " edge"]
    ) -> Float[Tensor, "edge 1"]:
        """Returns the envelope at distances r, Å."""
        a = self.fraction * self.pair_radius(Z_sender, Z_receiver)
        return (1.0 - polynomial_envelope(r / a, self.p)).unsqueeze(-1)


RADIAL_BASES: dict[str, type[Bessel] | type[Chebyshev] | type[Legendre] | type[Gaussian]] = {
    "bessel": Bessel, "chebyshev": Chebyshev, "legendre": Legendre, "gaussian": Gaussian,
}  # fmt: skip
DISTANCE_TRANSFORMS: dict[str, Callable[[float, Statistics | None], nn.Module]] = {
    "none": lambda r_max, statistics: NoTransform(),
    "agnesi": lambda r_max, statistics: Agnesi(),
    "agnesi_bond": AgnesiBond,
    "soft": lambda r_max, statistics: Soft(),
}


def _onto_unit_interval(design: Design) -> tuple[float, float]:
    """Slope and offset that map r, or its transform, onto [−1, 1]."""
    return 2.0 / (1.0 if design.distance_transform in ("agnesi", "agnesi_bond") else design.r_max), -1.0


def _keep(module: nn.Module, name: str, values: Tensor, trainable: bool, dtype: torch.dtype) -> None:
    if trainable:
        module.register_parameter(name, nn.Parameter(values.to(dtype)))
    else:
        module.register_buffer(name, values, persistent=False)
