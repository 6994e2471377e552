"""The interface between the engine and a method."""

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import torch

from models.detector import Detector
from utils.config import RunConfig

if TYPE_CHECKING:
    from engine.loading import Augment, Batches


class Recipe(NamedTuple):
    """The length of a training in epochs or in steps of one batch, its augmentation, and which student is kept."""

    epochs: int = 0
    steps: int = 0
    accumulate: int = 1  # batches whose gradients are summed for one step of the optimizer
    keep: Literal["best", "last"] = "best"  # epoch: the one with the lowest validation score, or the last
    patience: int | None = None  # epochs without a better validation score after which training ends
    augment: "Augment | None" = None  # a fixed function of the image, since the teacher's maps of its output are cached

    @property
    def epoch_length(self) -> int | None:
        """Number of batches in an epoch; None for one pass over the images.

        With `steps` it is a hundredth of them, so log rows and checkpoints do not depend on the number of images.
        """
        return math.ceil(self.steps / 100) or None


class Method(Protocol):
    """All attributes and methods that the engine uses; trainer/base.py describes each."""

    config: RunConfig
    detector: Detector

    def recipe(self) -> Recipe: ...
    def build_optimizer(self, total_steps: int) -> tuple[torch.optim.Optimizer, Any]: ...
    def loss(self, batch: dict) -> torch.Tensor: ...
    def validate(self, val: "Batches") -> float | dict[str, float]: ...
    def on_fit_start(self, train: "Batches") -> dict[str, str]: ...
    def on_fit_end(self, val: "Batches") -> None: ...
