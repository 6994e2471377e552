"""The small pictures of a page: in it or beside it, what they show, and their colours."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from evaluation import html_pictures
from evaluation.colours import colour_scale
from evaluation.html_pictures import FOLDER, shrunk, thumbnails
from evaluation.outline import OUTLINE
from tests.evaluation.pages import NORMAL, results, samples_of

TYPES = ["good", "good", "hole"]
SCALE = colour_scale(NORMAL, np.zeros((1, 1)))


def fill(run_dir, scores=(1.0, 1.1, 9.0), aspect=1.0):
    with thumbnails(run_dir, samples_of(TYPES)) as small:
        for result in results(TYPES, scores):
            small.add(result, np.full((*result.mask.shape, 3), 90, np.uint8), SCALE, aspect)
    return small


def test_few_images_are_in_the_page(tmp_path):
    small = fill(tmp_path)
    assert set(small.sources(0)) == {"image", "map", "level 1", "level 2"}
    assert set(small.sources(2)) == {"image", "map", "mask", "level 1", "level 2"}
    kind, _, code = small.sources(2)["image"].partition(",")
    assert kind == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(code))).size == (256, 256)
    assert list(tmp_path.iterdir()) == []


def test_many_images_are_in_a_folder_beside_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(html_pictures, "INLINE", 2)
    small = fill(tmp_path)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.webp")}
    assert found == {source for k in range(3) for source in small.sources(k).values()}
    assert small.picture(2, "map").size == (256, 256)


def test_a_folder_of_an_earlier_test_goes_when_this_one_needs_none(tmp_path):
    (tmp_path / FOLDER).mkdir()
    fill(tmp_path)
    assert not (tmp_path / FOLDER).exists()


def test_a_test_that_fails_leaves_the_pictures_of_the_last_one(tmp_path, monkeypatch):
    monkeypatch.setattr(html_pictures, "INLINE", 2)
    fill(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.webp")}
    with pytest.raises(RuntimeError), thumbnails(tmp_path, samples_of(TYPES)):
        raise RuntimeError
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.webp")} == before


def test_of_very_many_images_the_levels_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(html_pictures, "WITH_LEVELS", 2)
    assert set(fill(tmp_path).sources(0)) == {"image", "map"}


def test_levels_are_dark_outside_of_the_region_of_interest(tmp_path):
    region = np.zeros((32, 32), bool)
    region[:16] = True
    level = np.linspace(1, 2, 64, dtype=np.float32).reshape(8, 8)  # its highest values are outside
    (first, *_) = results(TYPES, (1.0, 1.1, 9.0))
    with thumbnails(tmp_path, samples_of(TYPES[:1])) as small:
        first = first._replace(levels=[level], region=region)
        small.add(first, np.full((*first.mask.shape, 3), 90, np.uint8), SCALE, 1.0)
        (shown,) = small.levels[0]
        assert (shown[:4] == level[:4]).all() and (shown[4:] == 1).all()


def test_pictures_have_the_shape_of_the_original(tmp_path):
    small = fill(tmp_path, aspect=4.0)
    assert small.picture(0, "image").size == small.sizes[0] == (512, 128)


def test_the_mask_is_an_outline_on_nothing(tmp_path):
    pixels = np.asarray(fill(tmp_path).picture(2, "mask").convert("RGBA"))
    drawn = pixels[..., 3] > 0
    assert 0.001 < drawn.mean() < 0.05 and set(np.unique(pixels[..., 3])) == {0, 255}
    assert (pixels[drawn][:, :3] == OUTLINE).all()
    rows, columns = np.nonzero(drawn)
    assert (abs(np.array([rows.min(), rows.max() + 1]) - 8 * np.array([8, 16])) <= 1).all()
    assert (abs(np.array([columns.min(), columns.max() + 1]) - 8 * np.array([10, 20])) <= 1).all()


def test_a_level_has_one_scale_in_all_images(tmp_path):
    """The good images are dark, because they do not show their own extremes; the defect is bright."""
    small = fill(tmp_path)
    brightest = [np.asarray(small.picture(k, "level 1").convert("L")).max() for k in range(3)]
    assert brightest[0] < brightest[2] - 60 and brightest[1] < brightest[2] - 60
    assert "good test images" in small.level_scales[0].meaning[0]


def test_a_spot_stays_when_a_map_gets_smaller():
    values = np.zeros((1000, 30))
    values[777, 3] = 5
    small = shrunk(values, 64)
    assert small.shape == (64, 30) and small.max() == 5 and np.argwhere(small == 5).tolist() == [[49, 3]]
    assert shrunk(values, 1000) is values
