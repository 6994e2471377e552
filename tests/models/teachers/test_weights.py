"""Where teachers come from. Nothing here asks a model hub: a local file stands in for a download."""

import hashlib
import json
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from models.teachers.features import Features
from models.teachers.teacher import IMAGENET
from models.teachers.weights import (
    BUNDLED_FOLDER,
    bundled_backbones,
    bundled_names,
    find_source,
    load_weights,
    read_tensors,
)
from pretraining import RECIPES
from tests.conftest import REPO
from tests.models.teachers.conftest import LEVELS, same, teacher_of
from trainer import build_trainer
from utils.config_file import read_config
from utils.errors import UserError
from utils.files import write_json


def load_file_into(net, path):
    load_weights(net, read_tensors(path), path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_is_loaded(tmp_path, whole, suffix):
    path = tmp_path / f"teacher{suffix}"
    save_file(whole, path) if suffix == ".safetensors" else torch.save(whole, path)
    teacher = teacher_of("resnet18", path)
    assert same(teacher.net, whole) and (teacher.backbone, teacher.weights) == ("resnet18", str(path))


def test_wrapped_half_precision_and_old_files_are_loaded(tmp_path, whole):
    """A training checkpoint's state_dict, fp16 weights, and torchvision's old files without batch counts."""
    old = {k: v.half() if v.is_floating_point() else v for k, v in whole.items() if "num_batches" not in k}
    torch.save({"state_dict": {f"module.{k}": v for k, v in old.items()}}, tmp_path / "old.pth")
    torch.save({"model": old, "epoch": 3}, tmp_path / "training.pth")
    save_file(old, tmp_path / "OLD.SAFETENSORS")
    for name in ("old.pth", "training.pth", "OLD.SAFETENSORS"):
        net = Features("resnet18", LEVELS)
        load_file_into(net, tmp_path / name)
        assert all(torch.equal(v, old[k].float()) for k, v in net.net.state_dict().items() if k in old)


@pytest.mark.parametrize("backbone", ["convnext_atto", "densenet121", "mobilenetv3_large_100", "efficientnet_b0"])
def test_timm_files_of_other_families_are_loaded(tmp_path, backbone):
    """Cutting a network into levels renames its modules; the file keeps the whole network's names."""
    torch.manual_seed(1)
    whole = timm.create_model(backbone)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    net = Features(backbone, [0, 1]).eval()
    load_file_into(net, tmp_path / "whole.safetensors")
    torch.manual_seed(1)
    image = torch.rand(1, 3, 64, 64)
    reference = whole.eval().forward_intermediates(image, indices=[0, 1], intermediates_only=True)
    for ours, theirs in zip(net(image), reference, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_published_densenet_is_loaded(tmp_path):
    """torchvision's files have older names of its layers."""
    whole = timm.create_model("densenet121").state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value for key, value in whole.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    save_file(old, tmp_path / "densenet121.safetensors")
    net = Features("densenet121", [0, 1])
    load_file_into(net, tmp_path / "densenet121.safetensors")
    name = next(key for key in net.net.state_dict() if key.endswith("denselayer2.conv1.weight"))
    assert torch.equal(net.net.state_dict()[name], whole["features.denseblock1.denselayer2.conv1.weight"])


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
        with pytest.raises(UserError, match=f"odd.safetensors is not a 'resnet18': it {words}"):
            load_file_into(net, tmp_path / "odd.safetensors")
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
            load_file_into(Features("resnet18", LEVELS), tmp_path / name)
    with pytest.raises(UserError, match="nowhere.pth is not a file"):
        find_source("resnet18", str(tmp_path / "nowhere.pth"))


def integers(tensors):
    return {key: (100 * tensor).long() for key, tensor in tensors.items()}


def zeros(tensors):
    return {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}


def one_nan(tensors):
    spoilt = tensors["layer2.0.conv1.weight"].clone()
    spoilt[3, 2, 1, 0] = float("nan")
    return tensors | {"layer2.0.conv1.weight": spoilt}


def one_infinite(tensors):
    return tensors | {"layer1.0.bn1.running_var": torch.full((64,), float("inf"))}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(integers, "integers"), (zeros, "only zeros"), (one_nan, "not finite"), (one_infinite, "not finite")],
)
def test_values_that_no_training_gives_are_refused(tmp_path, whole, spoil, words):
    """The file is named, and the network keeps its values; the learning rate would be blamed for a NaN later."""
    path = tmp_path / "spoilt.safetensors"
    save_file(spoil(whole), path)
    net = Features("resnet18", LEVELS)
    before = {key: value.clone() for key, value in net.net.state_dict().items()}
    with pytest.raises(UserError, match=rf"spoilt\.safetensors .*{words}"):
        load_file_into(net, path)
    assert same(net, before)


def test_a_random_teacher_is_the_same_again_and_leaves_the_seed_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    a = teacher_of("resnet18", "random", seed=5)
    assert torch.equal(torch.rand(3), expected)
    b = teacher_of("resnet18", "random", seed=5)
    c = teacher_of("resnet18", "random", seed=6)
    assert same(a.net, b.net.net.state_dict()) and not same(a.net, c.net.net.state_dict())


