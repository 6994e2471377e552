"""The shared parts of the drawn scenes: the same at every size, and right by hand."""

import cv2
import numpy as np
import pytest

from datasets.demo.draw import bent, blob, blur, curve, grid, lambert, lamp, noise, paint, ramp, rgb, shifted, soft


def random(seed=0):
    return np.random.default_rng(seed)


def shrunk(image, n):
    return cv2.resize(image, (n, n), interpolation=cv2.INTER_AREA)


def test_pixel_centres():
    x, y = grid(4)
    assert x.tolist() == [[0.125, 0.375, 0.625, 0.875]] and y.tolist() == x.T.tolist()


@pytest.mark.parametrize(
    "draw",
    [
        lambda n: noise(n, random(), 5, 9),
        lambda n: blob(n, random(), (0.4, 0.6), 0.2),
        lambda n: lamp(n, random()),
        lambda n: curve(n, bent(random(), (0.3, 0.3), 0.5, 0.4, 0.3)),
    ],
    ids=["noise", "blob", "lamp", "curve"],
)
def test_a_larger_drawing_shows_the_same(draw):
    small, large = draw(96), shrunk(draw(288), 96)
    assert np.abs(small - large).mean() < 0.03 * np.ptp(small)


def test_noise_is_around_0_and_of_spread_1():
    values = np.array([noise(64, random(seed), 8, 8) for seed in range(20)])
    assert abs(values.mean()) < 0.1 and 0.7 < values.std() < 1.1


def test_a_ramp_rises_or_falls_between_its_ends():
    values = np.array([0.0, 1.0, 1.25, 1.5, 2.0, 3.0])
    assert ramp(values, 1, 2).tolist() == [0, 0, 0.15625, 0.5, 1, 1]  # flat at its ends
    assert ramp(values, 2, 1).tolist() == [1, 1, 0.84375, 0.5, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_a_blob_is_a_patch_about_its_centre(seed):
    spot = blob(200, random(seed), (0.3, 0.7), 0.1)
    x, y = grid(200)
    away = np.hypot(x - 0.3, y - 0.7)
    assert spot.min() == 0 and spot.max() == 1 and spot[away < 0.02].min() == 1
    assert spot[away > 0.25].max() == 0 and 0.3 < spot.mean() / (np.pi * 0.1**2) < 1.6


def test_the_distance_from_a_line():
    away = curve(100, np.array([(0.2, 0.5), (0.6, 0.5)]))
    assert away[50, 40] == 0 and away[25, 40] == pytest.approx(0.25, abs=0.011)
    assert away[50, 90] == pytest.approx(0.3, abs=0.011)  # from its end


def test_a_stroke_has_its_length_and_begins_at_its_start():
    straight, wandering = (bent(random(), (0.2, 0.4), 0.0, 0.3, bend) for bend in (0.0, 2.0))
    np.testing.assert_allclose(straight[-1], (0.5, 0.4))
    for points in (straight, wandering):
        steps = np.linalg.norm(np.diff([(0.2, 0.4), *points], axis=0), axis=1)
        np.testing.assert_allclose(steps, 0.3 / 60)
    assert np.abs(wandering - straight).max() > 0.05


def test_a_shifted_picture_repeats_its_border():
    image = np.zeros((20, 20), np.float32)
    image[4, 2], image[:, 0] = 1, 0.5
    moved = shifted(image, 0.25, 0.1)  # 5 columns, 2 rows
    assert moved[6, 7] == pytest.approx(1) and moved[6, 2] == pytest.approx(0.5)


def test_a_slope_towards_the_light_is_brighter():
    x, _ = grid(32)
    rising = np.repeat(0.3 * x, 32, axis=0)
    light = (-0.5, 0.0, 0.8)  # from the left
    assert np.all(lambert(np.zeros((32, 32), np.float32), light) == 1)
    assert lambert(rising, light).min() > 1 > lambert(-rising, light).max()
    assert lambert(-10 * rising, light).max() == 0  # in its own shadow


def test_paint_covers_as_much_as_it_is_told():
    mixed = paint(np.float32([[0, 0.25, 1]]), rgb(0, 0, 1), rgb(1, 0, 0))
    assert mixed[:, 0].tolist() == [[0, 0.25, 1], [0, 0, 0], [1, 0.75, 0]]


def test_a_wide_blur_at_a_quarter_of_the_side_is_as_good():
    image = (random().random((200, 200)) > 0.9).astype(np.float32)
    assert np.abs(soft(image, 0.05) - blur(image, 0.05)).max() < 0.02
