"""The trainable half of reverse distillation: a bottleneck that merges the teacher's levels, and a decoder."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from models.blocks import PredictiveResidual, StudentPlan, Widths, halving, init_convolutions, student_plan
from models.teachers.features import outline
from utils.errors import UserError

if TYPE_CHECKING:
    from models.memory import NormalityMemory


def mirrored(
    backbone: str, out_indice: Sequence[int], size: Sequence[int], key: str, widths: Widths = "auto"
) -> StudentPlan:
    """The structure of the student of a teacher. Raises UserError unless backbone, levels and image size allow one.

    `key` is the key that sets the size.
    """
    shapes, plan = outline(backbone, out_indice), student_plan(backbone, out_indice, widths)
    if len(out_indice) > len(plan.depths):
        raise UserError(f"out_indice: this method takes up to {len(plan.depths)} levels (got {list(out_indice)})")
    shapes.check_neighbours()
    shapes.check_multiple(size, key)
    return plan


class Bottleneck(nn.Module):
    """One-class bottleneck embedding, MFF then OCE (Deng & Li, CVPR 2022, section 3.2).

    Teacher's maps L x [B,C_l,h_l,w_l], each level half the size of the one before -> [B,embedding,h_L/2,w_L/2].
    """

    # The published class also has a 1x1 convolution and its norm (conv4, bn4) that no forward pass uses.
    # They are left out: for wide_resnet50_2 there are 58,885,120 parameters instead of 67,277,824.

    def __init__(self, plan: StudentPlan, teacher: Sequence[int], embedding: int | None = None):
        super().__init__()
        channels = plan.channels(teacher)
        self.enter = plan.enter(teacher)
        self.shrink = nn.ModuleList(
            nn.Sequential(*(_halving_relu(a, b) for a, b in zip(channels[k:], channels[k + 1 :], strict=False)))
            for k in range(len(channels))  # nothing to do for the last
        )
        merged = channels[-1] * len(channels)
        self.embed = plan.stage(merged, embedding or 2 * channels[-1], plan.depths[-1], "down")
        init_convolutions(self)

    def forward(self, teacher: list[torch.Tensor]) -> torch.Tensor:
        entered = (enter(maps) for enter, maps in zip(self.enter, teacher, strict=True))
        return self.embed(torch.cat([shrink(maps) for shrink, maps in zip(self.shrink, entered, strict=True)], dim=1))


class Decoder(nn.Module):
    """A ResNet in reverse: embedding [B,2*C_L,h,w] -> maps of the teacher's shapes, shallow to deep.

    For a ResNet the maps are outputs of residual blocks, as the teacher's are, and never negative. `memories` by stage
    (0 reads the embedding) read the map compared with the teacher before it, and the stage reads their output too.
    With `sspcab` an SSPCAB replaces the second-to-last convolution.
    """

    def __init__(
        self,
        plan: StudentPlan,
        teacher: Sequence[int],
        memories: Mapping[int, "NormalityMemory"] = {},
        sspcab: bool = False,
        embedding: int | None = None,
    ):
        super().__init__()
        outputs = plan.channels(teacher)[::-1]
        inputs = [embedding or 2 * outputs[0], *outputs[:-1]]
        inputs = [c + (memories[k].channels if k in memories else 0) for k, c in enumerate(inputs)]
        # Depths in decoding order, as published: the largest maps get the most blocks.
        depths = plan.depths[: len(outputs)]
        self.stages = nn.ModuleList(plan.stage(*stage, "up") for stage in zip(inputs, outputs, depths, strict=True))
        self.memories = nn.ModuleDict({str(k): memory for k, memory in memories.items()})
        init_convolutions(self)
        self.leave = plan.leave(teacher)[::-1]
        if sspcab and depths[-1] < 2:
            raise UserError("TrainingData.sspcab: the last stage has one block, whose convolutions change the size")
        self.predictive = PredictiveResidual(self.stages[-1].pop(-1)) if sspcab else None

    def forward(self, embedding: torch.Tensor) -> list[torch.Tensor]:
        return self.forward_with_loss(embedding)[0]

    def forward_with_loss(self, embedding: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor | float]:
        """(maps, the SSPCAB's self-supervised loss, 0 without one)."""
        x, maps, loss = embedding, [embedding], 0.0
        for k, (stage, leave) in enumerate(zip(self.stages, self.leave, strict=True)):
            if str(k) in self.memories:
                x = torch.cat([x, self.memories[str(k)](maps[-1])], dim=1)
            x = stage(x)
            if self.predictive is not None and stage is self.stages[-1]:
                x, loss = self.predictive.forward_with_loss(x)
            maps.append(leave(x))
        return maps[:0:-1], loss


class ReverseStudent(nn.Module):
    """Bottleneck and decoder: the teacher's maps L x [B,C_l,h_l,w_l] -> maps of the same shapes."""

    def __init__(self, bottleneck: Bottleneck, decoder: Decoder):
        super().__init__()
        self.bottleneck, self.decoder = bottleneck, decoder

    def forward(self, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.decoder(self.bottleneck(teacher))

    def forward_with_loss(self, teacher: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor | float]:
        """(maps, the self-supervised loss of the decoder's SSPCAB, 0 without one)."""
        return self.decoder.forward_with_loss(self.bottleneck(teacher))


def projection(channels: int) -> nn.Sequential:
    """RD++'s layer between one teacher level and the bottleneck: [B,C,h,w] -> same (Tien et al., CVPR 2023).

    All norms are over single images, also in the last block, so training and testing compute the same.
    """
    widths = [channels, channels // 2, channels // 4, channels // 2, channels]
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.InstanceNorm2d(b), nn.LeakyReLU(0.01))
            for a, b in zip(widths, widths[1:], strict=False)
        )
    )


class ProjectedStudent(nn.Module):
    """RD++'s student: RD's student after a projection of each level, L x [B,C_l,h_l,w_l] -> same shapes."""

    def __init__(self, reverse: ReverseStudent, channels: Sequence[int]):
        super().__init__()
        self.projections = nn.ModuleList(map(projection, channels))
        self.reverse = reverse

    def forward(self, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.reverse(self.project(teacher))

    def project(self, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        return [project(maps) for project, maps in zip(self.projections, teacher, strict=True)]


def _halving_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(halving(inputs, outputs), nn.ReLU(inplace=True))
