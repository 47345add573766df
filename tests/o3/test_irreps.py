"""Irreps are values: read, ordered, multiplied and laid out as the docstrings say."""

import pytest

from equipot.errors import EquipotError
from equipot.o3 import Irrep, Irreps


def test_order_is_degree_then_odd_before_even():
    ascending = [Irrep.from_string(text) for text in ("0o", "0e", "1o", "1e", "2o", "2e")]
    assert sorted(reversed(ascending)) == ascending


@pytest.mark.parametrize(
    ("left", "right", "product"),
    [("1o", "1o", "0e 1e 2e"), ("1o", "2e", "1o 2o 3o"), ("0o", "3o", "3e"), ("2e", "2o", "0o 1o 2o 3o 4o")],
)
def test_product_of_irreps(left, right, product):
    found = Irrep.from_string(left) * Irrep.from_string(right)
    assert [str(ir) for ir in found] == product.split()
    assert sum(ir.dim for ir in found) == Irrep.from_string(left).dim * Irrep.from_string(right).dim


def test_natural_parity_is_that_of_the_harmonics():
    assert str(Irreps.spherical_harmonics(3)) == "1x0e + 1x1o + 1x2e + 1x3o"
    assert [Irrep.from_string(text).is_natural for text in ("0e", "0o", "1o", "1e")] == [True, False, True, False]
    assert Irrep.from_string("3y") == Irrep(3, -1)
    assert [Irrep.from_string(text).is_scalar for text in ("0e", "0o", "1o")] == [True, False, False]


def test_irreps_are_read_and_measured():
    irreps = Irreps("32x0e + 16x1o+2e")
    assert str(irreps) == "32x0e + 16x1o + 1x2e"
    assert Irreps(str(irreps)) == irreps and hash(Irreps(str(irreps))) == hash(irreps)
    assert (irreps.dim, irreps.num_irreps, irreps.lmax) == (32 + 48 + 5, 49, 2)
    assert irreps.slices() == [slice(0, 32), slice(32, 80), slice(80, 85)]
    assert irreps.count("1o") == 16 and irreps.count(Irrep(1, 1)) == 0
    assert "2e" in irreps and "2o" not in irreps and (16, Irrep(1, -1)) in irreps
    assert Irreps("") == Irreps() and Irreps("").dim == 0
    assert Irreps(Irrep(2, 1)) == Irreps([(1, "2e")]) == Irreps("2e")


def test_irreps_are_rearranged():
    irreps = Irreps("2x1o + 0x3o + 3x1o + 4x0e + 1x1o")
    assert str(irreps.simplify()) == "5x1o + 4x0e + 1x1o"
    assert str(irreps.sorted().simplify()) == "4x0e + 6x1o"
    assert str(irreps.filter(lambda ir: ir.l == 0)) == "4x0e"
    assert str(irreps.filter([Irrep(1, -1)]).simplify()) == "6x1o"
    assert irreps.unique == (Irrep(0, 1), Irrep(1, -1))
    assert irreps[3] == (4, Irrep(0, 1)) and str(irreps[3:]) == "4x0e + 1x1o"
    assert str(Irreps("0e") + Irreps("1o")) == "1x0e + 1x1o"


@pytest.mark.parametrize("text", ["1", "1x", "x1o", "2x1u", "1o 2e", "1o++2e", "-1x0e"])
def test_unreadable_irreps_are_refused(text):
    with pytest.raises(EquipotError, match="is not an irrep"):
        Irreps(text)


def test_impossible_irreps_are_refused():
    with pytest.raises(EquipotError, match="does not exist"):
        Irrep(1, 0)
    with pytest.raises(EquipotError, match="does not exist"):
        Irrep(-1, 1)
    with pytest.raises(EquipotError, match="negative"):
        Irreps([(-1, "0e")])
    with pytest.raises(EquipotError, match="empty"):
        _ = Irreps().lmax
