"""VisA: which csv file is read, and what is wrong with one."""

import pytest

from datasets import readers
from tests.datasets.readers import trees
from tests.datasets.readers.trees import config_of, write_csv
from utils.errors import UserError

HEAD = ("object", "split", "label", "image", "mask")


@pytest.fixture
def root(tmp_path):
    trees.visa(tmp_path)
    return tmp_path


def rows_of(root, name="1cls"):
    return [line.split(",") for line in (root / f"split_csv/{name}.csv").read_text().splitlines()]


def test_the_defective_images_for_training_of_the_2cls_splits_are_left_out(root):
    rows = rows_of(root)
    moved = [[*row[:1], "train", *row[2:]] if row[3].endswith("Anomaly/000.JPG") else row for row in rows]
    for name in ("2cls_highshot", "2cls_fewshot"):
        write_csv(root / f"split_csv/{name}.csv", moved)
        config = config_of(root, "candle", reader=f"visa_{name}")
        assert [sample.name for sample in readers.train_samples(config)] == [f"good/{k:04}" for k in range(4)]
        assert {sample.name for sample in readers.test_samples(config)} == {"good/0004", "good/0005", "anomaly/001"}


def test_a_missing_csv_file_is_named(root):
    for reader, name in (("visa_2cls_fewshot", "2cls_fewshot"), ("visa", "1cls")):
        (root / "split_csv/1cls.csv").unlink(missing_ok=True)
        with pytest.raises(UserError, match=rf"{name}.csv: cannot be read as VisA's csv file \(.*No such file"):
            readers.train_samples(config_of(root, "candle", reader=reader))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "cannot be read as VisA's csv file"),
        ([("image", "mask")], "line 1 must have the columns object, split, label, image, mask"),
        ([HEAD, ("candle", "train")], "line 2 must have the columns"),
        ([HEAD, ("candle", "train", "normal", "candle/gone.JPG", "")], "it names .*candle/gone.JPG, but there is no"),
        ([HEAD, ("candle", "train", "anomaly", "candle/Data/Images/Anomaly/000.JPG", "no.png")], "it names .*no.png"),
        ([HEAD, ("candle", "test", "normal", "candle/Data/Images/Normal/0000.JPG", "")], "no good images to train on"),
    ],
)
def test_a_damaged_csv_file_is_named(root, rows, words):
    write_csv(root / "split_csv/1cls.csv", rows)
    with pytest.raises(UserError, match=rf"1cls.csv: .*{words}"):
        readers.train_samples(config_of(root, "candle", reader="visa"))


def test_a_csv_file_of_bytes_that_are_no_text_is_named(root):
    (root / "split_csv/1cls.csv").write_bytes(b"object\xff\n")
    with pytest.raises(UserError, match="1cls.csv: cannot be read"):
        readers.train_samples(config_of(root, "candle", reader="visa"))
