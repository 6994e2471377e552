"""A tiny data set in MVTec layout and configurations that train on it in seconds; random teachers, no network.

`pytest --device cuda` builds the trainers of all tests on the GPU.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: pytest runs one process per core
os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may use a model hub

import torch

from engine.run import scoring
from engine.state import TrainState
from utils import console

REPO = Path(__file__).parents[1]
# Keys of every configuration here. With `threads: auto`, other processes would change how sums round.
PLACE = {"device": "cpu", "threads": torch.get_num_threads()}


def pytest_addoption(parser):
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where trainers are built")


def pytest_configure(config):
    PLACE["device"] = config.getoption("--device")
    if PLACE["device"] == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: this machine has no CUDA device")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture
def device():
    """The device of the trainers of `config` and `small`; tensors for their networks must be on it."""
    return torch.device(PLACE["device"])


@pytest.fixture(autouse=True)
def nothing_said_before():
    """A run's train.log begins with what its process has printed before; here, in another test."""
    console._before_the_log.clear()


def draw_good(rng, size=64):
    """A soft grating with noise: [size,size,3] uint8."""
    x = np.linspace(0, 6 * np.pi, size)
    gray = 120 + 40 * np.sin(x[None] + rng.uniform(0, 0.5)) + 20 * np.sin(x[:, None]) + rng.normal(0, 4, (size, size))
    return np.clip(gray[..., None] * (1.0, 0.95, 0.9), 0, 255).astype(np.uint8)


def draw_defect(rng, size=64):
    """A good picture with a bright square, and the square's mask."""
    image, mask = draw_good(rng, size), np.zeros((size, size), np.uint8)
    top, left = rng.integers(8, size - 24, 2)
    mask[top : top + 14, left : left + 14] = 255
    image[mask > 0] = (250, 20, 20)
    return image, mask


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def write_mvtec(root, obj="part", train=10, good=3, bad=3, masks=True, size=64):
    rng = np.random.default_rng(7)
    for i in range(train):
        write_image(root / obj / "train/good" / f"{i:03}.png", draw_good(rng, size))
    for i in range(good):
        write_image(root / obj / "test/good" / f"{i:03}.png", draw_good(rng, size))
    for i in range(bad):
        image, mask = draw_defect(rng, size)
        write_image(root / obj / "test/square" / f"{i:03}.png", image)
        if masks:
            write_image(root / obj / "ground_truth/square" / f"{i:03}_mask.png", mask)
    return root


@pytest.fixture(scope="session")
def tiny_mvtec(tmp_path_factory):
    """16 pictures of 64 px: 10 train good, 3 test good, 3 with a square, and masks."""
    return write_mvtec(tmp_path_factory.mktemp("mvtec"))


# Per method, what a test with a small backbone needs; everything else is the method's own default.
SMALL = {
    "dbfad": {"out_indice": [0, 1, 2, 3], "TrainingData": {"img_size": 96}},  # the least it takes
    "mixed": {"backbone": ["resnet18", "resnet18"], "out_indice": [[1, 2], [3]]},
    "ead": {"backbone": "small", "TrainingData": {"img_size": 256}},  # the least it takes
    "rnrd": {"TrainingData": {"memories": [1, 2]}},  # the bundled weights have no layer4 for memory 0
}


def small(method, training=None, **top):
    """A configuration for build_trainer that trains within seconds; `training` holds keys under TrainingData."""
    own = SMALL.get(method, {})
    section = {"epochs": 2, "batch_size": 4, "img_size": 64} | own.get("TrainingData", {}) | (training or {})
    if method == "ead":  # counts steps, of one image each
        section["steps"] = section.get("steps", section.pop("epochs"))
        section["batch_size"] = 1
    base = {"distillType": method, "backbone": "resnet18", "weights": "random", "obj": "part", **PLACE}
    return base | own | top | {"TrainingData": section}


@pytest.fixture
def config(tiny_mvtec, tmp_path):
    """config("st", {"lr": 0.1}, seed=1) -> a dict for build_trainer: keys under TrainingData first, then top ones."""

    def make(method="st", training=None, **top):
        where = {"data_path": str(tiny_mvtec), "save_path": str(tmp_path / "results")}
        return small(method, training, **(where | top))

    return make


@contextlib.contextmanager
def killed_at_the_first_checkpoint(monkeypatch):
    """A training in this context is interrupted as soon as it has saved its state."""
    save = TrainState.save

    def save_and_die(state, *where):
        save(state, *where)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainState, "save", save_and_die)
        yield


def all_scored(trainer):
    """The test images of a trainer with their maps, one by one."""
    return scoring(trainer.detector, trainer.compute, trainer.config, trainer.test_set[0], "testing")


class HeldOut:
    """Validation batches of two and one random images in [0,1], always the same ones."""

    images = 3

    def __init__(self, trainer):
        self.trainer = trainer

    def __iter__(self):
        random = torch.Generator().manual_seed(0)
        for n in (2, 1):
            image = self.trainer.compute.images(torch.rand(n, 3, 64, 64, generator=random))
            yield {"image": image, "teacher": self.trainer.teacher(image)}


def count(net):
    """The network's number of learned values."""
    return sum(parameter.numel() for parameter in net.parameters())


def run_script(*words, cwd=REPO, **env):
    """Run a script of the repository as a user would; returns the finished process with its output as text.

    It sees a GPU only if the tests run on one.
    """
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if PLACE["device"] == "cpu" else {}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=os.environ | hidden | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_one_sentence(process, *words):
    """A user's mistake: exit code 2, one sentence that contains `words`, no traceback."""
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for word in words:
        assert str(word) in last
