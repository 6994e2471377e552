"""Samples as batches, and the errors about images and masks that cannot be used."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.dataset import ImageDataset, Sample
from tests.conftest import draw_good, write_image
from utils.config import CommonData
from utils.errors import UserError

PIXELS = 64 * 64
EIGHT_BITS, SIXTEEN_BITS = (3 + 1) * PIXELS, (2 * 3 + 1) * PIXELS  # bytes of an image and its mask


def dataset_of(samples):
    return ImageDataset(samples, CommonData(batch_size=4, lr=0.1, img_size=64))


def good_images(folder, count, name="{:03}.png", deep=()):
    """Data set of `count` different good images, written to a folder; those at `deep` have 16 bits."""
    samples = [Sample(folder / name.format(k), None, "good") for k in range(count)]
    for k, sample in enumerate(samples):
        image = draw_good(np.random.default_rng(k), 40 + k)
        write_image(sample.path, image.astype(np.uint16) * 257 if k in deep else image)
    return dataset_of(samples)


@pytest.fixture
def square(tmp_path):
    """Data set of a good and a defective image, both with a mask."""
    mask = np.zeros((64, 64), np.uint8)
    write_image(tmp_path / "good_mask.png", mask)
    mask[10:24, 20:34] = 255
    write_image(tmp_path / "square_mask.png", mask)
    types = ("good", "square")
    for name in types:
        write_image(tmp_path / f"{name}.png", draw_good(np.random.default_rng(0)))
    return dataset_of([Sample(tmp_path / f"{name}.png", tmp_path / f"{name}_mask.png", name) for name in types])


def test_a_batch_holds_what_is_known_of_its_images(square):
    batch = square.batch([1, 0])
    assert batch["image"].shape == (2, 3, 64, 64) and batch["image"].dtype == torch.uint8
    assert batch["mask"].dtype == torch.bool and batch["mask"].sum(dim=(1, 2)).tolist() == [14 * 14, 0]
    assert batch["label"].tolist() == [1, 0] and batch["index"].tolist() == [1, 0]
    assert batch["defect_type"] == ["square", "good"]
    assert batch["path"] == [str(square.samples[k].path) for k in (1, 0)]
    assert [sample.name for sample in square.samples] == ["good/good", "square/square"]


def test_the_index_is_obeyed(tmp_path):
    """The earlier toolkit ignored the index and drew a random image."""
    dataset = good_images(tmp_path, 4)
    for i in (3, 0, 3):
        assert dataset[i]["path"] == str(dataset.samples[i].path)
        assert torch.equal(dataset[i]["image"], dataset[i]["image"])
    assert not torch.equal(dataset[0]["image"], dataset[1]["image"])


def test_images_of_many_sizes_and_formats_make_one_batch(tmp_path):
    samples = [Sample(tmp_path / f"0{suffix}", None, "good") for suffix in (".bmp", ".JPG", ".tiff", ".webp", ".Png")]
    for size, sample in zip((40, 90, 64, 130, 33), samples, strict=True):
        Image.fromarray(draw_good(np.random.default_rng(0), size)).save(sample.path)
    assert dataset_of(samples).batch(list(range(5)))["image"].shape == (5, 3, 64, 64)


def test_sixteen_bit_images_stay_so_and_among_others_become_fractions(tmp_path):
    dataset = good_images(tmp_path, 2, deep=[1])
    assert dataset.batch([1])["image"].dtype == torch.uint16
    batch = dataset.batch([0, 1])["image"]
    assert batch.dtype == torch.float32
    for k, scale in ((0, 255), (1, 65535)):
        expected = dataset.batch([k])["image"].to(torch.float32) / scale
        torch.testing.assert_close(batch[k : k + 1], expected)


# ---- reading all -----------------------------------------------------------------------------------------------


def test_keeping_images_in_memory_changes_nothing_and_respects_the_budget(tmp_path):
    dataset = good_images(tmp_path, 5)
    before = dataset.batch(list(range(5)))
    assert dataset.read_all(5 * EIGHT_BITS - 1) == 0 and dataset.decoded is None
    dataset = good_images(tmp_path, 5)
    assert dataset.read_all(5 * EIGHT_BITS) == 5 * EIGHT_BITS and dataset.decoded is not None
    for path in tmp_path.iterdir():
        path.unlink()  # a second reading would fail
    assert torch.equal(dataset.batch(list(range(5)))["image"], before["image"])


def test_the_budget_counts_every_image_by_its_own_depth(tmp_path):
    needed = EIGHT_BITS + 2 * SIXTEEN_BITS
    assert good_images(tmp_path, 3, deep=[1, 2]).read_all(needed - 1) == 0
    assert good_images(tmp_path, 3, deep=[1, 2]).read_all(needed) == needed


def test_each_file_is_read_once(tmp_path, monkeypatch):
    dataset, read = good_images(tmp_path, 5), []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    dataset.read_all(0)
    assert dataset.read_all(0) == 0
    assert sorted(read) == sorted(sample.path.name for sample in dataset.samples)


def test_only_a_few_images_are_read_ahead_of_the_one_in_hand(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    dataset, started = dataset_of([Sample(tmp_path / "x.png", None, "good")] * 100), []
    monkeypatch.setattr(ImageDataset, "read", lambda self, index: started.append(index) or index)
    items = dataset._read_in_threads()
    for k in range(100):
        assert next(items) == k
        assert len(started) <= k + 6
    assert list(items) == []


def test_the_first_bad_image_of_several_is_named_and_named_again(tmp_path):
    dataset = good_images(tmp_path, 6)
    for k in (1, 4):
        dataset.samples[k].path.write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(UserError, match="001.png: cannot be read as an image"):
            dataset.read_all(2**30)
    assert dataset.decoded is None


def test_an_empty_data_set_takes_no_memory():
    assert dataset_of([]).read_all(2**30) == 0


def test_fingerprint_is_of_names_and_pixels(tmp_path):
    def fingerprint(name="{:03}.png", count=3):
        dataset = good_images(tmp_path / "x", count, name)
        dataset.read_all(0)
        return dataset.fingerprint()

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint("{}.png"), fingerprint(count=2)}) == 3
    dataset = good_images(tmp_path / "x", 3)
    write_image(dataset.samples[1].path, draw_good(np.random.default_rng(9), 41))
    dataset.read_all(0)
    assert dataset.fingerprint() != fingerprint()


def test_the_first_images_are_a_data_set_too(tmp_path):
    dataset = good_images(tmp_path, 4)
    dataset.read_all(2**30)
    part = dataset.first(2)
    assert len(part) == 2 and len(dataset) == 4
    assert torch.equal(part[1]["image"], dataset[1]["image"])


def test_a_data_set_travels_to_another_process(tmp_path):
    dataset = good_images(tmp_path, 2)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1]["image"], dataset[1]["image"])


# ---- masks, and what is said -----------------------------------------------------------------------------------


def test_a_mask_of_another_size_is_named(square):
    write_image(square.samples[1].mask, np.zeros((32, 64), np.uint8))
    with pytest.raises(UserError, match="square_mask.png: the mask is 64 x 32 px but .*square.png is 64 x 64 px"):
        square.read_all(0)


def test_a_defect_in_the_mask_of_a_good_image_is_named(square):
    square.samples[0].mask.write_bytes(square.samples[1].mask.read_bytes())
    with pytest.raises(UserError, match="good_mask.png: the mask marks a defect, but .*good.png is among the good"):
        square.read_all(0)


def test_an_unreadable_mask_is_named(square):
    square.samples[1].mask.write_bytes(b"")
    with pytest.raises(UserError, match="square_mask.png: cannot be read as an image .the file is empty"):
        square.read_all(0)


def test_what_is_left_out_of_pictures_is_said_of_the_first_only(tmp_path, capsys):
    samples = [Sample(tmp_path / f"{k}.tif", None, "good") for k in range(5)]
    page = Image.fromarray(draw_good(np.random.default_rng(0), 40))
    for sample in samples:
        page.save(sample.path, save_all=True, append_images=[page])
    dataset = dataset_of(samples)
    dataset.read_all(0)
    dataset.batch([3])
    said = [line for line in capsys.readouterr().err.splitlines() if "note: " in line]
    assert len(said) == 1 and ".tif: only the first of its pages or frames is read" in said[0]


def test_a_mask_in_a_lossy_format_is_said(square, tmp_path, capsys):
    lossy = tmp_path / "square_mask.jpg"
    Image.open(square.samples[1].mask).save(lossy)
    dataset_of([square.samples[1]._replace(mask=lossy)]).read_all(0)
    assert "square_mask.jpg: the mask is in a lossy format" in capsys.readouterr().err
