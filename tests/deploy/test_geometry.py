"""Connected parts of masks, and maps in other sizes."""

import tracemalloc

import cv2
import numpy as np
import pytest

from datasets.fit import BILINEAR
from deploy.geometry import connected_parts, resized


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


def test_many_parts_of_a_large_map_take_little_memory():
    """A mask for each of them would be 10 GB."""
    mask = np.zeros((1000, 1000), bool)
    mask[::10, ::10] = True
    tracemalloc.start()
    parts = connected_parts(mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(parts) == 10_000 and all(len(rows) == 1 for rows, _ in parts) and peak < 30e6


@pytest.mark.parametrize("seed", range(20))
def test_a_smaller_map_has_the_highest_value_of_each_block(seed):
    rng = np.random.default_rng(seed)
    have, want = rng.integers(1, 40, 2), rng.integers(1, 40, 2)
    want = np.minimum(have, want)
    values = rng.random(have, np.float32)
    found = resized(values, tuple(want), BILINEAR)
    for row, column in np.ndindex(*want):
        (top, left), (bottom, right) = (
            np.floor(np.array([row, column]) * have / want + 1e-9).astype(int),
            np.ceil(np.array([row + 1, column + 1]) * have / want - 1e-9).astype(int),
        )
        assert found[row, column] == values[top:bottom, left:right].max()
