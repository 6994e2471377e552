"""Copies of pictures are found where parts look alike, and other parts are not taken for copies."""

import cv2
import numpy as np
import pytest

from datasets.doctor.copies import Pair, exact_pairs, findings, groups, near_pairs, own_patterns, telling
from tests.datasets.doctor.pictures import part, written


def set_of(root, count=30):
    return [written(root, f"train/good/{k:02}.png", part(k)) for k in range(count)]


def resaved(image):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    root = tmp_path_factory.mktemp("alike")
    return root, set_of(root)


def test_different_parts_that_look_alike_are_no_copies(alike):
    _, facts = alike
    patterns = np.stack([each.pattern for each in facts])
    plain = patterns @ patterns.T
    assert np.median(plain) > 0.9  # what a plain comparison would take for copies
    assert exact_pairs(facts) == near_pairs(facts) == []


@pytest.mark.parametrize(
    "changed",
    [
        resaved,
        lambda image: cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA),
        lambda image: (image * 0.8).astype(np.uint8),
        lambda image: cv2.GaussianBlur(image, (0, 0), 1),
        lambda image: np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8),
    ],
    ids=["resaved", "smaller", "darker", "blurred", "noisy"],
)
def test_a_copy_in_another_form_is_found(alike, changed):
    root, facts = alike
    copy = written(root, "test/good/copy.png", changed(part(7)))
    (pair,) = near_pairs([*facts, copy])
    assert pair[:2] == (7, 30) and 0.9 <= pair.likeness <= 1 and not pair.exact


def test_the_same_pixels_are_an_exact_pair_and_only_that(alike):
    root, facts = alike
    copies = [written(root, f"test/good/copy{k}.bmp", part(7)) for k in range(2)]
    assert exact_pairs([*facts, *copies]) == [Pair(7, 30, 1.0, True), Pair(7, 31, 1.0, True)]
    assert near_pairs([*facts, *copies]) == []


def test_blocks_find_what_one_comparison_finds(alike, monkeypatch):
    root, facts = alike
    every = [*facts, *(written(root, f"test/good/r{k}.png", resaved(part(k))) for k in (0, 13, 29))]
    whole = near_pairs(every)
    monkeypatch.setattr("datasets.doctor.copies.BLOCK", 4)
    assert {pair[:2] for pair in near_pairs(every)} == {pair[:2] for pair in whole} == {(0, 30), (13, 31), (29, 32)}


def test_unreadable_pictures_and_pictures_of_one_colour_are_no_copies(alike, tmp_path):
    _, facts = alike
    flat = [written(tmp_path, f"test/good/{k}.png", np.full((32, 32, 3), 60 + k, np.uint8)) for k in range(2)]
    unreadable = [each._replace(error="damaged", pattern=None, digest=b"") for each in facts[:2]]
    assert exact_pairs([*unreadable, *facts, *flat]) == []
    assert all(pair[:2] == (32, 33) for pair in near_pairs([*unreadable, *facts, *flat]))


def test_of_few_pictures_nothing_is_said(tmp_path):
    facts = [*set_of(tmp_path, 8), written(tmp_path, "test/good/a.png", resaved(part(0)))]
    assert near_pairs(facts) == []


def test_what_equal_patterns_have_of_their_own_is_nothing():
    assert not own_patterns(np.ones((12, 5))).any()


def test_groups_are_what_pairs_connect():
    pairs = [Pair(*each, 0.95, False) for each in ((1, 2), (5, 6), (2, 9), (6, 7), (9, 1), (3, 4))]
    assert groups(pairs) == [[1, 2, 9], [5, 6, 7], [3, 4]]


def test_of_many_pictures_of_one_part_each_is_named_once():
    pairs = [Pair(*each, 0.95, False) for each in ((1, 2), (2, 3), (1, 3), (1, 4), (3, 4), (5, 6))]
    assert [pair[:2] for pair in telling(pairs)] == [(1, 2), (2, 3), (1, 4), (5, 6)]


def test_each_sort_of_copies_is_a_finding_of_its_own_the_worst_first(tmp_path):
    paths = ["train/good/0", "train/good/1", "test/good/2", "test/hole/3", "test/hole/4"]
    facts = [written(tmp_path, f"{path}.png", part(k)) for k, path in enumerate(paths)]
    exact, near = (
        [Pair(*each, like, like == 1) for each in ((0, 1), (0, 2), (1, 3), (2, 3), (3, 4))] for like in (1, 0.95)
    )
    found = findings(facts, [*exact, *near], tmp_path)
    assert [finding.sentence for finding in found] == [
        "the same pixels in train/good and in test: 2 test pictures, 1 of them defective",
        "near copies in train/good and in test: 2 test pictures, 1 of them defective",
        "copies with different labels in test: 2 pairs of a good and a defective picture",
        "the same pixels twice in train/good: 1 picture",
        "near copies in train/good: 2 pictures in 1 group",
        "the same pixels twice in test with one label: 1 pair",
        "near copies in test with one label: 1 pair",
    ]
    assert found[0].files == ["train/good/0.png = test/good/2.png", "train/good/1.png = test/hole/3.png"]
    assert found[1].files[0] == "train/good/0.png ~ test/good/2.png (0.95)"
