"""The levels that come with the maps, for pictures."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datasets.dataset import ImageDataset, Sample
from engine import loading, splits, stream
from engine.device import Compute
from engine.stream import LEVEL, Scoring, placed
from tests.conftest import write_image
from trainer import build_trainer

FP32 = Compute(torch.device("cpu"), torch.float32)


def scored(trainer, dataset, levels):
    batches = loading.loader(dataset, trainer.config, FP32.device)
    return list(Scoring(trainer.detector, FP32, batches, "testing", dataset.tiles, levels))


@pytest.mark.parametrize("tile", [None, 64])
def test_levels_come_with_the_same_maps_and_sum_up_to_them(config, tile):
    side = 64 if tile is None else 96
    training = {"img_size": [64, side], **({} if tile is None else {"tile": tile})}
    trainer = build_trainer(config("rd", training, device="cpu", precision="fp32"))
    dataset, _ = splits.test_dataset(trainer.config)
    plain, rich = (scored(trainer, dataset, levels) for levels in (False, True))
    for without, with_levels in zip(plain, rich, strict=True):
        assert np.array_equal(without.anomaly_map, with_levels.anomaly_map)
        assert len(without.levels) == 0 and len(with_levels.levels) == 3
        assert all(max(level.shape) <= LEVEL for level in with_levels.levels)
        # A map is the blurred sum of its levels, each resized: with no negative one, it is nowhere above their maxima.
        assert with_levels.anomaly_map.max() <= sum(level.max() for level in with_levels.levels) * (1 + 1e-5)
    shapes = [level.shape for level in rich[0].levels]
    assert shapes == ([(16, 16), (8, 8), (4, 4)] if tile is None else [(64, 64)] * 3)


def test_levels_show_only_the_picture_and_not_its_padding(config, tmp_path):
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8))
    trainer = build_trainer(config("st", {"fit": "pad"}, device="cpu", precision="fp32"))
    dataset = ImageDataset([Sample(tmp_path / "a.png", None, "good")], trainer.options)
    assert [level.shape for level in scored(trainer, dataset, True)[0].levels] == [(16, 8), (8, 4), (4, 2)]


def test_a_level_lies_where_it_counts_in_the_image():
    class Detector:
        border, margin = 1, 2

    level = torch.ones(1, 1, 6, 6)
    level[..., 0, :] = 99  # disturbed by padding
    found = placed(Detector, level)
    assert found.shape[-2:] == (10, 10) and found.max() == 1 and found.sum() == 36
    assert found[..., 2:8, 2:8].min() == 1


def test_seconds_are_those_of_the_networks_and_not_of_reading_and_writing(monkeypatch):
    clock = [0]

    def passes(seconds, value=None):
        clock[0] += seconds
        return value

    class Loader:
        dataset = range(6)

        def __iter__(self):
            image = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
            batch = {"image": image, "mask": image[:, 0] > 0, "inside": torch.tensor([[0, 0, 4, 4]] * 2)}
            for _ in range(3):
                yield passes(100, batch | {"region": [None] * 2, "index": torch.arange(2)})

    monkeypatch.setattr(stream, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(stream, "AnomalyMaps", lambda *_: lambda image: passes(1, np.zeros((2, 4, 4), np.float32)))
    results = Scoring(None, FP32, Loader(), "testing")
    for _ in results:
        passes(1000)
    assert results.seconds == 3


def test_a_test_leaves_a_page_with_the_levels_of_every_image(config):
    trainer = build_trainer(config("st", {"epochs": 1}))
    trainer.train()
    metrics = trainer.test()
    text = (trainer.run_dir / "report.html").read_text(encoding="utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert data["views"] == ["image", "mask", "map", "level 1", "level 2", "level 3"] and len(data["images"]) == 6
    assert f"{metrics['image_auroc']:.4f}" in text
    for name in ("scores.png", "curves.png", "contact.png"):
        assert (trainer.run_dir / name).is_file()
