"""EfficientAD's networks, losses and statistics: the numeric checks of specs/efficientad.md section 14."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from datasets.images import MEAN, STD
from models.anomaly_map import resize
from models.efficientad import (
    CHANGES,
    Autoencoder,
    EfficientADStudent,
    calibrated,
    channel_statistics,
    hard_feature_loss,
    jitter,
)
from models.pdn import PDN, pdn_size
from models.teachers.features import Features, outline
from models.teachers.pdn import load_pdn
from pretraining.target import TargetFeatures
from tests.conftest import count
from tests.unit_fill import unit_fill
from utils.errors import UserError

KINDS = ["small", "medium"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def meta():
    """Networks and images without values."""
    with torch.device("meta"):
        yield


# The networks


def test_check_1_parameters(meta):
    found = [count(PDN(kind, channels)) for kind in KINDS for channels in (384, 768)]
    assert found == [2_694_144, 4_267_392, 8_026_624, 11_615_488]
    assert count(Autoencoder()) == 1_096_320
    students = [EfficientADStudent(kind) for kind in KINDS]
    assert [count(net) + count(PDN(net.pdn.kind)) for net in students] == [8_057_856, 20_738_432]


@pytest.mark.parametrize("padding", [False, True])
def test_check_2_shapes(meta, padding):
    image, side = torch.empty(1, 3, 256, 256), 64 if padding else 56
    for kind in KINDS:
        for channels in (384, 768):
            assert PDN(kind, channels, padding)(image).shape == (1, channels, side, side)
    net, seen = Autoencoder(padding=padding), []
    for layer in (net.encoder, *(stage[0] for stage in net.decoder), net.predict[0]):
        layer.register_forward_hook(lambda layer, args, maps: seen.append(tuple(maps.shape)))
    assert net(image).shape == (1, 384, side, side)
    assert seen == [(1, 64, n, n) for n in (1, 4, 9, 16, 33, 64, 128, side)]


def bilinear(maps, side):
    return F.interpolate(maps, (side, side), mode="bilinear")


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_pdn_layer_by_layer(kind):
    """Tables 2.1 and 2.2 of the specification with the padding; nothing but the last layer goes without a ReLU."""
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


@torch.inference_mode()
def test_autoencoder_layer_by_layer():
    """Table 2.4 of the specification, without dropout."""
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


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_check_3_mean_preserving(kind):
    image = torch.ones(1, 3, 256, 256)
    torch.testing.assert_close(unit_fill(PDN(kind, 2))(image), torch.ones(1, 2, 56, 56), rtol=0, atol=1e-6)
    maps = unit_fill(PDN(kind, 2, padding=True))(image)[0, 1]
    expected = [0.529948, 0.752604, 0.908855, 0.983073, 1, 1]
    assert maps[32, :6].tolist() == pytest.approx(expected, abs=1e-6)
    assert maps[32, -5:].tolist() == pytest.approx([1, 0.998698, 0.971354, 0.877604, 0.701823], abs=1e-6)
    assert [maps[0, 0].item(), maps[-1, -1].item()] == pytest.approx([0.280845, 0.492555], abs=1e-6)


def without_relu(net):
    for name, layer in net.named_children():
        if isinstance(layer, nn.ReLU):
            setattr(net, name, nn.Identity())
    return net


def seen_by(image, maps, at):
    """First and last row and column that position (at, at) depends on, all those between included."""
    (gradient,) = torch.autograd.grad(maps[0, :, at, at].sum(), image, retain_graph=True)
    spans = []
    for other in (2, 1):
        lines = gradient[0].abs().amax(dim=(0, other)).nonzero().flatten().tolist()
        assert lines == list(range(lines[0], lines[-1] + 1))
        spans.append((lines[0], lines[-1]))
    return spans


@pytest.mark.parametrize(("kind", "side"), [("small", 256), ("medium", 128)])
def test_check_4_receptive_field(kind, side):
    image = torch.rand(1, 3, side, side, requires_grad=True)
    maps, last = without_relu(PDN(kind, 4))(image), side // 4 - 9
    for at in (0, 20, last):
        assert seen_by(image, maps, at) == [(4 * at, 4 * at + 32)] * 2
    assert seen_by(image, without_relu(PDN(kind, 4, padding=True))(image), 20) == [(64, 96)] * 2


@torch.inference_mode()
def test_check_4_the_last_three_lines_are_not_seen():
    net, image = PDN("small"), torch.rand(1, 3, 256, 256)
    before = net(image)
    image[..., 253:, :] = 9
    image[..., 253:] = 9
    assert torch.equal(net(image), before)
    image[..., 252] = 9
    assert not torch.equal(net(image), before)


@pytest.mark.parametrize(("kind", "side"), [("small", 256), ("medium", 128)])
@torch.inference_mode()
def test_check_5_padding_leaves_the_inner_values(kind, side):
    net, padded = PDN(kind), PDN(kind, padding=True)
    padded.load_state_dict(net.state_dict())
    image = torch.randn(1, 3, side, side)
    torch.testing.assert_close(padded(image)[..., 4:-4, 4:-4], net(image), rtol=0, atol=1e-5)


def macs(net, image):
    with FlopCounterMode(display=False) as counter:
        net(image)
    return counter.get_total_flops() // 2


def test_check_6_macs(meta):
    image = torch.empty(1, 3, 256, 256)
    found = [macs(PDN(kind, channels), image) for kind in KINDS for channels in (384, 768)]
    assert found == [15_310_903_296, 20_243_404_800, 52_029_927_424, 63_282_196_480]
    assert macs(Autoencoder(), image) == 2_392_981_504
    assert [macs(EfficientADStudent(kind), image) for kind in KINDS] == [22_636_386_304, 65_675_177_984]


@pytest.mark.parametrize(("kind", "side"), [("small", 256), ("medium", 128)])
@torch.inference_mode()
def test_check_15_half_a_head(kind, side):
    net, image = PDN(kind, 768), torch.randn(1, 3, side, side)
    whole = net(image)
    for part in (slice(0, 384), slice(384, 768)):
        assert torch.equal(net.head(image, part), whole[:, part])


def test_check_16_sizes(meta):
    nets = {padding: [PDN(kind, 1, padding) for kind in KINDS] for padding in (False, True)}
    for high in range(256, 700):
        sides = high, 955 - high
        image = torch.empty(1, 3, *sides)
        for padding, pdns in nets.items():
            sizes = tuple(math.ceil(side / 4) - (0 if padding else 8) for side in sides)
            assert tuple(pdn_size(side, padding) for side in sides) == sizes
            assert all(pdn(image).shape[-2:] == sizes for pdn in pdns)
    net = Autoencoder()
    sides = [256, 288, 320, 384, 480, 512]
    assert [net.encoder(torch.empty(1, 3, side, side)).shape[-1] for side in sides] == [1, 2, 3, 5, 8, 9]


@pytest.mark.parametrize("sides", [(256, 257), (263, 319), (512, 300)])
def test_the_autoencoder_follows_the_pdn(meta, sides):
    image = torch.empty(1, 3, *sides)
    for padding in (False, True):
        assert Autoencoder(5, padding)(image).shape == PDN("small", 5, padding)(image).shape


@torch.inference_mode()
def test_dropout_in_training_alone():
    net, image = Autoencoder(1), torch.randn(1, 3, 256, 256)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.2] * 6
    assert not torch.equal(net(image), net(image))
    net.eval()
    assert torch.equal(net(image), net(image))


def test_student_and_autoencoder_learn_from_each_other():
    """The gradient of mean((A - S2)^2) reaches both, and of the student only the half that is compared."""
    net = EfficientADStudent("small")
    _, student, autoencoder = net(torch.randn(1, 3, 256, 256))
    (autoencoder - student).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in net.autoencoder.parameters())
    last = net.pdn.conv4.bias.grad
    assert (last[:384] == 0).all() and (last[384:] != 0).all()


@torch.inference_mode()
def test_the_students_halves():
    net, image = EfficientADStudent("small").eval(), torch.randn(1, 3, 256, 256)
    first, second, autoencoder = net(image)
    assert torch.equal(net.local(image), first) and torch.equal(net.global_head(image), second)
    assert not torch.equal(first, second)
    assert torch.equal(net.autoencoder(image), autoencoder)
    assert first.shape == second.shape == autoencoder.shape == (1, 384, 56, 56)


def test_the_student_keeps_its_numbers():
    net, teacher = EfficientADStudent("small"), torch.randn(2, 384, 3, 3)
    assert torch.equal(net.normalised(teacher), teacher) and net.quantiles.tolist() == [[0, 1], [0, 1]]
    mean, std = channel_statistics([teacher])
    net.mean.copy_(mean.view_as(net.mean))
    net.std.copy_(std.view_as(net.std))
    again = EfficientADStudent("small")
    again.load_state_dict(net.state_dict())
    normalised = again.normalised(teacher)
    torch.testing.assert_close(normalised.mean(dim=(0, 2, 3)), torch.zeros(384), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.var(dim=(0, 2, 3), correction=0), torch.ones(384))


# What a PDN is distilled from


def embedding(channels, out=384):
    """A TargetFeatures for `embed` alone, whose backbone is none."""
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
def test_embedding_is_the_published_one(channels, out, size):
    maps = [torch.randn(2, channels[0], *size), torch.randn(2, channels[1], size[0] // 2, size[1] // 2)]
    torch.testing.assert_close(embedding(channels, out).embed(maps), reference(maps, out), rtol=1e-5, atol=1e-5)


def test_check_11_projection():
    maps = [torch.arange(512.0), 1000 + torch.arange(1024.0)]
    maps = [values.view(1, -1, 1, 1).expand(1, -1, n, n) for values, n in zip(maps, (8, 4), strict=True)]
    embed = embedding((512, 1024)).embed
    found = embed(maps)[0, :, 4, 4]
    expected = {0: 1.0, 1: 3.5, 2: 6.0, 191: 510.0, 192: 1002.5, 193: 1007.5, 383: 2020.5}
    assert {k: found[k].item() for k in expected} == pytest.approx(expected, rel=1e-5)
    bins = pooled(torch.arange(2048.0).view(1, -1, 1, 1), 384).flatten()  # what the reference of these tests pools with
    assert bins[:6].tolist() == [2.5, 7.5, 12.5, 18.5, 23.5, 28.5]
    assert bins[[191, 192, 383]].tolist() == [1020.5, 1026.5, 2044.5]
    alone = embed([maps[0], torch.zeros_like(maps[1])])[0, :, 4, 4]
    assert torch.equal(alone[:192], found[:192]) and (alone[192:] == 0).all()


def test_channels_that_fit_are_kept():
    """Levels of a ResNet-18: each channel's mean over 3 x 3, zeros beyond the border counted."""
    maps = [torch.randn(2, 128, 8, 6), torch.randn(2, 256, 4, 3)]
    shallow, deep = (F.avg_pool2d(level, 3, stride=1, padding=1) for level in maps)
    expected = torch.cat([shallow, resize(deep, (8, 6))], dim=1)
    torch.testing.assert_close(embedding((128, 256)).embed(maps), expected)


