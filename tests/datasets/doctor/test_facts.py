"""What is measured of a file."""

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.doctor.facts import facts_of, look_at, pattern_of
from datasets.doctor.layout import Picture
from tests.conftest import write_image
from tests.datasets.doctor.pictures import part


def test_size_depth_brightness_and_contrast_are_measured(tmp_path):
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 15:] = 200
    write_image(tmp_path / "a.png", image)
    facts = look_at(Picture(tmp_path / "a.png", "train", "good"))
    assert facts.error is None and facts.shape == (20, 30) and facts.kind == "RGB, 8 bits"
    assert facts.brightness == pytest.approx(100) and facts.contrast == pytest.approx(100)
    assert facts.outside == (facts.brightness, facts.contrast)
    assert facts.file_size == (tmp_path / "a.png").stat().st_size


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.full((8, 8), 128, np.uint8), "gray, 8 bits"),
        (np.full((8, 8), 128 * 257, np.uint16), "gray, 16 bits"),
        (np.full((8, 8, 4), 128, np.uint8), "RGBA, 8 bits"),
        (np.full((8, 8, 3), 128 * 257, np.uint16), "RGB, 16 bits"),
    ],
)
def test_kinds_are_named_and_gray_levels_count_alike_in_all(tmp_path, values, kind):
    assert cv2.imwrite(str(tmp_path / "a.png"), values)
    facts = look_at(Picture(tmp_path / "a.png", "train", "good"))
    assert facts.kind == kind and facts.brightness == pytest.approx(128, abs=0.01)


def test_what_the_mask_marks_is_left_out_of_the_values_outside(tmp_path):
    image, mask = np.full((10, 10, 3), 50, np.uint8), np.zeros((10, 10), np.uint8)
    image[:4], mask[:4] = 250, 255
    write_image(tmp_path / "a.png", image)
    write_image(tmp_path / "m.png", mask)
    facts = look_at(Picture(tmp_path / "a.png", "test", "hole", tmp_path / "m.png"))
    assert facts.mask_share == pytest.approx(0.4) and facts.mask_shape == (10, 10)
    assert facts.brightness == pytest.approx(130) and facts.outside == pytest.approx((50, 0))


def test_a_folder_of_masks_is_united(tmp_path):
    for k in range(2):
        mask = np.zeros((10, 10), np.uint8)
        mask[k] = 255
        write_image(tmp_path / f"masks/{k}.png", mask)
    write_image(tmp_path / "a.png", part(0)[:10, :10])
    facts = look_at(Picture(tmp_path / "a.png", "test", "hole", tmp_path / "masks"))
    assert facts.mask_share == pytest.approx(0.2)
    write_image(tmp_path / "masks/2.png", np.zeros((5, 5), np.uint8))
    assert (
        "masks of different sizes"
        in look_at(Picture(tmp_path / "a.png", "test", "hole", tmp_path / "masks")).mask_error
    )


def test_unreadable_files_are_told_and_the_others_read_in_order(tmp_path):
    write_image(tmp_path / "good.png", part(0))
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:200])
    pictures = [Picture(tmp_path / name, "train", "good") for name in ("bad.png", "good.png", "gone.png")]
    bad, good, gone = facts_of(pictures)
    assert "cannot be read as an image" in bad.error and "bad.png" in bad.error and bad.pattern is None
    assert good.error is None and good.picture.path.name == "good.png"
    assert "No such file" in gone.error
    broken = look_at(Picture(tmp_path / "good.png", "test", "hole", tmp_path / "bad.png"))
    assert broken.error is None and "bad.png" in broken.mask_error


def test_the_digest_is_that_of_the_pixels_not_of_the_file(tmp_path):
    Image.fromarray(part(1)).save(tmp_path / "a.png")
    Image.fromarray(part(1)).save(tmp_path / "b.bmp")
    Image.fromarray(part(2)).save(tmp_path / "c.png")
    a, b, c = (look_at(Picture(tmp_path / name, "train", "good")).digest for name in ("a.png", "b.bmp", "c.png"))
    assert a == b != c


def test_a_pattern_does_not_depend_on_brightness_contrast_or_size():
    gray = part(3)[..., 0].astype(np.float32)
    pattern = pattern_of(gray)
    assert np.linalg.norm(pattern) == pytest.approx(1)
    np.testing.assert_allclose(pattern_of(gray * 0.5 + 20), pattern, atol=1e-5)
    assert pattern_of(cv2.resize(gray, (192, 192), interpolation=cv2.INTER_CUBIC)) @ pattern > 0.99
    assert not pattern_of(np.full((9, 9), 70, np.float32)).any()


def test_what_is_left_out_of_a_file_is_remarked(tmp_path):
    pages = [Image.fromarray(part(k)) for k in range(2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    facts = look_at(Picture(tmp_path / "a.tif", "train", "good"))
    assert facts.remarks == ("only the first of its pages or frames is read",)
