"""What the engine asks of a method."""

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import torch

from models.detector import Detector
from utils.config import RunConfig

if TYPE_CHECKING:
    from engine.loading import Augment, Batches


class Recipe(NamedTuple):
    """How long a training is, in epochs or in steps of one batch, what it sees, and which student is kept."""

    epochs: int = 0
    steps: int = 0
    accumulate: int = 1  # batches whose gradients are summed for one step of the optimizer
    keep: Literal["best", "last"] = "best"  # epoch: the one of the lowest validation score, or the last
    patience: int | None = None  # epochs without a better validation score after which training ends
    augment: "Augment | None" = None  # a fixed function of the image: the teacher's maps of what it gives are kept

    @property
    def epoch_length(self) -> int | None:
        """Batches that make an epoch; None for a pass over the images.

        Of steps it is a hundredth: rows of the log and checkpoints do not depend on how many images there are.
        """
        return math.ceil(self.steps / 100) or None


class Method(Protocol):
    """All that the engine asks of a method; trainer/base.py says what each does."""

    config: RunConfig
    detector: Detector

    def recipe(self) -> Recipe: ...
    def build_optimizer(self, total_steps: int) -> tuple[torch.optim.Optimizer, Any]: ...
    def loss(self, batch: dict) -> torch.Tensor: ...
    def validate(self, val: "Batches") -> float | dict[str, float]: ...
    def on_fit_start(self, train: "Batches") -> dict[str, str]: ...
    def on_fit_end(self, val: "Batches") -> None: ...
