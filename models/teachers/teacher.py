"""The teacher of a detector: a frozen network with the image normalisation that its weights were trained with."""

from collections.abc import Sequence
from typing import NamedTuple

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg
from torch import nn


class Frozen(nn.Module):
    """A module without gradients that always stays in eval mode."""

    def train(self, mode: bool = True):
        return super().train(False)  # a parent's .train() must not change it


class Statistics(NamedTuple):
    """Mean and standard deviation of each colour of RGB images in [0, 1], as used to train the weights."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Statistics(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def pretrained_cfg(backbone: str) -> PretrainedCfg | None:
    """timm's entry for the weights of a tag; None for an unknown tag."""
    try:
        return timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    except RuntimeError:
        return None


def tag_statistics(backbone: str) -> Statistics:
    """The statistics of a timm tag's weights; ImageNet's if timm has none."""
    cfg = pretrained_cfg(backbone)
    return IMAGENET if cfg is None else Statistics(tuple(cfg.mean), tuple(cfg.std))


class Normalise(nn.Module):
    """Normalise images: [B,3,H,W] in [0,1] -> (image - mean) / std for each colour, float32."""

    def __init__(self, statistics: Statistics):
        super().__init__()
        self.register_buffer("mean", torch.tensor(statistics.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(statistics.std).view(3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image - self.mean) / self.std


class Teacher(Frozen):
    """RGB images [B,3,H,W] in [0,1] -> maps L x [B,C_l,h_l,w_l], shallow to deep.

    `net` computes the maps of normalised images. `weights` is the value of the key `weights` that gives these weights,
    `package` the pip package (name and version) that they come from, if any.
    A student that reads images must use `normalise`, as the teacher does.
    """

    def __init__(self, backbone: str, net: nn.Module, statistics: Statistics, weights: str, package: str | None = None):
        super().__init__()
        self.backbone, self.weights, self.statistics, self.package = backbone, weights, statistics, package
        self.normalise = Normalise(statistics)
        self.net = net
        self.requires_grad_(False)
        self.train(False)

    @property
    def channels(self) -> Sequence[int]:
        return self.net.channels

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return self.net(self.normalise(image))


class TeacherPair(Frozen):
    """Two teachers, each with its own normalisation: [B,3,H,W] in [0,1] -> maps of the first, then of the second."""

    def __init__(self, first: Teacher, second: Teacher):
        super().__init__()
        self.first, self.second = first, second
        self.train(False)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [*self.first(image), *self.second(image)]
