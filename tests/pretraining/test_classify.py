"""A backbone that learns to tell formula-made pictures apart, and the teacher made from it."""

import math

import numpy as np
import pytest
import torch

from models.teachers.weights import read_tensors
from pretraining.classify import info_nce, random_affine, views
from tests.pretraining.jobs import job, rows_of
from trainer import build_trainer
from utils.errors import UserError


@pytest.mark.slow
def test_a_pretrained_backbone_is_a_teacher(tmp_path, config):
    """Up to the last level asked for, with torchvision's names."""
    start = job("classify", tmp_path / "a")
    path = start.run()
    tensors = read_tensors(path)
    assert "conv1.weight" in tensors and "layer3.1.bn2.running_var" in tensors
    assert not any(key.startswith(("layer4", "fc", "classes", "embedding")) for key in tensors)
    trained = build_trainer(config("st", weights=str(path)))
    learned = start.net.trunk.net.layer3[1].conv2.weight
    assert torch.equal(trained.teacher.net.net["layer3"][1].conv2.weight, learned.half().float())
    again = job("classify", tmp_path / "b", weights=str(path))  # values that the file lacks start random
    assert torch.equal(again.net.trunk.net.conv1.weight, start.net.trunk.net.conv1.weight.half().float())


@pytest.mark.slow
def test_classification_learns(tmp_path):
    learning = job("classify", tmp_path, steps=40, log_every=10, lr=0.02, batch_size=8, contrast=0.0)
    learning.run()
    rows = rows_of(tmp_path / "resnet18")
    assert float(rows[-1]["accuracy"]) > 0.7 > float(rows[0]["accuracy"])


def test_the_views_of_a_picture():
    """Crops, rotated and flipped; light and colour stay the same, except in gray ones."""
    theta = random_affine(np.random.default_rng(0), 2000)
    area = theta[:, :, :2].det().abs()
    assert 0.44 < area.min() < 0.47 and 0.98 < area.max() <= 1
    assert 0.4 < (theta[:, :, :2].det() > 0).float().mean() < 0.6  # half of them are mirrored
    picture = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    upright = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    same = views(picture, upright, torch.tensor([False]), 32)
    torch.testing.assert_close(same * 255, picture.float(), rtol=0, atol=1e-3)
    gray = views(picture, upright, torch.tensor([True]), 32)
    assert gray.std(dim=1).max() < 1e-5


def test_info_nce_by_hand():
    """Two pairs that agree exactly and are orthogonal to each other: -log(e / (e + 1)) at temperature 1."""
    embedding = 5 * torch.eye(2)
    assert info_nce(embedding, embedding, 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert info_nce(embedding, embedding.flip(0), 1.0).item() == pytest.approx(math.log(1 + math.e))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"crop_size": 64}, "crop_size 64 is larger than img_size 48"),
        ({"classes": 1}, "'classes' must be at least 2"),
        ({"backbone": "vit_base_patch16_224", "out_indice": [0]}, "cannot take views of crop_size .*; use 224$"),
    ],
)
def test_impossible_values_are_refused(changed, said, tmp_path):
    with pytest.raises(UserError, match=said):
        job("classify", tmp_path, **changed)
    assert not list(tmp_path.iterdir())
