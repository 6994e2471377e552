from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader

from datasets.dataset import MVTecDataset, Sample
from datasets.readers.mvtec import split_train, test_dataset, train_datasets
from engine.loading import EpochBatches, as_it_is, loader
from tests.conftest import draw_good, small, write_image, write_mvtec
from trainer.stpm import STPMTrainer
from utils.config import Config, check_config
from utils.errors import UserError

test_dataset.__test__ = False  # a function of ours, not a test
CPU = torch.device("cpu")


def make_config(root, obj="part", **training):
    return check_config(small("st", training, data_path=str(root), obj=obj), Config[STPMTrainer.Options])


@pytest.mark.parametrize(
    ("images", "train", "val"), [(280, 224, 56), (60, 48, 12), (391, 312, 79), (1, 0, 1), (5, 4, 1)]
)
def test_split_sizes_of_the_paper(images, train, val):
    parts = split_train(images, 0.2, seed=0)
    assert (len(parts[0]), len(parts[1])) == (train, val)
    assert sorted(parts[0] + parts[1]) == list(range(images))


def test_split_is_the_one_of_scikit_learn():
    train, val = train_test_split(list(range(37)), test_size=0.2, random_state=3)
    assert split_train(37, 0.2, seed=3) == (sorted(train), sorted(val))


def test_split_without_validation():
    assert split_train(7, 0, seed=0) == (list(range(7)), [])


def test_train_and_validation_are_disjoint_seeded_and_good(tiny_mvtec):
    train, val = train_datasets(make_config(tiny_mvtec))
    paths = [{s.path for s in part.samples} for part in (train, val)]
    assert (len(paths[0]), len(paths[1])) == (8, 2) and not paths[0] & paths[1]
    assert all(path.parent.name == "good" and path.parts[-3] == "train" for path in paths[0] | paths[1])
    again = train_datasets(make_config(tiny_mvtec))[1]
    assert again.samples == val.samples


def test_the_index_is_obeyed(tiny_mvtec):
    """The earlier toolkit drew a random image whatever index it was asked for."""
    train, _ = train_datasets(make_config(tiny_mvtec))
    for i in (3, 0, 3):
        assert train[i]["path"] == str(train.samples[i].path)
        torch.testing.assert_close(train[i]["image"], train[i]["image"], rtol=0, atol=0)
    assert not torch.equal(train[0]["image"], train[1]["image"])


def test_an_epoch_reads_every_training_image_once_and_no_other(tiny_mvtec):
    config = make_config(tiny_mvtec)
    train, val = train_datasets(config)
    batches = loader(train, config, CPU, EpochBatches(len(train), 3, seed=0))
    seen = [path for batch in batches for path in batch["path"]]
    assert sorted(seen) == sorted(str(s.path) for s in train.samples)
    assert not set(seen) & {str(s.path) for s in val.samples}


def test_epochs_differ_but_repeat_after_a_restart():
    batches = EpochBatches(20, 8, seed=5)
    first = list(batches)
    batches.epoch = 1
    second = list(batches)
    restarted = EpochBatches(20, 8, seed=5)
    restarted.epoch = 1
    assert first != second and list(restarted) == second
    assert [len(b) for b in first] == [8, 8, 4] and len(batches) == 3
    assert list(EpochBatches(20, 8, seed=6)) != first


@pytest.mark.parametrize(("images", "batch", "steps"), [(224, 32, 7), (48, 32, 2), (312, 32, 10)])
def test_steps_per_epoch_of_the_paper(images, batch, steps):
    assert len(EpochBatches(images, batch, seed=0)) == steps


def test_processes_share_each_batch_and_an_odd_rest_is_done_by_all():
    whole = list(EpochBatches(11, 4, seed=1))
    shares = [list(EpochBatches(11, 4, seed=1, rank=r, world=2)) for r in (0, 1)]
    for batch, a, b in zip(whole, *shares, strict=True):
        if len(batch) % 2 == 0:
            assert len(a) == len(b) and sorted(a + b) == sorted(batch)
        else:
            assert a == b == batch
    with pytest.raises(UserError, match="batch_size 3 cannot be shared by 2"):
        EpochBatches(11, 3, seed=1, world=2)


