"""The papers behind a model: those of its own architecture, and no others."""

from collections.abc import Iterable

DESIGN_SPACE = (
    "I. Batatia, S. Batzner, D. P. Kovács, A. Musaelian, G. N. C. Simm, R. Drautz, C. Ortner, B. Kozinsky and "
    "G. Csányi, “The design space of E(3)-equivariant atom-centred interatomic potentials”, Nature Machine "
    "Intelligence 7, 56–67 (2025). doi:10.1038/s42256-024-00956-x"
)
MACE = (
    "I. Batatia, D. P. Kovács, G. N. C. Simm, C. Ortner and G. Csányi, “MACE: higher order equivariant message "
    "passing neural networks for fast and accurate force fields”, NeurIPS 35 (2022). arXiv:2206.07697"
)
NEQUIP = (
    "S. Batzner, A. Musaelian, L. Sun, M. Geiger, J. P. Mailoa, M. Kornbluth, N. Molinari, T. E. Smidt and "
    "B. Kozinsky, “E(3)-equivariant graph neural networks for data-efficient and accurate interatomic "
    "potentials”, Nature Communications 13, 2453 (2022). doi:10.1038/s41467-022-29939-5"
)
ACE = (
    "R. Drautz, “Atomic cluster expansion for accurate and transferable interatomic potentials”, Physical "
    "Review B 99, 014104 (2019). doi:10.1103/PhysRevB.99.014104"
)
NEQUIX = (
    "T. Koker, M. Kotak and T. Smidt, “Training a foundation model for materials on a budget” (2025). arXiv:2508.16067"
)

LAST_LAYER = (
    "F. Bigi, S. Chong, M. Ceriotti and F. Grasselli, “A prediction rigidity formalism for low-cost uncertainties in "
    "trained neural networks”, Machine Learning: Science and Technology 5, 045018 (2024). doi:10.1088/2632-2153/ad805f"
)
"""For the uncertainty of last layers."""

_OF_CODES = {"mace-torch": MACE, "nequip": NEQUIP, "nequip-0.5": NEQUIP, "nequix": NEQUIX}
"""By the code that a model was converted from; models of the design-space paper's code are of several kinds."""
_OF_FAMILIES = {"ace": ACE, "mace": MACE, "nequip": NEQUIP, "invariant": NEQUIP, "nequix": NEQUIX}
"""By the first word of a named point; BOTNet is of the design-space paper."""


def papers(point: str, codes: Iterable[str] = (), version: str = "") -> tuple[str, ...]:
    """Returns what to cite for a model: equipot, the paper of the design space, and that of the architecture.

    Args:
        point: The named point that is nearest to its design.
        codes: The codes that it, or the models that its training started from, were converted from. They say more
            than the point where they have an architecture of their own.
        version: Version of equipot.
    """
    own = [_OF_CODES[code] for code in codes if code in _OF_CODES]
    family = _OF_FAMILIES.get(point.partition("_")[0])
    software = "The equipot developers, “equipot”" + (f", version {version}" if version else "") + " (software)."
    return tuple(dict.fromkeys([software, DESIGN_SPACE, *(own or filter(None, [family]))]))
