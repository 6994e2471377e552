"""The parts of the formula families: noise, coordinates, edges and outlines."""

import cv2
import numpy as np
import pytest
from numpy.random import default_rng

from pretraining.formula.parts import (
    COARSE,
    canvas,
    cell_of,
    colours,
    filtered,
    fixed,
    frame,
    grid,
    jitter,
    outlines,
    patches,
    step,
    thick,
    waves,
)


def lowpass(size):
    fx, fy = waves(size)
    return np.exp(-(fx**2 + fy**2) / 50)


def test_pixel_centres_are_kept_for_all_and_cannot_be_changed():
    x, y = grid(4)
    assert x.tolist() == [[0.125, 0.375, 0.625, 0.875]] and y.tolist() == x.T.tolist()
    for axis in grid(4):
        with pytest.raises(ValueError, match="read-only"):
            axis += 1


def test_a_factor_near_1_has_no_outliers():
    factors = jitter(default_rng(0), 0.2, 10_000)
    assert np.median(factors) == pytest.approx(1, abs=0.02) and np.log(factors).std() == pytest.approx(0.2, rel=0.05)
    assert factors.max() == pytest.approx(np.exp(0.5)) and factors.min() == pytest.approx(np.exp(-0.5))


def test_patches_are_the_same_at_every_size():
    small, large = (patches(default_rng(0), size, 5, 2) for size in (32, 128))
    assert small.shape == (32, 32, 2) and patches(default_rng(0), 32, 5).shape == (32, 32)
    assert np.abs(cv2.resize(large, (32, 32), interpolation=cv2.INTER_AREA) - small).max() < 0.1


@pytest.mark.parametrize("size", [48, COARSE, 200])
def test_filtered_noise_has_mean_0_and_spread_1(size):
    field = filtered(default_rng(0), size, lowpass(size))
    assert field.shape == (size, size) and field.dtype == np.float32
    assert field.mean() == pytest.approx(0, abs=1e-3) and field.std() == pytest.approx(1, rel=1e-3)


def test_a_larger_picture_only_adds_finer_waves():
    small, large = (filtered(default_rng(0), size, lowpass(size)) for size in (COARSE, 2 * COARSE))
    shrunk = cv2.resize(large, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.98


def test_the_size_of_filtered_noise_does_not_move_the_generator():
    ends = set()
    for size in (48, COARSE, 200):
        one = default_rng(0)
        filtered(one, size, lowpass(size))
        ends.add(one.integers(2**62))
    assert len(ends) == 1


def test_coordinates_are_turned_and_zoomed_and_not_distorted():
    """Without bending, neighbours are a pixel x zoom apart in both directions, at a right angle."""
    u, v = frame(default_rng(0), default_rng(1), 64, warp=0)
    right, down = (np.array([np.diff(c, axis=axis).mean() for c in (u, v)]) for axis in (1, 0))
    assert np.linalg.norm(right) == pytest.approx(np.linalg.norm(down), rel=1e-3)
    assert right @ down == pytest.approx(0, abs=1e-6)
    assert np.exp(-0.3) < 64 * np.linalg.norm(right) < np.exp(0.3)


def test_coordinates_are_bent_in_half_of_the_classes():
    bent = 0
    for label in range(40):
        u, _ = frame(default_rng(label), default_rng(1), 64)
        bent += np.abs(np.diff(u, n=2, axis=1)).max() > 1e-5
    assert 10 < bent < 30


def test_cells_of_negative_numbers_are_counted_on():
    whole, part = cell_of(np.float32([-1.25, -0.25, 0.75]))
    assert whole.tolist() == [-2, -1, 0] and part.tolist() == [0.75, 0.75, 0.75] and whole.dtype == np.int32


def test_a_step_is_at_least_a_pixel_wide():
    x = np.float32([-1, -0.05, 0, 0.05, 1])
    assert step(x, 0.2, 1000).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert step(x, 0, 10).tolist() == pytest.approx([0, 1 / 6, 0.5, 5 / 6, 1])


def test_units_of_opencv():
    assert fixed([[0, 0.5], [-0.25, 1]], 100).tolist() == [[0, 800], [-400, 1600]]
    assert (thick(0.001, 100), thick(0.05, 100)) == (1, 5)


def test_a_background_has_no_hard_edge():
    for label in range(20):
        drawn = canvas(default_rng(1), default_rng(label), 96)
        assert drawn.shape == (96, 96, 3) and drawn.dtype == np.uint8
        assert np.abs(np.diff(drawn.astype(int), axis=0)).max() < 20 and np.ptp(drawn[..., 1:], axis=(0, 1)).max() == 0


def test_objects_have_few_colours():
    values = colours(default_rng(3), default_rng(1), 200, spread=0.1)
    assert values.shape == (200, 3) and values.min() >= 0 and values.max() <= 255
    assert 1 <= len(np.unique(np.round(values / 40), axis=0)) < 40


def test_outlines_are_closed_curves_about_0_of_radius_1():
    for label in range(30):
        curves = outlines(default_rng(label), default_rng(1), 5, 48)
        assert curves.shape == (5, 48, 2)
        x, y = curves[..., 0], curves[..., 1]
        area = np.abs((x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1)) / 2
        assert (0.4 < np.sqrt(area / np.pi)).all() and (np.sqrt(area / np.pi) < 1.4).all()
        assert np.abs(curves.mean(axis=1)).max() < 0.5
        steps = np.linalg.norm(np.diff(curves, axis=1, append=curves[:, :1]), axis=-1)
        assert steps.max() < 1  # also from the last point to the first
