"""Files of weights, caches without any, and teachers made of them."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from models.teachers import hub
from models.teachers.features import Features
from models.teachers.weights import build_teacher, find_source

LEVELS = [1, 2, 3]


@pytest.fixture(scope="module")
def whole():
    """A random whole ResNet-18 as a state dict, classifier and all, as a published file would hold."""
    torch.manual_seed(3)
    return timm.create_model("resnet18").state_dict()


@pytest.fixture(scope="module")
def whole_file(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "whole.safetensors"
    save_file(whole, path)
    return path


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """Empty caches; returns the folder torchvision's files would lie in."""
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repo, file: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub/checkpoints"


def teacher_of(backbone, weights, levels=LEVELS, seed=0):
    return build_teacher(backbone, levels, find_source(backbone, str(weights)), seed)


def same(net: Features, state: dict) -> bool:
    return all(torch.equal(value, state[key].float()) for key, value in net.net.state_dict().items())
