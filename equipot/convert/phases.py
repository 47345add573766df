"""Signs of the Wigner 3j symbols between the conventions of e3nn's versions."""

from torch import Tensor

from equipot.errors import EquipotError
from equipot.o3 import wigner_3j

CONVENTIONS = ("0.4", "0.6")
"""The two conventions, named by an e3nn version: 0.4 up to 0.4.4, 0.6 from 0.5.0 on, which equipot shares."""
FLIPPED = {
    *((1, degree, degree) for degree in range(2, 10)),
    (3, 4, 6), (3, 5, 7), (3, 6, 8), (3, 7, 9), (4, 4, 5), (4, 5, 6), (4, 6, 7), (4, 7, 8), (4, 8, 9), (5, 5, 5),
    (5, 6, 6), (5, 7, 7), (5, 8, 8), (5, 9, 9), (6, 6, 9), (7, 7, 9), (8, 8, 9), (9, 9, 9),
}  # fmt: skip
"""The sorted degrees up to 9 whose symbol has the other sign in e3nn 0.4, in every order.

Found by comparing e3nn 0.3.3 to 0.6.0, which have two conventions; the sum of the three is odd, so that couplings of
natural parity never change.
"""
_KNOWN_DEGREES = 9
_COMPILED = ("_compiled_main", "graph_opt", "contractions_weighting", "contractions_features")
"""Parts of the names of constants in compiled products."""


def convention_of(version: str) -> str:
    """Returns the convention of an e3nn version such as ``0.4.4``.

    Raises:
        EquipotError: The text is no version.
    """
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError as error:
        raise EquipotError(f"e3nn = {version!r} is not a version such as '0.4.4' or '0.6.0'.") from error
    return "0.4" if (major, minor) < (0, 5) else "0.6"


def sign(l1: int, l2: int, l3: int, convention: str) -> int:
    """Returns the sign of a Wigner 3j symbol of a convention relative to ours.

    The harmonics are the same in both.

    Args:
        l1: First degree.
        l2: Second degree.
        l3: Third degree.
        convention: One of `CONVENTIONS`.

    Raises:
        EquipotError: A degree above 9, in the old convention.
    """
    degrees = tuple(sorted((l1, l2, l3)))
    if convention == "0.6" or sum(degrees) % 2 == 0:
        return 1
    if degrees[-1] > _KNOWN_DEGREES:
        raise EquipotError(
            f"degrees {degrees}: the signs of e3nn 0.4's Wigner 3j symbols are known up to degree "
            f"{_KNOWN_DEGREES}. Give the state dict with the matrices U_matrix_…, from which they are read."
        )
    return -1 if degrees in FLIPPED else 1


def read_signs(tensors: dict[str, Tensor], e3nn: str) -> tuple[dict[str, Tensor], str]:
    """Returns the tensors without constants of compiled products, and the convention of the Wigner 3j symbols' signs.

    A state dict holds the symbols that the model uses; they count, not the version that is said to have made it.

    Args:
        tensors: A state dict.
        e3nn: Version of e3nn where no symbol tells.

    Raises:
        EquipotError: The symbols have signs of no known version.
    """
    found = {name: value for name, value in tensors.items() if "_w3j_" in name}
    kept = {name: value for name, value in tensors.items() if not any(part in name for part in _COMPILED)}
    conventions = set()
    for name, value in found.items():
        l1, l2, l3 = (int(ell) for ell in name.split("_w3j_")[1].split("_"))
        ours = wigner_3j(l1, l2, l3)
        product = float((value.double() * ours).sum() / value.double().norm())
        if abs(abs(product) - 1.0) > 1e-4:
            raise EquipotError(f"{name} is no Wigner 3j symbol of e3nn 0.4 … 0.6: the file is damaged.")
        low, middle, high = sorted((l1, l2, l3))
        if low == 1 and middle == high and high >= 2:
            conventions.add("0.6" if product > 0 else "0.4")
    if len(conventions) > 1:
        raise EquipotError(
            "the Wigner 3j symbols of the model have signs of two versions of e3nn: it is not converted."
        )
    return kept, conventions.pop() if conventions else convention_of(e3nn)
