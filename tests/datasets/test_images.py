import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datasets.images import (
    SUFFIXES,
    denormalise,
    fit_image,
    fit_mask,
    list_images,
    normalise,
    read_image,
    read_mask,
)
from tests.conftest import draw_good
from utils.errors import UserError

GOOD = draw_good(np.random.default_rng(0), 48)


@pytest.mark.parametrize("suffix", SUFFIXES + tuple(s.upper() for s in SUFFIXES))
def test_every_format_in_any_case(tmp_path, suffix):
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(GOOD).save(path)
    image = read_image(path)
    assert image.shape == (48, 48, 3) and image.dtype == np.uint8
    tolerance = 60 if suffix.lower() in (".jpg", ".jpeg", ".webp") else 0
    assert np.abs(image.astype(int) - GOOD).max() <= tolerance
    assert list_images(tmp_path) == [path]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
def test_sixteen_bits_keep_their_depth_and_colour_order(tmp_path, suffix, shape):
    pixels = np.random.default_rng(0).integers(0, 2**16, shape).astype(np.uint16)
    stored = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: shape[2]]]
    assert cv2.imwrite(str(tmp_path / f"deep{suffix}"), stored)
    image = read_image(tmp_path / f"deep{suffix}")
    expected = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, expected)


def test_sixteen_bit_gray_is_not_clipped_to_white():
    """Pillow's convert("RGB") turns every 16-bit value above 255 into white."""
    deep = np.linspace(0, 2**16 - 1, 64 * 64).reshape(64, 64, 1).repeat(3, axis=2)
    shallow = (deep / 257).round().astype(np.uint8)
    a = normalise(fit_image(deep.astype(np.uint16), (64, 64), (64, 64)))
    b = normalise(fit_image(shallow, (64, 64), (64, 64)))
    torch.testing.assert_close(a, b, atol=0.02, rtol=0)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_other_pillow_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.fromarray(GOOD).convert("L").convert("RGB").convert(mode).save(path)
    assert read_image(path).shape == (48, 48, 3)


def test_gray_is_repeated(tmp_path):
    Image.fromarray(GOOD[..., 0]).save(tmp_path / "gray.png")
    image = read_image(tmp_path / "gray.png")
    assert (image == image[..., :1]).all() and (image[..., 0] == GOOD[..., 0]).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0, 0.03, 0.7])
def test_a_damaged_file_is_named(tmp_path, suffix, keep):
    buffer = io.BytesIO()
    Image.fromarray(GOOD).save(buffer, Image.registered_extensions()[suffix])
    content = buffer.getvalue()
    path = tmp_path / f"half{suffix}"
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match=f"half{suffix}.*cannot be read"):
        read_image(path)


def test_other_depths_are_refused_by_name(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="float.tif.*8- and 16-bit"):
        read_image(tmp_path / "float.tif")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.png"):
        read_image(tmp_path / "gone.png")


def test_masks_are_what_is_above_zero(tmp_path):
    mask = np.zeros((10, 12), np.uint8)
    mask[2, 3], mask[4, 5] = 1, 255
    expected = mask > 0
    Image.fromarray(mask).save(tmp_path / "gray.png")
    Image.fromarray(mask).convert("RGBA").save(tmp_path / "rgba.png")  # alpha is 255 everywhere
    Image.fromarray(expected).save(tmp_path / "bits.bmp")
    for name in ("gray.png", "rgba.png", "bits.bmp"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), expected)


def test_image_resize_is_antialiased_and_masks_stay_binary():
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    small = fit_image(board, (64, 64), (64, 64))
    assert small.dtype == np.uint8 and 100 < small.min() and small.max() < 155
    mask = np.zeros((300, 200), bool)
    mask[100:200, 50:100] = True
    fitted = fit_mask(mask, (96, 64), (96, 64))
    assert fitted.dtype == bool and fitted.shape == (96, 64)
    assert fitted.mean() == pytest.approx(mask.mean(), abs=0.01)


def test_resize_matches_pillow_as_in_the_papers():
    ours = fit_image(GOOD, (32, 32), (32, 32)).transpose(1, 2, 0).astype(int)
    pillow = np.asarray(Image.fromarray(GOOD).resize((32, 32), Image.BILINEAR)).astype(int)
    assert np.abs(ours - pillow).max() <= 1


def test_crop_is_centred_alike_for_image_and_mask():
    mask = np.zeros((64, 64), bool)
    mask[32, 32] = True
    image = (mask[..., None] * 255).repeat(3, axis=2).astype(np.uint8)
    cropped = fit_image(image, (64, 64), (32, 48))
    assert cropped.shape == (3, 32, 48)
    np.testing.assert_array_equal(cropped[0] > 0, fit_mask(mask, (64, 64), (32, 48)))
    assert cropped[0, 16, 24] == 255


def test_normalise_and_back():
    image = fit_image(GOOD, (48, 48), (48, 48))
    normalised = normalise(image)
    assert normalised.dtype == torch.float32
    white = normalise(np.full((3, 1, 1), 255, np.uint8)).flatten()
    torch.testing.assert_close(white, torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]))
    np.testing.assert_array_equal(denormalise(normalised), image.transpose(1, 2, 0))


def test_files_that_are_no_pictures_are_left_out_and_said(tmp_path, capsys):
    Image.fromarray(GOOD).save(tmp_path / "b.png")
    Image.fromarray(GOOD).save(tmp_path / "a.PNG")
    for name in ("notes.txt", "c.gif", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in list_images(tmp_path)] == ["a.PNG", "b.png"]
    said = capsys.readouterr().err
    assert "c.gif" in said and "notes.txt" in said and ".DS_Store" not in said and "Thumbs" not in said
    assert list_images(tmp_path / "nowhere") == []
