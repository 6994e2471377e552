"""The detector of a method: from images to anomaly maps."""

from collections.abc import Sequence

import torch
from torch import nn

from models.anomaly_map import repeat_inner, smooth, sum_levels
from models.losses import squared_distance

FULL_SCALE = {torch.uint8: 255, torch.uint16: 65535}


def unit_range(image: torch.Tensor) -> torch.Tensor:
    """Images uint8, uint16 or float in [0,1] -> float32 in [0,1], any shape."""
    return image.float() / FULL_SCALE[image.dtype] if image.dtype in FULL_SCALE else image.float()


class Detector(nn.Module):
    """RGB images [B,3,H,W] at crop_size, uint8, uint16 or float in [0,1] -> anomaly maps [B,1,H,W] float32.

    `teacher` is frozen; `student` has all that learns or must be saved. A method subclasses this and overrides what is
    different. It is pure: no state is kept between calls, so it can be exported, compiled and copied.
    """

    margin = 0  # positions at each edge of the image that the levels do not cover
    border = 0  # outermost positions of a level, which padding disturbs: the nearest inner one counts
    references: Sequence[str] = ()  # name of what the student is compared with at each level, if not the teacher

    def __init__(self, teacher: nn.Module, student: nn.Module, norm: bool = True, sigma: float = 0.0):
        super().__init__()
        self.teacher, self.student = teacher, student
        self.norm, self.sigma = norm, sigma

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.final_map(self.levels(*self.pairs(image)), image.shape[-2:])

    def pairs(
        self, image: torch.Tensor, teacher: list[torch.Tensor] | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The maps to compare: (teacher's, student's) of images [B,3,H,W], each L x [B,C,h,w].

        `teacher` are the teacher's maps of these images, if they are already computed.
        """
        image = unit_range(image)
        teacher = self.teacher(image) if teacher is None else teacher
        return teacher, self.student_maps(image, teacher)

    def student_maps(self, image: torch.Tensor, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        """The student's maps of images [B,3,H,W] in [0,1], given the teacher's: L x [B,C,h,w], one for each."""
        return self.student(self.teacher.normalise(image))

    def distance(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        """The distance at each position of a level, for loss and score: two [B,C,h,w] -> [B,1,h,w] float32.

        Training uses the faster formula; its rounding matters only for distances below 1e-6.
        """
        return squared_distance(teacher, student, self.norm, exact=not self.training)

    def levels(self, teacher: list[torch.Tensor], student: list[torch.Tensor]) -> list[torch.Tensor]:
        """The distance at every level: two L x [B,C,h,w] -> L x [B,1,h,w]."""
        return [self.distance(t, s) for t, s in zip(teacher, student, strict=True)]

    def combine(self, levels: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """Combine one distance map per level, L x [B,1,h,w], into one of image size: [B,1,H,W]."""
        return sum_levels(levels, size)

    def final_map(self, levels: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """L x [B,1,h,w] -> the anomaly map that is scored: [B,1,H,W]."""
        return smooth(self.combine([repeat_inner(level, self.border) for level in levels], size), self.sigma)
