"""How a data set is split, in which order it is read, and by whom."""

import pytest
import torch
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader

from datasets.dataset import ImageDataset, Sample
from engine import loading
from engine.device import Compute
from engine.loading import EpochBatches, as_it_is, cache_teacher, loader, split_train, train_datasets, training_batches
from tests.conftest import small, write_mvtec
from utils.config import Config, TrainingData
from utils.config_file import check_config
from utils.errors import UserError

CPU = torch.device("cpu")


def make_config(root, training=None, **top):
    section = {"lr": 0.1} | (training or {})
    return check_config(small("st", section, data_path=str(root), **top), Config[TrainingData])


# ---- the split -------------------------------------------------------------------------------------------------


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
    dataset, notes = loading.test_dataset(make_config(tiny_mvtec))
    assert [sample.defect_type for sample in dataset.samples] == ["good"] * 3 + ["square"] * 3
    assert notes == []


@pytest.mark.parametrize(
    ("val_ratio", "part", "words"), [(0.2, 1, "the 2 held-out good images"), (0, 0, "the 10 training")]
)
def test_without_test_images_good_ones_stand_in_and_it_is_said(tmp_path, val_ratio, part, words):
    config = make_config(write_mvtec(tmp_path, good=0, bad=0), {"val_ratio": val_ratio})
    dataset, notes = loading.test_dataset(config)
    assert dataset.samples == train_datasets(config)[part].samples
    assert len(notes) == 1 and words in notes[0]


# ---- the order of an epoch -------------------------------------------------------------------------------------


def test_an_epoch_reads_every_training_image_once_and_no_other(tiny_mvtec):
    config = make_config(tiny_mvtec)
    train, val, _ = train_datasets(config)
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


def test_epochs_of_a_length_go_through_the_same_row_of_passes():
    whole = EpochBatches(5, 2, seed=3)
    row = []
    for whole.epoch in range(4):
        row += list(whole)
    cut = EpochBatches(5, 2, seed=3, length=4)
    assert len(cut) == 4
    for cut.epoch in (2, 0, 1):  # each works without the others
        assert list(cut) == row[4 * cut.epoch : 4 * cut.epoch + 4]


# ---- reading ---------------------------------------------------------------------------------------------------


def test_images_kept_in_memory_are_not_read_again(tiny_mvtec, monkeypatch):
    config = make_config(tiny_mvtec)
    train, _, _ = train_datasets(config)
    train.read_all(2**30)
    monkeypatch.setattr("datasets.dataset.read_image", lambda path, remark: pytest.fail(f"{path} was read again"))
    assert sum(len(batch["path"]) for batch in loader(train, config, CPU)) == len(train)


def test_reading_processes_can_be_spawned(tiny_mvtec):
    """macOS and Windows start new processes as workers: the data set must be sent to them."""
    train, _, _ = train_datasets(make_config(tiny_mvtec))
    spawned = DataLoader(train, batch_size=4, num_workers=2, collate_fn=as_it_is, multiprocessing_context="spawn")
    images = torch.cat([batch["image"] for batch in spawned])
    assert torch.equal(images, train.batch(list(range(len(train))))["image"])


def test_an_error_in_a_reading_process_stays_one_sentence(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    samples = [Sample(tmp_path / "broken.png", None, "good")]
    dataset = ImageDataset(samples, TrainingData(batch_size=1, lr=0.1, epochs=1))
    with pytest.raises(UserError) as error:
        list(DataLoader(dataset, num_workers=1, collate_fn=as_it_is))
    assert "broken.png" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_reading_leaves_torchs_random_numbers_alone(tiny_mvtec, workers):
    """Dropout uses them, and a resumed run has other reading processes."""
    config = make_config(tiny_mvtec, workers=workers)
    train, _, _ = train_datasets(config)
    before = torch.get_rng_state()
    assert list(loader(train, config, CPU))
    assert torch.equal(torch.get_rng_state(), before)


# ---- batches for a training ------------------------------------------------------------------------------------


class Teacher(nn.Module):
    """Two maps that differ by image and position; counts the images it has seen."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, image):
        self.seen += len(image)
        return [image[:, :, ::4, ::4].contiguous(), image.mean(dim=1, keepdim=True)]


def batches_of(root, cache_mb, **options):
    config, teacher = make_config(root, cache_mb=cache_mb), Teacher()
    train, val, _ = training_batches(config, teacher, Compute(CPU, torch.float32), **options)
    cache_teacher(config, train, val, options.get("test_set"))
    return teacher, train, val


@pytest.mark.parametrize("cache_mb", [0, 100])
def test_batches_hold_fractions_and_the_teachers_maps_of_them(tiny_mvtec, cache_mb):
    teacher, train, val = batches_of(tiny_mvtec, cache_mb)
    before = teacher.seen
    for batches, images in ((train, 8), (val, 2)):
        batches = list(batches)
        assert sum(len(batch["image"]) for batch in batches) == images
        for batch in batches:
            assert batch["image"].dtype == torch.float32 and 0 <= batch["image"].min() <= batch["image"].max() <= 1
            for map_of_batch, expected in zip(batch["teacher"], Teacher()(batch["image"]), strict=True):
                torch.testing.assert_close(map_of_batch, expected)
    assert (teacher.seen == before) == (cache_mb > 0)  # a frozen teacher gives the same maps again


@pytest.mark.parametrize("cache_mb", [0, 100])
def test_maps_are_given_by_index(tiny_mvtec, cache_mb):
    _, train, _ = batches_of(tiny_mvtec, cache_mb)
    images = train.loader.dataset.batch([5, 2])["image"] / 255
    for maps, expected in zip(train.maps_of([5, 2]), Teacher()(images), strict=True):
        torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("cache_mb", [0, 100])
def test_maps_of_a_step_are_those_of_the_images_it_chooses(tiny_mvtec, cache_mb):
    _, train, _ = batches_of(tiny_mvtec, cache_mb)
    maps_of_step = train.maps_by_step(lambda step: [step, 5 - step])
    for step in range(3):
        for maps, expected in zip(maps_of_step(step), train.maps_of([step, 5 - step]), strict=True):
            torch.testing.assert_close(maps, expected, rtol=0, atol=0)


def test_an_augmentation_changes_the_images_and_the_teachers_maps(tiny_mvtec):
    for batches in batches_of(tiny_mvtec, 100, augment=torch.zeros_like)[1:]:
        for batch in batches:
            assert not batch["image"].any() and not batch["teacher"][1].any()


def test_an_epoch_may_be_any_number_of_batches(tiny_mvtec):
    assert len(list(batches_of(tiny_mvtec, 0, epoch_length=5)[1])) == 5


@pytest.mark.parametrize("cache_mb", [0, 100])
@pytest.mark.parametrize("spoiled", ["train/good/004.png", "test/good/001.png", "ground_truth/square/002_mask.png"])
def test_a_bad_file_anywhere_in_the_set_is_named_before_the_training(tmp_path, spoiled, cache_mb):
    root = write_mvtec(tmp_path)
    test_set, _ = loading.test_dataset(make_config(root))
    (root / "part" / spoiled).write_bytes(b"")
    with pytest.raises(UserError, match=f"{spoiled}: cannot be read as an image"):
        batches_of(root, cache_mb, test_set=test_set)
