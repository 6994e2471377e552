"""DBFAD: Distillation-Based Fabric Anomaly Detection (Thomine & Snoussi, Textile Research Journal 2024)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from engine.method import Recipe
from engine.scoring import mean_loss
from models.anomaly_map import share_out, sum_levels
from models.blocks import BASIC, student_plan
from models.dbfad import DBFADStudent, PooledFeatures
from models.detector import Detector
from models.losses import batch_sum, squared_distance
from models.teachers.features import outline
from trainer.base import BaseTrainer
from utils.config import Count, NotNegative, Rate, Share, TrainingData, Widths
from utils.errors import UserError

if TYPE_CHECKING:
    from engine.loading import Batches

FACTOR, PATIENCE = 0.1, 5  # factor of the learning rate, and epochs without a better loss before it
SIGMA = 0.8  # pixels, of the blur
SMALLEST = 3  # positions per side that SSPCAB needs: with 2 it would see only its padding


class DBFADDetector(Detector):
    """Each level is divided by its number of positions, so the coarsest has the largest weight."""

    def student_maps(self, image: torch.Tensor, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.student(teacher)

    def distance(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        return 0.5 * squared_distance(teacher, student, self.norm, exact=not self.training)

    def combine(self, levels: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        return sum_levels(share_out(levels), size)


class DBFADTrainer(BaseTrainer):
    """A light reverse student whose decoder also gets the teacher's shallower levels, weighted by attention."""

    class Options(TrainingData):
        epochs: Count = 100
        batch_size: Count = 4
        lr: Rate = 0.005
        early_stop: Count = 10
        val_ratio: Share = 0.3
        sigma: NotNegative = 4.0
        residual: bool = True
        widths: Widths = None  # narrower students find less
        sspcab_weight: NotNegative = 0.0

    def build_detector(self) -> DBFADDetector:
        c, o = self.config, self.options
        shapes = outline(c.backbone, c.out_indice)
        PooledFeatures(shapes)  # refuses other levels
        shapes.check_multiple(o.input_size, o.input_key)
        smallest = SMALLEST * 2 * shapes.reduction[-1]
        if min(o.input_size) < smallest:
            raise UserError(f"TrainingData.{o.input_key} {o.input_size}: this method needs at least {smallest}")
        plan = BASIC._replace(inner=student_plan(c.backbone, c.out_indice, o.widths).inner)
        teacher = self.pretrained(c.backbone, c.out_indice)
        teacher.net = PooledFeatures(teacher.net)
        return DBFADDetector(teacher, DBFADStudent(teacher.channels, o.residual, plan), o.norm, o.sigma)

    def recipe(self) -> Recipe:
        """Training images are slightly blurred, as published, so the student learns no noise; test images are not."""
        return Recipe(epochs=self.options.epochs, patience=self.options.early_stop, augment=blur)

    def loss(self, batch: dict) -> torch.Tensor:
        """Scalar: the mean distance over levels and positions, summed over a batch as published."""
        student, predicted = self.student.forward_with_loss(batch["teacher"])
        distillation = batch_sum(self.detector.levels(batch["teacher"], student), self.options.batch_size)
        return distillation + self.options.sspcab_weight * predicted

    def validate(self, val: "Batches") -> float:
        """The loss of held-out good images."""
        return mean_loss(self.detector, self.compute, self.loss, val).item()

    def build_optimizer(self, total_steps: int) -> tuple[torch.optim.Optimizer, object]:
        adam = torch.optim.Adam(self.student.parameters(), self.options.lr)
        return adam, torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=FACTOR, patience=PATIENCE)


def blur(image: torch.Tensor) -> torch.Tensor:
    """3 x 3 Gaussian of sigma 0.8 px, the border mirrored: [B,C,H,W] -> same shape."""
    side = math.exp(-0.5 / SIGMA**2)
    kernel = torch.tensor([side, 1, side], dtype=image.dtype, device=image.device) / (1 + 2 * side)
    channels = image.shape[1]
    weight = (kernel[:, None] * kernel).expand(channels, 1, 3, 3)
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), weight, groups=channels)
