"""The colours of anomaly maps compare with good images, for any kind of good images."""

import numpy as np
import pytest

from evaluation.colours import Scale, colour_scale, colours
from evaluation.score import HELD_OUT, TRAINING

MAP = np.zeros((4, 4), np.float32)


def normal(scores, source=HELD_OUT):
    return {"source": source, "scores": sorted(map(float, scores))}


def brightness(scale: Scale, *values):
    """Brightness of the colours of some values: the darkest is 0, the brightest 255 of red, green and blue each."""
    return scale.colour(np.array([values])).astype(int)[0].sum(axis=1).tolist()


def test_the_higher_a_value_stands_among_good_images_the_brighter_it_is():
    scale = colour_scale(normal(np.linspace(1, 2, 101)), MAP)
    below_all, few, half, most, twice, ten, hundred = brightness(scale, 0.1, 1.1, 1.5, 1.9, 3.8, 19, 190)
    assert below_all < 30 < few < half < most < twice < ten < hundred
    assert brightness(scale, -5, 1e9) == brightness(scale, 0, 190 * 2)


def test_every_map_of_a_run_has_the_same_colours():
    good = normal([1, 2, 3])
    assert colour_scale(good, MAP) == colour_scale(good, MAP + 100)


@pytest.mark.parametrize("images", [5, 10, 31, 200])
def test_one_odd_good_image_changes_no_colour(images):
    """It replaces one of the usual images; its map may be high on any area."""
    usual = np.linspace(1, 1.2, images)
    odd = [*usual[:-1], 1e4]
    value = np.linspace(0, 200, 400)[None]
    assert np.array_equal(colour_scale(normal(usual), MAP).colour(value), colour_scale(normal(odd), MAP).colour(value))


def test_a_weak_defect_that_is_above_half_of_the_good_images_can_be_seen():
    """The products of three levels of an STPM student on magnetic tiles: scores of good images span a factor of 60."""
    scale = colour_scale(normal(np.geomspace(0.02, 1.2, 151)), MAP)
    background, defect = brightness(scale, 0.002, 0.17)
    assert background < 30 and defect > 150


def test_the_scale_says_what_its_ticks_mean():
    scale = colour_scale(normal(range(1, 32)), MAP)
    assert scale.ticks == ["4 of 31", "16 of 31", "28 of 31", "2 x", "10 x", "100 x"]
    assert scale.values == [4, 16, 28, 56, 280, 2800]  # the scores are 1 to 31, so k scores are not above k
    assert scale.meaning == [
        "Colours compare each value with the scores of 31 held-out good images.",
        "28 of 31: 28 of them score no higher. 2 x: twice the value at 28 of 31.",
    ]


@pytest.mark.parametrize("source", [HELD_OUT, TRAINING, "good images, other settings"])
@pytest.mark.parametrize("images", [1, 2, 200, 100_000])
def test_the_scale_names_the_images_it_compares_with_in_short_lines(source, images):
    meaning = colour_scale(normal(range(images), source), MAP).meaning
    assert source in meaning[0] and str(images) in meaning[0] and max(map(len, meaning)) <= 90


def test_without_good_images_a_map_sets_its_own_colours():
    """No value is above the map that sets the scale, so all colours are used."""
    values = np.random.default_rng(0).permutation(np.linspace(0, 1, 100_000)).reshape(250, 400)
    scale = colour_scale(None, values)
    assert scale.ticks == ["1:10", "1:100", "1:1,000", "1:10,000", "highest"]
    common, rare, rarer, highest = brightness(scale, 0.5, 0.99, 0.999, 1.0)
    assert common < 30 < rare < rarer < highest and highest > 500
    assert colour_scale(None, 7 * values).colour(7 * values).tolist() == scale.colour(values).tolist()


@pytest.mark.parametrize(
    "scale",
    [
        colour_scale(normal([0.0] * 9), MAP),
        colour_scale(normal([0.5]), MAP),
        colour_scale(normal([0.0, 0.5]), MAP),
        colour_scale(normal([-0.2, -0.1, 0.3]), MAP),
        colour_scale(normal([-0.2, -0.1]), MAP),
        colour_scale(None, MAP),
        colour_scale(None, MAP - 3),
        colour_scale(None, MAP + 3),
    ],
)
def test_equal_and_negative_values_leave_an_increasing_scale(scale):
    """EfficientAD's maps may be below zero, and those of a student that copies its teacher are zero everywhere."""
    assert min(scale.values) > 0 and len(scale.values) == len(scale.positions) == len(scale.ticks) > 0
    assert all(np.diff(scale.values) > 0) and all(np.diff(scale.positions) > 0)
    assert brightness(scale, 0, -1) == brightness(scale, -2, -3)


def test_colours_begin_with_black_and_grow_brighter():
    ramp = colours(np.linspace(0, 1, 64)[None])[0].astype(int).sum(axis=1)
    assert ramp[0] < 10 and all(np.diff(ramp) >= 0) and ramp[-1] > 600
