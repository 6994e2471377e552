"""From fields to pictures: colours, light, blur, noise and contrast."""

import numpy as np
import pytest
from numpy.random import default_rng

from pretraining.formula import FormulaImages
from pretraining.formula.look import Look, choose_look, enough_contrast, finish

RAMP = np.stack([np.linspace(0, 1, 256), np.linspace(0, 0.5, 256), np.full(256, 0.2)], axis=1).astype(np.float32)
BASE = np.float32([0.4, 0.5, 0.6])
AXES = np.float32([[0.2, 0.4, 0.6], [0.1, 0, -0.1], [0, 0, 0.2]])
PLAIN = Look(RAMP, BASE, AXES, np.zeros(2, np.float32), blur=0.0, noise=0.0, gray_noise=False)


def flat(*values, size=32):
    return np.full((size, size, len(values)) if len(values) > 1 else (size, size), values, np.float32)


def finished(field, **changes):
    return finish(field, PLAIN._replace(**changes), default_rng(0))


@pytest.mark.parametrize("level", [-1, 0, 0.5, 1, 2])
def test_a_field_of_one_channel_is_coloured_by_the_ramp(level):
    place = min(max(round(level * 255), 0), 255)
    assert np.unique(finished(flat(level)).reshape(-1, 3), axis=0).tolist() == [
        (RAMP[place] * 255).astype(int).tolist()
    ]


def test_three_channels_are_light_and_two_hues():
    for field, colour in ((flat(0.5, 0.5, 0.5), BASE), (flat(1, 0.5, 0.5), BASE + AXES[0] / 2)):
        np.testing.assert_allclose(finished(field)[0, 0], colour * 255, atol=1.01)
    np.testing.assert_allclose(finished(flat(0.5, 1, 0))[0, 0], (BASE + AXES[1] / 2 - AXES[2] / 2) * 255, atol=1.01)


def test_the_lamp_darkens_one_side():
    light = finished(flat(0.5), lamp=np.float32([0.4, 0])).astype(float)
    assert np.ptp(light, axis=0).max() == 0 and np.all(np.diff(light[0, :, 0]) >= 0)
    assert light[0, -1, 0] / light[0, 0, 0] == pytest.approx(1.2 / 0.8, rel=0.03)


@pytest.mark.parametrize("gray", [True, False])
def test_noise_has_its_spread_and_is_gray_if_it_is_to_be(gray):
    picture = finished(flat(0.5, 0.5, 0.5, size=64), noise=0.04, gray_noise=gray).astype(float)
    assert picture.std(axis=(0, 1)) == pytest.approx([0.04 * 255] * 3, rel=0.05)
    likeness = np.corrcoef(picture[..., 0].ravel(), picture[..., 1].ravel())[0, 1]
    assert likeness > 0.99 if gray else abs(likeness) < 0.1


def test_blur_is_a_share_of_the_side():
    def width(size):
        field = flat(0.0, size=size)
        field[:, size // 2 :] = 1
        edge = finished(field, blur=0.02)[0, :, 0]
        return ((edge > 10) & (edge < 245)).sum() / size

    assert width(64) == pytest.approx(width(256), abs=0.02) and width(256) > 0.05


def test_a_look_has_no_black_no_white_and_a_ramp_that_is_not_flat():
    for label in range(50):
        ramp = choose_look(default_rng(label), default_rng(1)).ramp
        assert 0.019 < ramp.min() and ramp.max() < 0.981 and np.ptp(ramp, axis=0).max() > 0.2


def test_there_are_gray_pictures_and_coloured_ones():
    images = FormulaImages(32, seed=0)
    gray = [np.ptp(images[i].astype(int), axis=2).max() <= 1 for i in range(150)]
    assert 0.15 < np.mean(gray) < 0.45


@pytest.mark.parametrize("channels", [1, 3])
def test_too_little_contrast_is_raised_in_brightness_alone(channels):
    light = np.tile(np.float32([0.5, 0.52]), (32, 16))
    field = light if channels == 1 else np.dstack([light, light, light])
    better = enough_contrast(field.copy())
    found = better if channels == 1 else better[..., 0]
    assert found.std() == pytest.approx(0.16, rel=1e-3) and found.mean() == pytest.approx(0.51, abs=1e-3)
    if channels == 3:
        assert np.array_equal(better[..., 1:], field[..., 1:])


def test_enough_contrast_is_left_as_it_is():
    field = np.tile(np.float32([0.2, 0.8]), (32, 16))
    assert np.array_equal(enough_contrast(field.copy()), field)
