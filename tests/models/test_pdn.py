"""The patch description network of tables 6 and 7 of EfficientAD's paper (Batzner et al., WACV 2024)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.pdn import PDN, pdn_size
from tests.conftest import count
from tests.unit_fill import unit_fill

KINDS = ["small", "medium"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def meta():
    """Networks and images without values."""
    with torch.device("meta"):
        yield


def test_parameters(meta):
    found = [count(PDN(kind, channels)) for kind in KINDS for channels in (384, 768)]
    assert found == [2_694_144, 4_267_392, 8_026_624, 11_615_488]


def test_multiplications(meta):
    image = torch.empty(1, 3, 256, 256)
    found = [macs(PDN(kind, channels), image) for kind in KINDS for channels in (384, 768)]
    assert found == [15_310_903_296, 20_243_404_800, 52_029_927_424, 63_282_196_480]


def macs(net, image):
    with FlopCounterMode(display=False) as counter:
        net(image)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_pdn_layer_by_layer(kind):
    """As in the tables, with the padding; only the last layer has no ReLU."""
    net, image = PDN(kind, 9, padding=True), torch.randn(1, 3, 96, 80)
    values = list(net.parameters())
    layers = list(zip(values[::2], values[1::2], strict=True))
    x = image
    for weight, bias in layers[:2]:
        x = F.avg_pool2d(F.relu(F.conv2d(x, weight, bias, padding=3)), 2, 2, 1)
    for weight, bias in layers[2:-1]:
        x = F.relu(F.conv2d(x, weight, bias, padding=int(weight.shape[-1] == 3)))
    x = F.conv2d(x, *layers[-1])
    assert (x < 0).any()
    torch.testing.assert_close(net(image), x)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_means_keep_a_constant_but_for_padded_borders(kind):
    image = torch.ones(1, 3, 128, 128, dtype=torch.double)  # rounding in float32 depends on the processor
    found = unit_fill(PDN(kind, 2)).double()(image)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=1e-6)
    assert found.shape == (1, 2, 24, 24)
    maps = unit_fill(PDN(kind, 2, padding=True)).double()(image)[0, 1]
    expected = [0.529948, 0.752604, 0.908855, 0.983073, 1, 1]
    assert maps[16, :6].tolist() == pytest.approx(expected, abs=1e-6)
    assert maps[16, -5:].tolist() == pytest.approx([1, 0.998698, 0.971354, 0.877604, 0.701823], abs=1e-6)
    assert [maps[0, 0].item(), maps[-1, -1].item()] == pytest.approx([0.280845, 0.492555], abs=1e-6)


def without_relu(net):
    for name, layer in net.named_children():
        if isinstance(layer, nn.ReLU):
            setattr(net, name, nn.Identity())
    return net


def seen_by(image, maps, at):
    """First and last row and column that position (at, at) depends on, and all between them."""
    (gradient,) = torch.autograd.grad(maps[0, :, at, at].sum(), image, retain_graph=True)
    spans = []
    for other in (2, 1):
        lines = gradient[0].abs().amax(dim=(0, other)).nonzero().flatten().tolist()
        assert lines == list(range(lines[0], lines[-1] + 1))
        spans.append((lines[0], lines[-1]))
    return spans


@pytest.mark.parametrize(("kind", "side"), [("small", 256), ("medium", 128)])
def test_a_position_sees_33_pixels(kind, side):
    image = torch.rand(1, 3, side, side, requires_grad=True)
    maps, last = without_relu(PDN(kind, 4))(image), side // 4 - 9
    for at in (0, 20, last):
        assert seen_by(image, maps, at) == [(4 * at, 4 * at + 32)] * 2
    assert seen_by(image, without_relu(PDN(kind, 4, padding=True))(image), 20) == [(64, 96)] * 2


@torch.inference_mode()
def test_the_last_three_lines_of_256_are_not_seen():
    net, image = PDN("small"), torch.rand(1, 3, 256, 256)
    before = net(image)
    image[..., 253:, :] = 9
    image[..., 253:] = 9
    assert torch.equal(net(image), before)
    image[..., 252] = 9
    assert not torch.equal(net(image), before)


@pytest.mark.parametrize(("kind", "side"), [("small", 256), ("medium", 128)])
@torch.inference_mode()
def test_padding_leaves_the_inner_values(kind, side):
    net, padded = PDN(kind), PDN(kind, padding=True)
    padded.load_state_dict(net.state_dict())
    image = torch.randn(1, 3, side, side)
    torch.testing.assert_close(padded(image)[..., 4:-4, 4:-4], net(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "side"), [("small", 256), ("medium", 128)])
@torch.inference_mode()
def test_half_of_the_channels_alone_are_those_of_the_whole(kind, side):
    net, image = PDN(kind, 768), torch.randn(1, 3, side, side)
    whole = net(image)
    for part in (slice(0, 384), slice(384, 768)):
        assert torch.equal(net.head(image, part), whole[:, part])


def test_the_maps_have_the_announced_size(meta):
    nets = {padding: [PDN(kind, 1, padding) for kind in KINDS] for padding in (False, True)}
    for high in range(256, 700):
        sides = high, 955 - high
        image = torch.empty(1, 3, *sides)
        for padding, pdns in nets.items():
            sizes = tuple(math.ceil(side / 4) - (0 if padding else 8) for side in sides)
            assert tuple(pdn_size(side, padding) for side in sides) == sizes
            assert all(pdn(image).shape[-2:] == sizes for pdn in pdns)