def test_test_items(tiny_mvtec):
    dataset, notes = test_dataset(make_config(tiny_mvtec))
    assert len(dataset) == 6 and notes == []
    items = [dataset[i] for i in range(6)]
    assert [item["label"] for item in items] == [0, 0, 0, 1, 1, 1]
    assert [item["kind"] for item in items] == ["good"] * 3 + ["square"] * 3
    assert [int(item["mask"].sum()) for item in items] == [0] * 3 + [14 * 14] * 3
    assert items[0]["image"].shape == (3, 64, 64) and items[0]["mask"].dtype == torch.bool


def test_images_of_many_sizes_and_formats(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "mixed/train/good"
    folder.mkdir(parents=True)
    for i, (suffix, size) in enumerate(
        zip((".bmp", ".JPG", ".tiff", ".webp", ".Png"), (40, 90, 64, 130, 33), strict=True)
    ):
        Image.fromarray(draw_good(rng, size)).save(folder / f"{i}{suffix}")
    dataset = train_datasets(make_config(tmp_path, "mixed", val_ratio=0))[0]
    assert dataset.batch(list(range(5)))["image"].shape == (5, 3, 64, 64)


def test_caching_changes_nothing_and_respects_the_budget(tiny_mvtec):
    train, _ = train_datasets(make_config(tiny_mvtec))
    before = [train[i]["image"] for i in range(len(train))]
    needed = len(train) * (3 + 1) * 64 * 64
    assert train.cache(needed - 1) == 0 and train.decoded is None
    assert train.cache(needed) == needed and train.decoded is not None
    for i, image in enumerate(before):
        assert torch.equal(train[i]["image"], image)


def test_caching_reads_each_file_once(tiny_mvtec, monkeypatch):
    config = make_config(tiny_mvtec)
    train, _ = train_datasets(config)
    train.cache(2**30)
    monkeypatch.setattr("datasets.dataset.read_image", lambda path: pytest.fail(f"{path} was read again"))
    assert sum(len(batch["path"]) for batch in loader(train, config, CPU)) == len(train)


def test_reading_processes_can_be_spawned(tiny_mvtec):
    """macOS and Windows start workers from scratch: the data set must travel to them."""
    train, _ = train_datasets(make_config(tiny_mvtec))
    spawned = DataLoader(train, batch_size=4, num_workers=2, collate_fn=as_it_is, multiprocessing_context="spawn")
    images = torch.cat([batch["image"] for batch in spawned])
    assert torch.equal(images, torch.stack([train[i]["image"] for i in range(len(train))]))


def test_an_error_in_a_reading_process_stays_one_sentence(tiny_mvtec, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    dataset = MVTecDataset([Sample(tmp_path / "broken.png", None, "good")], make_config(tiny_mvtec).TrainingData)
    with pytest.raises(UserError) as error:
        list(DataLoader(dataset, num_workers=1, collate_fn=as_it_is))
    assert "broken.png" in str(error.value) and "\n" not in str(error.value)


def test_no_masks_at_all_is_fine(tmp_path):
    root = write_mvtec(tmp_path, masks=False)
    dataset, _ = test_dataset(make_config(root))
    assert [s.mask for s in dataset.samples] == [None] * 6


def test_mask_names_with_and_without_suffix(tmp_path):
    root = write_mvtec(tmp_path)
    masks = root / "part/ground_truth/square"
    (masks / "000_mask.png").rename(masks / "000.png")
    dataset, _ = test_dataset(make_config(root))
    assert all(s.mask is not None for s in dataset.samples if s.kind != "good")


def test_some_masks_missing_is_an_error_that_names_one(tmp_path):
    root = write_mvtec(tmp_path)
    (root / "part/ground_truth/square/001_mask.png").unlink()
    with pytest.raises(UserError, match="square/001.png: no mask.*1 of 3"):
        test_dataset(make_config(root))


def test_a_mask_without_image_is_named(tmp_path):
    root = write_mvtec(tmp_path)
    (root / "part/test/square/001.png").unlink()
    with pytest.raises(UserError, match="001_mask.png: there is no image square/001"):
        test_dataset(make_config(root))


def test_a_mask_of_another_size_is_named(tmp_path):
    root = write_mvtec(tmp_path)
    write_image(root / "part/ground_truth/square/000_mask.png", np.zeros((32, 64), np.uint8))
    dataset, _ = test_dataset(make_config(root))
    with pytest.raises(UserError, match="000_mask.png.*64 x 32 px.*64 x 64 px"):
        dataset[3]


def test_without_test_images_the_held_out_ones_stand_in(tmp_path):
    root = write_mvtec(tmp_path, good=0, bad=0)
    config = make_config(root)
    dataset, notes = test_dataset(config)
    assert dataset.samples == train_datasets(config)[1].samples
    assert "held-out" in notes[0] and Path("part/test").as_posix() in notes[0]


@pytest.mark.parametrize(
    ("path", "obj", "words"),
    [("nowhere", "part", "no folder"), (".", "prat", "no category 'prat'.*part")],
)
def test_missing_folders_are_named(tiny_mvtec, path, obj, words):
    with pytest.raises(UserError, match=words):
        train_datasets(make_config(tiny_mvtec / path, obj))


def test_too_few_images(tmp_path):
    with pytest.raises(UserError, match="train/good: no images"):
        train_datasets(make_config(write_mvtec(tmp_path / "a", train=0)))
    with pytest.raises(UserError, match=r"train/good: of 1 image\(s\) a val_ratio of 0.2 leaves none"):
        train_datasets(make_config(write_mvtec(tmp_path / "b", train=1)))


def test_two_images_of_one_name_are_refused(tmp_path):
    root = write_mvtec(tmp_path)
    Image.fromarray(draw_good(np.random.default_rng(0))).save(root / "part/test/square/001.jpg")
    with pytest.raises(UserError, match="square/001.png: 001.jpg has the same name"):
        test_dataset(make_config(root))


def test_masks_of_a_kind_without_test_images_are_named(tmp_path):
    """ground_truth/Square beside test/square would otherwise mean that no image has a mask."""
    root = write_mvtec(tmp_path)
    (root / "part/ground_truth/square").rename(root / "part/ground_truth/Square")
    with pytest.raises(UserError, match="Square/000_mask.png: there is no image Square/000"):
        test_dataset(make_config(root))


def test_two_masks_of_one_image_are_refused(tmp_path):
    root = write_mvtec(tmp_path)
    write_image(root / "part/ground_truth/square/001.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(UserError, match="has the same name"):
        test_dataset(make_config(root))


def test_pictures_lying_in_test_itself_are_named(tmp_path):
    root = write_mvtec(tmp_path)
    (root / "part/test/good/000.png").rename(root / "part/test/stray.png")
    with pytest.raises(UserError, match="stray.png.*folder per kind"):
        test_dataset(make_config(root))


def test_eight_and_sixteen_bits_in_one_batch(tmp_path):
    folder = tmp_path / "deep/train/good"
    write_image(folder / "a.png", draw_good(np.random.default_rng(0)))
    write_image(folder / "b.png", draw_good(np.random.default_rng(0)).astype(np.uint16) * 257)
    dataset = train_datasets(make_config(tmp_path, "deep", val_ratio=0))[0]
    a, b = dataset.batch([0, 1])["image"]
    torch.testing.assert_close(a, b, atol=0.01, rtol=0)


def test_fingerprint_tells_data_sets_apart(tmp_path):
    config = make_config(write_mvtec(tmp_path))
    before = train_datasets(config)[0].fingerprint()
    assert train_datasets(config)[0].fingerprint() == before
    for path in (tmp_path / "part/train/good").iterdir():
        write_image(path, draw_good(np.random.default_rng(99)))
    assert train_datasets(config)[0].fingerprint() != before


def test_epochs_of_a_length_go_through_the_same_row_of_passes():
    whole = EpochBatches(5, 2, seed=3)
    row = []
    for whole.epoch in range(4):
        row += list(whole)
    cut = EpochBatches(5, 2, seed=3, length=4)
    assert len(cut) == 4
    for cut.epoch in (2, 0, 1):  # each without the others
        assert list(cut) == row[4 * cut.epoch : 4 * cut.epoch + 4]


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_torchs_random_numbers_alone(tiny_mvtec, workers):
    """Dropout draws from them, and a resumed run has other reading processes."""
    config = check_config(small("st", data_path=str(tiny_mvtec), workers=workers), Config[STPMTrainer.Options])
    train, _ = train_datasets(config)
    before = torch.get_rng_state()
    assert list(loader(train, config, CPU))
    assert torch.equal(torch.get_rng_state(), before)
