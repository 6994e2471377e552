"""A backbone that learns to tell formula-made pictures apart: by their formula, and each single picture."""

from functools import partial
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn
from torchvision.transforms.functional import rgb_to_grayscale

from engine.device import choose_dtype
from engine.prefetch import Prefetch
from models.detector import unit_range
from models.teachers.features import Features, outline
from models.teachers.teacher import Normalise, Statistics, tag_statistics
from models.teachers.weights import build_teacher, find_source
from pretraining.formula import FormulaImages
from pretraining.formula.store import rendered
from pretraining.job import Job, JobOptions, warm_cosine
from pretraining.memory import kept_values, parameters
from utils.config import Count, Levels, NotNegative, Rate, Share, Side, Text

EMBEDDING = 128  # values of a picture's embedding in the contrastive loss


class Classifier(nn.Module):
    """A backbone with two heads on its last level: images [B,3,h,w] in [0,1] -> classes [B,n], embedding [B,128]."""

    def __init__(self, trunk: Features, classes: int):
        super().__init__()
        self.normalise = Normalise(tag_statistics(trunk.backbone))
        self.trunk = trunk
        width = trunk.channels[-1]
        self.classes = nn.Linear(width, classes)
        self.embedding = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, EMBEDDING))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = self.trunk(self.normalise(image))[-1].mean(dim=(2, 3))
        return self.classes(pooled), self.embedding(pooled)