@torch.inference_mode()
def test_embedding_of_a_backbone():
    net = TargetFeatures(Features("resnet18", [2, 3])).eval()
    image = torch.rand(1, 3, 512, 512)
    maps = net(image)
    assert maps.shape == (1, 384, 64, 64)
    assert torch.equal(maps, net.embed(net.features(image)))
    assert all(key.startswith("features.") for key in net.state_dict())  # fixed weights are not saved


def test_embedding_of_wrong_levels():
    with pytest.raises(UserError, match=r"'resnet18' have \[4, 8\]"):
        TargetFeatures(outline("resnet18", [1, 2]))


# Weight files


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
def test_weight_files_of_every_layout(tmp_path, kind, indices):
    tensors = ours(kind)
    save_file(tensors, tmp_path / "ours.safetensors")
    assert_loads(kind, tmp_path / "ours.safetensors", tensors)
    torch.save(nelsons(tensors, indices), tmp_path / "nelson.pth")
    assert_loads(kind, tmp_path / "nelson.pth", tensors)
    half = {key: tensor.half() for key, tensor in tensors.items()}
    torch.save({"state_dict": {f"model.teacher.{key}": tensor for key, tensor in half.items()}}, tmp_path / "half.pth")
    assert_loads(kind, tmp_path / "half.pth", half)


