"""How a data set is split."""

import pytest
from sklearn.model_selection import train_test_split

from engine import splits
from engine.splits import split_train, train_datasets
from tests.conftest import write_mvtec
from tests.engine.test_loading import make_config
from utils.errors import UserError


@pytest.mark.parametrize(
    ("images", "train", "val"), [(280, 224, 56), (60, 48, 12), (391, 312, 79), (1, 0, 1), (5, 4, 1)]
)
def test_split_sizes_of_the_paper(images, train, val):
    parts = split_train(images, 0.2, seed=0)
    assert (len(parts[0]), len(parts[1])) == (train, val)
    assert sorted(parts[0] + parts[1]) == list(range(images))


def test_split_is_the_one_of_scikit_learn():
    train, val = train_test_split(list(range(37)), test_size=0.2, random_state=3)
    assert split_train(37, 0.2, seed=3) == (sorted(train), sorted(val), [])


def test_a_val_ratio_of_zero_holds_nothing_out():
    assert split_train(7, 0, seed=0) == (list(range(7)), [], [])


def test_train_and_validation_are_disjoint_seeded_and_good(tiny_mvtec):
    train, val, _ = train_datasets(make_config(tiny_mvtec))
    paths = [{s.path for s in part.samples} for part in (train, val)]
    assert (len(paths[0]), len(paths[1])) == (8, 2) and not paths[0] & paths[1]
    assert all(path.parent.name == "good" and path.parts[-3] == "train" for path in paths[0] | paths[1])
    assert train_datasets(make_config(tiny_mvtec))[1].samples == val.samples
    assert train_datasets(make_config(tiny_mvtec, seed=1))[1].samples != val.samples


def test_pictures_of_one_part_stay_together(tmp_path):
    root = write_mvtec(tmp_path, train=12)
    for k, path in enumerate(sorted((root / "part/train/good").iterdir())):
        path.rename(path.with_name(f"{k // 3}_{k % 3}.png"))
    config = make_config(root, {"val_ratio": 0.25}, calibration=0.25, part_pattern=r"^(\d+)_")
    shares = [{sample.path.name[0] for sample in share.samples} for share in train_datasets(config)]
    assert [len(share) for share in train_datasets(config)] == [6, 3, 3]
    assert [len(share) for share in shares] == [2, 1, 1] and len(set.union(*shares)) == 4
    with pytest.raises(UserError, match=r"train/good: 1 part\(s\) .* 0.25 .*leave none .* lower val_ratio .*or calib"):
        train_datasets(make_config(root, {"val_ratio": 0.25}, part_pattern="png"))


def test_too_few_images_for_the_split_are_counted(tmp_path):
    root = write_mvtec(tmp_path, train=1)
    with pytest.raises(UserError, match=r"train/good: 1 image\(s\) and a val_ratio of 0.2 leave none"):
        train_datasets(make_config(root))
    assert [len(part) for part in train_datasets(make_config(root, {"val_ratio": 0}))] == [1, 0, 0]


# ---- the test set ----------------------------------------------------------------------------------------------


def test_the_test_set_is_what_the_reader_finds(tiny_mvtec):
    dataset, notes = splits.test_dataset(make_config(tiny_mvtec))
    assert [sample.defect_type for sample in dataset.samples] == ["good"] * 3 + ["square"] * 3
    assert notes == []


@pytest.mark.parametrize(
    ("val_ratio", "part", "words"), [(0.2, 1, "the 2 held-out good images"), (0, 0, "the 10 training")]
)
def test_without_test_images_good_ones_stand_in_and_it_is_said(tmp_path, val_ratio, part, words):
    config = make_config(write_mvtec(tmp_path, good=0, bad=0), {"val_ratio": val_ratio})
    dataset, notes = splits.test_dataset(config)
    assert dataset.samples == train_datasets(config)[part].samples
    assert len(notes) == 1 and words in notes[0]
