"""What a PDN imitates: PatchCore's embedding (Roth et al., CVPR 2022), as in nelson1425/EfficientAD."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.anomaly_map import resize
from models.teachers.features import Features, outline
from pretraining.target import TargetFeatures
from utils.errors import UserError


def embedding(channels, out=384):
    """A TargetFeatures without a backbone, only for `embed`."""
    features = nn.Module()
    features.channels, features.reduction = list(channels), [8, 16]
    return TargetFeatures(features, out)


def unfolded(maps):
    """Neighbourhoods of 3 x 3, channel-major: [B,C,h,w] -> [B,9C,h,w]."""
    return F.unfold(maps, 3, padding=1).view(len(maps), -1, *maps.shape[-2:])


def pooled(patches, size):
    """Each position's values pooled adaptively: [B,N,h,w] -> [B,size,h,w]."""
    return F.adaptive_avg_pool1d(patches.flatten(2).mT, size).mT.unflatten(2, patches.shape[-2:])


def reference(maps, out=384):
    """The path of PatchCore and of nelson1425's pretraining, step by step."""
    patches = [unfolded(level) for level in maps]
    patches[1] = resize(patches[1], patches[0].shape[-2:])
    return pooled(torch.cat([pooled(level, 1024) for level in patches], dim=1), out)


@pytest.mark.parametrize(
    ("channels", "out", "size"), [((3, 5), 384, (6, 8)), ((120, 7), 16, (8, 4)), ((512, 1024), 384, (4, 6))]
)
def test_the_embedding_is_that_of_unfolding_and_pooling(channels, out, size):
    maps = [torch.randn(2, channels[0], *size), torch.randn(2, channels[1], size[0] // 2, size[1] // 2)]
    torch.testing.assert_close(embedding(channels, out).embed(maps), reference(maps, out), rtol=1e-5, atol=1e-5)


def test_the_embedding_of_known_maps():
    maps = [torch.arange(512.0), 1000 + torch.arange(1024.0)]
    maps = [values.view(1, -1, 1, 1).expand(1, -1, n, n) for values, n in zip(maps, (8, 4), strict=True)]
    embed = embedding((512, 1024)).embed
    found = embed(maps)[0, :, 4, 4]
    expected = {0: 1.0, 1: 3.5, 2: 6.0, 191: 510.0, 192: 1002.5, 193: 1007.5, 383: 2020.5}
    assert {k: found[k].item() for k in expected} == pytest.approx(expected, rel=1e-5)
    bins = pooled(torch.arange(2048.0).view(1, -1, 1, 1), 384).flatten()  # the pooling of the reference in these tests
    assert bins[:6].tolist() == [2.5, 7.5, 12.5, 18.5, 23.5, 28.5]
    assert bins[[191, 192, 383]].tolist() == [1020.5, 1026.5, 2044.5]
    alone = embed([maps[0], torch.zeros_like(maps[1])])[0, :, 4, 4]
    assert torch.equal(alone[:192], found[:192]) and (alone[192:] == 0).all()


def test_channels_that_fit_are_averaged_one_by_one():
    """Levels of a ResNet-18: each channel's mean over 3 x 3, with zeros outside the border."""
    maps = [torch.randn(2, 128, 8, 6), torch.randn(2, 256, 4, 3)]
    shallow, deep = (F.avg_pool2d(level, 3, stride=1, padding=1) for level in maps)
    expected = torch.cat([shallow, resize(deep, (8, 6))], dim=1)
    torch.testing.assert_close(embedding((128, 256)).embed(maps), expected)


@torch.inference_mode()
def test_the_embedding_of_a_backbone():
    net = TargetFeatures(Features("resnet18", [2, 3])).eval()
    image = torch.rand(1, 3, 512, 512)
    maps = net(image)
    assert maps.shape == (1, 384, 64, 64)
    assert torch.equal(maps, net.embed(net.features(image)))
    assert all(key.startswith("features.") for key in net.state_dict())  # fixed weights are not saved


def test_levels_of_other_strides_are_refused():
    with pytest.raises(UserError, match=r"'resnet18' have \[4, 8\]"):
        TargetFeatures(outline("resnet18", [1, 2]))
