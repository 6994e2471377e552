"""Families of formula pictures that are drawn object by object."""

import cv2
import numpy as np
import pytest
from numpy.random import default_rng

from pretraining.formula import drawings
from pretraining.formula.drawings import surface
from tests.pretraining.formula.families import assert_fields, families_of

DRAWINGS = families_of(drawings)
OPAQUE = [name for name in DRAWINGS if name != "surface"]


@pytest.mark.parametrize("name", DRAWINGS)
def test_fields_are_finite_and_float32(name):
    assert_fields(DRAWINGS[name])


@pytest.mark.parametrize("name", OPAQUE)
def test_objects_lie_on_a_background_and_keep_within_the_range(name, monkeypatch):
    """Drawn on a background of one even value, they cover a part of it."""
    monkeypatch.setattr(drawings, "canvas", lambda one, cls, size: np.full((size, size, 3), 128, np.uint8))
    for label in range(6):
        field = DRAWINGS[name](default_rng(label), default_rng(label), 96)
        assert field.shape == (96, 96, 3) and field.min() >= 0 and field.max() <= 1
        covered = (np.abs(field - 128 / 255) > 0.02).any(axis=-1).mean()
        assert 0.02 < covered <= 1


def test_a_surface_is_almost_even():
    """Its defects are small: most of the picture is grain about one level."""
    for label in range(12):
        field = surface(default_rng(label), default_rng(label), 128)
        light = cv2.GaussianBlur(field[..., 0], (0, 0), 2)
        assert (np.abs(light - np.median(light)) < 0.1).mean() > 0.75


def test_every_surface_has_marks_that_show_in_light_and_in_hue():
    """The second channel has no grain and the third no marks."""
    for label in range(40):
        light, hue, grain = cv2.split(surface(default_rng(label), default_rng(label), 128))
        assert np.ptp(hue) > 0
        assert abs(np.corrcoef((light - grain).ravel(), hue.ravel())[0, 1]) > 0.99
