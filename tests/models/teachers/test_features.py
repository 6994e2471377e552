import pytest
import torch
from torch import nn

from models.teachers.features import Features, outline
from tests.conftest import count
from utils.errors import UserError


@pytest.mark.parametrize(
    ("backbone", "levels", "parameters"),
    [
        ("resnet18", [1, 2, 3], 2_782_784),
        ("resnet18", [1, 2], 683_072),
        ("resnet34", [0, 1, 2, 3], 8_170_304),
        ("wide_resnet50_2", [1, 2, 3], 24_862_528),
        ("efficientnet_b0", [3, 4], 3_595_388),
    ],
)
def test_a_network_ends_at_its_last_level(backbone, levels, parameters):
    """Parameters of the papers' teachers, without the layers after the last level."""
    with torch.device("meta"):
        assert count(Features(backbone, levels)) == parameters


def test_the_levels_of_a_resnet18():
    net = Features("resnet18", [1, 2, 3])
    with torch.inference_mode():
        maps = net(torch.zeros(1, 3, 256, 256))
    assert [tuple(m.shape) for m in maps] == [(1, 64, 64, 64), (1, 128, 32, 32), (1, 256, 16, 16)]
    assert (net.channels, net.reduction) == ([64, 128, 256], [4, 8, 16])


@pytest.mark.parametrize(
    ("backbone", "levels"),
    [
        ("resnet18", [1, 2, 3]),
        ("efficientnet_b0", [1, 2, 3]),
        ("mobilenetv3_large_100", [1, 2, 3]),
        ("convnext_atto", [0, 1, 2]),
        ("densenet121", [1, 2, 3]),
    ],
)
def test_any_cnn_gives_maps_of_the_channels_it_announces(backbone, levels):
    net = Features(backbone, levels).eval()
    net.check_size((64, 96))
    with torch.inference_mode():
        maps = net(torch.rand(2, 3, 64, 96))
    expected = [(2, c, 64 // r, 96 // r) for c, r in zip(net.channels, net.reduction, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected


def test_a_random_resnet_starts_as_torchvisions():
    """timm starts the last norm of each block at 0; the papers' students start at 1."""
    net = Features("resnet18", [1, 2, 3])
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 15 and all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)
    conv = net.net["layer2"][1].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("backbone", "levels", "words"),
    [
        ("resnet81", [1], "has no model 'resnet81'.*did you mean.*resnet"),
        ("resnet18", [1, 7], "no level 7; it has 0 .stride 2, 64 channels"),
        ("resnet18", [-1], "no level -1"),
        ("convnext_atto", [4], "no level 4; it has 0 .stride 4, 40 channels"),
        ("tf_efficientnet_lite0.in2k", [1], "lite0.in2k' is not in timm, which has tf_efficientnet_lite0.in1k$"),
        ("mlp_mixer_b16_224", [1], "timm"),
    ],
)
def test_what_cannot_be_had_is_said(backbone, levels, words):
    with pytest.raises(UserError, match=words) as error:
        Features(backbone, levels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_network_that_is_no_cnn_is_refused_for_what_it_cannot_do(backbone):
    with pytest.raises(UserError, match=f"backbone '{backbone}'"):
        Features(backbone, [0, 1]).check_size((256, 256))


def test_no_size_is_advised_to_a_network_that_cannot_be_used_at_any():
    """At 64 pixels the advice was to write 224, and at 224 to choose a CNN."""
    with pytest.raises(UserError, match="'swin_.*' does not give feature maps .B,C,H,W.; choose a CNN$"):
        outline("swin_tiny_patch4_window7_224", [0, 1]).check_size((64, 64))


@pytest.mark.parametrize("key", ["img_size", "tile"])
def test_an_impossible_size_is_answered_with_a_possible_one(key):
    """timm says nothing: an assertion without a text."""
    words = rf"cannot take {key} \(96, 96\); write TrainingData.{key}=256$"
    with pytest.raises(UserError, match=words):
        outline("halonet26t", [3]).check_size((96, 96), key)
