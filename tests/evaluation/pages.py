"""Tests whose results are made up, and their pages."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from datasets.dataset import ImageDataset, Sample
from evaluation import report
from evaluation.score import HELD_OUT, Scored

NORMAL = {"source": HELD_OUT, "scores": [0.5, 0.9, 1.0, 1.2]}
SIZE = (32, 32)
ABOUT = {
    "data": "/data",
    "folder": "/results/st/part",
    "teachers": [{"backbone": "resnet18", "weights": "random", "package": None}],
    "teacher_sha256": "0123abcd",
    "seed": 0,
    "best_epoch": 3,
    "good_scores": NORMAL,
    "intervals": {"image_auroc": (0.5, 1.0)},
    "decisions": None,
    "durations": {"train_seconds": 12.5, "test_seconds": 1.5, "test_images_per_second": 8.0},
    "hardware": "a CPU",
    "threads": 2,
    "precision": "float32",
    "versions": {"python": "3", "torch": "2"},
    "date": "2024-05-06T07:08:09+00:00",
    "config": {"obj": "part", "distillType": "st", "backbone": "resnet18"},
}


def results(types, scores, masks=True):
    """Images of these types, whose maps have these highest values; the defect of each is a square."""
    rng = np.random.default_rng(0)
    for index, (defect_type, score) in enumerate(zip(types, scores, strict=True)):
        mask = np.zeros(SIZE, bool)
        mask[8:16, 10:20] = masks and defect_type != "good"
        anomaly_map = (rng.random(SIZE) * 0.5 * score).astype(np.float32)
        anomaly_map[12, 12] = score
        image = rng.integers(0, 255, (3, *SIZE)).astype(np.uint8)
        yield Scored(index, image, mask, anomaly_map, None, [anomaly_map[::2, ::2], anomaly_map[::4, ::4]])


def samples_of(types, masks=True):
    paths = [Path(f"data/part/test/{name}/{index:03}.png") for index, name in enumerate(types)]
    return [
        Sample(path, Path("mask.png") if masks and name != "good" else None, name)
        for path, name in zip(paths, types, strict=True)
    ]


def write_run(run_dir, types, scores, masks=True, verdicts=(), **about):
    """Write what a test writes; returns the data of the page."""
    samples = samples_of(types, masks)
    how = SimpleNamespace(img_size=SIZE, crop_size=SIZE, fit="squeeze", tile=None)
    tested, small = report.test_report(run_dir, ImageDataset(samples, how), results(types, scores, masks), [], NORMAL)
    report.write_pages(run_dir, samples, tested, small, verdicts, ABOUT | about)
    return data_of(run_dir / "report.html")


def data_of(page):
    """What the script of a page reads."""
    text = page.read_text(encoding="utf-8", errors="surrogateescape")
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])
