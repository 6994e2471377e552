"""EfficientAD's teacher: a patch description network that imitates a backbone (Batzner et al., algorithm 3)."""

from functools import partial
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from datasets.folder import FolderImages
from engine.device import choose_dtype
from engine.prefetch import Prefetch
from engine.student_file import fingerprint
from models.pdn import CHANNELS, PDN, pdn_size
from models.teachers.features import outline
from models.teachers.pdn import build_pdn, find_pdn
from models.teachers.statistics import ChannelStatistics
from models.teachers.teacher import Statistics
from models.teachers.weights import build_teacher, find_source
from pretraining.formula import FormulaImages
from pretraining.formula.store import rendered
from pretraining.job import Job, JobOptions, warm_cosine
from pretraining.memory import kept_values, parameters
from pretraining.photographs import PhotographViews
from pretraining.target import TargetFeatures
from utils.config import Count, Levels, NotNegative, Rate, Share, Side, Text
from utils.errors import UserError
from utils.progress import progress


class Imitation(nn.Module):
    """The PDN and, saved with it, the statistics of the features that it imitates."""

    def __init__(self, kind: str):
        super().__init__()
        # With padding its maps have the size of the backbone's; values away from the border are as without padding.
        self.pdn = PDN(kind, padding=True)
        self.register_buffer("mean", torch.zeros(1, CHANNELS, 1, 1))
        self.register_buffer("std", torch.zeros(1, CHANNELS, 1, 1))  # zero until measured


