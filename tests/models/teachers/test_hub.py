"""ImageNet weights from caches and hubs. Nothing here asks a hub: a local file stands in for a download."""

import http.client
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torchvision.models import inception_v3

from models.teachers import hub
from models.teachers.weights import find_source
from tests.models.teachers.conftest import same, teacher_of
from utils.errors import UserError


def test_imagenet_weights_from_the_hub_cache(whole, whole_file, monkeypatch):
    asked = []

    def cached(repo, file):
        asked.append((repo, file))
        return str(whole_file)

    monkeypatch.setattr(hub, "try_to_load_from_cache", cached)
    teacher = teacher_of("resnet18.tv_in1k", "imagenet")
    assert asked == [("timm/resnet18.tv_in1k", "model.safetensors")]
    assert same(teacher.net, whole) and teacher.weights == "imagenet"


def test_imagenet_weights_from_torchvisions_cache(no_cache, whole):
    no_cache.mkdir(parents=True)
    torch.save(whole, no_cache / "resnet18-f37072fd.pth")
    assert same(teacher_of("resnet18.tv_in1k", "imagenet").net, whole)


def test_imagenet_weights_are_downloaded_when_the_hub_answers(no_cache, whole, whole_file, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    address = "timm/resnet18.tv_in1k/resolve/main/model.safetensors"
    monkeypatch.setattr(hub, "_answers", lambda url: url.endswith(address))
    monkeypatch.setattr(hub, "hf_hub_download", lambda repo, file: str(whole_file))
    assert same(teacher_of("resnet18.tv_in1k", "imagenet").net, whole)


def test_without_weights_the_error_says_which_file_goes_where(no_cache):
    with pytest.raises(UserError) as error:
        find_source("resnet18.tv_in1k", "imagenet")
    for words in ("resnet18.tv_in1k/resolve/main/model.safetensors", "weights=PATH", "resnet18-f37072fd.pth", no_cache):
        assert str(words) in str(error.value)


def test_a_file_that_only_the_hub_has_gets_a_place_too(no_cache, whole):
    """timm knows no other address of it: the error says under which name it is looked for."""
    backbone = "mobilenetv4_conv_small.e2400_r224_in1k"
    with pytest.raises(UserError, match=rf"\(3\) put that file into {no_cache} as {backbone}.safetensors$"):
        find_source(backbone, "imagenet")
    no_cache.mkdir(parents=True)
    save_file(whole, no_cache / f"{backbone}.safetensors")
    assert find_source(backbone, "imagenet").path == no_cache / f"{backbone}.safetensors"


def test_files_with_other_names_of_layers_are_neither_taken_nor_advised(no_cache):
    """Published as numpy's arrays, or with their makers' names; the hub's file has timm's."""
    no_cache.mkdir(parents=True)
    for backbone in ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "convnext_tiny.fb_in1k"):
        (no_cache / Path(timm.get_pretrained_cfg(backbone).url).name).touch()
        with pytest.raises(UserError, match=rf"\(3\) put that file into .* as {backbone}.safetensors$"):
            find_source(backbone, "imagenet")


def test_a_file_of_torch_hub_with_the_same_names_of_layers_is_taken(no_cache):
    no_cache.mkdir(parents=True)
    backbone = "inception_v3.tv_in1k"
    ours, theirs = timm.create_model(backbone), inception_v3(weights=None, init_weights=False)
    assert ours.state_dict().keys() <= theirs.state_dict().keys()
    (no_cache / Path(timm.get_pretrained_cfg(backbone).url).name).touch()
    assert find_source(backbone, "imagenet").path.name == "inception_v3_google-1a9a5a14.pth"


def test_a_damaged_file_of_a_cache_should_be_deleted(no_cache, tmp_path):
    no_cache.mkdir(parents=True)
    stored = tmp_path / "blob"  # as in the cache of Hugging Face, whose files are links
    stored.write_bytes(b"nothing")
    (no_cache / "resnet18-f37072fd.pth").symlink_to(stored)
    with pytest.raises(UserError, match=f"resnet18-f37072fd.pth .*probably damaged; delete {stored} and start again$"):
        teacher_of("resnet18.tv_in1k", "imagenet")


def test_a_silent_hub_costs_seconds(no_cache, monkeypatch):
    """A server that takes the connection and says nothing, as firewalls do."""
    assert hub.PATIENCE <= 5  # seconds; less here, to wait less
    monkeypatch.setattr(hub, "PATIENCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(UserError, match="the model hub cannot be reached"):
            find_source("resnet18.tv_in1k", "imagenet")
        assert time.monotonic() - begin < 2 * hub.PATIENCE
        begin = time.monotonic()
        with pytest.raises(
            UserError,
            match="efficientnet_b0.ra_in1k.* cannot be reached.* .1. write backbone=tf_efficientnet_lite0.in1k,",
        ):
            find_source("efficientnet_b0.ra_in1k", "imagenet")  # as the second of a pair
        assert time.monotonic() - begin < hub.PATIENCE / 2


def test_a_download_that_fails_says_why(no_cache, monkeypatch):
    def full(repo, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_answers", lambda url: True)
    monkeypatch.setattr(hub, "hf_hub_download", full)
    with pytest.raises(UserError, match=r"they cannot be downloaded \(\[Errno 28\] No space left on device\); do one"):
        find_source("resnet18.tv_in1k", "imagenet")


@pytest.mark.parametrize(
    "error", [http.client.BadStatusLine("hello"), http.client.InvalidURL("a b"), ValueError("port")]
)
def test_a_proxy_that_answers_something_else_is_a_hub_that_cannot_be_reached(error, monkeypatch):
    def broken(*args, **kwargs):
        raise error

    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    monkeypatch.setattr(urllib.request, "urlopen", broken)
    assert not hub._answers("https://hub.invalid/file") and not seen


def test_a_network_without_published_weights_is_refused(no_cache):
    with pytest.raises(UserError, match="no pretrained weights for backbone 'convnext_atto_rms'"):
        find_source("convnext_atto_rms", "imagenet")
