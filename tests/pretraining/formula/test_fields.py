"""Families of formula pictures that are computed pixel by pixel."""

import cv2
import numpy as np
import pytest
from numpy.random import default_rng

from pretraining.formula import fields
from pretraining.formula.fields import activate, along, bars, cloud, rolled_mean, scattered
from tests.pretraining.formula.families import assert_fields, families_of

FIELDS = families_of(fields)


@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_finite_and_float32(name):
    assert_fields(FIELDS[name])


@pytest.mark.parametrize("size", [48, 128, 160])
def test_a_cloud_has_mean_0_and_spread_1(size):
    field = cloud(default_rng(1), default_rng(2), size)
    assert field.mean() == pytest.approx(0, abs=1e-3) and field.std() == pytest.approx(1, rel=1e-3)


def test_a_profile_of_bars_is_one_period_between_dark_and_bright():
    for label in range(30):
        table = bars(default_rng(label))
        assert table.shape == (256,) and table.dtype == np.float32
        assert table.min() >= 0 and table.max() <= 1 and np.ptp(table) > 0.3


def test_the_mean_of_a_periodic_table_goes_round():
    table = np.zeros(256, np.float32)
    table[0] = 6
    assert rolled_mean(table, 1) is table
    mean = rolled_mean(table, 3)
    assert mean[[255, 0, 1]].tolist() == [2, 2, 2] and mean[2:255].max() == 0
    assert rolled_mean(table, 10_000).sum() == pytest.approx(6, rel=1e-3)


def test_a_profile_is_read_by_its_phase_in_periods():
    table = np.arange(256, dtype=np.float32)
    phase = np.float32([0, 0.5, 1.5, -0.5, 7.25])
    assert along(table, phase, 1, 256).tolist() == [0, 128, 128, 128, 64]
    too_fine = along(table, np.linspace(0, 1, 50, dtype=np.float32), 200, 100)
    assert np.ptp(too_fine) < 2 and too_fine.mean() == pytest.approx(127.5, abs=1)  # gray instead of moire


def test_of_scattered_copies_the_brightest_is_seen():
    field = np.zeros((64, 64, 3), np.float32)
    field[..., 1] = 0.5
    field[24:40, 24:40] = (1, 0.1, 1)
    light, hue, _ = cv2.split(scattered(default_rng(3), field, 6))
    assert light.max() == pytest.approx(1)
    np.testing.assert_allclose(hue, 0.5 - 0.4 * light, atol=1e-5)  # every position is of one copy
    assert cv2.connectedComponents((light > 0.5).astype(np.uint8))[0] - 1 > 2  # several, which may overlap


@pytest.mark.parametrize(("kind", "at_0", "at_1"), [(0, 0, 0.9093), (1, 0, 0.9640), (2, 1, -0.2642), (3, -1, 0)])
def test_units_of_a_network(kind, at_0, at_1):
    assert activate(np.array([0.0, 1.0]), kind) == pytest.approx([at_0, at_1], abs=1e-4)