class Distillation(Job):
    """The PDN learns to give the maps that the backbone gives of the same picture at twice the size."""

    class Options(JobOptions):
        pdn: Literal["small", "medium"]
        backbone: Text  # a timm name
        out_indice: Levels = [2, 3]  # of strides 8 and 16
        weights: Text = "bundled"
        images: Text = "procedural"  # or a folder of any images
        pictures: Count = 20000  # formula-made ones, drawn once and kept in save_path
        photographs: Text = "none"  # a folder of them, or scikit-image: those that this package contains
        photographs_share: Share = 0.5  # of the images; the others are those of `images`
        start: Text = "random"  # start values of the PDN: random, bundled or a file
        statistics: Count = 10000  # images for the mean and standard deviation of the channels
        img_size: Side = 256  # pixels, of the PDN's images; the backbone's have twice that
        gray: Share = 0.1  # share of the images without colour
        batch_size: Count = 16
        lr: Rate = 1e-4
        weight_decay: NotNegative = 1e-5
        cosine: bool = False  # the learning rate falls as a cosine instead of staying constant

    base = "pdn_small"
    on_a_gpu = {"img_size": 256, "pictures": 20000, "statistics": 10000, "batch_size": 16, "steps": 60000}
    on_a_gpu |= {"lr": 1e-4, "cosine": False}
    sizes = "batch_size or img_size"

    @property
    def name(self) -> str:
        return f"pdn_{self.options.pdn}"

    def memory(self) -> int:
        o, side = self.options, 2 * self.options.img_size
        features = outline(o.backbone, o.out_indice)
        features.check_size((side, side), "twice img_size")
        with torch.device("meta"):
            TargetFeatures(features)  # refuses other levels
            pdn = PDN(o.pdn, padding=True)
            found = features(torch.empty(1, 3, side, side))[0].shape[-1]
        wanted = pdn_size(o.img_size, padding=True)
        if found != wanted:
            raise UserError(
                f"backbone: '{o.backbone}' gives {found} positions per side for {side} px, a PDN {wanted} for half of "
                "that; choose a backbone with padding, and an img_size that is a multiple of 8"
            )
        kept = choose_dtype(o.precision, self.device, pdn).itemsize * kept_values(pdn, o.img_size)
        # The image as float32; target, difference and gradient; parameters, their gradients and Adam's two moments.
        image, maps = 4 * 3 * side**2, 3 * 4 * CHANNELS * wanted**2
        return o.batch_size * (image + maps + kept) + 4 * (4 * parameters(pdn) + parameters(features))

    def build(self) -> nn.Module:
        o = self.options
        teacher = build_teacher(o.backbone, o.out_indice, find_source(o.backbone, o.weights), o.seed)
        self.normalise, self.seen = teacher.normalise.to(self.device), teacher.statistics
        self.target = TargetFeatures(teacher.net).eval()
        self.origin = {"target": fingerprint(self.target)}
        if o.images != "procedural":
            self.images = FolderImages("images", o.images, (2 * o.img_size, 2 * o.img_size))
            self.origin["files"] = self.images.fingerprint()
        self.views = None
        if o.photographs != "none":
            self.views = PhotographViews(o.photographs, 2 * o.img_size, o.seed)
            self.origin["photographs"] = self.views.fingerprint()
        net = Imitation(o.pdn)
        if o.start != "random":
            try:
                start = build_pdn(o.pdn, find_pdn(o.pdn, o.start), o.seed)
            except UserError as error:  # it names the key `weights`, which is the backbone's here
                raise UserError(f"start: {str(error).removeprefix('weights: ')}") from None
            net.pdn.load_state_dict(start.net.pdn.state_dict())
        return net

    def prepare(self) -> None:
        o, side = self.options, 2 * self.options.img_size
        self.target = self.compute.frozen(self.compute.place(self.target))
        if o.images == "procedural":
            images = FormulaImages(side, o.seed)
            store = f"pictures_{o.seed}_{o.pictures}_{side}_{images.fingerprint()}.npy"
            self.images = rendered(images, o.pictures, self.folder.parent / store)
        if not self.net.std.any():
            mean, std = ChannelStatistics.of(self._targets()).moments
            self.net.mean.copy_(mean.view(1, -1, 1, 1))
            self.net.std.copy_(std.view(1, -1, 1, 1))
        self.batch = Prefetch(partial(self.draw, 0), o.steps - 1)

    def _targets(self):
        count = -(-self.options.statistics // self.options.batch_size)
        batches = Prefetch(partial(self.draw, 1), count - 1)
        for number in progress(range(count), "target's statistics"):
            yield self.wanted(self.normalised(batches(number)))

    def draw(self, stream: int, step: int) -> torch.Tensor:
        """A batch of images [B,3,2S,2S] uint8."""
        o = self.options
        rng = np.random.default_rng((o.seed, stream, step))
        pixels = np.stack([self.images[index] for index in rng.integers(len(self.images), size=o.batch_size)])
        gray = rng.random(o.batch_size) < o.gray
        if self.views is not None:
            for k in np.flatnonzero(rng.random(o.batch_size) < o.photographs_share):
                pixels[k] = self.views[2 * (step * o.batch_size + k) + stream]
        for k in np.flatnonzero(gray):
            pixels[k] = cv2.cvtColor(pixels[k], cv2.COLOR_RGB2GRAY)[..., None]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def normalised(self, image: torch.Tensor) -> torch.Tensor:
        """Images [B,3,H,W] uint8 -> normalised for the backbone and the PDN: float32 on the device."""
        return self.normalise(self.compute.images(image))

    @torch.no_grad()
    def wanted(self, image: torch.Tensor) -> torch.Tensor:
        """The backbone's maps of large normalised images [B,3,2S,2S]: [B,384,S/4,S/4]."""
        with self.compute.autocast():
            return self.target(image)

    def loss(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        large = self.normalised(self.batch(step))
        target = (self.wanted(large).float() - self.net.mean) / self.net.std
        # Resized like the images of a data set.
        small = F.interpolate(large, scale_factor=0.5, mode="bilinear", antialias=True)
        found = self.net.pdn(small.contiguous(memory_format=torch.channels_last))
        return (target - found.float()).square().mean(), {}

    def optimizer(self) -> tuple[torch.optim.Optimizer, object]:
        o = self.options
        adam = torch.optim.Adam(self.net.parameters(), o.lr, weight_decay=o.weight_decay)
        if not o.cosine:
            return adam, None
        return adam, torch.optim.lr_scheduler.LambdaLR(adam, partial(warm_cosine, steps=o.steps, warmup=0.0))

    def notes(self) -> dict[str, list[float]]:
        """The scale of the PDN's channels: its output times `target_std`, plus `target_mean`, is as the backbone's."""
        return {f"target_{key}": getattr(self.net, key).flatten().tolist() for key in ("mean", "std")}

    def statistics(self) -> Statistics:
        return self.seen

    def teacher(self) -> dict[str, torch.Tensor]:
        return self.net.pdn.state_dict()
