"""Formula pictures: the same everywhere for (seed, index), rich enough, alike within a class and different between."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context

import cv2
import numpy as np
import pytest
from numpy.random import default_rng

from pretraining.formula import FAMILIES, FormulaImages, mixture, picture
from tests.pretraining.formula.families import assert_fields

SOME = (0, 7, 31, 104, 5_000_000_000)


def draw(name, label, index, size=96):
    return picture(name, default_rng((0, 1, label)), default_rng((0, 2, index)), size)


def features(image):
    """Colour, contrast and fineness of a picture, each of a similar spread over the classes: [10]."""
    pixels = image.astype(np.float32) / 255
    finer = [np.log((pixels - cv2.blur(pixels, (k, k))).std() + 0.01) for k in (3, 7, 15)]
    return np.array([*pixels.mean((0, 1)), *pixels.std((0, 1)), *finer, np.log(pixels.std() + 0.01)])


@pytest.mark.parametrize("classes", [None, 10])
def test_a_picture_depends_on_seed_and_index_alone(classes):
    images = FormulaImages(64, seed=3, classes=classes)
    first = [images[i] for i in SOME]
    np.random.seed(1)
    again = FormulaImages(64, seed=3, classes=classes)
    for i, expected in list(zip(SOME, first, strict=True))[::-1]:
        np.testing.assert_array_equal(again[i], expected)
    assert not any(np.array_equal(a, b) for a, b in combinations(first, 2))
    assert not np.array_equal(FormulaImages(64, seed=4, classes=classes)[0], first[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_global_generator_is_neither_read_nor_moved(name):
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    expected = draw(name, 1, 2, 48)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(6)
    np.testing.assert_array_equal(draw(name, 1, 2, 48), expected)


@pytest.mark.slow  # test_store.py compares pictures of other processes too
def test_another_process_draws_the_same():
    images = pickle.loads(pickle.dumps(FormulaImages(64, seed=2, classes=20)))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for i, there in zip(SOME, pool.map(images.__getitem__, SOME), strict=True):
            np.testing.assert_array_equal(there, images[i])


@pytest.mark.parametrize("size", [32, 101, 256])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_shows_something_at_every_size(name, size):
    for label in range(3):
        image = draw(name, label, label, size)
        assert image.shape == (size, size, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        assert image.std(axis=(0, 1)).max() > (1 if name == "surface" else 5)


def test_the_mixtures_fields_are_finite_and_float32():
    assert_fields(mixture)


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_of_a_class_differ_and_classes_differ_more(name):
    values = np.array([[features(draw(name, label, 3 * label + i, 64)) for i in range(3)] for label in range(12)])
    within = values.std(axis=1).mean(axis=0)
    between = values.mean(axis=1).std(axis=0)
    assert (within > 0).all()
    assert np.median(between / within) > 1.5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_class_draws_the_same_for_every_instance_and_size(name):
    """Numbers drawn for the instance must not change the class's own generator."""
    ends = set()
    for index, size in ((0, 48), (1, 48), (2, 160)):
        cls = default_rng((0, 1, 4))
        picture(name, cls, default_rng(index), size)
        ends.add(cls.integers(2**62))
    assert len(ends) == 1


def test_a_larger_picture_shows_the_same():
    """All families, except for what is random at every size: grain, and points of a fractal."""
    for name in FAMILIES:
        for label in range(3):
            small, large = (draw(name, label, 5, size).astype(np.float32) for size in (96, 192))
            large = cv2.resize(large, (96, 96), interpolation=cv2.INTER_AREA)
            a, b = (cv2.blur(image, (5, 5)).ravel() for image in (small, large))
            assert np.corrcoef(a, b)[0, 1] > 0.8, (name, label)


def test_labels():
    images = FormulaImages(32, classes=7)
    assert [images.label(i) for i in (0, 6, 7, 20)] == [0, 6, 0, 6]
    with pytest.raises(ValueError, match="no classes"):
        FormulaImages(32).label(0)


@pytest.mark.parametrize("wrong", [{"size": 31}, {"seed": -1}, {"classes": 0}])
def test_wrong_numbers(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FormulaImages(**{"size": 64, **wrong})


def test_a_negative_index():
    images = FormulaImages(32, classes=3)
    with pytest.raises(ValueError, match="index"):
        images[-1]
    with pytest.raises(ValueError, match="index"):
        images.label(-1)
