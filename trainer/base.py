"""What every method shares: the networks' life from building to scoring, saving and loading."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.dataset import MVTecDataset
from datasets.readers.mvtec import test_dataset
from engine.device import autocast, choose_device, choose_dtype
from engine.fit import fit
from engine.loading import Batches, loader, training_batches
from engine.seed import set_seed
from engine.student_file import check_record, fingerprint, load_student, read_record, save_student
from evaluation.pictures import pixel_levels
from evaluation.report import evaluate, remove_test_report, write_test_report, write_training_report
from models.anomaly_map import smooth, sum_levels
from models.losses import squared_distance
from models.teachers.features import Features, Frozen
from models.teachers.weights import pretrained_features
from utils.config import Config, TrainingData, difference, result_settings
from utils.console import note, progress
from utils.files import check_writable
from utils.ranks import is_main


class BaseTrainer:
    """A method is a subclass that writes `build_networks` and overrides what differs.

    `teacher` is frozen and never saved; `student` is everything that learns or must be saved, one module
    however many parts it has. Per-batch hooks return values and leave nothing on `self`.
    """

    Config = Config  # a method with other keys beside TrainingData subclasses it
    Options = TrainingData  # a method with keys of its own below TrainingData subclasses it
    accumulate = 1  # batches whose gradients are summed for one step of the optimizer
    epoch_batches: int | None = None  # batches that make an epoch; None: one pass over the training images
    border = 0  # positions that its maps lack at each edge of the image
    patience: int | None = None  # epochs without a better validation score after which training ends

    def __init__(self, config: Config):
        self.config, self.options = config, config.TrainingData
        self.device = choose_device(config.device)
        self.dtype = choose_dtype(config.precision, self.device)
        self.run_dir = Path(config.save_path, config.distillType, config.obj)
        self.student_file = self.run_dir / "student.safetensors"
        self.inputs: dict[str, str] = {}  # fingerprints of what, beside good images and teacher, training depends on
        set_seed(config.seed)
        teacher, student = self.build_networks()
        self.teacher = Frozen(teacher).to(self.device, memory_format=torch.channels_last)
        self.student = student.to(self.device, memory_format=torch.channels_last)
        backbones = [net for net in self.teacher.modules() if isinstance(net, Features)]
        for net in backbones:
            net.check_size(self.options.crop_size)
        sources = [net for net in self.teacher.modules() if hasattr(net, "source")]
        # What the student is and learns from; training adds how it went. Saved with the student.
        self.record: dict[str, Any] = {
            **config.model_dump(mode="json", include={"distillType", "backbone", "out_indice"}),
            "weights": {net.backbone: net.source.name for net in sources},
            "teacher": fingerprint(self.teacher),
            "settings": result_settings(config),
        }

    # ---- what a method writes or overrides -------------------------------------------------------------------

    def build_networks(self) -> tuple[nn.Module, nn.Module]:
        """(teacher, student); `self.pretrained` gives a teacher with the weights the config asks for."""
        raise TypeError(f"{type(self).__name__} must write build_networks()")

    def student_maps(self, image: torch.Tensor, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        """The student's maps of images [B,3,H,W], given the teacher's: L x [B,C,h,w], one for each."""
        return self.student(image)

    def distance(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        """Disagreement at each position of a level, trained and scored alike: two [B,C,h,w] -> [B,1,h,w]."""
        return squared_distance(teacher, student, self.options.norm)

    def pairs(self, image: torch.Tensor, teacher: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What is compared: (teacher's maps, student's maps) of images [B,3,H,W], each L x [B,C,h,w]."""
        return teacher, self.student_maps(image, teacher)

    def model_of(self, level: int) -> str:
        """Who the student is compared with at a level, counted from 0: a name for the pages."""
        return "teacher"

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        """What training and validation make of normalised images [B,3,H,W] before any network sees them."""
        return image

    def loss(self, batch: dict) -> torch.Tensor:
        """Scalar: the distance averaged over batch and positions, summed over levels.

        `batch` is what MVTecDataset.batch gives, and "teacher": L x [B,C,h,w]. In training also "step", the number
        of batches before it in all epochs: draw randomness from (seed, step), and a resumed run repeats it.
        """
        student = self.student_maps(batch["image"], batch["teacher"])
        return sum(level.mean() for level in self.level_maps(batch["teacher"], student))

    def map_from(self, image: torch.Tensor, teacher: list[torch.Tensor]) -> torch.Tensor:
        """The anomaly map of images [B,3,H,W], given the teacher's maps: [B,1,H,W] float32."""
        return self.final_map(self.levels_from(image, teacher), image.shape[-2:])

    def levels_from(self, image: torch.Tensor, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        """The distance of images [B,3,H,W] at every level, given the teacher's maps: L x [B,1,h,w]."""
        with autocast(self.device, self.dtype):
            pairs = self.pairs(image, teacher)
        return self.level_maps(*pairs)

    def combine(self, levels: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """One distance map per level, L x [B,1,h,w], to one of image size: [B,1,H,W]."""
        return sum_levels(levels, size)

    def total_steps(self, per_epoch: int) -> int:
        """How many batches to train on, when the training images make `per_epoch` of them."""
        return self.options.epochs * per_epoch

    def build_optimizer(self, total_steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """(optimizer, scheduler stepped after every batch, or None)."""
        return torch.optim.Adam(self.student.parameters(), lr=self.options.lr), None

    @torch.inference_mode()
    def validate(self, val: Batches) -> float | dict[str, float] | None:
        """What the choice of the model minimises: the mean anomaly map of the held-out good images.

        A dict holds a score for each of `student`'s children by name, chosen independently; None keeps the last epoch.
        """
        return float(torch.cat([maps.mean(dim=(1, 2, 3)) for maps in self.maps(val)]).double().mean())

    @torch.inference_mode()
    def held_out_loss(self, losses: Callable[[dict], torch.Tensor], val: Batches) -> torch.Tensor:
        """A loss (or several, [n]) over all held-out images, each of them weighing the same."""
        self.student.eval()
        total = 0
        for batch in val:
            with autocast(self.device, self.dtype):
                total += losses(batch).double() * len(batch["image"])
        return total / val.images

    def before_training(self, train: Batches) -> None:
        """Set what outlives a batch: statistics, exemplars."""

    def after_training(self, val: Batches) -> None:
        """Calibrate the finished student on held-out good images."""

    # ---- what scripts and notebooks use ----------------------------------------------------------------------

    def pretrained(self, backbone: str, out_indice: list[int], weights: str | None = None) -> Features:
        """A backbone with `weights`, those of the config by default; a tested run gets those it was trained with."""
        weights = self.wanted_weights(backbone, weights or self.config.weights)
        return pretrained_features(backbone, out_indice, weights, self.config.seed)

    def wanted_weights(self, backbone: str, weights: str) -> str:
        """`weights`, but what `auto` was in the training when its student is tested."""
        if weights == "auto" and self.config.phase == "test" and self.student_file.exists():
            return read_record(self.student_file)["weights"].get(backbone, weights)
        return weights

    @torch.inference_mode()
    def features(self, image: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Normalised images [B,3,H,W] -> (teacher maps, student maps), each L x [B,C,h,w]."""
        image, teacher = self._show_teacher(image)
        with autocast(self.device, self.dtype):
            return self.pairs(image, teacher)

    def level_maps(self, teacher: list[torch.Tensor], student: list[torch.Tensor]) -> list[torch.Tensor]:
        """The distance at every level: two L x [B,C,h,w] -> L x [B,1,h,w]."""
        return [self.distance(t, s) for t, s in zip(teacher, student, strict=True)]

    def final_map(self, levels: list[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """L x [B,1,h,w] -> the anomaly map that is scored: [B,1,H,W]."""
        return smooth(self.combine(levels, size), self.options.sigma)

    @torch.inference_mode()
    def anomaly_map(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised images [B,3,H,W] -> [B,1,H,W] float32; an image's score is the maximum of its map."""
        return self.map_from(*self._show_teacher(image))

    def _show_teacher(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The images on the device and the teacher's maps of them, the student ready to be asked."""
        self.student.eval()
        image = image.to(self.device, memory_format=torch.channels_last)
        with autocast(self.device, self.dtype):
            return image, self.teacher(image)

    @torch.inference_mode()
    def maps(self, batches: Batches) -> Iterator[torch.Tensor]:
        """The anomaly maps of each batch, the teacher's part not computed twice."""
        self.student.eval()
        for batch in batches:
            yield self.map_from(batch["image"], batch["teacher"])

    def train(self) -> None:
        """Fit the student on train/good and write the run folder; goes on where an interrupted run stopped.

        Raises UserError for unusable data, an unwritable folder, or a loss that is no longer finite.
        """
        if is_main():
            check_writable(self.run_dir)
        train, val = training_batches(self)
        self.before_training(train)
        training = fit(self, train, val)
        training.restore_best()
        self.after_training(val)
        self.record |= {
            "best_epoch": training.kept,
            "train_seconds": sum(row["seconds"] for row in training.history),
            "normal": self._normal(val) if is_main() else None,
        }
        if is_main():
            remove_test_report(self.run_dir)  # it speaks of the student that is now replaced
            self.save()
            write_training_report(self.run_dir, self.config, training.history, training.best_epoch)
            (self.run_dir / "checkpoint.pt").unlink(missing_ok=True)

    def _normal(self, val: Batches) -> dict[str, list[float]] | None:
        """How the finished student answers good images it was not trained on: the yardstick of the pictures."""
        if not val.images:
            return None
        maps, _ = self.score(val.loader.dataset, "held-out images")  # as in a test, whatever `prepare` does
        return {"scores": sorted(maps.max(axis=(1, 2)).tolist()), "pixel_levels": pixel_levels(maps)}

    def test(self) -> dict[str, float]:
        """Score the test images and write the report; returns the figures that the data allow, as fractions.

        Raises UserError for unusable data or an unwritable folder.
        """
        dataset, notes = self.test_set
        check_writable(self.run_dir)
        begin = time.perf_counter()
        maps, masks = self.score(dataset)
        seconds = time.perf_counter() - begin
        result = evaluate(dataset.samples, maps, masks, notes)
        write_test_report(self, dataset, maps, masks, result, seconds)
        return result.figures

    @cached_property
    def test_set(self) -> tuple[MVTecDataset, list[str]]:
        """The test images, and sentences about what they lack."""
        return test_dataset(self.config)

    def score(self, dataset: MVTecDataset, what: str = "testing") -> tuple[np.ndarray, np.ndarray]:
        """Anomaly maps [N,H,W] float32 and masks [N,H,W] bool of a data set, in its order."""
        maps = np.empty((len(dataset), *self.options.crop_size), np.float32)
        masks = np.empty(maps.shape, bool)
        with progress(None, what, len(dataset)) as bar:
            for batch in loader(dataset, self.config, self.device):
                index = batch["index"].numpy()
                maps[index] = self.anomaly_map(batch["image"]).squeeze(1).cpu().numpy()
                masks[index] = batch["mask"].numpy()
                bar.update(len(index))
        return maps, masks

    def save(self) -> None:
        """Write the student and its record to `<run_dir>/student.safetensors`."""
        save_student(self.student_file, self.student, self.record)

    def load(self) -> None:
        """Read them back. Raises UserError when the file is missing, damaged, or of another network or teacher."""
        record = read_record(self.student_file)
        check_record(self.student_file, record, self.record)
        load_student(self.student_file, self.student)
        if (self.run_dir / "checkpoint.pt").exists():
            note(f"an unfinished training waits in {self.run_dir}; this is the student of the last finished one")
        # The teacher itself was compared above, whatever `weights` calls it.
        then, now = (
            {k: v for k, v in r["settings"].items() if k not in ("weights", "device")} for r in (record, self.record)
        )
        changed = difference(then, now)
        if changed:
            note(f"not the settings of the training ({changed}): its held-out good images are no yardstick here")
            record["normal"] = None
        self.record = record
