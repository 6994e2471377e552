"""EfficientAD's autoencoder and student, losses and statistics (Batzner et al., WACV 2024), by hand or layer by layer.

Numbers of parameters and multiplications are those of nelson1425/EfficientAD's networks.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.anomaly_map import resize
from models.efficientad import (
    CHANGES,
    Autoencoder,
    EfficientADStudent,
    calibrated,
    hard_feature_loss,
    jitter,
    low_and_high,
)
from models.pdn import PDN
from models.teachers.statistics import ChannelStatistics
from tests.conftest import count
from tests.models.test_pdn import macs


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def meta():
    """Networks and images without values."""
    with torch.device("meta"):
        yield


# The networks


def test_parameters(meta):
    assert count(Autoencoder()) == 1_096_320
    students = [EfficientADStudent(kind) for kind in ("small", "medium")]
    assert [count(net) + count(PDN(net.pdn.kind)) for net in students] == [8_057_856, 20_738_432]


def test_multiplications(meta):
    image = torch.empty(1, 3, 256, 256)
    assert macs(Autoencoder(), image) == 2_392_981_504
    found = [macs(EfficientADStudent(kind), image) for kind in ("small", "medium")]
    assert found == [22_636_386_304, 65_675_177_984]


def test_sizes_inside_the_autoencoder(meta):
    net, seen = Autoencoder(), []
    for layer in (net.encoder, *(stage[0] for stage in net.decoder), net.predict[0]):
        layer.register_forward_hook(lambda layer, args, maps: seen.append(tuple(maps.shape)))
    assert net(torch.empty(1, 3, 256, 256)).shape == (1, 384, 56, 56)
    assert seen == [(1, 64, n, n) for n in (1, 4, 9, 16, 33, 64, 128, 56)]


def test_larger_images_have_more_than_one_position_of_64_numbers(meta):
    net = Autoencoder()
    sides = [256, 288, 320, 384, 480, 512]
    assert [net.encoder(torch.empty(1, 3, side, side)).shape[-1] for side in sides] == [1, 2, 3, 5, 8, 9]


def bilinear(maps, side):
    return F.interpolate(maps, (side, side), mode="bilinear")


@torch.inference_mode()
def test_an_autoencoder_layer_by_layer():
    """Table 8, without dropout."""
    net, image = Autoencoder(5).eval(), torch.randn(1, 3, 256, 256)
    values = list(net.parameters())
    layers = iter(zip(values[::2], values[1::2], strict=True))
    x = image
    for _ in range(5):
        x = F.relu(F.conv2d(x, *next(layers), stride=2, padding=1))
    x = F.conv2d(x, *next(layers))
    assert x.shape == (1, 64, 1, 1) and (x < 0).any()
    for side in (3, 8, 15, 32, 63, 127):
        x = F.relu(F.conv2d(bilinear(x, side), *next(layers), padding=2))
    x = F.relu(F.conv2d(bilinear(x, 56), *next(layers), padding=1))
    x = F.conv2d(x, *next(layers), padding=1)
    torch.testing.assert_close(net(image), x)


@pytest.mark.parametrize("sides", [(256, 257), (263, 319), (512, 300)])
def test_the_autoencoder_follows_the_pdn(meta, sides):
    image = torch.empty(1, 3, *sides)
    assert Autoencoder(5)(image).shape == PDN("small", 5)(image).shape


@torch.inference_mode()
def test_dropout_works_in_training_alone():
    net, image = Autoencoder(1), torch.randn(1, 3, 256, 256)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.2] * 6
    assert not torch.equal(net(image), net(image))
    net.eval()
    assert torch.equal(net(image), net(image))


def test_student_and_autoencoder_learn_from_each_other():
    """The gradient of mean((A - S2)^2) reaches both, but in the student only the half that is compared."""
    net = EfficientADStudent("small")
    _, student, autoencoder = net(torch.randn(1, 3, 256, 256))
    (autoencoder - student).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in net.autoencoder.parameters())
    last = net.pdn.conv4.bias.grad
    assert (last[:384] == 0).all() and (last[384:] != 0).all()


@torch.inference_mode()
def test_each_half_of_the_student_alone_is_that_of_the_whole():
    net, image = EfficientADStudent("small").eval(), torch.randn(1, 3, 256, 256)
    first, second, autoencoder = net(image)
    assert torch.equal(net.local(image), first) and torch.equal(net.global_head(image), second)
    assert not torch.equal(first, second)
    assert torch.equal(net.autoencoder(image), autoencoder)
    assert first.shape == second.shape == autoencoder.shape == (1, 384, 56, 56)


def test_the_students_statistics_are_saved_with_it():
    net, teacher = EfficientADStudent("small"), torch.randn(2, 384, 3, 3)
    assert torch.equal(net.normalised(teacher), teacher) and net.quantiles.tolist() == [[0, 1], [0, 1]]
    mean, std = ChannelStatistics.of([teacher]).moments
    net.mean.copy_(mean.view_as(net.mean))
    net.std.copy_(std.view_as(net.std))
    again = EfficientADStudent("small")
    again.load_state_dict(net.state_dict())
    normalised = again.normalised(teacher)
    torch.testing.assert_close(normalised.mean(dim=(0, 2, 3)), torch.zeros(384), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.var(dim=(0, 2, 3), correction=0), torch.ones(384))


# Losses, maps and statistics


def test_the_hard_loss_of_known_values():
    assert hard_feature_loss(torch.arange(1.0, 1001)).item() == 1000
    assert hard_feature_loss(torch.arange(10_001.0)).item() == 9995
    for side, kept in ((56, 1205), (64, 1573)):
        n = 384 * side * side
        values = torch.randperm(n).view(1, 384, side, side).double().requires_grad_()
        loss = hard_feature_loss(values)
        loss.backward()
        assert (values.grad > 0).sum() == kept and loss.item() == pytest.approx(n - (kept + 1) / 2, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 999, 1000, 1001, 1002, 2000, 2001, 3001, 12_345])
def test_the_hard_loss_is_the_mean_above_the_quantile(n):
    values = torch.randperm(n).double()
    bound = np.quantile(np.arange(n), 0.999)
    expected = values[values >= bound - 1e-6].mean()  # numpy may round an exact rank up slightly
    assert hard_feature_loss(values).item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_hard_loss_of_more_elements_than_a_quantile_takes():
    """In many versions torch.quantile takes at most 2^24 elements, which three images of 512 px have."""
    n = 2**24 + 1000
    values = torch.zeros(n)
    kept = n - math.ceil(0.999 * (n - 1))
    values[-kept:] = 5
    assert hard_feature_loss(values).item() == 5
    values[-1] = 0
    assert 0 < 5 - hard_feature_loss(values).item() < 1e-3


def test_quantiles_become_0_and_a_tenth():
    quantiles = torch.tensor([2.0, 6.0])
    values = calibrated(torch.tensor([[2.0, 6.0], [10.0, 0.0]]), quantiles)
    torch.testing.assert_close(values, torch.tensor([[0, 0.1], [0.2, -0.05]]))
    local, context = calibrated(torch.tensor(10.0), quantiles), calibrated(torch.tensor(2.0), quantiles)
    assert (0.5 * local + 0.5 * context).item() == pytest.approx(0.1)
    flat = calibrated(torch.tensor([3.0, 3.5]), torch.tensor([3.0, 3.0]))  # quantiles of a constant map
    assert flat.isfinite().all() and flat[0] == 0 and flat[1] > 0


def test_a_position_of_the_padded_map_in_the_image():
    maps = torch.zeros(1, 1, 56, 56)
    maps[..., 10, 20] = 1
    peak = resize(F.pad(maps, [4] * 4), (256, 256))[0, 0]
    assert peak.max().item() == 0.765625 and peak.sum().item() == pytest.approx(16)
    assert (peak == peak.max()).nonzero().tolist() == [[row, column] for row in (57, 58) for column in (97, 98)]
    row = resize(F.pad(torch.ones(1, 1, 56, 56), [4] * 4), (256, 256))[0, 0, 128]
    assert row[:20].tolist() == [0] * 14 + [0.125, 0.375, 0.625, 0.875, 1, 1]


def test_low_and_high_are_quantiles_of_all_values():
    values = torch.randperm(1001).float()
    found = low_and_high(values.view(1, 1, 7, 143).split([100, 43], dim=3))
    assert found.dtype == torch.float64 and found.tolist() == pytest.approx([900, 995])


# Colour changes


def test_jitter_makes_one_change_of_three(monkeypatch):
    calls = []

    def recorded(k):
        def change(pixels, factor):
            calls.append((k, factor))
            return CHANGES[k](pixels, factor)

        return change

    monkeypatch.setattr("models.efficientad.CHANGES", [recorded(k) for k in range(3)])
    rng, image = np.random.default_rng(3), torch.rand(1, 3, 4, 4)
    before = image.clone()
    for _ in range(600):
        jitter(image, rng)
    assert len(calls) == 600 and torch.equal(image, before)
    assert all(150 < sum(which == k for which, _ in calls) < 250 for k in range(3))
    factors = [factor for _, factor in calls]
    assert 0.8 <= min(factors) < 0.81 and 1.19 < max(factors) <= 1.2
    assert np.mean(factors) == pytest.approx(1, abs=0.02)


class Fixed:
    """A generator that draws change `which` and `factor`."""

    def __init__(self, which, factor):
        self.which, self.factor = which, factor

    def integers(self, n):
        assert n == 3
        return self.which

    def uniform(self, low, high):
        assert (low, high) == (0.8, 1.2)
        return self.factor


@pytest.mark.parametrize("factor", [0.85, 1.2])
def test_jitter_by_hand(factor):
    pixels = torch.tensor([[[0.2, 0.5], [0.4, 0.5], [0.9, 0.1]], [[0.9, 0.3], [0.8, 0.3], [0.7, 0.6]]])[:, :, None]
    gray = (torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1) * pixels).sum(dim=1, keepdim=True)
    own = gray.mean(dim=(2, 3), keepdim=True)  # of each image, for the contrast
    for which, centre in enumerate((torch.zeros(1), own, gray)):
        expected = (centre + factor * (pixels - centre)).clamp(0, 1)
        changed = jitter(pixels, Fixed(which, factor))
        torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-4)
