"""Connected parts of a mask."""

import cv2
import numpy as np
import pytest

from deploy.judge import connected_parts


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_connected_parts_are_those_of_opencv(seed, share):
    mask = np.random.default_rng(seed).random((31, 43)) < share
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    expected = {tuple(map(tuple, np.nonzero(labels == k))) for k in range(1, count)}
    found = connected_parts(mask)
    assert {tuple(map(tuple, part)) for part in found} == expected and len(found) == count - 1


def test_an_empty_mask_has_no_parts():
    assert connected_parts(np.zeros((3, 4), bool)) == []
