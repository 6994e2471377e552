"""The teacher stays frozen, and normalises with the statistics of its own weights."""

import pytest
import timm
import torch
from torch import nn

from models.teachers.features import Features
from models.teachers.teacher import Statistics, Teacher, TeacherPair
from models.teachers.weights import Source, build_teacher

TAGS = ["resnet50_clip.openai", "tf_efficientnet_lite0.in1k", "resnet18.tv_in1k"]
LEVELS = [1, 2]
RANDOM = Source("random", None)


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def teachers():
    return {tag: build_teacher(tag, LEVELS, RANDOM, seed=0) for tag in TAGS}


def by_hand(image, mean, std):
    return (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_these_tags_have_three_kinds_of_statistics():
    assert len({timm.get_pretrained_cfg(tag).mean for tag in TAGS}) == 3


@pytest.mark.parametrize("tag", TAGS)
def test_a_teacher_normalises_with_the_statistics_of_its_tag(teachers, tag, image):
    cfg, teacher = timm.get_pretrained_cfg(tag), teachers[tag]
    expected = by_hand(image, cfg.mean, cfg.std)
    assert teacher.statistics == (cfg.mean, cfg.std)
    torch.testing.assert_close(teacher.normalise(image), expected)
    for maps, wanted in zip(teacher(image), teacher.net(expected), strict=True):
        torch.testing.assert_close(maps, wanted)


def test_each_of_a_pair_normalises_for_itself(teachers, image):
    first, second = teachers[TAGS[1]], teachers[TAGS[2]]
    maps, alone = TeacherPair(first, second)(image), [*first(image), *second(image)]
    assert len(maps) == 4 and all(torch.equal(a, b) for a, b in zip(maps, alone, strict=True))


def test_statistics_travel_with_the_network(teachers):
    """As buffers, so that a copy on another device or in a file normalises in the same way."""
    assert {"normalise.mean", "normalise.std"} <= set(teachers[TAGS[0]].state_dict())


@pytest.mark.parametrize("wrap", [lambda teacher: teacher, lambda teacher: TeacherPair(teacher, teacher)])
def test_a_teacher_stays_frozen(wrap, image):
    """A parent's .train() has no effect on it: neither weights nor running statistics change."""
    parent = nn.Module()
    net = Features("resnet18", LEVELS)
    parent.teacher = wrap(Teacher("resnet18", net, Statistics((0.5,) * 3, (0.5,) * 3), "random"))
    before = {key: value.clone() for key, value in parent.state_dict().items()}
    parent.train()
    maps = parent.teacher(image)
    assert not any(m.training for m in parent.teacher.modules())
    assert not any(p.requires_grad for p in parent.teacher.parameters())
    assert not any(m.requires_grad for m in maps)
    assert all(torch.equal(value, before[key]) for key, value in parent.state_dict().items())


def test_a_student_may_learn_from_a_teachers_maps(teachers, image):
    """Autograd refuses inference tensors; a student that reads the teacher's maps needs normal ones."""
    maps = teachers[TAGS[2]](image)
    conv = nn.Conv2d(64, 1, 1)
    conv(maps[0]).sum().backward()
    assert conv.weight.grad is not None
