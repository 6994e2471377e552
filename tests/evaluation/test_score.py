"""The score of an image, and a finished student's scores of good ones."""

import numpy as np

from evaluation.score import HELD_OUT, Scored, image_score, normal_scores


def good(count, size=16):
    """Maps one by one; their highest values are 0, 1, 2, ... in another order."""
    for index in np.random.default_rng(0).permutation(count).tolist():
        anomaly_map = np.zeros((size, size), np.float32)
        anomaly_map[index % size, 3] = index
        yield Scored(index, np.zeros((3, size, size), np.uint8), np.zeros((size, size), bool), anomaly_map)


def test_an_image_score_is_the_maximum_of_its_map_as_a_python_number():
    anomaly_map = np.array([[-3.0, 0.25], [0.1, -1.0]], np.float32)
    assert image_score(anomaly_map) == 0.25 and type(image_score(anomaly_map)) is float  # JSON has no numpy numbers
    assert image_score(-np.ones((2, 2))) == -1


def test_a_part_has_the_highest_score_of_its_images():
    parts = [f"part {k // 3}" for k in range(9)]
    assert normal_scores(good(9), HELD_OUT, parts)["scores"] == [2, 5, 8]


def test_normal_scores_hold_the_scores_of_all_images_in_order_and_their_source():
    assert normal_scores(good(30), HELD_OUT, list(map(str, range(30)))) == {
        "source": HELD_OUT,
        "scores": [float(score) for score in range(30)],
    }
