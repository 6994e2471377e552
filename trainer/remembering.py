"""RNST and RNRD: Remembering Normality, memory-guided knowledge distillation (Gu et al., ICCV 2023)."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from engine.method import Recipe
from engine.student_file import fingerprint
from models.anomaly_map import share_out, sum_levels
from models.blocks import student_plan
from models.detector import Detector
from models.losses import batch_sum, cosine_distance, squared_distance
from models.memory import NormalityMemory, RememberingStudent
from models.reverse_distillation import Bottleneck, Decoder, ReverseStudent, mirrored
from models.teachers.features import outline
from models.teachers.teacher import Teacher
from trainer.base import BaseTrainer
from utils.config import Count, Levels, NotNegative, Rate, Share, TrainingData, Widths
from utils.errors import IncompleteWeights, UserError

if TYPE_CHECKING:
    from engine.loading import Batches


class RNSTDetector(Detector):
    """The distance is one minus the cosine; `layer_weight` "1/hw" divides levels by their numbers of positions."""

    def __init__(self, teacher: Teacher, student: nn.Module, layer_weight: str, sigma: float):
        super().__init__(teacher, student, sigma=sigma)
        self.layer_weight = layer_weight

    def distance(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        return cosine_distance(teacher, student, exact=not self.training)

    def combine(self, levels: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        return sum_levels(share_out(levels) if self.layer_weight == "1/hw" else levels, size)


class RNRDDetector(RNSTDetector):
    """The student gets the teacher's maps of the image, not the image."""

    def student_maps(self, image: torch.Tensor, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.student(teacher)


class RNSTTrainer(BaseTrainer):
    """Forward: STPM's student with memories of normal features, which later stages read together with their input."""

    class Options(TrainingData):
        epochs: Count = 100
        batch_size: Count = 32
        lr: Rate = 0.4
        norm: Literal[True] = True  # the distance is one minus the cosine
        sigma: NotNegative = 4.0
        embedDim: Count = 50  # items in a memory, L in the paper
        n_embed: Count = 16  # normal images that the memories learn, in each step
        lambda1: NotNegative = 0.1  # of normality embedding
        lambda2: NotNegative = 0.1  # of orthogonality
        orth: Literal["abs", "signed"] = "abs"
        temperature: Rate = 1.0  # of the memories' softmax
        layer_weight: Literal["none", "1/hw"] = "none"  # of a level in the map
        widths: Widths = None  # narrower students find less
        one_cycle: bool = False  # Adam with lr as the peak of one cycle, instead of the optimizer of STPM or RD

    def build_detector(self) -> RNSTDetector:
        c, o = self.config, self.options
        shapes, plan = outline(c.backbone, c.out_indice), student_plan(c.backbone, c.out_indice, o.widths)
        shapes.check_neighbours(first=4)
        shapes.check_positions(o.input_size, o.input_key)
        if len(c.out_indice) < 2:
            raise UserError("out_indice: memories lie between levels, so at least two are needed, such as [1, 2]")
        teacher = self.pretrained(c.backbone, c.out_indice)
        if plan.width is not None:
            plan = plan._replace(width=0.25)  # a wide teacher has a student of normal width
        student = RememberingStudent(plan, teacher.channels, [self.memory(n) for n in teacher.channels[:-1]])
        return RNSTDetector(teacher, student, o.layer_weight, o.sigma)

    def memory(self, channels: int) -> NormalityMemory:
        return NormalityMemory(self.options.embedDim, channels, self.options.temperature)

    def on_fit_start(self, train: "Batches") -> dict[str, str]:
        self.exemplar_maps = train.maps_by_step(self.choose(train.images))
        return {}

    def choose(self, images: int) -> Callable[[int], list[int]]:
        """The exemplars of a step, as indices of training images."""
        return partial(exemplars, count=self.options.n_embed, images=images, seed=self.config.seed)

    def loss(self, batch: dict) -> torch.Tensor:
        """Scalar: distillation, lambda1 x normality embedding, lambda2 x orthogonality.

        The first two are sums over a batch and over the exemplars, as in the only public code; its lambdas were
        chosen for these sums.
        """
        o = self.options
        levels = self.detector.levels(*self.detector.pairs(batch["image"], batch["teacher"]))
        pairs = list(zip(*self.reminders(batch["step"]), strict=True))
        embedding = [0.5 * squared_distance(maps, memory.embed(maps), exact=False) for memory, maps in pairs]
        orthogonality = sum(alignment(memory, o.orth) for memory, _ in pairs)
        distillation, reminding = batch_sum(levels, o.batch_size), batch_sum(embedding, o.n_embed)
        return distillation + o.lambda1 * reminding + o.lambda2 * orthogonality

    def reminders(self, step: int) -> tuple[Iterable[NormalityMemory], Iterable[torch.Tensor]]:
        """The memories, and for each the teacher's maps of the exemplars that it should learn, [N,C,h,w]."""
        return self.student.memories, self.exemplar_maps(step)[:-1]

    def build_optimizer(self, total_steps: int) -> tuple[torch.optim.Optimizer, object]:
        if not self.options.one_cycle:
            return self.host_optimizer(), None
        adam = torch.optim.Adam(self.student.parameters(), self.options.lr, betas=(0.5, 0.999))
        return adam, torch.optim.lr_scheduler.OneCycleLR(adam, self.options.lr, total_steps)

    def host_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.student.parameters(), self.options.lr, momentum=0.9, weight_decay=1e-4)


