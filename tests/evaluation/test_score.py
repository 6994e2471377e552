"""The score of an image, and what a finished student says of good ones."""

import numpy as np
import pytest

from evaluation.score import HELD_OUT, Scored, image_score, pixel_levels, yardstick


def good(count, size=16):
    """Maps one by one, the highest value of each of them 0, 1, 2, ... in an order that is not theirs."""
    for index in np.random.default_rng(0).permutation(count).tolist():
        anomaly_map = np.zeros((size, size), np.float32)
        anomaly_map[index % size, 3] = index
        yield Scored(index, np.zeros((3, size, size), np.uint8), np.zeros((size, size), bool), anomaly_map)


def test_an_image_score_is_the_maximum_of_its_map_as_a_python_number():
    anomaly_map = np.array([[-3.0, 0.25], [0.1, -1.0]], np.float32)
    assert image_score(anomaly_map) == 0.25 and type(image_score(anomaly_map)) is float  # JSON takes no numpy number
    assert image_score(-np.ones((2, 2))) == -1


def test_pixel_levels_are_what_one_in_ten_to_one_in_ten_thousand_pixels_exceed():
    maps = np.random.default_rng(0).permutation(np.linspace(0, 1, 100_001)).reshape(1, 1, -1)
    assert pixel_levels(maps) == pytest.approx([0.9, 0.99, 0.999, 0.9999, 1.0])


def test_a_yardstick_holds_the_scores_of_all_images_in_order_and_their_source():
    answer = yardstick(good(30), 30, HELD_OUT)
    assert answer["scores"] == [float(score) for score in range(30)] and answer["source"] == HELD_OUT
    assert answer["pixel_levels"] == pixel_levels(np.stack([result.anomaly_map for result in good(30)]))


@pytest.mark.parametrize(("count", "used"), [(10, 10), (11, 6), (25, 9), (100, 10)])
def test_pixel_levels_come_from_a_bounded_number_of_images_spread_over_all(count, used):
    """Each image is high in pixels of its own: how many were used shows in the levels."""
    every = -(-count // 10)
    chosen = [result.anomaly_map for number, result in enumerate(good(count)) if number % every == 0]
    assert len(chosen) == used
    answer = yardstick(good(count), count, HELD_OUT, most=10)
    assert answer["pixel_levels"] == pixel_levels(np.stack(chosen)) and len(answer["scores"]) == count
