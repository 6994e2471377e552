"""Residual blocks that halve, keep or double the size of a map, and the structure of students that mirror a teacher."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from models.sspcab import SSPCAB, prediction_loss
from models.teachers.features import outline
from utils.errors import UserError

Resample = Literal["down", "same", "up"]
Widths = Sequence[int] | Literal["auto"] | None


class Residual(nn.Module):
    """ReLU(main path + shortcut) (He et al., CVPR 2016)."""

    def __init__(self, main: nn.Module, skip: nn.Module):
        super().__init__()
        self.main, self.skip = main, skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.main(x) + self.skip(x))


class PredictiveResidual(nn.Module):
    """A residual block whose second-to-last convolution is replaced by an SSPCAB; made of the parts of `block`."""

    def __init__(self, block: Residual):
        super().__init__()
        *before, (conv, norm), relu, last = block.main  # the layout that StudentPlan.block gives
        self.before = nn.Sequential(*before)
        self.sspcab = SSPCAB(conv.out_channels)
        self.after = nn.Sequential(norm, relu, last)
        self.skip = block.skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_with_loss(x)[0]

    def forward_with_loss(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(the block's output, the SSPCAB's self-supervised loss, a scalar)."""
        inputs = self.before(x)
        output = self.sspcab(inputs)
        return F.relu(self.after(output) + self.skip(x)), prediction_loss(inputs, output)


class StudentPlan(NamedTuple):
    """The structure of a student that mirrors its teacher.

    A ResNet's student is built like it. Other teachers have few channels, or values of both signs: their students are
    built like a ResNet-18, with their own channels, and 1 x 1 convolutions translate between both.
    """

    depths: tuple[int, ...]  # blocks of layer1 to layer4
    width: float | None  # a bottleneck block's inner channels per output channel; None: basic blocks
    inner: tuple[int, ...] | None = None  # the student's channels at each level; None: the teacher's

    def channels(self, teacher: Sequence[int]) -> list[int]:
        """The student's channels at each level, of the teacher's."""
        return list(self.inner or teacher)

    def enter(self, teacher: Sequence[int]) -> nn.ModuleList:
        """For each level, a layer from the teacher's channels to the student's: [B,C_t,h,w] -> [B,C_s,h,w]."""
        if self.inner is None:
            return nn.ModuleList(nn.Identity() for _ in teacher)
        return nn.ModuleList(_conv(*pair, 1) for pair in zip(teacher, self.inner, strict=True))

    def leave(self, teacher: Sequence[int]) -> nn.ModuleList:
        """For each level, a layer from the student's channels to the teacher's; its outputs may be negative."""
        if self.inner is None:
            return nn.ModuleList(nn.Identity() for _ in teacher)
        return nn.ModuleList(nn.Conv2d(*pair, 1) for pair in zip(self.inner, teacher, strict=True))

    def stage(self, inputs: int, outputs: int, depth: int, resample: Resample) -> nn.Sequential:
        """`depth` blocks, the first of which changes size and channels: [B,inputs,h,w] -> [B,outputs,h',w']."""
        first, rest = (inputs, outputs, resample), (outputs, outputs, "same")
        return nn.Sequential(*(self.block(*(rest if k else first)) for k in range(depth)))

    def block(self, inputs: int, outputs: int, resample: Resample) -> Residual:
        if self.width is None:
            layers = [_sized(inputs, outputs, resample), nn.ReLU(inplace=True), _conv(outputs, outputs, 3)]
        else:  # the middle convolution changes the size, as in torchvision ("v1.5")
            inner = int(outputs * self.width)
            layers = [_conv(inputs, inner, 1), nn.ReLU(inplace=True), _sized(inner, inner, resample)]
            layers += [nn.ReLU(inplace=True), _conv(inner, outputs, 1)]
        return Residual(nn.Sequential(*layers), _skip(inputs, outputs, resample))


BASIC = StudentPlan((2, 2, 2, 2), None)  # ResNet-18


def student_plan(backbone: str, out_indice: Sequence[int], widths: Widths = "auto") -> StudentPlan:
    """The structure of a student for these levels of a timm network.

    `widths` are the student's channels at each level, if the teacher is no ResNet; None: a ResNet-18's; auto: the
    teacher's rounded up to a power of two, where these are fewer. Raises UserError if they do not fit.
    """
    with torch.device("meta"):  # shapes only, no memory
        net = timm.create_model(backbone, pretrained=False)
    stages = [getattr(net, f"layer{k}", None) for k in (1, 2, 3, 4)]
    if any(stage is None or not isinstance(stage[0], BasicBlock | Bottleneck) for stage in stages):
        shapes = outline(backbone, out_indice)
        resnet18 = [16 * stride for stride in shapes.reduction]  # 64 at stride 4
        if widths == "auto":
            widths = [min(w, 1 << (c - 1).bit_length()) for w, c in zip(resnet18, shapes.channels, strict=True)]
        elif widths and len(widths) != len(out_indice):
            raise UserError(f"TrainingData.widths {list(widths)}: give one for each level of out_indice {out_indice}")
        return BASIC._replace(inner=tuple(widths or resnet18))
    if widths and widths != "auto":
        raise UserError(
            f"TrainingData.widths: a ResNet's student ('{backbone}') has the teacher's channels; leave this key out"
        )
    block = stages[0][0]
    width = block.conv1.out_channels / block.conv3.out_channels if isinstance(block, Bottleneck) else None
    return StudentPlan(tuple(map(len, stages)), width)


def stem() -> nn.Sequential:
    """The first layers of a ResNet: [B,3,H,W] -> [B,64,H/4,W/4]."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    )


def init_convolutions(net: nn.Module) -> None:
    """Kaiming-normal (fan out) for every Conv2d, as in the published codes; transposed ones keep PyTorch's default."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def halving(inputs: int, outputs: int) -> nn.Sequential:
    """3 x 3 convolution of stride 2 with batch norm: [B,inputs,h,w] -> [B,outputs,h/2,w/2]."""
    return _sized(inputs, outputs, "down")


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _doubling(inputs: int, outputs: int) -> nn.Sequential:
    deconv = nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False)
    return nn.Sequential(deconv, nn.BatchNorm2d(outputs))


def _sized(inputs: int, outputs: int, resample: Resample) -> nn.Sequential:
    if resample == "up":
        return _doubling(inputs, outputs)
    return _conv(inputs, outputs, 3, 2 if resample == "down" else 1)


def _skip(inputs: int, outputs: int, resample: Resample) -> nn.Module:
    if resample == "up":
        return _doubling(inputs, outputs)
    if resample == "same" and inputs == outputs:
        return nn.Identity()
    return _conv(inputs, outputs, 1, 2 if resample == "down" else 1)
