"""In which order images are read, and by whom."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from datasets.dataset import ImageDataset, Sample
from engine import splits
from engine.device import Compute
from engine.loading import EpochBatches, as_it_is, cache_teacher, loader, size_advice, training_batches
from engine.splits import train_datasets
from models.teachers.features import outline
from tests.conftest import small, write_mvtec
from utils.config import Config, TrainingData
from utils.config_file import check_config
from utils.errors import UserError

CPU = torch.device("cpu")


def make_config(root, training=None, **top):
    section = {"lr": 0.1} | (training or {})
    return check_config(small("st", section, data_path=str(root), **top), Config[TrainingData])


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


@pytest.mark.slow
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
    test_set, _ = splits.test_dataset(make_config(root))
    (root / "part" / spoiled).write_bytes(b"")
    with pytest.raises(UserError, match=f"{spoiled}: cannot be read as an image"):
        batches_of(root, cache_mb, test_set=test_set)


@pytest.mark.parametrize(
    ("backbone", "training", "suggested"),
    [
        ("resnet18", {"img_size": 192}, "img_size=[480,192]"),
        ("convnext_atto", {"img_size": 192}, "img_size=[512,192]"),  # levels of stride 32, which DBFAD halves
        ("convnext_atto", {"img_size": 192, "tile": 64}, "img_size=[480,192]"),
        ("resnet18", {"img_size": 192, "crop_size": 160}, "fit=pad"),
        ("vit_tiny_patch16_224", {"img_size": 224}, "fit=pad"),
    ],
)
def test_a_suggested_size_is_one_that_the_networks_take(backbone, training, suggested):
    options = make_config("data", training).TrainingData
    networks = [outline(backbone, [0, 1, 2] if backbone == "resnet18" else [1, 2, 3])]
    assert f"TrainingData.{suggested}" in size_advice([(1250, 500)], options, lambda: networks)
