"""Where teachers come from. Nothing here asks a model hub: a local file stands in for a download."""

import hashlib
import json
import socket
import time
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from models.teachers import weights as module
from models.teachers.features import Features
from models.teachers.weights import bundled_backbones, bundled_names, load_weights, pretrained_features
from tests.conftest import REPO
from utils.config import read_config
from utils.errors import UserError

LEVELS = [1, 2, 3]


@pytest.fixture(scope="module")
def whole():
    """A random whole ResNet-18 as a state dict, classifier and all, as a published file would hold."""
    torch.manual_seed(3)
    return timm.create_model("resnet18").state_dict()


def same(net: Features, state: dict) -> bool:
    return all(torch.equal(value, state[key].float()) for key, value in net.net.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_is_loaded(tmp_path, whole, suffix):
    path = tmp_path / f"teacher{suffix}"
    save_file(whole, path) if suffix == ".safetensors" else torch.save(whole, path)
    net = pretrained_features("resnet18", LEVELS, str(path), seed=0)
    assert same(net, whole) and net.source.name == str(path)


def test_wrapped_half_precision_and_old_files_are_loaded(tmp_path, whole):
    """A training checkpoint's state_dict, fp16 weights, and torchvision's old files without batch counts."""
    old = {k: v.half() if v.is_floating_point() else v for k, v in whole.items() if "num_batches" not in k}
    torch.save({"state_dict": {f"module.{k}": v for k, v in old.items()}}, tmp_path / "old.pth")
    net = Features("resnet18", LEVELS)
    load_weights(net, tmp_path / "old.pth")
    assert all(torch.equal(v, old[k].float()) for k, v in net.net.state_dict().items() if k in old)


@pytest.mark.parametrize("backbone", ["convnext_atto", "densenet121", "mobilenetv3_large_100", "efficientnet_b0"])
def test_timm_files_of_other_families_are_loaded(tmp_path, backbone):
    """Cutting a network into levels renames its modules; the file keeps the whole network's names."""
    torch.manual_seed(1)
    whole = timm.create_model(backbone)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    net = Features(backbone, [0, 1]).eval()
    load_weights(net, tmp_path / "whole.safetensors")
    torch.manual_seed(1)
    image = torch.rand(1, 3, 64, 64)
    reference = whole.eval().forward_intermediates(image, indices=[0, 1], intermediates_only=True)
    for ours, theirs in zip(net(image), reference, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_missing_unknown_and_misshapen_keys_are_named(tmp_path, whole):
    net = Features("resnet18", LEVELS)
    changes = {
        "lacks layer2.0.conv1.weight": {k: v for k, v in whole.items() if k != "layer2.0.conv1.weight"},
        "has unknown head.bias": whole | {"head.bias": torch.zeros(3)},
        "has misshapen conv1.weight": whole | {"conv1.weight": torch.zeros(64, 1, 7, 7)},
    }
    for words, state in changes.items():
        save_file(state, tmp_path / "odd.safetensors")
        before = {k: v.clone() for k, v in net.net.state_dict().items()}
        with pytest.raises(UserError, match=f"odd.safetensors is no 'resnet18': it {words}"):
            load_weights(net, tmp_path / "odd.safetensors")
        assert same(net, before)


def test_a_file_of_code_or_garbage_is_refused(tmp_path):
    torch.save({"state_dict": print}, tmp_path / "code.pth")
    (tmp_path / "garbage.pth").write_bytes(b"nothing")
    (tmp_path / "garbage.safetensors").write_bytes(b"nothing")
    (tmp_path / "empty.pth").write_bytes(b"")  # an interrupted download
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({0: torch.zeros(1)}, tmp_path / "numbers.pth")
    for name in ("code.pth", "garbage.pth", "garbage.safetensors", "empty.pth", "list.pth", "numbers.pth"):
        with pytest.raises(UserError, match=name):
            load_weights(Features("resnet18", LEVELS), tmp_path / name)
    with pytest.raises(UserError, match="nowhere.pth is no file"):
        pretrained_features("resnet18", LEVELS, str(tmp_path / "nowhere.pth"), seed=0)


def test_random_teacher_is_the_same_again_and_leaves_the_seed_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    a = pretrained_features("resnet18", LEVELS, "random", seed=5)
    assert torch.equal(torch.rand(3), expected)
    b = pretrained_features("resnet18", LEVELS, "random", seed=5)
    c = pretrained_features("resnet18", LEVELS, "random", seed=6)
    assert same(a, b.net.state_dict()) and not same(a, c.net.state_dict())


def test_bundled_teacher():
    assert "resnet18" in bundled_backbones()
    net = pretrained_features("resnet18.tv_in1k", LEVELS, "bundled", seed=0)
    again = pretrained_features("resnet18", LEVELS, "bundled", seed=1)
    assert same(net, again.net.state_dict()) and net.net["conv1"].weight.dtype == torch.float32
    assert not same(net, Features("resnet18", LEVELS).net.state_dict())


def test_bundled_weights_are_small_and_described():
    folder = REPO / "models/teachers/bundled"
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 40e6
    text = (folder / "README.md").read_text()
    assert all(f"{name}.safetensors" in text for name in bundled_names())


@pytest.mark.parametrize("path", sorted((REPO / "models/teachers/bundled").rglob("*.json")), ids=lambda path: path.stem)
def test_a_bundled_teacher_is_what_its_recipe_makes(path):
    """The manifest is of this very file, and pretrain.py with the shipped recipe is how it was made."""
    manifest = json.loads(path.read_text())
    assert hashlib.sha256(path.with_suffix(".safetensors").read_bytes()).hexdigest() == manifest["sha256"]
    recipe = read_config(REPO / f"configs/teachers/{path.stem}.yaml")
    del recipe["save_path"]
    assert {key: manifest["recipe"][key] for key in recipe} == recipe


def test_nothing_bundled_for_a_backbone_lists_those_that_are():
    with pytest.raises(UserError, match="nothing is bundled for backbone 'resnet34'.*resnet18"):
        pretrained_features("resnet34", LEVELS, "bundled", seed=0)


def test_bundled_teacher_ends_at_layer3():
    with pytest.raises(UserError, match="lacks layer4"):
        pretrained_features("resnet18", [3, 4], "bundled", seed=0)


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """Empty caches; returns the folder torchvision's files would lie in."""
    monkeypatch.setattr(module, "try_to_load_from_cache", lambda repo, file: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub/checkpoints"


def test_imagenet_weights_from_the_hub_cache(tmp_path, whole, monkeypatch):
    save_file(whole, tmp_path / "model.safetensors")
    asked = []

    def cached(repo, file):
        asked.append((repo, file))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(module, "try_to_load_from_cache", cached)
    net = pretrained_features("resnet18.tv_in1k", LEVELS, "imagenet", seed=0)
    assert asked == [("timm/resnet18.tv_in1k", "model.safetensors")]
    assert same(net, whole) and net.source.kind == "imagenet"


def test_imagenet_weights_from_torchvisions_cache(no_cache, whole):
    no_cache.mkdir(parents=True)
    torch.save(whole, no_cache / "resnet18-f37072fd.pth")
    assert same(pretrained_features("resnet18.tv_in1k", LEVELS, "imagenet", seed=0), whole)


def test_imagenet_weights_are_downloaded_when_the_hub_answers(no_cache, tmp_path, whole, monkeypatch):
    save_file(whole, tmp_path / "download.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        module, "_answers", lambda url: url.endswith("timm/resnet18.tv_in1k/resolve/main/model.safetensors")
    )
    monkeypatch.setattr(module, "hf_hub_download", lambda repo, file: str(tmp_path / "download.safetensors"))
    assert same(pretrained_features("resnet18.tv_in1k", LEVELS, "imagenet", seed=0), whole)


def test_without_weights_the_error_says_which_file_goes_where(no_cache):
    with pytest.raises(UserError) as error:
        pretrained_features("resnet18.tv_in1k", LEVELS, "imagenet", seed=0)
    for words in ("resnet18.tv_in1k/resolve/main/model.safetensors", "weights=PATH", "resnet18-f37072fd.pth", no_cache):
        assert str(words) in str(error.value)


def test_a_file_that_only_the_hub_has_gets_a_place_too(no_cache, whole):
    """timm knows no other address of it: the error says under which name it is looked for."""
    backbone = "mobilenetv4_conv_small.e2400_r224_in1k"
    with pytest.raises(UserError, match=f"put it as {backbone}.safetensors into {no_cache}"):
        pretrained_features(backbone, LEVELS, "imagenet", seed=0)
    no_cache.mkdir(parents=True)
    save_file(whole, no_cache / f"{backbone}.safetensors")
    with pytest.raises(UserError, match=f"{backbone}.safetensors is no"):
        pretrained_features(backbone, LEVELS, "imagenet", seed=0)


def test_a_silent_hub_costs_seconds(no_cache, monkeypatch):
    """A server that takes the connection and says nothing, as firewalls do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(UserError, match="neither cached nor reachable"):
            pretrained_features("resnet18.tv_in1k", LEVELS, "imagenet", seed=0)
        assert time.monotonic() - begin < 2 * module.PATIENCE
        begin = time.monotonic()
        with pytest.raises(UserError, match="efficientnet_b0.ra_in1k.* neither cached nor reachable"):
            pretrained_features("efficientnet_b0.ra_in1k", LEVELS, "imagenet", seed=0)  # as the second of a pair
        assert time.monotonic() - begin < module.PATIENCE / 2


def test_auto_falls_back_to_the_bundled_teacher_and_says_so(no_cache, capsys):
    net = pretrained_features("resnet18.tv_in1k", LEVELS, "auto", seed=0)
    assert net.source.kind == "bundled" and Path(net.source.path).parent.name == "bundled"
    assert "bundled teacher" in capsys.readouterr().err
    with pytest.raises(UserError, match="neither cached nor reachable"):
        pretrained_features("wide_resnet50_2.tv_in1k", LEVELS, "auto", seed=0)


def test_a_tag_nobody_made_is_refused(no_cache):
    with pytest.raises(UserError, match="backbone 'resnet18.nobody'"):
        pretrained_features("resnet18.nobody", LEVELS, "imagenet", seed=0)


def test_a_network_without_published_weights_is_refused(no_cache):
    with pytest.raises(UserError, match="no pretrained weights for backbone 'convnext_atto_rms'"):
        pretrained_features("convnext_atto_rms", LEVELS, "imagenet", seed=0)