class Classification(Job):
    """Cross-entropy over formula classes, plus InfoNCE between two views of each picture."""

    class Options(JobOptions):
        backbone: Text  # a timm name
        out_indice: Levels = [0, 1, 2, 3]  # the file contains the network up to the last of these
        weights: Text = "random"  # start values: random, bundled or a file; missing ones start random
        classes: Annotated[Count, Field(ge=2)] = 750
        per_class: Count = 110  # pictures of each class; all of them are drawn once and kept in save_path
        img_size: Side = 128  # pixels, of the pictures
        crop_size: Side = 64  # pixels, of the views of them
        lr: Rate = 0.1
        weight_decay: NotNegative = 2e-4
        gray: Share = 0.0  # share of the views without colour
        warmup: Share = 0.05  # share of the steps in which the learning rate rises
        smoothing: Share = 0.05
        contrast: NotNegative = 0.5  # of the contrastive loss
        temperature: Rate = 0.15

        @model_validator(mode="after")
        def crop_fits(self):
            if self.crop_size > self.img_size:
                raise ValueError(f"crop_size {self.crop_size} is larger than img_size {self.img_size}")
            return self

    base = "resnet18"
    on_a_gpu = {"per_class": 500, "img_size": 128, "crop_size": 112, "batch_size": 512, "lr": 0.8, "steps": 20000}
    sizes = "batch_size, img_size, crop_size or classes"

    @property
    def name(self) -> str:
        return self.options.backbone.partition(".")[0]

    def memory(self) -> int:
        o = self.options
        outline(o.backbone, o.out_indice)  # refuses an unknown backbone or level
        trunk = outline(o.backbone, self.every_level())
        trunk.check_size((o.crop_size, o.crop_size), "views of crop_size")
        views, width = 2 * o.batch_size, trunk.channels[-1]
        learned = parameters(trunk) + width * (o.classes + width + EMBEDDING)
        kept = choose_dtype(o.precision, self.device, trunk).itemsize * kept_values(trunk.eval(), o.crop_size)
        # Logits, their logarithms and gradients; similarities within a batch; parameters, gradients and momentum.
        step = views * (kept + 3 * 4 * o.classes) + 4 * o.batch_size**2 + 3 * 4 * learned
        return max(step, views * 2 * 4 * 3 * o.img_size**2)  # the pictures as float32, before and after division

    def every_level(self) -> range:
        return range(len(outline(self.options.backbone, [0]).net.feature_info.info))

    def build(self) -> nn.Module:
        o = self.options
        trunk = Features(o.backbone, self.every_level())
        if o.weights != "random":
            start = build_teacher(o.backbone, o.out_indice, find_source(o.backbone, o.weights), o.seed)
            trunk.load_state_dict(start.net.state_dict(), strict=False)
        return Classifier(trunk, o.classes)

    def prepare(self) -> None:
        o = self.options
        count = o.classes * o.per_class
        self.images = FormulaImages(o.img_size, o.seed, o.classes)
        store = f"pictures_{o.seed}_{o.classes}_{o.per_class}_{o.img_size}_{self.images.fingerprint()}.npy"
        self.pool = rendered(self.images, count, self.folder.parent / store)
        self.batch = Prefetch(self.draw, o.steps - 1)

    def draw(self, step: int) -> tuple[torch.Tensor, ...]:
        """Pictures [B,3,S,S] uint8, their classes [B]; of two views each: affine maps [2B,2,3], whether gray [2B]."""
        o = self.options
        rng = np.random.default_rng((o.seed, step))
        chosen = rng.integers(len(self.pool), size=o.batch_size)
        pictures = torch.from_numpy(self.pool[chosen]).permute(0, 3, 1, 2)
        labels = torch.from_numpy(chosen % o.classes)
        colourless = torch.from_numpy(rng.random(2 * o.batch_size) < o.gray)
        return pictures, labels, random_affine(rng, 2 * o.batch_size), colourless

    def loss(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        o = self.options
        pictures, labels, theta, colourless = (tensor.to(self.device) for tensor in self.batch(step))
        labels = labels.repeat(2)
        logits, embedding = self.net(views(pictures.repeat(2, 1, 1, 1), theta, colourless, o.crop_size))
        cross_entropy = F.cross_entropy(logits.float(), labels, label_smoothing=o.smoothing)
        contrast = info_nce(*embedding.chunk(2), o.temperature)
        right = (logits.argmax(1) == labels).float().mean()
        return cross_entropy + o.contrast * contrast, {"contrast": contrast.detach(), "accuracy": right}

    def optimizer(self) -> tuple[torch.optim.Optimizer, object]:
        """Nesterov SGD; the learning rate rises linearly, then falls as a cosine to 0. No decay of norms and biases."""
        o = self.options
        groups = [
            {"params": [p for p in self.net.parameters() if p.ndim > 1], "weight_decay": o.weight_decay},
            {"params": [p for p in self.net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        sgd = torch.optim.SGD(groups, o.lr, momentum=0.9, nesterov=True)
        return sgd, torch.optim.lr_scheduler.LambdaLR(sgd, partial(warm_cosine, steps=o.steps, warmup=o.warmup))

    def statistics(self) -> Statistics:
        return tag_statistics(self.options.backbone)

    def teacher(self) -> dict[str, torch.Tensor]:
        kept = outline(self.options.backbone, self.options.out_indice).net.state_dict()
        return {key: tensor for key, tensor in self.net.trunk.net.state_dict().items() if key in kept}


def random_affine(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Maps from a crop's coordinates to its picture's, both in [-1, 1]: [count,2,3] float32.

    45 to 100 % of the area, both flips, turned by up to 0.5 rad in both directions. Only geometry: changes of light
    and colour would teach the network to ignore many defects.
    """
    scale = np.sqrt(rng.uniform(0.45, 1, count))
    angle = rng.uniform(-0.5, 0.5, count)
    flips = rng.choice((-1.0, 1.0), (2, count))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    shift = (1 - scale) * rng.uniform(-1, 1, (2, count))
    theta = np.array([[cos * flips[0], -sin * flips[1], shift[0]], [sin * flips[0], cos * flips[1], shift[1]]])
    return torch.from_numpy(theta.transpose(2, 0, 1).astype(np.float32))


def views(pictures: torch.Tensor, theta: torch.Tensor, colourless: torch.Tensor, size: int) -> torch.Tensor:
    """Crops of pictures [N,3,S,S] uint8, in gray where `colourless` [N]: [N,3,size,size] in [0,1]."""
    with torch.autocast(pictures.device.type, enabled=False):
        grid = F.affine_grid(theta, (len(theta), 3, size, size), align_corners=False)
        crops = F.grid_sample(unit_range(pictures), grid, padding_mode="reflection", align_corners=False)
        crops = torch.where(colourless.view(-1, 1, 1, 1), rgb_to_grayscale(crops, 3), crops)
    return crops.contiguous(memory_format=torch.channels_last)


def info_nce(one: torch.Tensor, other: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE: each picture's two embeddings should be the most similar ones in the batch: two [B,D] -> scalar."""
    with torch.autocast(one.device.type, enabled=False):  # it would multiply in half precision
        similarity = F.normalize(one.float(), dim=1) @ F.normalize(other.float(), dim=1).T / temperature
    target = torch.arange(len(one), device=one.device)
    return 0.5 * (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target))
