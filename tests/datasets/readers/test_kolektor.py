"""KolektorSDD and KolektorSDD2: folds of whole items, empty masks, and copies."""

import pytest

from datasets import readers
from datasets.readers.kolektor import FOLDS
from tests.conftest import write_image
from tests.datasets.readers import trees
from tests.datasets.readers.trees import EMPTY, config_of, good
from utils.errors import UserError


def test_each_item_is_tested_in_one_fold_and_trains_in_the_others(tmp_path):
    trees.kolektor(tmp_path)
    for k in range(4, 8):
        good(tmp_path / f"kos{k:02}/Part0.jpg")
        write_image(tmp_path / f"kos{k:02}/Part0_label.bmp", EMPTY)
    tested = []
    for fold in FOLDS:
        config = config_of(tmp_path, fold)
        train, test = readers.train_samples(config), readers.test_samples(config)
        items = {sample.path.parent.name for sample in test}
        assert len(items) > 1 and not items & {sample.path.parent.name for sample in train}
        tested += items
    assert sorted(tested) == [f"kos{k:02}" for k in range(1, 8)]


def test_images_are_named_after_their_item(tmp_path):
    what = trees.kolektor(tmp_path)
    names = {sample.name for sample in readers.test_samples(config_of(tmp_path, what.obj))}
    assert names == {"good/kos03_Part0", "good/kos03_Part1", "defect/kos03_Part2", "defect/kos03_Part3"}


@pytest.mark.parametrize(
    ("make", "mask"), [(trees.kolektor, "kos03/Part0_label.bmp"), (trees.kolektor2, "test/10000_GT.png")]
)
def test_a_missing_mask_is_named(tmp_path, make, mask):
    what = make(tmp_path)
    (tmp_path / mask).unlink()
    with pytest.raises(UserError, match=f"{mask}: cannot be read: No such file"):
        readers.test_samples(config_of(tmp_path, what.obj))


def test_no_good_images_to_train_on_is_an_error(tmp_path):
    for make, place in ((trees.kolektor, "kos0[12]/Part?_label.bmp"), (trees.kolektor2, "train/1000?_GT.png")):
        root = tmp_path / make.__name__
        what = make(root)
        for path in root.glob(place):
            write_image(path, EMPTY + 255)
        with pytest.raises(UserError, match="no good images"):
            readers.train_samples(config_of(root, what.obj))


def test_copies_in_the_published_archive_are_left_out_and_said(tmp_path, capsys):
    trees.kolektor2(tmp_path)
    assert all("copy" not in sample.stem for sample in readers.train_samples(config_of(tmp_path, "kolektor2")))
    assert "train: left out 1 copies of other images: 10001 (copy).png" in capsys.readouterr().err
