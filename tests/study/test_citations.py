"""What a model asks to cite: its own architecture's paper and no other's."""

import pytest

from equipot.convert.source import CODES
from equipot.points import NAMED_POINTS
from equipot.study.citations import ACE, DESIGN_SPACE, MACE, NEQUIP, NEQUIX, papers

OF_POINTS = {
    "ace": ACE, "ace_linear": ACE, "mace": MACE, "mace_nonlinear": MACE, "nequix": NEQUIX, "invariant": NEQUIP,
    **{name: NEQUIP for name in NAMED_POINTS if name.startswith("nequip")},
}  # fmt: skip


@pytest.mark.parametrize("point", NAMED_POINTS)
def test_every_point_has_its_paper(point):
    software, *found = papers(point, version="1.2.3")
    assert "equipot" in software
    assert "1.2.3" in software
    assert found == [DESIGN_SPACE, *([OF_POINTS[point]] if point in OF_POINTS else [])]
    assert (point in OF_POINTS) == (not point.startswith("botnet"))


@pytest.mark.parametrize(
    ("code", "point", "own"),
    [
        ("mace-torch", "ace", [MACE]),
        ("nequip", "nequix", [NEQUIP]),
        ("nequip-0.5", "nequip", [NEQUIP]),
        ("nequix", "nequip_current", [NEQUIX]),
        ("botnet", "nequip_linear", [NEQUIP]),
        ("botnet", "botnet_ssh", []),
    ],
)
def test_the_code_a_model_came_from_says_more_than_the_nearest_point(code, point, own):
    assert code in CODES
    assert list(papers(point, [code])[1:]) == [DESIGN_SPACE, *own]
