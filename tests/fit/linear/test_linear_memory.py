"""Memory is planned: blocks of rows are as large as what is left allows."""

import pytest

from equipot.errors import EquipotError
from equipot.fit.linear.memory import available_memory, cut, plan


@pytest.mark.parametrize("columns", [10, 1000, 15000])
@pytest.mark.parametrize("squares", [0, 1, 3])
@pytest.mark.parametrize("allowed", [0.01, 0.5, 6.0, 20.0])
def test_a_plan_stays_below_what_is_allowed_or_says_what_it_needs(columns, squares, allowed):
    rows = [82] * 500
    blocks = 2 * 2048 if squares and columns > 12288 else 0
    needed = (squares * (columns + 1) + 32 + 2 * 82 + blocks) * (columns + 1) * 8e-9
    if needed > allowed:
        with pytest.raises(EquipotError, match=rf"needs {needed:.2f} GB"):
            plan(columns, squares, rows, allowed)
        return
    for keep in (False, True):
        sizes = plan(columns, squares, rows, allowed, keep)
        assert needed - 1e-9 < sizes.bytes / 1e9 + 32 * 8e-9 * (columns + 1) and sizes.bytes <= allowed * 1e9
        assert sizes.block_rows >= 32 and sizes.model_rows >= 82
        kept = 500 * 82 * 8 * (columns + 1)
        assert sizes.kept_in_memory == (not keep or needed * 1e9 + kept < allowed * 1e9)
    assert 1e8 < available_memory() < 1e14


def test_structures_are_cut_in_order_and_each_is_in_one_group():
    assert cut([0, 1, 2, 3, 4], [3, 3, 9, 0, 2], 6) == [[0, 1], [2], [4]]
