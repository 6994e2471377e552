"""The MVTec layout: which images and masks belong to a data set, and the notes and errors about others."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from datasets import readers
from datasets.dataset import ImageDataset
from datasets.readers import mvtec
from tests.conftest import draw_good, write_image, write_mvtec
from utils.config import CommonData, RunConfig
from utils.errors import UserError

DATA = CommonData(batch_size=4, lr=0.1, img_size=64)


def config_of(root, obj="part"):
    return RunConfig[CommonData](data_path=str(root), obj=obj, distillType="st", backbone="resnet18", TrainingData=DATA)


def train(root):
    return readers.train_samples(config_of(root))


def test(root):
    return readers.test_samples(config_of(root))


test.__test__ = False  # a short name of the reader's function, not a test


def write_good(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_good(np.random.default_rng(0))).save(path)


def names(samples):
    return [sample.name for sample in samples]


def test_training_images_are_those_of_train_good_in_order(tiny_mvtec):
    samples = train(tiny_mvtec)
    assert names(samples) == [f"good/{k:03}" for k in range(10)]
    assert all(sample.path.parent == tiny_mvtec / "part/train/good" and sample.mask is None for sample in samples)


def test_test_images_come_by_defect_type_with_their_masks(tiny_mvtec):
    samples = test(tiny_mvtec)
    assert names(samples) == [f"{name}/{k:03}" for name in ("good", "square") for k in range(3)]
    assert [sample.mask for sample in samples[:3]] == [None] * 3
    for k, sample in enumerate(samples[3:]):
        assert sample.path == tiny_mvtec / f"part/test/square/{k:03}.png"
        assert sample.mask == tiny_mvtec / f"part/ground_truth/square/{k:03}_mask.png"


def test_labels_and_masks_arrive_in_the_data_set(tiny_mvtec):
    batch = ImageDataset(test(tiny_mvtec), DATA).batch(list(range(6)))
    assert batch["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch["mask"].sum(dim=(1, 2)).tolist() == [0, 0, 0] + [14 * 14] * 3


@pytest.mark.parametrize(
    ("path", "obj", "words"),
    [
        ("nowhere", "part", "data_path: there is no folder .*nowhere"),
        (".", "prat", r"obj: .* has no category 'prat' \(it has: part\)"),
        ("part", "part", r"has no category 'part' \(this is a category itself: write data_path=/.* obj=part\)"),
    ],
)
def test_missing_folders_are_named(tiny_mvtec, path, obj, words):
    for read in (readers.train_samples, readers.test_samples):
        with pytest.raises(UserError, match=words):
            read(config_of(f"{tiny_mvtec}/{path}", obj))


def test_hidden_folders_are_not_offered_as_categories(tmp_path):
    write_mvtec(tmp_path)
    (tmp_path / ".cache").mkdir()
    with pytest.raises(UserError, match=r"\(it has: part\)"):
        mvtec.category(config_of(tmp_path, "x"))


def test_no_images_to_train_on_is_an_error(tmp_path):
    root = write_mvtec(tmp_path, train=0)
    with pytest.raises(UserError, match="train/good: no images to train on .*; .* such as folder.good=ok"):
        train(root)
    write_image(root / "part/train/000.png", np.zeros((48, 48), np.uint8))
    with pytest.raises(UserError, match="; 1 images lie directly in .*part/train: move the good ones there"):
        train(root)


def test_no_folder_of_test_images_is_no_error(tmp_path):
    assert test(write_mvtec(tmp_path, good=0, bad=0)) == []


# ---- what is left out, and said --------------------------------------------------------------------------------


def test_other_folders_and_images_in_train_are_left_out_and_said(tmp_path, capsys):
    root = write_mvtec(tmp_path)
    write_good(root / "part/train/scratch/000.png")
    write_good(root / "part/train/000.png")
    assert len(train(root)) == 10
    said = capsys.readouterr().err
    assert "part/train: left out 1 folder(s), because only images in train/good are used to train: scratch" in said
    assert "part/train: left out 1 image(s), because only images in train/good are used to train: 000.png" in said


@pytest.mark.parametrize("folder", ["train/good", "test/good", "test/square", "ground_truth/square"])
def test_images_in_subfolders_are_left_out_and_said(tmp_path, folder, capsys):
    root = write_mvtec(tmp_path)
    write_good(root / "part" / folder / "monday/x.png")
    assert (len(train(root)), len(test(root))) == (10, 6)
    assert f"part/{folder}: left out 1 subfolder(s), with the images in them: monday" in capsys.readouterr().err


def test_broken_links_are_left_out_and_said(tmp_path, capsys):
    root = write_mvtec(tmp_path)
    (root / "part/train/good/999.png").symlink_to(root / "gone.png")
    assert len(train(root)) == 10
    assert "part/train/good: left out 1 broken link(s): 999.png" in capsys.readouterr().err


def test_masks_outside_the_folder_of_a_defect_type_are_left_out_and_said(tmp_path, capsys):
    root = write_mvtec(tmp_path, masks=False)
    write_good(root / "part/ground_truth/000_mask.png")
    assert [sample.mask for sample in test(root)] == [None] * 6
    assert "part/ground_truth: left out 1 mask(s)" in capsys.readouterr().err


def test_hidden_folders_are_not_defect_types_and_nothing_is_said(tmp_path, capsys):
    root = write_mvtec(tmp_path)
    for folder in ("train", "train/good", "test", "test/square", "ground_truth"):
        write_good(root / "part" / folder / ".ipynb_checkpoints/000-checkpoint.png")
    assert (len(train(root)), len(test(root))) == (10, 6)
    assert capsys.readouterr().err == ""


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["train/Good", "test/GOOD", "ground_truth/Good", "Train", "Test", "Ground_Truth"])
def test_a_folder_in_another_case_is_named(tmp_path, path):
    """test/Good would count as a defect type, and Test as no test images at all."""
    root = write_mvtec(tmp_path)
    (root / "part" / "ground_truth/good").mkdir()
    (root / "part" / path.lower()).rename(root / "part" / path)
    with pytest.raises(UserError, match=f"{path}: rename this folder to '{path.lower().rpartition('/')[2]}'"):
        train(root)
        test(root)


def test_pictures_lying_in_test_itself_are_named(tmp_path):
    root = write_mvtec(tmp_path)
    (root / "part/test/good/000.png").rename(root / "part/test/stray.png")
    with pytest.raises(UserError, match="stray.png: test images must be in a folder per defect type"):
        test(root)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
@pytest.mark.parametrize("folder", ["test", "ground_truth"])
def test_a_defect_type_that_is_not_utf_8_is_named_in_printable_text(tmp_path, folder):
    root = write_mvtec(tmp_path)
    os.rename(root / "part" / folder / "square", os.fsencode(root / "part" / folder) + b"/L\xf6cher")
    with pytest.raises(
        UserError, match=rf"{folder}/L\\xf6cher: the name of a defect type must be valid UTF-8"
    ) as error:
        test(root)
    assert str(error.value).encode()


def test_two_images_of_one_name_are_refused(tmp_path):
    root = write_mvtec(tmp_path)
    write_good(root / "part/test/square/001.jpg")
    with pytest.raises(UserError, match="square/001.png: 001.jpg has the same name"):
        test(root)


# ---- masks -----------------------------------------------------------------------------------------------------


def test_no_masks_at_all_is_fine(tmp_path):
    assert [sample.mask for sample in test(write_mvtec(tmp_path, masks=False))] == [None] * 6


def test_masks_are_found_with_and_without_the_ending(tmp_path):
    root = write_mvtec(tmp_path)
    masks = root / "part/ground_truth/square"
    (masks / "000_mask.png").rename(masks / "000.png")
    assert [sample.mask for sample in test(root)[3:]] == [
        masks / name for name in ("000.png", "001_mask.png", "002_mask.png")
    ]


def test_some_masks_missing_is_an_error_that_names_one(tmp_path):
    root = write_mvtec(tmp_path)
    (root / "part/ground_truth/square/001_mask.png").unlink()
    with pytest.raises(UserError, match=r"square/001.png: this image has no mask \(1 of 3 defective"):
        test(root)


def test_a_mask_without_image_is_named(tmp_path):
    root = write_mvtec(tmp_path)
    (root / "part/test/square/001.png").unlink()
    with pytest.raises(UserError, match=r"001_mask.png: there is no image square/001 .*\(a mask has the name of"):
        test(root)


def test_masks_of_a_defect_type_without_test_images_are_named(tmp_path):
    """Otherwise ground_truth/Square next to test/square would mean that no image has a mask."""
    root = write_mvtec(tmp_path)
    (root / "part/ground_truth/square").rename(root / "part/ground_truth/Square")
    with pytest.raises(UserError, match="Square/000_mask.png: there is no image Square/000"):
        test(root)


def test_two_masks_of_one_image_are_refused(tmp_path):
    root = write_mvtec(tmp_path)
    write_image(root / "part/ground_truth/square/001.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(UserError, match="has the same name"):
        test(root)


def test_masks_of_good_images_may_be_there_if_they_are_empty(tmp_path):
    root = write_mvtec(tmp_path)
    mask = np.zeros((64, 64), np.uint8)
    write_image(root / "part/ground_truth/good/001_mask.png", mask)
    assert ImageDataset(test(root), DATA).read_all(0) == 0
    mask[3, 4] = 255
    write_image(root / "part/ground_truth/good/001_mask.png", mask)
    with pytest.raises(UserError, match="good/001_mask.png: the mask marks a defect"):
        ImageDataset(test(root), DATA).read_all(0)
