"""RD++: Revisiting Reverse Distillation for Anomaly Detection (Tien et al., CVPR 2023)."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.method import Recipe
from models.losses import cosine_distance, flat_cosine_distance
from models.reverse_distillation import ProjectedStudent
from models.simplex import fractal, permutation
from trainer.rd import RDDetector, RDTrainer
from utils.config import Count, Rate
from utils.ranks import rank

if TYPE_CHECKING:
    from engine.loading import Batches

# As in the published code, except FIELD: that code always cuts its patches from one corner of its noise.
PROJECTION_WEIGHT = 0.2 / 1.11
RECONSTRUCT_WEIGHT, CONTRAST_WEIGHT = 0.01, 0.1
MARGIN = 0.5  # of the cosine
NOISE_STRENGTH = 0.2  # in units of the image's range
SMALLEST, LARGEST = 10, 31  # pixels, sides of a noise patch
FIELD = 128  # pixels, side of the noise that patches are cut from


class RDPPTrainer(RDTrainer):
    """RD with projections before the bottleneck, which learn to remove pseudo-anomalies from the teacher's maps."""

    class Options(RDTrainer.Options):
        projection_lr: Rate = 0.001  # lr is the bottleneck's and the decoder's
        accumulate: Count = 2
        transport: bool = False

    def build_detector(self) -> RDDetector:
        detector = super().build_detector()
        detector.student = ProjectedStudent(detector.student, detector.teacher.channels)
        return detector

    def recipe(self) -> Recipe:
        return super().recipe()._replace(accumulate=self.options.accumulate)

    def on_fit_start(self, train: "Batches") -> dict[str, str]:
        noise = fractal(permutation(self.config.seed), (3, FIELD, FIELD))
        self.noise = NOISE_STRENGTH * torch.from_numpy(noise).to(self.device)
        self.teacher_maps = train.teacher  # whose weights are cast already
        return {}

    def loss(self, batch: dict) -> torch.Tensor:
        """Scalar: RD's loss on projected maps plus the projections' own terms."""
        generator = np.random.default_rng((self.config.seed, batch["step"], rank()))
        noisy = self.teacher_maps(add_noise(batch["image"], self.noise, generator))
        projected, projected_noisy = (self.student.project(maps) for maps in (batch["teacher"], noisy))
        restored = self.distillation(batch["teacher"], self.student.reverse, projected)
        return restored + PROJECTION_WEIGHT * self.projection_loss(noisy, projected, projected_noisy)

    def projection_loss(
        self, noisy: list[torch.Tensor], projected: list[torch.Tensor], projected_noisy: list[torch.Tensor]
    ) -> torch.Tensor:
        """Scalar: reconstruct and contrast terms (and transport, if enabled) of three L x [B,C,h,w], over levels."""
        pairs = zip(projected_noisy, projected, strict=True)
        reconstruct = sum(cosine_distance(n, p, exact=False).mean() for n, p in pairs)
        contrast = sum(
            (1 - flat_cosine_distance(n, p) - MARGIN).clamp_min(0).mean() for n, p in zip(noisy, projected, strict=True)
        )
        loss = RECONSTRUCT_WEIGHT * reconstruct + CONTRAST_WEIGHT * contrast
        # Off by default: the published code compares a batch with a permutation of itself, as two clouds of
        # points. Both are the same cloud, so the term and its gradient are zero and only take time.
        return loss + sum(map(transport_to_shuffled, projected)) if self.options.transport else loss

    def build_optimizer(self, total_steps: int) -> tuple[torch.optim.Optimizer, None]:
        # The published code's two Adam optimizers always step together; one with two learning rates does the same.
        groups = [
            {"params": self.student.reverse.parameters()},
            {"params": self.student.projections.parameters(), "lr": self.options.projection_lr},
        ]
        return torch.optim.Adam(groups, self.options.lr, betas=(0.5, 0.999)), None


def transport_to_shuffled(maps: torch.Tensor) -> torch.Tensor:
    """Sinkhorn divergence between a batch's maps [B,C,h,w], as probabilities, and the same maps in another order."""
    from models.transport import sinkhorn_divergence  # imported only if the term is enabled

    clouds = maps.float().flatten(1).softmax(dim=1)
    return sinkhorn_divergence(clouds, clouds.roll(1, dims=0))


def add_noise(image: torch.Tensor, noise: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Images [B,3,H,W] in [0,1], each with a patch of `noise` [3,h,w] added, 10 to 31 px per side, off the border.

    The patch is cut from a random place of the noise; otherwise all patches would be alike.
    """
    sides = image.shape[-2:]
    drawn = np.array([[_place(side, generator) for side in sides] for _ in image])  # [B,2,3]
    start, cut, length = torch.from_numpy(drawn).to(image.device).unsqueeze(-1).unbind(dim=2)  # [B,2,1] each
    offset = torch.arange(LARGEST, device=image.device)
    # Windows of the largest size for all images at once; positions outside a smaller patch add zero.
    rows, columns = (start + offset).minimum(start + length - 1).unbind(dim=1)  # [B,LARGEST] each
    noise_rows, noise_columns = (cut + offset).minimum(cut + length - 1).unbind(dim=1)
    inside_rows, inside_columns = (offset < length).unbind(dim=1)
    patch = noise[:, noise_rows[:, :, None], noise_columns[:, None, :]]  # [3,B,LARGEST,LARGEST]
    patch = patch * (inside_rows[:, :, None] & inside_columns[:, None, :])
    number = torch.arange(len(image), device=image.device)[:, None, None]
    image = image.clone()
    where = (number, rows[:, :, None], columns[:, None, :])
    image.movedim(1, -1).index_put_(where, patch.movedim(0, -1).to(image.dtype), accumulate=True)
    return image


def _place(side: int, generator: np.random.Generator) -> tuple[int, int, int]:
    """(start in a picture's side, leaving out both ends; start in the noise's side; length of both stretches)."""
    length = generator.integers(SMALLEST, min(LARGEST, side - 2), endpoint=True)
    return generator.integers(1, side - length), generator.integers(FIELD - length + 1), length
