"""Wigner 3j symbols: invariance, orthogonality, textbook values, and e3nn's signs."""

import itertools
from math import sqrt

import pytest
import torch

from equipot.errors import EquipotError
from equipot.o3 import clebsch_gordan, wigner_3j, wigner_D

TRIPLES = [(l1, l2, l3) for l1, l2, l3 in itertools.product(range(7), repeat=3) if abs(l1 - l2) <= l3 <= l1 + l2]


def test_values_signs_and_order_are_those_of_e3nn(e3nn_o3):
    for triple in TRIPLES:
        expected = e3nn_o3.wigner_3j(*triple, dtype=torch.float64)
        torch.testing.assert_close(wigner_3j(*triple), expected, rtol=0, atol=1e-12)


def test_invariance_under_rotation(rotation):
    D = [wigner_D(degree, rotation) for degree in range(7)]
    for l1, l2, l3 in TRIPLES:
        w = wigner_3j(l1, l2, l3)
        rotated = torch.einsum("ijk,ai,bj,ck->abc", w, D[l1], D[l2], D[l3])
        torch.testing.assert_close(rotated, w, rtol=0, atol=1e-12)


def test_both_orthogonality_relations():
    for l1, l2 in itertools.product(range(5), repeat=2):
        C = torch.cat([clebsch_gordan(l1, l2, l3) for l3 in range(abs(l1 - l2), l1 + l2 + 1)], dim=-1)
        C = C.flatten(0, 1)  # [m1 m2, (l3 m3)]: square, and orthogonal
        identity = torch.eye((2 * l1 + 1) * (2 * l2 + 1), dtype=torch.float64)
        torch.testing.assert_close(C.T @ C, identity, rtol=0, atol=1e-12)
        torch.testing.assert_close(C @ C.T, identity, rtol=0, atol=1e-12)


def test_exchange_of_columns_is_a_sign():
    for l1, l2, l3 in TRIPLES:
        w, sign = wigner_3j(l1, l2, l3), (-1) ** (l1 + l2 + l3)
        torch.testing.assert_close(wigner_3j(l2, l1, l3).transpose(0, 1), sign * w, rtol=0, atol=1e-12)


def test_dot_and_cross_product():
    """1x1→0 is the dot product over √3, 1x1→1 the cross product over √6 in the order (x, y, z)."""
    cross = torch.zeros(3, 3, 3, dtype=torch.float64)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        cross[i, j, k], cross[j, i, k] = 1, -1
    dot = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(wigner_3j(1, 1, 0)[..., 0], dot / sqrt(3), rtol=0, atol=1e-15)
    torch.testing.assert_close(wigner_3j(1, 1, 1), cross / sqrt(6), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("degrees", "squared"),
    [((2, 2, 2), 2 / 35), ((1, 1, 2), 2 / 15), ((2, 2, 4), 2 / 35), ((3, 3, 4), 2 / 77), ((4, 4, 4), 18 / 1001)],
)
def test_textbook_values_of_the_symbol_at_m_zero(degrees, squared):
    """(l1 l2 l3; 0 0 0)², tabulated; m = 0 is the same function in the real and the complex basis."""
    l1, l2, l3 = degrees
    assert wigner_3j(l1, l2, l3)[l1, l2, l3].item() ** 2 == pytest.approx(squared, rel=1e-13)


def test_high_degrees_stay_exact():
    C = clebsch_gordan(20, 20, 20).flatten(0, 1)
    torch.testing.assert_close(C.T @ C, torch.eye(41, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_result_is_the_callers_own():
    wigner_3j(2, 1, 1).zero_()
    assert wigner_3j(2, 1, 1).norm().item() == pytest.approx(1)


@pytest.mark.parametrize("degrees", [(1, 1, 3), (0, 2, 1), (-1, 1, 1)])
def test_degrees_that_do_not_couple_are_refused(degrees):
    with pytest.raises(EquipotError, match="do not couple"):
        wigner_3j(*degrees)
