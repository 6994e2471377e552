"""A PDN as a teacher, and its weight files in all their layouts."""

import pytest
import torch
from safetensors.torch import save_file

from models.pdn import PDN
from models.teachers.pdn import build_pdn, find_pdn, load_pdn
from models.teachers.teacher import IMAGENET
from utils.errors import UserError

NAMES = "weight", "bias"


def ours(kind):
    return {key: torch.randn_like(tensor) for key, tensor in PDN(kind).state_dict().items()}


def nelsons(tensors, indices):
    return {f"{indices[int(key[4]) - 1]}.{key.partition('.')[2]}": tensor for key, tensor in tensors.items()}


def assert_loads(kind, path, tensors):
    net = PDN(kind)
    load_pdn(net, path)
    for key, tensor in net.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, tensors[key].float())


@pytest.mark.parametrize(("kind", "indices"), [("small", (0, 3, 6, 8)), ("medium", (0, 3, 6, 8, 10, 12))])
def test_weight_files_of_every_layout_are_loaded(tmp_path, kind, indices):
    tensors = ours(kind)
    save_file(tensors, tmp_path / "ours.safetensors")
    assert_loads(kind, tmp_path / "ours.safetensors", tensors)
    torch.save(nelsons(tensors, indices), tmp_path / "nelson.pth")
    assert_loads(kind, tmp_path / "nelson.pth", tensors)
    half = {key: tensor.half() for key, tensor in tensors.items()}
    torch.save({"state_dict": {f"model.teacher.{key}": tensor for key, tensor in half.items()}}, tmp_path / "half.pth")
    assert_loads(kind, tmp_path / "half.pth", half)


def spoil(tensors, how):
    if how == "wrong kind":
        return ours("medium")
    if how == "student":
        return tensors | {f"conv4.{name}": tensors[f"conv4.{name}"].repeat_interleave(2, 0) for name in NAMES}
    if how == "incomplete":
        return {key: tensor for key, tensor in tensors.items() if key != "conv3.bias"}
    if how == "two networks":
        return {f"{net}.{key}": tensor.clone() for net in ("student", "teacher") for key, tensor in tensors.items()}
    if how == "two layouts":
        return tensors | {"0.weight": torch.randn(1)}
    assert how == "layer that is none"
    return nelsons(tensors, (0, 3, 6, 7))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("wrong kind", r"has unknown conv5.bias.*and 1 more and has misshapen conv1.weight, conv1.bias, conv2.weight"),
        ("student", r"it has misshapen conv4.weight, conv4.bias$"),
        ("incomplete", r"it lacks conv3.bias$"),
        ("two networks", r"has unknown student.conv1.bias.* and lacks conv1.weight"),
        ("two layouts", r"it has unknown 0.weight$"),
        ("layer that is none", r"has unknown 7.bias, 7.weight and lacks conv4.weight, conv4.bias$"),
    ],
)
def test_weight_files_of_another_network_are_refused(tmp_path, how, words):
    path = tmp_path / "file.safetensors"
    save_file(spoil(ours("small"), how), path)
    net = PDN("small")
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(UserError, match=rf"file\.safetensors is not a small PDN of 384 channels: .*{words}"):
        load_pdn(net, path)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "not finite"), (0.0, "only zeros")])
def test_values_that_no_training_gives_are_refused(tmp_path, value, words):
    path = tmp_path / "spoilt.safetensors"
    save_file({key: torch.full_like(tensor, value) for key, tensor in ours("small").items()}, path)
    with pytest.raises(UserError, match=rf"spoilt\.safetensors .*{words}"):
        load_pdn(PDN("small"), path)


def test_integers_are_refused(tmp_path):
    path = tmp_path / "spoilt.safetensors"
    save_file({key: tensor.long() for key, tensor in ours("small").items()}, path)
    with pytest.raises(UserError, match=r"spoilt\.safetensors .*integers"):
        load_pdn(PDN("small"), path)


# The teacher


def test_the_bundled_teacher_is_found_whatever_is_asked_for_without_a_download(capsys):
    for weights in ("bundled", "auto"):
        source = find_pdn("small", weights)
        assert source.name == "bundled" and source.path.name == "pdn_small.safetensors"
    assert "the bundled one is used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "weights", "words"),
    [("small", "imagenet", "no model hub has one; write bundled"), ("medium", "bundled", "no medium PDN is bundled")],
)
def test_teachers_that_are_not_there_are_explained(kind, weights, words):
    with pytest.raises(UserError, match=words):
        find_pdn(kind, weights)


def test_a_pdn_normalises_as_imagenets_networks_do_and_gives_one_map():
    teacher, again = (build_pdn("small", find_pdn("small", "random"), seed=seed) for seed in (3, 3))
    image = torch.rand(1, 3, 64, 64)
    (maps,) = teacher(image)
    assert teacher.statistics == IMAGENET and list(teacher.channels) == [384] and maps.shape == (1, 384, 8, 8)
    assert torch.equal(maps, again(image)[0])
    assert not torch.equal(maps, build_pdn("small", find_pdn("small", "random"), seed=4)(image)[0])
