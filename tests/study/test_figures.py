"""Figures: what is drawn is what was given, in colours that stay, in type that can be read."""

import numpy as np
import pytest
from matplotlib import rcParams

from equipot.study import figures
from equipot.study.style import fixed, set_colours, significant, styled, tick

RNG = np.random.default_rng(0)
RECORDS = [
    {
        "epoch": i, "lr": 0.01 / (i + 1), "train_loss": 3.0 / (i + 1), "valid_loss": 4.0 / (i + 1), "best": i == 7,
        "train_energy_rmse_meV_per_atom": 9.0, "valid_energy_rmse_meV_per_atom": 8.0 + i,
        "train_forces_rmse_meV_per_A": 90.0, "valid_forces_rmse_meV_per_A": None,
        "train_stress_rmse_meV_per_A3": None, "valid_stress_rmse_meV_per_A3": None,
    }
    for i in range(10)
]  # fmt: skip


def lines(panel, axes=0):
    return {line.get_label(): line.get_xydata() for line in panel.figure.axes[axes].lines}


def test_learning_curves_show_what_was_recorded_and_leave_out_what_was_not():
    panels = {panel.name: panel for panel in figures.learning_curves(RECORDS)}
    assert set(panels) == {"curve-loss", "curve-energy", "curve-forces", "curve-lr"}
    drawn = lines(panels["curve-loss"])
    np.testing.assert_allclose(drawn["validation"][:, 1], [r["valid_loss"] for r in RECORDS])
    np.testing.assert_allclose(drawn["training"][:, 0], np.arange(1, 11))
    np.testing.assert_allclose(drawn["best model"], [[8, 0.5]])
    assert "validation" not in lines(panels["curve-forces"])
    assert all("(" in p.figure.axes[0].get_ylabel() for n, p in panels.items() if n in ("curve-energy", "curve-forces"))


def test_one_record_and_zero_losses_can_be_drawn():
    still = [{**RECORDS[0], "train_loss": 0.0, "valid_loss": 0.0}]
    for panel in figures.learning_curves(still):
        assert panel.svg().startswith("<svg")


@pytest.mark.parametrize("count", [1, 50, 9000])
@pytest.mark.parametrize("quantity", ["energies", "forces", "stresses"])
def test_parity_shows_the_error_and_units_and_stays_small(quantity, count):
    reference = RNG.normal(size=count)
    panel = figures.parity(quantity, "set", "#0072B2", reference, reference + 0.05)
    upper, lower = panel.figure.axes
    unit = {"energies": "eV/atom", "forces": "eV/Å", "stresses": "eV/Å³"}[quantity]
    assert panel.note == f"RMSE 50.0 m{unit}"
    assert f"(m{unit})" in lower.get_ylabel()
    assert f"({unit})" in lower.get_xlabel()
    assert upper.get_xlim() == upper.get_ylim()
    assert len(panel.svg()) < 250_000


def test_dense_parity_keeps_every_point_in_sight():
    reference = np.concatenate([RNG.normal(size=9000), [8.0]])
    predicted = np.concatenate([reference[:-1], [-8.0]])
    panel = figures.parity("forces", "set", "#0072B2", reference, predicted)
    density = panel.figure.axes[0].collections[0]
    offsets = density.get_offsets()
    assert np.any(np.hypot(offsets[:, 0] - 8.0, offsets[:, 1] + 8.0) < 0.5)


def test_a_scan_has_the_zero_of_its_reference_and_names_a_large_offset():
    x, reference = np.array([180.0, 0.0, 90.0]), np.array([-10.0, -9.9, -9.8])
    near = lines(figures.scan("s", "γ (°)", x, reference, reference + 0.01))
    np.testing.assert_allclose(near["reference"], [[0, 100], [90, 200], [180, 0]], atol=1e-9)
    np.testing.assert_allclose(near["predicted"][:, 1], [110, 210, 10], atol=1e-9)
    far = lines(figures.scan("s", "γ (°)", x, reference, reference + 6.0))
    np.testing.assert_allclose(far["predicted − 6000 meV"][:, 1], [100, 200, 0], atol=1e-6)


