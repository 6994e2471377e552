"""STPM: Student-Teacher Feature Pyramid Matching (Wang et al., BMVC 2021)."""

from collections.abc import Sequence

import torch

from models.anomaly_map import multiply_levels
from models.detector import Detector
from models.teachers.features import Features
from trainer.base import BaseTrainer
from utils.config import Count, Rate, TrainingData


class STPMDetector(Detector):
    """The levels are multiplied, so a defect must be visible at every level."""

    def combine(self, levels: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        return multiply_levels(levels, size)


class STPMTrainer(BaseTrainer):
    """A student of the teacher's architecture, trained from scratch to match its feature pyramid."""

    class Options(TrainingData):
        epochs: Count = 100
        batch_size: Count = 32
        lr: Rate = 0.4

    def build_detector(self) -> STPMDetector:
        c, o = self.config, self.options
        teacher = self.pretrained(c.backbone, c.out_indice)
        return STPMDetector(teacher, Features(c.backbone, c.out_indice), o.norm, o.sigma)

    def build_optimizer(self, total_steps: int) -> tuple[torch.optim.Optimizer, None]:
        sgd = torch.optim.SGD(self.student.parameters(), self.options.lr, momentum=0.9, weight_decay=1e-4)
        return sgd, None
