"""MixedTeacher's shallow pair, as in its code (github.com/SimonThomine/MixedTeacher, a99e28f)."""

import pytest
import torch
from torch import nn

from models.mixed import HalvedFeatures, ReducedResNet
from models.teachers.features import Features
from tests.unit_fill import unit_fill


@pytest.mark.parametrize("size", [(100, 76), (33, 65), (200, 72)])
def test_odd_sizes_fit_too(size):
    image = torch.rand(1, 3, *size)
    teacher, student = HalvedFeatures(Features("resnet18", [1, 2])).eval(), ReducedResNet([1, 2]).eval()
    assert [m.shape for m in teacher(image)] == [m.shape for m in student(image)]


@torch.inference_mode()
def test_values_of_the_unit_filled_student():
    maps = unit_fill(ReducedResNet([1, 2]))(torch.ones(1, 3, 256, 256))
    expected = [(1.934356, 1.999976), (3.676733, 3.999918)]
    for level, (mean, centre) in zip(maps, expected, strict=True):
        middle = level.shape[-1] // 2
        assert level.mean().item() == pytest.approx(mean, rel=1e-4)
        assert level[0, 0, middle, middle].item() == pytest.approx(centre, rel=1e-4)


class Known(nn.Module):
    """Features with one level of 3 x 3 positions."""

    channels = [1]

    def forward(self, image):
        return [torch.arange(9.0).view(1, 1, 3, 3)]


def test_half_windows_at_the_border_are_averaged_over_what_is_there():
    (halved,) = HalvedFeatures(Known())(None)
    assert halved.tolist() == [[[[2.0, 3.5], [6.5, 8.0]]]]
