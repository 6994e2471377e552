"""A backbone that tells formula-made pictures apart and, at the same time, imitates an ImageNet network."""

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

from engine.prefetch import Prefetch
from engine.student_file import fingerprint
from models.teachers.features import Features, outline
from models.teachers.statistics import ChannelStatistics
from models.teachers.teacher import Frozen, Normalise, Statistics, tag_statistics
from models.teachers.weights import find_source, load_weights
from pretraining.classify import Classification, Classifier, pool
from pretraining.memory import parameters
from pretraining.photographs import PhotographViews
from utils.config import Count, NotNegative, Rate, Share, Side, Text
from utils.errors import UserError, reason
from utils.progress import progress

SHALLOWEST = 4  # stride of the first level that is imitated
OWN_KEYS = {"backbone": "imitate", "weights": "imitate_weights"}


class Imitated(Frozen):
    """A whole timm network: images [B,3,h,w] in [0,1] -> its levels M x [B,C_m,h_m,w_m], shallow to deep; logits [B,K].

    The values are random; `models.teachers.weights.load_weights` loads others.
    """

    def __init__(self, backbone: str, statistics: Statistics):
        super().__init__()
        self.backbone = backbone
        self.normalise = Normalise(statistics)
        self.net = timm.create_model(backbone, pretrained=False)
        self.requires_grad_(False)
        self.train(False)

    def forward(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        last, levels = self.net.forward_intermediates(self.normalise(image))
        return levels, self.net.forward_head(last)


class Plan(NamedTuple):
    """What imitates what: level own[i] of the trunk imitates level theirs[i], which has widths[i] channels."""

    own: list[int]
    theirs: list[int]
    widths: list[int]
    answers: int  # number of logits
    values: int  # of all imitated levels of one image
    parameters: int  # of the imitated network


class Imitator(Classifier):
    """A classifier with further heads on its trunk's levels; no head is part of the finished teacher.

    Images [B,3,h,w] in [0,1] -> classes [B,n], embedding [B,128], imitated levels L x [B,C_l,h_l,w_l] in units of
    `standardised`, imitated logits [B,K].
    """

    def __init__(self, trunk: Features, classes: int, plan: Plan):
        super().__init__(trunk, classes)
        self.own, self.widths = plan.own, plan.widths
        sizes = zip(plan.own, plan.widths, strict=True)
        self.levels = nn.ModuleList(nn.Conv2d(trunk.channels[level], width, 1) for level, width in sizes)
        self.logits = nn.Linear(trunk.channels[-1], plan.answers)
        self.register_buffer("mean", torch.zeros(sum(plan.widths), 1, 1))
        self.register_buffer("std", torch.zeros(sum(plan.widths), 1, 1))  # zero until measured

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor]:
        maps = self.trunk(self.normalise(image))
        pooled = pool(maps)
        levels = [head(maps[level]) for level, head in zip(self.own, self.levels, strict=True)]
        return self.classes(pooled), self.embedding(pooled), levels, self.logits(pooled)

    def standardised(self, levels: list[torch.Tensor]) -> list[torch.Tensor]:
        """Levels of the imitated network with mean 0 and deviation 1 for each channel, float32."""
        scales = zip(levels, self.mean.split(self.widths), self.std.split(self.widths), strict=True)
        return [(maps.float() - mean) / std for maps, mean, std in scales]


