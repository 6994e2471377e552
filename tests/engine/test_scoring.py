"""From images to maps, and losses over held-out images."""

import numpy as np
import pytest
import torch

from datasets.dataset import ImageDataset, Sample
from engine import loading, splits
from engine.device import Compute
from engine.scoring import anomaly_map, mean_loss
from engine.stream import Scoring
from tests.conftest import write_image
from trainer import build_trainer

FP32 = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture
def trainer(config):
    return build_trainer(config("st", device="cpu", precision="fp32"))


def test_images_come_one_by_one_in_order_with_map_and_mask(trainer):
    dataset, _ = splits.test_dataset(trainer.config)
    batches = torch.utils.data.DataLoader(dataset, 4, collate_fn=loading.as_it_is)
    trainer.student.train()
    scoring = Scoring(trainer.detector, FP32, batches, "testing")
    results = list(scoring)
    assert [result.index for result in results] == list(range(len(dataset))) and scoring.seconds > 0
    assert not trainer.student.training
    for result in results:
        assert result.anomaly_map.shape == result.mask.shape == (64, 64) and result.anomaly_map.dtype == np.float32
        alone = anomaly_map(trainer.detector, FP32, torch.from_numpy(result.image)[None])
        np.testing.assert_allclose(result.anomaly_map, alone[0, 0].numpy(), rtol=1e-4, atol=1e-7)


def test_padding_is_scored_by_nobody(config, tmp_path):
    """The map of the picture is cut out of the map of the padded image; nothing outside it reaches a score."""
    for k, shape in enumerate([(64, 32), (32, 64), (64, 64)]):
        write_image(tmp_path / f"{k}.png", np.random.default_rng(k).integers(0, 256, (*shape, 3), dtype=np.uint8))
    trainer = build_trainer(config("st", {"fit": "pad"}, device="cpu", precision="fp32"))
    dataset = ImageDataset([Sample(tmp_path / f"{k}.png", None, "good") for k in range(3)], trainer.options)
    results = list(Scoring(trainer.detector, FP32, loading.loader(dataset, trainer.config, FP32.device), "testing"))
    assert [r.anomaly_map.shape for r in results] == [(64, 32), (32, 64), (64, 64)]
    whole = anomaly_map(trainer.detector, FP32, torch.from_numpy(np.stack([dataset[k]["image"] for k in range(3)])))
    np.testing.assert_allclose(results[0].anomaly_map, whole[0, 0, :, 16:48], rtol=1e-4)
    np.testing.assert_allclose(results[1].anomaly_map, whole[1, 0, 16:48], rtol=1e-4)
    assert [r.image.shape[1:] for r in results] == [r.mask.shape for r in results] == [(64, 32), (32, 64), (64, 64)]


def test_known_teacher_maps_are_not_computed_again(trainer):
    image = torch.rand(2, 3, 64, 64)
    trainer.detector.eval()
    known = trainer.teacher(image)
    expected = anomaly_map(trainer.detector, FP32, image)
    trainer.detector.teacher.net.forward = lambda image: pytest.fail("asked the teacher")
    assert torch.equal(anomaly_map(trainer.detector, FP32, image, known), expected)


def test_what_follows_the_networks_is_float32_whatever_their_precision(trainer):
    image = torch.rand(2, 3, 64, 64)
    seen = []
    trainer.detector.combine = lambda levels, size: seen.extend(level.dtype for level in levels) or levels[0]
    anomaly_map(trainer.detector.eval(), Compute(torch.device("cpu"), torch.bfloat16), image)
    assert seen == [torch.float32] * 3


def test_a_mean_loss_weighs_every_image_the_same(trainer):
    class HeldOut:
        images = 3

        def __iter__(self):
            yield {"image": torch.rand(2, 3, 64, 64)}
            yield {"image": torch.rand(1, 3, 64, 64)}

    sizes = iter((1.0, 4.0))
    assert mean_loss(trainer.detector, FP32, lambda batch: torch.tensor(next(sizes)), HeldOut()).item() == 2
