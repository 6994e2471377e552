"""MixedTeacher: Knowledge Distillation for fast inference textural anomaly detection (Thomine et al., VISAPP 2023)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator
from torch import nn

from engine.scoring import mean_loss
from models.anomaly_map import share_out, sum_levels
from models.detector import Detector
from models.losses import batch_sum, squared_distance
from models.mixed import HalvedFeatures, ReducedResNet
from models.teachers.features import Features
from models.teachers.teacher import Teacher, TeacherPair
from trainer.base import BaseTrainer
from utils.config import AnyOptions, Config, Count, Levels, NotNegative, Rate, Text, TrainingData

if TYPE_CHECKING:
    from engine.loading import Batches

EPSILON = 1e-12  # avoids a division by zero where a map is constant


def _two(value: Any) -> Any:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("must be a list of two, one for each pair")
    return value


class PairConfig(Config[AnyOptions], Generic[AnyOptions]):
    """A backbone with its levels for each of the two pairs; the weights may differ too."""

    backbone: Annotated[list[Text], BeforeValidator(_two)]
    out_indice: Annotated[list[Levels], BeforeValidator(_two)] = [[1, 2], [3, 4]]
    weights: Text | Annotated[list[Text], BeforeValidator(_two)] = "imagenet"


class MixedDetector(Detector):
    """Two teachers, each with a student whose images are normalised alike; the first pair has `first` levels."""

    def __init__(self, teacher: TeacherPair, student: nn.ModuleDict, first: int, fusion: str, norm: bool, sigma: float):
        super().__init__(teacher, student, norm, sigma)
        self.first, self.fusion = first, fusion

    def student_maps(self, image: torch.Tensor, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        pairs = zip((self.teacher.first, self.teacher.second), self.student.values(), strict=True)
        return [maps for own_teacher, student in pairs for maps in student(own_teacher.normalise(image))]

    def distance(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        return 0.5 * squared_distance(teacher, student, self.norm, exact=not self.training)

    def parts(self, levels: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The levels of the first and of the second pair."""
        return levels[: self.first], levels[self.first :]

    def combine(self, levels: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        local, context = (sum_levels(share_out(part), size) for part in self.parts(levels))
        return fuse(local, context, self.fusion)


class MixedTrainer(BaseTrainer):
    """Two pairs of teacher and student, a shallow and a deep one; a defect must be visible in both."""

    Config = PairConfig

    class Options(TrainingData):
        epochs: Count = 100
        batch_size: Count = 8
        lr: Rate = 0.004  # reached after 30 % of the steps
        sigma: NotNegative = 4.0
        fusion: Literal["reference", "product"] = "reference"

    def build_detector(self) -> MixedDetector:
        (first, first_student), (second, second_student) = self.pair(0), self.pair(1)
        students = nn.ModuleDict({"first": first_student, "second": second_student})
        o, levels = self.options, len(self.config.out_indice[0])
        return MixedDetector(TeacherPair(first, second), students, levels, o.fusion, o.norm, o.sigma)

    def pair(self, k: int) -> tuple[Teacher, nn.Module]:
        """Teacher and student of one architecture; a shallow ResNet-18 has a smaller student, as published."""
        backbone, out_indice = self.config.backbone[k], self.config.out_indice[k]
        teacher = self.pretrained(backbone, out_indice, k)
        if k == 0 and backbone.partition(".")[0] == "resnet18":
            teacher.net = HalvedFeatures(teacher.net)
            return teacher, ReducedResNet(out_indice)
        return teacher, Features(backbone, out_indice)

    def loss(self, batch: dict) -> torch.Tensor:
        # The pairs share no parameters, so training them together is the same as training each alone.
        return self.pair_losses(batch).sum()

    def pair_losses(self, batch: dict) -> torch.Tensor:
        """[2]: for each pair the mean distance over levels and positions, summed over a batch as published."""
        levels = self.detector.levels(*self.detector.pairs(batch["image"], batch["teacher"]))
        return torch.stack([batch_sum(part, self.options.batch_size) for part in self.detector.parts(levels)])

    def validate(self, val: "Batches") -> dict[str, float]:
        """The loss of each pair on held-out good images; each pair keeps its epoch with the lowest loss."""
        losses = mean_loss(self.detector, self.compute, self.pair_losses, val)
        return dict(zip(self.student, losses.tolist(), strict=True))

    def build_optimizer(self, total_steps: int) -> tuple[torch.optim.Optimizer, object]:
        adam = torch.optim.Adam(self.student.parameters())
        # Cycles beta1 from 0.95 to 0.85 and back too, as in the published code.
        return adam, torch.optim.lr_scheduler.OneCycleLR(adam, self.options.lr, total_steps)


def fuse(local: torch.Tensor, context: torch.Tensor, how: str) -> torch.Tensor:
    """Two maps of the same images, [B,1,H,W] each, to one of the same shape.

    "reference" is as in the published code: the second map's columns are scaled to unit length, so the result depends
    on the image's orientation, and a constant second map makes it zero. "product" scales to [0, 1] instead.
    """
    low, high = context.amin(dim=(2, 3), keepdim=True), context.amax(dim=(2, 3), keepdim=True)
    span = high - low
    if how == "reference":
        return local * span * F.normalize(context, dim=2)
    return local * span * (context - low) / (span + EPSILON)
