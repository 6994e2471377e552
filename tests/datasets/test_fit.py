"""How pictures get the size that the networks take."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.fit import Fit, advice, in_box

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_image_resize_is_antialiased_and_masks_stay_binary():
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    small = Fit((64, 64), (64, 64)).image(board)
    assert small.dtype == np.uint8 and 100 < small.min() and small.max() < 155
    mask = np.zeros((300, 200), bool)
    mask[100:200, 50:100] = True
    fitted = Fit((96, 64), (96, 64)).mask(mask)
    assert fitted.dtype == bool and fitted.shape == (96, 64)
    assert fitted.mean() == pytest.approx(mask.mean(), abs=0.01)


def test_resize_matches_pillow_as_in_the_papers():
    ours = Fit((32, 32), (32, 32)).image(PICTURE).transpose(1, 2, 0).astype(int)
    pillow = np.asarray(Image.fromarray(PICTURE).resize((32, 32), Image.BILINEAR)).astype(int)
    assert np.abs(ours - pillow).max() <= 1


def test_crop_is_centred_alike_for_image_and_mask():
    mask = np.zeros((64, 64), bool)
    mask[32, 32] = True
    image = (mask[..., None] * 255).repeat(3, axis=2).astype(np.uint8)
    cropped = Fit((64, 64), (32, 48)).image(image)
    assert cropped.shape == (3, 32, 48)
    np.testing.assert_array_equal(cropped[0] > 0, Fit((64, 64), (32, 48)).mask(mask))
    assert cropped[0, 16, 24] == 255


@pytest.mark.parametrize(
    ("shape", "img_size", "crop_size", "box"),
    [
        ((100, 250), (64, 64), (64, 64), (19, 0, 45, 64)),  # 26 rows
        ((250, 100), (64, 64), (64, 64), (0, 19, 64, 45)),
        ((100, 100), (64, 96), (64, 96), (0, 16, 64, 80)),
        ((30, 30), (64, 64), (64, 64), (0, 0, 64, 64)),  # small pictures are enlarged
        ((100, 250), (64, 64), (32, 32), (3, 0, 29, 32)),
        ((4, 4000), (64, 64), (32, 64), (15, 0, 16, 64)),  # one row is left
    ],
)
def test_padding_keeps_the_aspect_ratio_and_says_where_the_picture_is(shape, img_size, crop_size, box):
    fit = Fit(img_size, crop_size, pad=True)
    assert fit.inside(shape) == box
    top, left, bottom, right = box
    mask = fit.mask(np.ones(shape, bool))
    assert (
        mask.shape == crop_size and mask[top:bottom, left:right].all() and mask.sum() == (bottom - top) * (right - left)
    )
    image = fit.image(np.full((*shape, 3), 77, np.uint8))
    assert image.shape == (3, *crop_size) and (image == 77).all()


def test_padding_repeats_the_outermost_pixels():
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[0], pixels[-1] = 100, 200
    image = Fit((64, 64), (64, 64), pad=True).image(pixels)
    assert (image[:, :17] == 100).all() and (image[:, 47:] == 200).all() and (image[:, 17:47] == 0).all()


def test_deep_pictures_are_padded_too():
    deep = np.random.default_rng(0).integers(0, 2**16, (32, 64, 3), dtype=np.uint16)
    image = Fit((64, 64), (64, 64), pad=True).image(deep)
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image[:, 16:48], deep.transpose(2, 0, 1))


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("shape", [(100, 250), (64, 64), (300, 31)])
def test_a_mask_and_its_image_lie_in_the_same_place(pad, shape):
    mask = np.zeros(shape, bool)
    mask[shape[0] // 2 :, : shape[1] // 3] = True
    fit = Fit((96, 64), (80, 64), pad)
    top, left, bottom, right = fit.inside(shape)
    image = fit.image((mask[..., None] * 255).repeat(3, axis=2).astype(np.uint8))[0, top:bottom, left:right] > 127
    assert (image != fit.mask(mask)[top:bottom, left:right]).mean() < 0.05


def test_without_padding_all_is_inside():
    assert Fit((64, 96), (64, 64)).inside((10, 1000)) == (0, 0, 64, 64)


@pytest.mark.parametrize("of", [np.asarray, torch.from_numpy])
def test_a_position_that_the_picture_only_touches_is_in_its_box(of):
    level = np.arange(64).reshape(8, 8)
    assert in_box(of(level), (16, 0, 48, 64), (64, 64)).tolist() == level[2:6].tolist()
    several = of(np.stack([level, -level]))
    assert in_box(several, (17, 3, 47, 5), (64, 64)).tolist() == [level[2:6, :1].tolist(), (-level[2:6, :1]).tolist()]


@pytest.mark.parametrize("pad", [False, True])
def test_the_aspect_is_that_of_the_part_of_the_picture_that_is_left(pad):
    assert Fit((64, 64), (64, 64), pad).aspect((100, 250)) == pytest.approx(2.5, rel=0.03)
    assert Fit((64, 64), (64, 32), pad).aspect((100, 250)) == pytest.approx(1.25, rel=0.03)


def any_size(size):
    return True


@pytest.mark.parametrize(
    ("shapes", "img_size", "words"),
    [
        ([(500, 1250)], (256, 256), ["1250 pixels wide and 500 high", "squeezed to 256 x 256 (height x width)"]),
        ([(500, 1250)], (256, 256), ["img_size=[256,640] keeps their shape, with 2.5 times as many pixels"]),
        ([(1250, 500)], (256, 256), ["500 pixels wide and 1250 high", "img_size=[640,256]"]),
        ([(1250, 500)], (256, 512), ["squeezed to 256 x 512", "img_size=[640,256]", "1.2 times"]),
        ([(100, 1000)], (256, 256), ["img_size=[256,1024] is closer to their shape"]),
        ([(100, 400)], (256, 256), ["img_size=[256,1024] keeps their shape"]),
        ([(100, 300), (300, 100), (200, 200)] * 4, (256, 256), ["different shapes", "TrainingData.fit=pad"]),
    ],
)
def test_a_size_that_keeps_the_shape_of_the_files_is_suggested(shapes, img_size, words):
    said = advice(shapes * 3, Fit(img_size, img_size), any_size)
    assert all(word in said for word in words)


def test_only_a_size_that_the_networks_take_is_suggested():
    square = Fit((192, 192), (192, 192))
    assert "img_size=[512,192]" in advice([(1250, 500)], square, lambda size: max(size) % 64 == 0)
    assert advice([(1250, 500)], square, lambda size: False).endswith("TrainingData.fit=pad keeps their shape")


def test_the_same_number_of_pixels_is_not_mentioned():
    assert advice([(1000, 500)], Fit((256, 512), (256, 512)), any_size).endswith("[512,256] keeps their shape")


@pytest.mark.parametrize("img_size", [(256, 256), (224, 256)])
def test_nothing_is_suggested_for_files_that_keep_their_shape(img_size):
    assert advice([(300, 310)] * 19 + [(100, 900)], Fit(img_size, img_size), any_size) is None
    assert advice([(100, 900)], Fit(img_size, img_size, pad=True), any_size) is None
    assert advice([(100, 900)], Fit((256, 1024), (256, 1024)), any_size) is None  # nothing longer is suggested