def test_dynamics_is_drawn_per_atom_from_its_start_and_without_what_has_no_meaning():
    time = np.arange(5) * 100.0
    thermo = {
        "time_fs": time,
        "temperature_K": np.array([200.0, 400.0, 300.0, 300.0, 300.0]),
        "potential_energy_eV": -100.0 + 0.01 * np.arange(5),
        "total_energy_eV": -99.0 + 0.002 * np.arange(5),
        "conserved_energy_eV": np.full(5, np.nan),
    }
    temperature, energy = figures.dynamics(thermo, 10, 300.0)
    np.testing.assert_allclose(lines(temperature)["running mean"][:, 1], [200, 300, 300, 300, 300])
    assert "target 300 K" in lines(temperature)
    drawn = lines(energy)
    assert set(drawn) == {"potential", "total"}
    np.testing.assert_allclose(drawn["potential"], np.column_stack([time / 1000, np.arange(5.0)]), atol=1e-9)


def test_bars_have_the_heights_of_the_errors():
    errors = {
        name: {"energy_rmse_meV_per_atom": v, "forces_rmse_meV_per_A": None}
        for name, v in (("train", 1.5), ("hot", 3.0))
    }
    (panel,) = figures.errors_by_set(errors)
    assert [bar.get_width() for bar in panel.figure.axes[0].patches] == [1.5, 3.0]
    by_element = {"train": {"H": {"forces_rmse_meV_per_A": 2.0}, "C": {"forces_rmse_meV_per_A": 5.0}}}
    (panel,) = figures.force_errors_by_element(by_element)
    assert [bar.get_height() for bar in panel.figure.axes[0].patches] == [5.0, 2.0]
    assert figures.force_errors_by_element({"train": {"H": {"forces_rmse_meV_per_A": 2.0}}}) == []
    many = {f"X{i:02}": {"forces_rmse_meV_per_A": float(i)} for i in range(60)}
    (panel,) = figures.force_errors_by_element({"a": many, "b": {"X00": {"forces_rmse_meV_per_A": 99.0}}})
    assert panel.title == "Force RMSE by element, the 16 largest of 60"
    shown = [label.get_text() for label in panel.figure.axes[0].get_xticklabels()]
    assert shown == ["X00", *(f"X{i}" for i in range(45, 60))]


def test_a_set_keeps_its_colour_whatever_comes_with_it():
    many = set_colours(["train", "valid", "a", "b"])
    assert set_colours(["valid"])["valid"] == many["valid"]
    assert set_colours(["a", "b"]) == {"a": many["a"], "b": many["b"]}
    assert len(set(many.values())) == 4


def test_settings_of_matplotlib_are_left_as_they_were():
    before = dict(rcParams)
    with styled():
        assert rcParams["font.size"] == 9.0
    assert dict(rcParams) == before


def test_the_same_picture_has_the_same_bytes():
    first, second = (figures.learning_curves(RECORDS)[0].svg() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (float("nan"), "–"), (0.0, "0"), (12345, "12 345"), (0.9, "0.900"), (12.345, "12.3"),
        (1234.5, "1234"), (-0.05, "−0.0500"), (1.234e-7, "1.23e−07"), ("text", "text"),
    ],
)  # fmt: skip
def test_numbers_for_people(value, text):
    assert significant(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.001, "0.001"), (3e-5, "3·10⁻⁵"), (1e6, "10⁶"), (-2.5, "−2.5")])
def test_ticks(value, text):
    assert tick(value) == text


def test_rounding_noise_has_no_sign():
    assert fixed(-5e-14, 4) == fixed(0.0, 4) == "0.0000"
    assert fixed(-467.735294, 3) == "−467.735"
