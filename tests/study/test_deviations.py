"""Errors beside deviations: bins, pooled sets, words, and what is saved."""

import re

import numpy as np
import pytest

from equipot.errors import EquipotError
from equipot.study.figures_linear import binned, calibration, contributions, prior_search
from equipot.study.linear import calibration_rows, in_words
from equipot.study.uncertainty import SetDeviations, blocks, calibration_in_words, evenly_spaced, pooled


def deviations(count=50, scale=1.0, seed=0, atoms=3) -> SetDeviations:
    """Errors drawn with the deviations that are said, times a scale."""
    rng = np.random.default_rng(seed)
    energy, forces = rng.uniform(0.01, 1.0, count), rng.uniform(0.01, 1.0, (count * atoms, 3))
    return SetDeviations(
        num_atoms=np.full(count, float(atoms)), energy=energy, node_energy=rng.uniform(size=count * atoms),
        forces=forces, extrapolation=rng.uniform(0.0, 1.2, count * atoms),
        energy_error=scale * energy * rng.normal(size=count),
        forces_error=scale * forces * rng.normal(size=forces.shape),
    )  # fmt: skip


def test_errors_as_large_as_predicted_have_a_ratio_of_one_and_others_theirs():
    for scale in (1.0, 3.0):
        found = deviations(count=2000, scale=scale)
        for kind in ("energies", "forces"):
            compared = found.calibrated(kind)
            assert compared.ratio == pytest.approx(scale, rel=0.1)
            assert 0.3 < compared.rank_correlation < 0.7
    said = in_words({"a": deviations(2000), "b": deviations(500, seed=2)})
    assert "within a factor of 1.5 (from 2500 energies and 22500 force components)" in re.sub(
        r"(?<=\d)\s(?=\d)", "", said
    )
    assert "rms error is 3.0 times as large as" in in_words({"a": deviations(2000), "b": deviations(9000, 3.0)})


def test_energies_are_compared_per_atom_and_what_is_not_known_is_left_out():
    found = deviations()
    found.energy_error[:10] = np.nan
    error, deviation = found.pairs("energies")
    assert len(error) == 40
    assert np.allclose(deviation, found.energy[10:] / 3)
    found.forces[:] = np.nan
    assert found.calibrated("forces") is None
    assert len(calibration_rows({"a": found})) == 1


def test_equal_deviations_have_no_rank_correlation():
    found = deviations()
    found.energy[:] = 0.5
    assert found.calibrated("energies").rank_correlation is None
    assert calibration_rows({"a": found})[0][5] == "–"


@pytest.mark.parametrize(("count", "given"), [(2, False), (7, False), (8, True)])
def test_the_order_of_a_few_values_is_chance(count, given):
    found = deviations(count)
    assert (found.calibrated("energies").rank_correlation is not None) == given
    assert (calibration_rows({"a": found})[0][5] == "–") != given
    assert ("rank correlation –; forces" in calibration_in_words(found)) != given
    error, deviation = found.pairs("energies")
    picture = calibration("energies", "a", "#009E73", error, deviation, None).svg()
    assert ("rms of a bin" in picture) == given


def test_atoms_beyond_are_counted_once_for_each_set():
    rows = calibration_rows({"a": deviations(), "b": deviations(seed=1)})
    assert [bool(row[6]) for row in rows] == [True, False] * 3


def test_sets_together_are_all_of_them():
    small, large = deviations(scale=0.1), deviations(seed=1)
    both = pooled([small, large])
    assert both.calibrated("forces").number == 900
    rows = calibration_rows({"a": small, "b": large})
    assert [row[0] for row in rows] == ["a", "a", "b", "b", "all of them", "all of them"]


def test_bins_have_equal_numbers_and_keep_the_mean_square():
    x, y = np.random.default_rng(0).uniform(0.1, 1.0, (2, 120))
    rms_x, rms_y = binned(x, y)
    assert len(rms_x) == 12
    assert (np.diff(rms_x) > 0).all()
    assert np.mean(rms_y**2) == pytest.approx(np.mean(y**2))
    assert len(binned(x[:3], y[:3])[0]) == 1


def test_pictures_of_few_and_many_values():
    for count in (1, 5, 3000):
        error, deviation = np.random.default_rng(0).uniform(0.0, 1.0, (2, count))
        panel = calibration("energies", "a b", "#009E73", error, deviation, 0.25)
        assert "rank correlation 0.25" in panel.note
        assert panel.svg().startswith("<svg")
    assert calibration("forces", "a", "#009E73", np.zeros(4), np.zeros(4), None).svg()
    assert "eV" in contributions({"ν = 1": 3.0, "ν = 2": 0.1}).svg()
    assert prior_search("evidence", [(1e-9, 5.0), (1e-3, 1.0), (1.0, 900.0)], 1e-3).svg()


def test_saved_deviations_are_read_again_and_other_files_refused(tmp_path):
    found = deviations()
    found.save(tmp_path / "a.npz")
    again = SetDeviations.load(tmp_path / "a.npz")
    assert np.array_equal(again.energy, found.energy)
    assert np.allclose(again.forces, found.forces, rtol=1e-6)
    for harm in (b"no", b"", (tmp_path / "a.npz").read_bytes()[:200]):
        (tmp_path / "b.npz").write_bytes(harm)
        with pytest.raises(EquipotError, match=r"b\.npz does not hold deviations .* restore it"):
            SetDeviations.load(tmp_path / "b.npz")


def test_structures_are_evenly_spaced_and_all_in_one_block():
    assert evenly_spaced([10] * 8, 1000) == set(range(8))
    assert evenly_spaced([10] * 9, 30) == {0, 4, 8}
    assert evenly_spaced([500], 10) == {0}
    found = list(blocks([3, 3, 9, 3, 3], {0, 4}, 6))
    assert sorted(index for block in found for index in block) == [0, 1, 2, 3, 4]
    assert found[0] == [0, 4]
    assert [2] in found