# Mean and standard deviation of the images


def test_a_manifest_beside_a_weights_file_wins_over_the_tag(whole_file, tmp_path):
    path = tmp_path / "own.safetensors"
    path.write_bytes(whole_file.read_bytes())
    assert teacher_of("resnet18.tv_in1k", path).statistics == IMAGENET
    own = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    recipe = {"images": "raw \udcff"}  # Linux allows such a name
    write_json(path.with_suffix(".json"), own | {"recipe": recipe})  # as pretrain.py does
    teacher = teacher_of("resnet18.tv_in1k", path)
    assert teacher.statistics == (tuple(own["mean"]), tuple(own["std"]))
    assert teacher.normalise(torch.full((1, 3, 2, 2), 0.5))[0, :, 0, 0].tolist() == pytest.approx([1, 0.6, 1 / 3])


@pytest.mark.parametrize("text", ["[1, 2]", '{"steps": 3}'])
def test_a_file_that_is_no_manifest_leaves_the_tags_statistics(whole_file, tmp_path, text):
    """Many a weights file lies beside a .json of another program."""
    path = tmp_path / "own.safetensors"
    path.write_bytes(whole_file.read_bytes())
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    assert teacher_of("resnet18", path).statistics == IMAGENET


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"mean": [0.5, 0.5, 0.5],}', "own.json: cannot be read as the manifest of own.safetensors"),
        ('{"mean": [0.5, 0.5, 0.5]}', "own.json: mean and std must be three numbers each"),
    ],
)
def test_a_broken_manifest_is_named(whole_file, tmp_path, text, words):
    """Left out in silence, it would leave images normalised as the weights have never seen them."""
    path = tmp_path / "own.safetensors"
    path.write_bytes(whole_file.read_bytes())
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        teacher_of("resnet18", path)


# What is bundled


def test_a_bundled_teacher_is_the_same_for_every_tag_and_seed():
    assert "resnet18" in bundled_backbones()
    teacher = teacher_of("resnet18.tv_in1k", "bundled")
    again = teacher_of("resnet18", "bundled", seed=1)
    assert same(teacher.net, again.net.net.state_dict()) and teacher.net.net["conv1"].weight.dtype == torch.float32
    assert not same(teacher.net, Features("resnet18", LEVELS).net.state_dict())


def test_bundled_weights_are_small_and_described():
    assert sum(p.stat().st_size for p in BUNDLED_FOLDER.rglob("*") if p.is_file()) < 40e6
    text = (BUNDLED_FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"{name}.safetensors" in text for name in bundled_names())


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_teacher_is_what_its_recipe_makes(name):
    """The manifest is of this very file, and pretrain.py with the shipped recipe is how it was made."""
    path = BUNDLED_FOLDER / f"{name}.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert [len(manifest[key]) for key in ("mean", "std")] == [3, 3]
    assert hashlib.sha256(path.with_suffix(".safetensors").read_bytes()).hexdigest() == manifest["sha256"]
    recipe = read_config(REPO / f"configs/teachers/{path.stem}.yaml")
    del recipe["save_path"]
    fields = RECIPES[recipe["recipe"]].Options.model_fields
    made = {key: manifest["recipe"].get(key, fields[key].default) for key in recipe}  # a key may be newer than the file
    assert made == recipe


def test_nothing_bundled_for_a_backbone_lists_those_that_are():
    with pytest.raises(UserError, match="'resnet34' .*efficientnet_b0, resnet18.; write for example backbone=resnet18"):
        find_source("resnet34", "bundled")


def test_the_bundled_resnet_ends_at_layer3():
    with pytest.raises(UserError, match=r"out_indice \[3, 4\]: the bundled weights of 'resnet18' end at level 3"):
        teacher_of("resnet18", "bundled", levels=[3, 4])


# ImageNet's


def test_auto_falls_back_to_the_bundled_teacher_and_says_so(no_cache, capsys):
    source = find_source("resnet18.tv_in1k", "auto")
    assert source.name == "bundled" and source.path.parent == BUNDLED_FOLDER
    assert "bundled teacher" in capsys.readouterr().err
    with pytest.raises(UserError, match="not on this computer"):
        find_source("wide_resnet50_2.tv_in1k", "auto")


@pytest.mark.parametrize(
    ("backbone", "weights", "words"),
    [
        ("resnet18.nobody", "imagenet", "backbone 'resnet18.nobody' is not in timm"),
        ("resnet81", "imagenet", "'resnet81'; did you mean resnet"),
        ("resnet81", "bundled", "'resnet81'; did you mean resnet"),
    ],
)
def test_a_backbone_nobody_made_is_said_before_weights_are_looked_for(no_cache, config, backbone, weights, words):
    with pytest.raises(UserError, match=words):
        build_trainer(config("st", backbone=backbone, weights=weights))