NAMES = "weight", "bias"


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
def test_wrong_weight_files(tmp_path, how, words):
    path = tmp_path / "file.safetensors"
    save_file(spoil(ours("small"), how), path)
    net = PDN("small")
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(UserError, match=rf"file\.safetensors is no small PDN of 384 channels: .*{words}"):
        load_pdn(net, path)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


# Losses, maps and statistics


def test_check_7_hard_loss():
    assert hard_feature_loss(torch.arange(1.0, 1001)).item() == 1000
    assert hard_feature_loss(torch.arange(10_001.0)).item() == 9995
    for side, kept in ((56, 1205), (64, 1573)):
        n = 384 * side * side
        values = torch.randperm(n).view(1, 384, side, side).double().requires_grad_()
        loss = hard_feature_loss(values)
        loss.backward()
        assert (values.grad > 0).sum() == kept and loss.item() == pytest.approx(n - (kept + 1) / 2, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 999, 1000, 1001, 1002, 2000, 2001, 3001, 12_345])
def test_hard_loss_is_the_quantile_and_mask(n):
    values = torch.randperm(n).double()
    bound = np.quantile(np.arange(n), 0.999)
    expected = values[values >= bound - 1e-6].mean()  # a whole rank may come out of numpy a little above itself
    assert hard_feature_loss(values).item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_hard_loss_of_more_elements_than_a_quantile_takes():
    """torch.quantile stops at 2^24 elements in many versions: those of three images of 512 px."""
    n = 2**24 + 1000
    values = torch.zeros(n)
    kept = n - math.ceil(0.999 * (n - 1))
    values[-kept:] = 5
    assert hard_feature_loss(values).item() == 5
    values[-1] = 0
    assert 0 < 5 - hard_feature_loss(values).item() < 1e-3


