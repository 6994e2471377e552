"""DBFAD's networks: sizes and values of the authors' code (SimonThomine/DBFAD), and common mistakes."""

import pytest
import torch
from torch import nn

from models.dbfad import DBFADStudent, PooledFeatures, WidthAttention
from models.teachers.features import Features
from tests.conftest import count
from tests.unit_fill import unit_fill
from utils.errors import UserError

CHANNELS = [64, 64, 128, 256]  # of a ResNet-34's stem and first three layers
RESNET50 = [64, 256, 512, 1024]
SMALL = [8, 8, 16, 32]


def level_sizes(height, width):
    return [(height // s, width // s) for s in (4, 4, 8, 16)]


# The public code's values with `unit_fill` are float32's, whose sixth digit depends on the number of threads: these
# tests compute in float64, which is up to 5.1e-6 away from them.
FLOAT32 = 1e-5


def ones(height=256, width=256, channels=CHANNELS, dtype=torch.float32):
    return [torch.ones(1, c, *size, dtype=dtype) for c, size in zip(channels, level_sizes(height, width), strict=True)]


def centre(maps):
    return maps[0, 0, maps.shape[2] // 2, maps.shape[3] // 2].item()


@pytest.fixture(scope="module")
def meta():
    with torch.device("meta"):
        return DBFADStudent(CHANNELS)


@pytest.fixture(scope="module")
def unit():
    return unit_fill(DBFADStudent(CHANNELS).double())


@pytest.mark.parametrize(("residual", "total"), [(True, 10_800_256), (False, 10_134_464)])
def test_the_students_parameters(residual, total):
    with torch.device("meta"):
        assert count(DBFADStudent(CHANNELS, residual)) == total


def test_the_parameters_of_its_parts(meta):
    counts = {name: [count(part) for part in getattr(meta, name)] for name in ("shrink", "links", "stages")}
    assert counts == {
        "shrink": [41_728, 41_728, 33_280, 66_048],
        "links": [49_472, 123_520, 492_800],
        "stages": [2_820_608, 705_792, 176_768, 147_968],
    }
    assert (count(meta.points) + count(meta.sspcab), count(meta.sspcab)) == (1_380_928, 1_116_736)
    assert (count(meta.attention), count(meta.links[0][2])) == (4_719_616, 12_480)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
def test_the_students_maps_have_the_teachers_shapes(size, residual):
    with torch.device("meta"):
        teacher = ones(*size)
        student = DBFADStudent(CHANNELS, residual)
        assert [m.shape for m in student(teacher)] == [m.shape for m in teacher]
        fused = student.shrink[3](teacher[3])
        assert student.points(fused).shape == (1, 512, size[0] // 32, size[1] // 32)


def test_a_bottleneck_resnets_levels_are_taken_too():
    with torch.device("meta"):
        teacher = ones(64, 64, RESNET50)
        assert [m.shape for m in DBFADStudent(RESNET50)(teacher)] == [m.shape for m in teacher]


@torch.inference_mode()
def test_the_embedding_with_known_weights(unit):
    fused = sum(shrink(maps) for shrink, maps in zip(unit.shrink, ones(dtype=torch.float64), strict=True))
    points = unit.points(fused)
    assert (fused.mean().item(), points.mean().item()) == pytest.approx((3.999970, 3.999916), rel=FLOAT32)
    restored = unit.sspcab(points)
    values = [restored.mean().item(), centre(restored), restored[0, 0, 0, 0].item()]
    assert values == pytest.approx([8.998719, 15.997725, 3.999431], rel=FLOAT32)
    attended = unit.attention(restored)
    assert (attended.mean().item(), centre(attended)) == pytest.approx((1.354793, 6.703747), rel=FLOAT32)


@torch.inference_mode()
def test_the_links_with_known_weights(unit):
    maps = [link(level) for link, level in zip(unit.links, ones(dtype=torch.float64), strict=False)]
    assert [m.mean().item() for m in maps] == pytest.approx([0.015345, 0.030649, 0.060094], abs=5e-7)
    assert [centre(m) for m in maps] == pytest.approx([1 / 64, 1 / 32, 1 / 16], rel=0.02)


@torch.inference_mode()
def test_the_maps_with_known_weights(unit):
    means = [m.mean().item() for m in unit(ones(dtype=torch.float64))]
    assert means == pytest.approx([337.636841, 84.698387, 21.242506, 5.352558], rel=FLOAT32)


@torch.inference_mode()
def test_the_maps_with_known_weights_without_links():
    means = [
        m.mean().item() for m in unit_fill(DBFADStudent(CHANNELS, residual=False).double())(ones(dtype=torch.float64))
    ]
    assert means == pytest.approx([333.519348, 83.653206, 20.981102, 5.292464], rel=FLOAT32)


def test_attention_of_zero_weights_divides_by_the_width():
    attention = DBFADStudent(SMALL).links[0][2]
    embed, weigh = attention.embed[0], [m for m in attention.weigh if isinstance(m, nn.Conv2d)]
    assert len(weigh) == 2
    for conv in weigh:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    x = torch.randn(2, 8, 4, 16)
    assert torch.equal(attention(x), embed(x).relu() / 16)


def test_the_attentions_softmax_runs_along_the_width():
    attention = WidthAttention(nn.Identity(), nn.Identity())
    x = torch.randn(2, 3, 4, 6)
    rows = attention(x) / x
    torch.testing.assert_close(rows.sum(dim=3), torch.ones(2, 3, 4))


def test_initial_weights_are_kaiming_normal_but_for_transposed_convolutions():
    torch.manual_seed(0)
    student = DBFADStudent(CHANNELS)
    convs = [m for m in student.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        expected = (2 / (conv.out_channels * conv.kernel_size[0] ** 2)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)
    plain = student.stages[1][1].main[0][0]
    assert plain.weight.shape == (128, 128, 3, 3) and plain.weight.std().item() == pytest.approx(0.041667, rel=0.01)
    deconv = student.stages[1][0].main[0][0]
    assert deconv.weight.shape == (256, 128, 2, 2) and 0.0441 < deconv.weight.abs().max().item() <= 0.044194 + 1e-6


def test_norm_follows_the_relu():
    """In training mode a norm at the end leaves maps of mean zero; a ReLU at the end would not."""
    student = DBFADStudent(SMALL)
    for part, channels in [*zip(student.shrink, SMALL, strict=True), (student.links[0][0], 8)]:
        maps = part(torch.randn(4, channels, 16, 16))
        assert maps.mean(dim=(0, 2, 3)).abs().max() < 1e-5 and maps.min() < 0


def test_links_are_added_after_the_relu_and_decoded_further():
    torch.manual_seed(0)
    student = DBFADStudent(SMALL).eval()
    teacher = [torch.randn(1, c, *size) for c, size in zip(SMALL, level_sizes(96, 96), strict=True)]
    x0, x1, x2, _ = teacher
    f0, f1, f2, f3 = student(teacher)
    torch.testing.assert_close(f2, student.stages[1](f3) + student.links[1](x1))
    torch.testing.assert_close(f1, student.stages[2](f2) + student.links[0](x0))
    torch.testing.assert_close(f0, student.stages[3](f1))
    fused = sum(shrink(x) for shrink, x in zip(student.shrink, teacher, strict=True))
    embedding = student.attention(student.sspcab(student.points(fused)))
    torch.testing.assert_close(f3, student.stages[0](embedding) + student.links[2](x2))


def test_every_parameter_learns_but_four():
    """A softmax ignores a constant, so the last bias of each attention learns nothing (as in the public code)."""
    torch.manual_seed(0)
    student = DBFADStudent(SMALL)
    teacher = [torch.randn(2, c, *size) for c, size in zip(SMALL, level_sizes(96, 96), strict=True)]
    sum((m - torch.randn_like(m)).square().mean() for m in student(teacher)).backward()
    silent = {name for name, p in student.named_parameters() if p.grad.abs().max() < 1e-6}
    assert silent == {"attention.weigh.bias", *(f"links.{k}.2.weigh.2.bias" for k in range(3))}


def test_the_teachers_first_level_is_the_pooled_stem():
    features = Features("resnet34", [0, 1, 2, 3]).eval()
    teacher = PooledFeatures(features).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        maps, plain = teacher(image), features(image)
        entrance = features.net["maxpool"](plain[0])
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, *size) for c, size in zip(CHANNELS, level_sizes(64, 96), strict=True)
    ]
    assert teacher.channels == CHANNELS
    assert torch.equal(maps[0], entrance)  # what a ResNet's first layer reads
    assert all(torch.equal(a, b) for a, b in zip(maps[1:], plain[1:], strict=True))


@pytest.mark.parametrize(("backbone", "levels"), [("resnet18", [1, 2, 4]), ("resnet18", [0, 1, 2])])
def test_a_teacher_of_other_levels_is_refused(backbone, levels):
    with pytest.raises(UserError, match=r"out_indice.*2, 4, 8 and 16.*'resnet18' have"):
        PooledFeatures(Features(backbone, levels))