class RNRDTrainer(RNSTTrainer):
    """Reverse: RD's bottleneck and decoder with memories before the decoder's stages."""

    class Options(RNSTTrainer.Options):
        epochs: Count = 200
        batch_size: Count = 16
        lr: Rate = 0.005
        val_ratio: Share = 0.0  # the last epoch is kept, so all images may train
        widths: Widths = "auto"
        memories: Levels = [0, 1, 2]  # before which stages of the decoder

    def build_detector(self) -> RNRDDetector:
        c, o = self.config, self.options
        plan = mirrored(c.backbone, c.out_indice, o.input_size, o.input_key, o.widths)
        if o.memories[-1] >= len(c.out_indice):
            raise UserError(f"TrainingData.memories: the decoder has no stage {o.memories[-1]}; {self.advice(0)}")
        teacher, embedding = self.pretrained(c.backbone, c.out_indice), None
        if 0 in o.memories:
            embedding = self.deep_channels()
            if c.phase == "train":
                self.deep_teacher  # noqa: B018 -- weights without that level must be reported now
        channels = [embedding, *reversed(teacher.channels)]  # of the maps that each memory learns
        memories = {k: self.memory(channels[k]) for k in o.memories}
        decoder = Decoder(plan, teacher.channels, memories, embedding=embedding)
        student = ReverseStudent(Bottleneck(plan, teacher.channels, embedding), decoder)
        return RNRDDetector(teacher, student, o.layer_weight, o.sigma)

    def recipe(self) -> Recipe:
        """The last epoch is kept, as in RD. Held-out images only show which scores good parts get."""
        return Recipe(epochs=self.options.epochs, keep="last")

    def deep_channels(self) -> int:
        """Channels of the teacher's next level, which memory 0 learns. Raises UserError if there is none."""
        c = self.config
        try:
            shapes = outline(c.backbone, [c.out_indice[-1], c.out_indice[-1] + 1])
            shapes.check_neighbours()
        except UserError as error:
            raise UserError(f"{error}; memory 0 learns from the level after the last one: {self.advice()}") from None
        return shapes.channels[1]

    @cached_property
    def deep_teacher(self) -> Teacher:
        """The teacher with only that level."""
        try:
            return self.pretrained(self.config.backbone, [self.config.out_indice[-1] + 1])
        except IncompleteWeights as error:
            raise UserError(f"{error}; {self.advice()}") from None

    def advice(self, first: int = 1) -> str:
        places = ",".join(map(str, range(first, len(self.config.out_indice))))
        return f"write TrainingData.memories=[{places}]" if places else "choose other levels"

    def on_fit_start(self, train: "Batches") -> dict[str, str]:
        if 0 not in self.options.memories:
            return super().on_fit_start(train)
        deep = train.with_teacher(self.compute.place(self.deep_teacher))
        self.deepest_maps = deep.maps_by_step(self.choose(train.images))
        return super().on_fit_start(train) | {"teacher of memory 0": fingerprint(self.deep_teacher)}

    def reminders(self, step: int) -> tuple[Iterable[NormalityMemory], Iterable[torch.Tensor]]:
        memories = self.student.decoder.memories
        inputs = [*(self.deepest_maps(step) if "0" in memories else [None]), *reversed(self.exemplar_maps(step))]
        return memories.values(), [inputs[int(k)] for k in memories]

    def host_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.student.parameters(), self.options.lr, betas=(0.5, 0.999))


def alignment(memory: NormalityMemory, form: str) -> torch.Tensor:
    """Scalar: how far keys and values are from orthogonal; "signed" (public code) is lowest for opposite ones."""
    cosines = memory.alignment()
    return cosines.abs().mean() if form == "abs" else cosines.mean()


def exemplars(step: int, count: int, images: int, seed: int) -> list[int]:
    """Indices of the next `count` images; each pass over all has another random order, independent of the batches'."""
    places = [divmod(place, images) for place in range(step * count, (step + 1) * count)]
    orders = {k: np.random.default_rng((seed, k, 1)).permutation(images) for k in {k for k, _ in places}}
    return [int(orders[k][place]) for k, place in places]