def test_check_9_calibrated_maps():
    quantiles = torch.tensor([2.0, 6.0])
    values = calibrated(torch.tensor([[2.0, 6.0], [10.0, 0.0]]), quantiles)
    torch.testing.assert_close(values, torch.tensor([[0, 0.1], [0.2, -0.05]]))
    local, context = calibrated(torch.tensor(10.0), quantiles), calibrated(torch.tensor(2.0), quantiles)
    assert (0.5 * local + 0.5 * context).item() == pytest.approx(0.1)
    flat = calibrated(torch.tensor([3.0, 3.5]), torch.tensor([3.0, 3.0]))  # quantiles of a map that is constant
    assert flat.isfinite().all() and flat[0] == 0 and flat[1] > 0


def test_check_10_pad_and_resize():
    maps = torch.zeros(1, 1, 56, 56)
    maps[..., 10, 20] = 1
    peak = resize(F.pad(maps, [4] * 4), (256, 256))[0, 0]
    assert peak.max().item() == 0.765625 and peak.sum().item() == pytest.approx(16)
    assert (peak == peak.max()).nonzero().tolist() == [[row, column] for row in (57, 58) for column in (97, 98)]
    row = resize(F.pad(torch.ones(1, 1, 56, 56), [4] * 4), (256, 256))[0, 0, 128]
    assert row[:20].tolist() == [0] * 14 + [0.125, 0.375, 0.625, 0.875, 1, 1]


def test_check_13_channel_statistics():
    mean, std = channel_statistics(torch.full((1, 2, 4, 4), value) for value in (1.0, 3.0))
    assert mean.tolist() == [2, 2] and std.tolist() == [1, 1] and std.dtype == torch.float64


def test_channel_statistics_of_small_deviations_and_uneven_chunks():
    """In float32, mean squares minus squared means would be 0 or negative here."""
    values = (1e4 + 0.01 * torch.arange(7 * 3 * 5 * 5)).view(7, 3, 5, 5)
    values[:, 2] = 0.25  # a dead channel
    mean, std = channel_statistics(values.split([1, 4, 2]))
    exact = values.numpy().astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), exact.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std[:2].numpy(), exact.std(axis=(0, 2, 3))[:2], rtol=1e-9)
    assert std[2].item() == 1e-6


def test_channel_statistics_of_half_precision():
    values = torch.full((1, 1, 300, 300), 300.0, dtype=torch.float16)  # whose squares and sums float16 cannot hold
    values[..., ::2] = 302
    mean, std = channel_statistics([values, values])
    assert (mean.item(), std.item()) == (301, 1)


# Colour changes


def normalised(pixels):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def test_jitter_makes_one_change_of_three(monkeypatch):
    calls = []

    def recorded(k):
        def change(pixels, factor):
            calls.append((k, factor))
            return CHANGES[k](pixels, factor)

        return change

    monkeypatch.setattr("utils.efficientad.CHANGES", [recorded(k) for k in range(3)])
    rng, image = np.random.default_rng(3), normalised(torch.rand(1, 3, 4, 4))
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
        changed = jitter(normalised(pixels), Fixed(which, factor))
        torch.testing.assert_close(changed, normalised(expected), rtol=1e-4, atol=1e-4)


def test_jitter_takes_pixels_beyond_white_for_white():
    """As resizing may make them; a weaker colour would else come back out of range."""
    changed = jitter(normalised(torch.full((1, 3, 2, 2), 1.5)), Fixed(0, 0.9))
    torch.testing.assert_close(changed, normalised(torch.full((1, 3, 2, 2), 0.9)))