class Imitation(Classification):
    """The loss of `Classification`, plus those of imitating another network's levels and logits on the same views.

    Views of formula-made pictures and of a few photographs can carry much of what an ImageNet network knows (Asano and
    Saeed, "The Augmented Image Prior", ICLR 2023).
    """

    class Options(Classification.Options):
        lr: Rate = 1e-3
        weight_decay: NotNegative = 0.02
        weights: Text = "bundled"  # start values: random, bundled or a file; missing ones start random
        imitate: Text  # a timm name
        imitate_weights: Text = "imagenet"
        photographs: Text = "none"  # a folder of them, or scikit-image: those that this package contains
        photographs_share: Share = 0.5  # of the views, if there are photographs
        statistics: Count = 2000  # views for the mean and standard deviation of the imitated channels
        crop_size: Side = 128  # pixels, of the views, for both networks
        formulas: NotNegative = 1.0  # weight of the loss of `Classification`
        levels: NotNegative = 5.0  # weight of the imitated levels
        logits: NotNegative = 1.0  # weight of the imitated logits
        softness: Rate = 4.0  # temperature of the logits

    base = "resnet18_imitation"
    on_a_gpu = {"per_class": 500, "img_size": 128, "crop_size": 128, "batch_size": 128, "lr": 2e-3, "steps": 20000}
    sizes = "batch_size, photographs_share, img_size, crop_size or classes"

    @property
    def name(self) -> str:
        return f"{super().name}_imitation"

    @property
    def photographs(self) -> int:
        """The number of photographs' views in a step."""
        o = self.options
        share = 0.0 if o.photographs == "none" else o.photographs_share
        return round(2 * o.batch_size * share / (1 - share))

    @property
    def views(self) -> int:
        return super().views + self.photographs

    def memory(self) -> int:
        needed, plan = super().memory(), self.plan
        # Both networks' levels and logits, the difference and the gradient; the imitated network's values.
        return needed + self.views * 4 * 4 * (plan.values + plan.answers) + 4 * plan.parameters

    @functools.cached_property
    def plan(self) -> Plan:
        """Each level of the backbone from stride 4 on with the deepest level of the other network of the same size.

        Raises UserError if the other network has no such level, or cannot take views of this size.
        """
        o = self.options
        image = torch.empty(1, 3, o.crop_size, o.crop_size, device="meta")
        trunk = outline(o.backbone, self.every_level()).eval()
        with own_keys(), torch.device("meta"):
            outline(o.imitate, [0])  # refuses an unknown network
            imitated = Imitated(o.imitate, tag_statistics(o.imitate))
        try:
            levels, logits = imitated(image)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:  # timm's networks differ
            raise UserError(f"imitate: '{o.imitate}' cannot take views of {o.crop_size} px: {reason(error)}") from None
        own = [level for level, stride in enumerate(trunk.reduction) if stride >= SHALLOWEST]
        sizes, found = [maps.shape[2:] for maps in levels], trunk(image)
        for level in own:
            if found[level].shape[2:] not in sizes:
                raise UserError(
                    f"imitate: '{o.imitate}' has no level of the size of level {level} of '{o.backbone}', "
                    f"{tuple(found[level].shape[2:])} for {o.crop_size} px; choose a CNN, and a multiple of "
                    f"{trunk.reduction[-1]} as crop_size"
                )
        theirs = [max(k for k, size in enumerate(sizes) if size == found[level].shape[2:]) for level in own]
        chosen = [levels[k] for k in theirs]
        widths, values = [maps.shape[1] for maps in chosen], sum(maps.numel() for maps in chosen)
        return Plan(own, theirs, widths, logits.shape[1], values, parameters(imitated))

    def build(self) -> nn.Module:
        o = self.options
        with own_keys():
            source = find_source(o.imitate, o.imitate_weights)
            self.imitated = Imitated(o.imitate, source.statistics(tag_statistics(o.imitate)))
            if source.path is not None:
                load_weights(self.imitated, source.tensors(o.imitate), source.path)
        self.package = source.package
        self.origin = {"imitated": fingerprint(self.imitated)}
        if self.photographs:
            self.shots = PhotographViews(o.photographs, o.crop_size, o.seed)
            self.origin["photographs"] = self.shots.fingerprint()
        return Imitator(self.trunk(), o.classes, self.plan)

    def prepare(self) -> None:
        super().prepare()
        self.imitated = self.compute.frozen(self.compute.place(self.imitated))
        if not self.net.std.any():
            moments = [level.moments for level in self._levels_statistics()]
            for name, values in zip(("mean", "std"), zip(*moments, strict=True), strict=True):
                getattr(self.net, name).copy_(torch.cat(values).view(-1, 1, 1))

    def _levels_statistics(self) -> list[ChannelStatistics]:
        """Of the imitated levels, over the views of the first steps."""
        count = -(-self.options.statistics // self.views)
        batch, statistics = Prefetch(self.draw, count - 1), [ChannelStatistics() for _ in self.plan.own]
        for step in progress(range(count), "statistics of the imitated levels"):
            levels, _ = self.wanted(self.images_of(batch(step))[0])
            for level, maps in zip(statistics, levels, strict=True):
                level.add(maps)
        return statistics

    def draw(self, step: int) -> tuple[torch.Tensor, ...]:
        """As `Classification` draws them, and views of photographs [P,3,s,s] uint8."""
        side, count = self.options.crop_size, self.photographs
        pixels = np.empty((count, side, side, 3), np.uint8)
        for k in range(count):
            pixels[k] = self.shots[step * count + k]
        return *super().draw(step), torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def images_of(self, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """All views on the device, [2B+P,3,s,s] in [0,1], and the classes [2B] of those of formula-made pictures."""
        *pictures, photographs = batch
        image, labels = super().images_of(pictures)
        image = torch.cat([image, self.compute.images(photographs)])
        return image.contiguous(memory_format=torch.channels_last), labels

    @torch.no_grad()
    def wanted(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The levels to imitate, as they are, and the logits in float32."""
        with self.compute.autocast():
            levels, logits = self.imitated(image)
        return [levels[k] for k in self.plan.theirs], logits.float()

    def loss(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        o = self.options
        image, labels = self.images_of(self.batch(step))
        levels, logits = self.wanted(image)
        classes, embedding, own_levels, own_logits = self.net(image)
        pictures = len(labels)
        formulas, metrics = self.formula_loss(classes[:pictures], embedding[:pictures], labels)
        pairs = zip(own_levels, self.net.standardised(levels), strict=True)
        apart = torch.stack([cosine_distance(own.float(), wanted) for own, wanted in pairs]).mean()
        divergence = softened_divergence(own_logits.float(), logits, o.softness)
        same = (own_logits.argmax(1) == logits.argmax(1)).float().mean()
        loss = o.formulas * formulas + o.levels * apart + o.logits * divergence
        return loss, metrics | {"levels": apart.detach(), "logits": divergence.detach(), "same_answer": same}

    def optimizer(self) -> tuple[torch.optim.Optimizer, object]:
        """AdamW, as the gradients of a mean over many channels are small: the levels fall faster than with SGD."""
        return self.scheduled(torch.optim.AdamW(self.groups(), self.options.lr))

    def notes(self) -> dict[str, Any]:
        """Whose licence applies to what the network imitated."""
        return {"imitated_package": self.package} if self.package else {}


def cosine_distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean over positions of one minus the cosine between their vectors: two [B,C,h,w] -> scalar, from 0 to 2.

    In short trials the deeper levels and the logits came closer than with the squared error, which the few large values
    dominate. The scale that it leaves open belongs to a head, and heads are not kept.
    """
    return 1 - F.cosine_similarity(one, other, dim=1).mean()


def softened_divergence(logits: torch.Tensor, wanted: torch.Tensor, softness: float) -> torch.Tensor:
    """Hinton et al. (2015): KL(wanted || found) of probabilities at a temperature, times its square: [B,K] -> scalar.

    The square keeps the size of the gradients independent of the temperature.
    """
    found, target = (F.log_softmax(values / softness, dim=1) for values in (logits, wanted))
    return softness**2 * F.kl_div(found, target, log_target=True, reduction="batchmean")


@contextlib.contextmanager
def own_keys() -> Iterator[None]:
    """Messages about a teacher's backbone and weights name this recipe's keys for the imitated network."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(r"^(backbone|weights)\b", lambda found: OWN_KEYS[found[1]], str(error))) from None
