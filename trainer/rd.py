"""RD: Anomaly Detection via Reverse Distillation from One-Class Embedding (Deng & Li, CVPR 2022)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from engine.method import Recipe
from models.anomaly_map import sum_levels
from models.detector import Detector
from models.losses import cosine_distance, flat_cosine_distance
from models.reverse_distillation import Bottleneck, Decoder, ReverseStudent, mirrored
from trainer.base import BaseTrainer
from utils.config import Count, NotNegative, Rate, Share, TrainingData, Widths


class RDDetector(Detector):
    """The student gets the teacher's maps of the image, not the image."""

    def student_maps(self, image: torch.Tensor, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.student(teacher)

    def distance(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        return cosine_distance(teacher, student, exact=not self.training)

    def combine(self, levels: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        return sum_levels(levels, size, align_corners=True)


class RDTrainer(BaseTrainer):
    """A bottleneck compresses the teacher's maps of good parts; a decoder learns to restore them."""

    class Options(TrainingData):
        epochs: Count = 200
        batch_size: Count = 16
        lr: Rate = 0.005
        norm: Literal[True] = True  # the distance is one minus the cosine
        val_ratio: Share = 0.0  # the last epoch is kept, so all images may train
        sigma: NotNegative = 4.0
        widths: Widths = "auto"
        sspcab: bool = False  # SSPCAB as the decoder's second-to-last convolution
        sspcab_weight: NotNegative = 0.1  # of its self-supervised loss

    def build_detector(self) -> RDDetector:
        c, o = self.config, self.options
        plan = mirrored(c.backbone, c.out_indice, o.input_size, o.input_key, o.widths)
        teacher = self.pretrained(c.backbone, c.out_indice)
        decoder = Decoder(plan, teacher.channels, sspcab=o.sspcab)
        student = ReverseStudent(Bottleneck(plan, teacher.channels), decoder)
        return RDDetector(teacher, student, sigma=o.sigma)

    def recipe(self) -> Recipe:
        """The last epoch is kept, as published. Held-out images only show which scores good parts get."""
        return Recipe(epochs=self.options.epochs, keep="last")

    def loss(self, batch: dict) -> torch.Tensor:
        """Scalar: one minus the cosine of whole maps, summed over levels, averaged over the batch."""
        return self.distillation(batch["teacher"], self.student, batch["teacher"])

    def distillation(self, teacher: list[torch.Tensor], student: nn.Module, inputs: list[torch.Tensor]) -> torch.Tensor:
        restored, predicted = student.forward_with_loss(inputs)
        distances = [flat_cosine_distance(t, s).mean() for t, s in zip(teacher, restored, strict=True)]
        return sum(distances) + self.options.sspcab_weight * predicted

    def build_optimizer(self, total_steps: int) -> tuple[torch.optim.Optimizer, None]:
        return torch.optim.Adam(self.student.parameters(), self.options.lr, betas=(0.5, 0.999)), None
