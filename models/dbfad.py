"""The networks of DBFAD (Thomine & Snoussi, Textile Research Journal 2024): pooled teacher and residual student."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from models.blocks import BASIC, StudentPlan, init_convolutions
from models.sspcab import SSPCAB, prediction_loss
from models.teachers.features import Features
from utils.errors import UserError


class PooledFeatures(nn.Module):
    """A backbone's pooled stem and its next three levels: [B,3,H,W] -> maps of strides 4, 4, 8 and 16.

    Levels of strides 4, 8, 16 and 32, for networks without a level of stride 2, give maps of twice these strides.
    Raises UserError for other levels.
    """

    def __init__(self, features: Features):
        super().__init__()
        if features.reduction not in ([2, 4, 8, 16], [4, 8, 16, 32]):
            raise UserError(
                f"out_indice: this method needs levels of strides 2, 4, 8 and 16 ([0, 1, 2, 3] of a ResNet) "
                f"or 4, 8, 16 and 32, but these of '{features.backbone}' have {features.reduction}"
            )
        self.features, self.channels = features, features.channels

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        stem, *deeper = self.features(image)
        # timm's level 0 is the stem before the ResNet's max-pooling; the method's first level comes after it.
        return [F.max_pool2d(stem, kernel_size=3, stride=2, padding=1), *deeper]


class WidthAttention(nn.Module):
    """A convolution's maps times their softmax along each row: [B,C,h,w] -> same shape, values about 1/w as large."""

    def __init__(self, embed: nn.Module, weigh: nn.Module):
        super().__init__()
        self.embed, self.weigh = embed, weigh

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.embed(x)
        return maps * self.weigh(maps).softmax(dim=-1)  # only along the width, as published


class DBFADStudent(nn.Module):
    """Fuses the teacher's four maps and decodes them with links from one level up: maps -> maps of the same shapes.

    `teacher` are the channels of the maps, of strides 4, 4, 8 and 16. The image's sides are multiples of 32, at least
    96: from 64 pixels, SSPCAB would get 2 positions and read only padding. `residual=False` removes the links, for
    fabrics that are not in the training data (domain generalisation).
    """

    def __init__(self, teacher: Sequence[int], residual: bool = True, plan: StudentPlan = BASIC):
        super().__init__()
        (t0, t1, t2, t3), (c0, c1, c2, c3) = teacher, plan.channels(teacher)
        self.shrink = nn.ModuleList(
            [
                nn.Sequential(_conv_relu_norm(t0, c2, 1, 2), _conv_relu_norm(c2, c3, 1, 2)),
                nn.Sequential(_conv_relu_norm(t1, c2, 1, 2), _conv_relu_norm(c2, c3, 1, 2)),
                _conv_relu_norm(t2, c3, 1, 2),
                _conv_relu_norm(t3, c3, 1),
            ]
        )
        self.points = nn.Sequential(
            _conv_relu_norm(c3, c3, 1), _conv_relu_norm(c3, c3, 1), _conv_relu_norm(c3, 2 * c3, 1, 2)
        )
        self.sspcab = SSPCAB(2 * c3)
        self.attention = _embedding_attention(2 * c3)
        self.links = nn.ModuleList([_link(t0, c1, 1), _link(t1, c2, 2), _link(t2, c3, 2)] if residual else [])
        self.stages = nn.ModuleList(plan.stage(a, b, 2, "up") for a, b in [(2 * c3, c3), (c3, c2), (c2, c1)])
        self.stages.append(plan.stage(c1, c0, 2, "same"))
        init_convolutions(self)
        self.leave = plan.leave(teacher)[::-1]

    def forward(self, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.forward_with_loss(teacher)[0]

    def forward_with_loss(self, teacher: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(maps, the SSPCAB's self-supervised loss, a scalar)."""
        embedding = self.points(sum(shrink(maps) for shrink, maps in zip(self.shrink, teacher, strict=True)))
        restored = self.sspcab(embedding)
        x = self.attention(restored)
        links = [link(maps) for link, maps in zip(self.links, teacher, strict=False)]  # the deepest level has none
        outputs = []
        for stage, leave in zip(self.stages, self.leave, strict=True):
            x = stage(x)
            if links:
                x = x + links.pop()  # added after the stage's ReLU: the sum is compared and decoded further
            outputs.append(leave(x))
        return outputs[::-1], prediction_loss(embedding, restored)


def _conv_relu_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, ReLU, then norm, as published: the output may be negative."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.ReLU(inplace=True), nn.BatchNorm2d(outputs))


def _embedding_attention(channels: int) -> WidthAttention:
    embed, weigh = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
    return WidthAttention(nn.Sequential(embed, nn.ReLU(inplace=True)), weigh)


def _link(inputs: int, outputs: int, pool: int) -> nn.Sequential:
    """From a level to the output of the next: [B,inputs,h,w] -> [B,outputs,h/pool,w/pool]."""
    embed, hidden, weigh = (nn.Conv2d(outputs, outputs, 1) for _ in range(3))
    attention = WidthAttention(
        nn.Sequential(embed, nn.ReLU(inplace=True)), nn.Sequential(hidden, nn.ReLU(inplace=True), weigh)
    )
    shrink = nn.AvgPool2d(pool) if pool > 1 else nn.Identity()
    return nn.Sequential(_conv_relu_norm(inputs, outputs, 3), shrink, attention)
