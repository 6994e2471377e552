"""Tiles cover an image, and their maps become one without seams."""

import numpy as np
import pytest

from datasets.tiles import Tiles, whole_maps
from utils.config import CommonData

CASES = [((64, 64), (32, 32)), ((100, 37), (33, 37)), ((40, 200), (40, 64)), ((65, 64), (64, 64))]


def options(**values):
    return CommonData(batch_size=4, lr=0.1, **values)


def mean(parts):
    return [part.mean(axis=0) for part in parts]


@pytest.mark.parametrize(("size", "tile"), CASES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.75])
def test_tiles_cover_the_image_and_overlap_as_much_as_asked(size, tile, overlap):
    places = Tiles(size, tile, overlap, 1).places
    seen = np.zeros(size, int)
    for rows, columns in places:
        assert (rows.stop - rows.start, columns.stop - columns.start) == tile
        seen[rows, columns] += 1
    assert seen.min() >= 1 and seen[0, 0] == seen[-1, -1] == 1
    for k in (0, 1):
        starts = sorted({place[k].start for place in places})
        assert starts[0] == 0 and starts[-1] == size[k] - tile[k]
        steps = np.diff(starts)
        assert (steps <= tile[k] * (1 - overlap)).all()
        assert len(steps) == 0 or steps.max() - steps.min() <= 1  # evenly spaced


@pytest.mark.parametrize(("size", "tile"), CASES)
def test_maps_that_agree_are_one_map(size, tile):
    """If each pixel's value depends on the pixel alone, tiles change nothing."""
    image = np.random.default_rng(0).random((3, *size), dtype=np.float32)
    tiles = Tiles(size, tile, 0.25, 4)
    found = tiles.maps([image], mean)
    assert found.shape == (1, *size) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], image.mean(axis=0), rtol=1e-6)


def test_where_maps_differ_there_is_no_step():
    """Tiles of different height: the blend goes evenly from one to the next, and stays between them."""
    tiles = Tiles((64, 160), (64, 64), 0.5, 1)
    found = tiles.blend(np.full((64, 64), float(k)) for k in range(len(tiles)))
    steps = np.diff(found, axis=1)
    assert len(tiles) == 4 and found.min() == 0 and found.max() == 3 and np.ptp(found, axis=0).max() < 1e-6
    assert steps.min() > -1e-6 and steps.max() < 2 / 32  # 1 in 32 pixels, at most twice the even slope
    alone = np.stack([tiles.blend(np.eye(4)[k, j] * np.ones((64, 64)) for j in range(4)) for k in range(4)])
    edges = [alone[k][:, [place[1].start, place[1].stop - 1]] for k, place in enumerate(tiles.places)]
    inner = np.concatenate([edges[0][:, 1:], *edges[1:3], edges[3][:, :1]], axis=1)
    assert inner.max() < 0.01  # a tile counts least at its edges


def test_no_more_tiles_than_asked_are_given_to_the_networks_together():
    tiles, seen = Tiles((96, 96), (32, 32), 0.25, 4), []

    def maps_of(parts):
        seen.append(len(parts))
        return mean(parts)

    tiles.maps(np.zeros((2, 3, 96, 96)), maps_of)
    assert seen == [4, 4, 4, 4] * 2 and len(tiles) == 16


def test_several_maps_of_a_tile_are_blended_alike():
    """As those of several students."""
    image = np.random.default_rng(0).random((3, 40, 60), dtype=np.float32)
    tiles = Tiles((40, 60), (32, 32), 0.25, 2)
    np.testing.assert_allclose(tiles.maps([image], lambda parts: parts)[0], image, rtol=1e-6)


def test_cutting_copies_nothing():
    image = np.zeros((3, 64, 64), np.uint8)
    assert all(np.shares_memory(part, image) for part in Tiles((64, 64), (32, 32), 0.25, 1).cut(image))


def test_an_image_that_is_one_tile_has_no_tiles():
    assert Tiles.of(options()) is None and Tiles.of(options(img_size=64, tile=64)) is None
    tiles = Tiles.of(options(img_size=[64, 96], tile=64, overlap=0.5))
    assert (tiles.size, len(tiles), tiles.at_once) == ((64, 96), 2, 4)
    images = [np.ones((3, 8, 8))]
    assert whole_maps(images, lambda whole: whole, None) is images
