"""The group O(3): irreps, spherical harmonics and the coefficients that couple them.

The one convention of this package, used by every room above:

* Harmonics are real and the polar axis is y. Degree 1 is (x, y, z); degree 2 is
  √15 (xz, xy, (2y²-x²-z²)/(2√3), yz, (z²-x²)/2). Components run m = -l ... l.
* 'component' normalisation: ‖Y_l(r̂)‖² = 2l+1, so the mean square of a component over the sphere is 1.
* ``wigner_3j`` has Frobenius norm 1; ``clebsch_gordan`` is √(2 l3+1) times it.
* Under a rotation or reflection R, Y_l(R r) = D_l(R) Y_l(r), and inversion multiplies Y_l by (-1)^l.
* Irreps are ordered (l, p) with odd before even: 0o < 0e < 1o < 1e < ... .

Component order, values and signs are those of e3nn 0.6. e3nn 0.4.4, with which the published MACE models
were made, differs by the sign of the 3j symbols (1, l, l) and their permutations for l >= 2; harmonics are
identical.
"""

from equipot.o3.clebsch_gordan import clebsch_gordan, wigner_3j
from equipot.o3.coupling import (
    CouplingPath,
    chained_couplings,
    coupling_chain,
    coupling_paths,
    couplings_of,
    symmetric_couplings,
)
from equipot.o3.invariants import (
    InvariantCouplings,
    half_degrees,
    halves,
    invariant_couplings,
    invariant_dimension,
    tree_tensor,
)
from equipot.o3.irreps import Irrep, Irreps
from equipot.o3.spherical_harmonics import harmonic_recursion, spherical_harmonics, wigner_D

__all__ = [
    "CouplingPath",
    "InvariantCouplings",
    "Irrep",
    "Irreps",
    "chained_couplings",
    "clebsch_gordan",
    "coupling_chain",
    "coupling_paths",
    "couplings_of",
    "half_degrees",
    "halves",
    "harmonic_recursion",
    "invariant_couplings",
    "invariant_dimension",
    "spherical_harmonics",
    "symmetric_couplings",
    "tree_tensor",
    "wigner_3j",
    "wigner_D",
]
