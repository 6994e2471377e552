"""Networks of RD and RD++: sizes and values of their published codes (RD4AD and Revisiting-Reverse-Distillation)."""

import math

import pytest
import torch

from models.blocks import student_plan
from models.reverse_distillation import Bottleneck, Decoder, projection
from models.teachers.features import Features
from tests.conftest import count


def networks(backbone, levels=(1, 2, 3)):
    channels = Features(backbone, levels).channels
    plan = student_plan(backbone, [1, 2, 3])
    return Bottleneck(plan, channels), Decoder(plan, channels)


@pytest.mark.parametrize(
    ("backbone", "bottleneck", "unused", "decoder", "stages"),
    [
        ("resnet18", 12_205_312, 525_312, 3_703_168, [2_820_608, 705_792, 176_768]),
        ("resnet34", 16_925_952, 525_312, 5_770_624, [4_001_280, 1_296_640, 472_704]),
        ("resnet50", 39_222_272, 8_392_704, 15_821_824, [11_676_672, 3_202_048, 943_104]),
        ("wide_resnet50_2", 67_277_824, 8_392_704, 24_917_504, [17_840_128, 5_317_632, 1_759_744]),
    ],
)
def test_parameters(backbone, bottleneck, unused, decoder, stages):
    """Without conv4 and bn4 of the published bottleneck, which nothing uses. A wide ResNet has a wide bottleneck."""
    with torch.device("meta"):
        ours = networks(backbone)
    assert count(ours[0]) == bottleneck - unused
    assert count(ours[1]) == decoder and [count(stage) for stage in ours[1].stages] == stages
    if backbone == "wide_resnet50_2":
        whole = count(ours[0]) + unused + count(ours[1])
        assert whole == 92_195_328 and whole * 4 / 2**20 == pytest.approx(351.70, abs=0.005)


@pytest.mark.parametrize(("backbone", "tensors"), [("resnet18", (24, 45)), ("wide_resnet50_2", (39, 126))])
def test_numbers_of_tensors(backbone, tensors):
    """Three less for the bottleneck than the published 27 and 42: those of conv4 and bn4."""
    with torch.device("meta"):
        assert tuple(len(list(net.parameters())) for net in networks(backbone)) == tensors


@pytest.mark.parametrize(
    ("backbone", "levels", "embedded"),
    [("resnet18", [1, 2, 3], (512, 2, 3)), ("resnet50", [1, 2], (1024, 4, 6)), ("resnet26", [2, 3], (2048, 2, 3))],
)
def test_the_decoders_maps_have_the_teachers_shapes(backbone, levels, embedded):
    teacher = Features(backbone, levels).eval()
    bottleneck, decoder = (net.eval() for net in networks(backbone, levels))
    with torch.inference_mode():
        maps = teacher(torch.rand(1, 3, 64, 96))
        embedding = bottleneck(maps)
        restored = decoder(embedding)
    assert embedding.shape == (1, *embedded)
    assert [m.shape for m in restored] == [m.shape for m in maps]
    assert all(m.min() >= 0 for m in restored)


def test_the_largest_maps_get_the_most_blocks():
    with torch.device("meta"):
        _, decoder = networks("resnet34")
    assert [len(stage) for stage in decoder.stages] == [3, 4, 6]


def test_initial_weights():
    """Transposed convolutions keep PyTorch's default, normal ones are Kaiming-normal (fan out)."""
    torch.manual_seed(0)
    decoder = Decoder(student_plan("wide_resnet50_2", [1, 2, 3]), [256, 512, 1024])
    block = decoder.stages[0][0]
    # The 512 -> 512 of the main path and 2048 -> 1024 of the shortcut.
    for weight, outputs, spread in ((block.main[2][0].weight, 512, 0.012758), (block.skip[0].weight, 1024, 0.009021)):
        assert weight.abs().max() <= 1 / math.sqrt(4 * outputs)
        assert weight.std().item() == pytest.approx(spread, rel=0.01)
    assert block.main[4][0].weight.std().item() == pytest.approx(0.0442, rel=0.01)  # 1 x 1, 512 -> 1024


@pytest.mark.parametrize(
    ("channels", "parameters"),
    [(64, 46_224), (128, 184_608), (256, 737_856), (512, 2_950_272), (1024, 11_798_784)],
)
def test_a_projections_parameters(channels, parameters):
    with torch.device("meta"):
        assert count(projection(channels)) == parameters == 11.25 * channels**2 + 2.25 * channels


def test_a_projection_is_the_same_in_training_and_testing():
    """This is the effect of instance norm, which also cancels every bias."""
    torch.manual_seed(0)
    net, maps = projection(256), torch.randn(2, 256, 32, 32)
    with torch.inference_mode():
        trained, tested = net.train()(maps), net.eval()(maps)
        assert torch.equal(trained, tested) and tested.shape == maps.shape
        assert tested.mean().item() == pytest.approx(0.3935, abs=0.005)
        assert tested.square().mean().item() == pytest.approx(0.5, abs=0.001)
        before_relu = net[:3](maps)
        for layer in net[3][:2]:
            before_relu = layer(before_relu)
        assert before_relu.mean(dim=(2, 3)).abs().max() < 1e-4
        torch.testing.assert_close(before_relu.var(dim=(2, 3), correction=0), torch.ones(2, 256), atol=1e-2, rtol=0)
        for block in net:
            block[0].bias += torch.randn_like(block[0].bias)
        torch.testing.assert_close(net(maps), tested, atol=1e-4, rtol=1e-3)
