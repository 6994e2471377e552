"""DBFAD: Distillation-Based Fabric Anomaly Detection (Thomine & Snoussi, Textile Research Journal 2024)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from engine.loading import Batches
from models.anomaly_map import share_out, sum_levels
from models.dbfad import DBFADStudent, PooledFeatures
from models.losses import batch_sum, squared_distance
from models.sspcab import sspcab_losses
from models.teachers.features import outline
from trainer.base import BaseTrainer
from utils.config import Count, Rate, Share, TrainingData, Weight
from utils.errors import UserError

FACTOR, PATIENCE = 0.1, 5  # of the learning rate, and epochs without a better loss before it
SIGMA = 0.8  # pixels, of the blur
SMALLEST = 96  # pixels; in the 2 x 2 positions that less leaves, SSPCAB would see nothing but its padding


class DBFADTrainer(BaseTrainer):
    """A light reverse student, whose decoder sees the teacher's shallower levels through attention too."""

    class Options(TrainingData):
        epochs: Count = 100
        batch_size: Count = 4
        lr: Rate = 0.005
        early_stop: Count = 10
        val_ratio: Share = 0.3
        sigma: Weight = 4.0
        residual: bool = True
        sspcab_weight: Weight = 0.0

    def build_networks(self) -> tuple[nn.Module, nn.Module]:
        c = self.config
        shapes = outline(c.backbone, c.out_indice)
        PooledFeatures(shapes)  # refuses other levels
        shapes.check_multiple(self.options.crop_size)
        if min(self.options.crop_size) < SMALLEST:
            raise UserError(f"TrainingData.crop_size {self.options.crop_size}: this method needs at least {SMALLEST}")
        teacher = PooledFeatures(self.pretrained(c.backbone, c.out_indice))
        return teacher, DBFADStudent(teacher.channels, self.options.residual)

    @property
    def patience(self) -> int:
        return self.options.early_stop

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        """Slightly blurred, as published: the student learns no noise. Test images stay as they are."""
        return blur(image)

    def student_maps(self, image: torch.Tensor, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.student(teacher)

    def distance(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        return 0.5 * squared_distance(teacher, student, self.options.norm)

    def loss(self, batch: dict) -> torch.Tensor:
        """Scalar: the distance, a mean over levels and positions, summed over a batch as published."""
        with sspcab_losses(self.student) as extra:
            student = self.student_maps(batch["image"], batch["teacher"])
        distillation = batch_sum(self.level_maps(batch["teacher"], student), self.options.batch_size)
        return distillation + self.options.sspcab_weight * sum(extra)

    def validate(self, val: Batches) -> float:
        """The loss of held-out good images."""
        return self.held_out_loss(self.loss, val).item()

    def combine(self, levels: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        return sum_levels(share_out(levels), size)

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
