"""EfficientAD (Batzner, Heckler, Koenig, WACV 2024)."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import AfterValidator, model_validator

from engine.distributed import from_main
from engine.method import Recipe
from engine.prefetch import Prefetch
from models.anomaly_map import resize
from models.detector import Detector, unit_range
from models.efficientad import (
    EfficientADStudent,
    calibrated,
    hard_feature_loss,
    jitter,
    low_and_high,
)
from trainer.base import BaseTrainer
from utils.config import AnyOptions, CommonData, Count, Rate, RunConfig, Share, Size, Text

if TYPE_CHECKING:
    from engine.loading import Batches

DECAY = 0.95  # share of the steps after which the learning rate is divided by 10
GRAY = 0.3  # share of the penalty images that are converted to gray
SMALLEST = 256  # pixels, for the autoencoder's last convolution


class Pictures(Protocol):
    """Images [h,w,3] uint8 RGB by index; another set of images has another fingerprint."""

    def __getitem__(self, index: int) -> np.ndarray: ...
    def fingerprint(self) -> str: ...


class PDNConfig(RunConfig[AnyOptions], Generic[AnyOptions]):
    """The keys of a run whose teacher is a patch description network, which has no levels to choose."""

    backbone: Literal["small", "medium"]
    weights: Text = "bundled"  # or the path of a PDN's .safetensors or .pth file, or random


def _one(value: int) -> int:
    if value != 1:
        raise ValueError("must be 1: the hard-feature loss takes its quantile over one image")
    return value


def _some(value: float) -> float:
    if not value:
        raise ValueError("must be above 0: held-out good images are needed to scale the method's two maps")
    return value


def _large_enough(value: tuple[int, int]) -> tuple[int, int]:
    if min(value) < SMALLEST:
        raise ValueError(f"must be at least {SMALLEST} pixels per side, because the autoencoder needs that")
    return value


class EfficientADDetector(Detector):
    """Two levels: teacher and student, then autoencoder and student, scaled with held-out good images."""

    margin = 4  # the networks do not pad
    references = ("teacher", "autoencoder")

    def pairs(
        self, image: torch.Tensor, teacher: list[torch.Tensor] | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        image = unit_range(image)
        (maps,) = self.teacher(image) if teacher is None else teacher
        local, whole, autoencoder = self.student(self.teacher.normalise(image))
        return [self.student.normalised(maps), autoencoder], [local, whole]

    def distance(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        return (teacher.float() - student.float()).square().mean(dim=1, keepdim=True)

    def combine(self, levels: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """The mean of both maps; the border that they do not cover is 0, which corresponds to their q_a."""
        scaled = [calibrated(level, pair) for level, pair in zip(levels, self.student.quantiles, strict=True)]
        return resize(F.pad(sum(scaled) / len(scaled), [self.margin] * 4), size)


class EfficientADTrainer(BaseTrainer):
    """A student imitates the teacher on good images only, and an autoencoder that encodes the whole image."""

    Config = PDNConfig

    class Options(CommonData):
        steps: Count = 70000  # one image each
        batch_size: Annotated[Count, AfterValidator(_one)] = 1
        lr: Rate = 1e-4
        img_size: Annotated[Size, AfterValidator(_large_enough)] = (256, 256)
        crop_size: Annotated[Size, AfterValidator(_large_enough)] = (256, 256)
        tile: Annotated[Size, AfterValidator(_large_enough)] | None = None
        val_ratio: Annotated[Share, AfterValidator(_some)] = 0.1
        penalty_path: Text = "procedural"  # a folder of any images, procedural, or none

        @model_validator(mode="before")
        @classmethod
        def counts_steps(cls, values: Any) -> Any:
            if isinstance(values, dict) and "epochs" in values:
                raise ValueError("this method counts steps of one image, not epochs: use the key steps")
            return values

    def build_detector(self) -> EfficientADDetector:
        from models.teachers.pdn import build_pdn, find_pdn  # here and below: imported only where used

        kind = self.config.backbone
        source = from_main(lambda: find_pdn(kind, self.weights()))
        if self.config.phase == "train":
            self.penalty_images  # noqa: B018 -- a folder without images must be reported now
        teacher = build_pdn(kind, source, self.config.seed)
        return EfficientADDetector(teacher, EfficientADStudent(kind), norm=False, sigma=self.options.sigma)

    def recipe(self) -> Recipe:
        """The last step is kept, as published."""
        return Recipe(steps=self.options.steps, keep="last")

    def loss(self, batch: dict) -> torch.Tensor:
        """Scalar: the sum of hard-feature loss, penalty, the autoencoder's loss and the student's loss towards it."""
        image, step, student, normalise = batch["image"], batch["step"], self.student, self.teacher.normalise
        teacher = student.normalised(batch["teacher"][0])
        hard = hard_feature_loss((teacher.float() - student.local(normalise(image)).float()).square())
        changed = jitter(image, np.random.default_rng((self.config.seed, step)))
        target = student.normalised(self.teacher_maps(changed)[0])
        changed = normalise(changed)
        autoencoder = student.autoencoder(changed).float()
        # Not detached: the autoencoder also moves towards what the student can predict.
        return (
            hard
            + self.penalty(step)
            + (target.float() - autoencoder).square().mean()
            + (autoencoder - student.global_head(changed).float()).square().mean()
        )

    def penalty(self, step: int) -> torch.Tensor | float:
        """The student's squared output for an image of something else, where it should be zero."""
        if self.penalty_images is None:
            return 0.0
        image = self.teacher.normalise(self.compute.images(self.penalty_stream(step)))
        return self.student.local(image).float().square().mean()

    @cached_property
    def penalty_images(self) -> Pictures | None:
        """Penalty images [h,w,3] uint8 by index. None without a penalty."""
        where, size = self.options.penalty_path, self.options.input_size
        if where == "none":
            return None
        if where == "procedural":
            from pretraining.formula import FormulaImages

            return FormulaImages(min(size), self.config.seed)
        from datasets.folder import FolderImages

        return FolderImages("penalty_path", where, [2 * side for side in size], size)

    @cached_property
    def penalty_stream(self) -> Prefetch[torch.Tensor]:
        """The penalty image of each step, prepared in advance."""
        return Prefetch(partial(self.draw_penalty, self.penalty_images), self.options.steps - 1)

    def draw_penalty(self, images: Pictures, step: int) -> torch.Tensor:
        """The penalty image of a step: [1,3,h,w] uint8."""
        rng = np.random.default_rng((self.config.seed, step, 1))
        pixels = images[rng.integers(2**31)]
        if pixels.shape[:2] != self.options.input_size:  # formula images are square
            pixels = cv2.resize(pixels, self.options.input_size[::-1])
        if rng.random() < GRAY:
            pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        return self.compute.pinned(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])))

    def on_fit_start(self, train: "Batches") -> dict[str, str]:
        """Set the teacher's statistics over the training images, which give its channels equal weight."""
        self.teacher_maps = train.teacher  # whose weights are cast already
        mean, std = train.channel_statistics()[0].moments
        self.student.mean.copy_(mean.view(1, -1, 1, 1))
        self.student.std.copy_(std.view(1, -1, 1, 1))
        return {"penalty images": self.penalty_images.fingerprint()} if self.penalty_images is not None else {}

    @torch.inference_mode()
    def on_fit_end(self, val: "Batches") -> None:
        """Set the quantiles of both maps over all positions of the held-out images."""
        self.detector.eval()
        levels = zip(*(self.levels_of(batch) for batch in val), strict=True)
        self.student.quantiles.copy_(torch.stack([low_and_high(maps) for maps in levels]))

    def levels_of(self, batch: dict) -> list[torch.Tensor]:
        with self.compute.autocast():
            pairs = self.detector.pairs(batch["image"], batch["teacher"])
        return self.detector.levels(*pairs)

    def build_optimizer(self, total_steps: int) -> tuple[torch.optim.Optimizer, object]:
        adam = torch.optim.Adam(self.student.parameters(), self.options.lr, weight_decay=1e-5)
        # In closed form: a repeated multiplication would lower it again with every resume.
        return adam, torch.optim.lr_scheduler.LambdaLR(
            adam, lambda step: 1.0 if step < int(DECAY * total_steps) else 0.1
        )
