"""The base class of all methods: what a method implements, and what scripts and notebooks use."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from engine.device import Compute, choose_device
from engine.distributed import from_main, join
from engine.folder import RunFolder
from engine.method import Recipe
from engine.scoring import anomaly_map
from engine.seed import set_seed
from engine.student_file import describe, read_metadata, save_student
from models.detector import Detector
from models.teachers.features import Features, outline
from models.teachers.teacher import Teacher
from utils.config import CommonData, Config, RunConfig, TrainingData
from utils.ranks import is_main

if TYPE_CHECKING:
    from engine.cross import Folds
    from engine.loading import Batches
    from engine.run import TestSet


class BaseTrainer:
    """A method is a subclass that implements `build_detector` and overrides what is different."""

    Config: type[RunConfig] = Config  # a method with other keys outside TrainingData subclasses it
    Options: type[CommonData] = TrainingData  # a method with its own keys in TrainingData subclasses it

    def __init__(self, config: RunConfig, run_dir: Path | None = None):
        """`run_dir` is the run's folder, if it is not where the config says."""
        from engine.threads import use_threads  # here and below: imported only where used

        self.config, self.options, self.fresh = config, config.TrainingData, True
        use_threads(config.threads)
        self.device = choose_device(config.device)
        join(self.device)
        self.folder = RunFolder(config, run_dir)
        self.run_dir = self.folder.path
        set_seed(config.seed)
        detector = self.build_detector()
        if isinstance(self.options, TrainingData):
            detector.border = self.options.border
        self.compute = Compute.chosen(self.device, config.precision, detector, config.compile)
        self.detector = self.compute.place(detector)
        if config.compile:
            for net in self.student.values() if isinstance(self.student, nn.ModuleDict) else [self.student]:
                net.compile()
        for net in self.teacher.modules():
            if isinstance(net, Features):
                net.check_size(self.options.input_size, self.options.input_key)
        # Method, settings and teachers; training adds its results. Saved with the student.
        self.metadata = describe(config, self.teacher)

    # ---- what a method implements or overrides ---------------------------------------------------------------

    def build_detector(self) -> Detector:
        """The networks; `self.pretrained` returns a teacher with the weights of the config."""
        raise TypeError(f"{type(self).__name__} must implement build_detector()")

    def recipe(self) -> Recipe:
        """The length of a training, its augmentation, and which student is kept."""
        return Recipe(epochs=self.options.epochs)

    def build_optimizer(self, total_steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """(optimizer, scheduler stepped after every step of the optimizer, or None)."""
        return torch.optim.Adam(self.student.parameters(), lr=self.options.lr), None

    def loss(self, batch: dict) -> torch.Tensor:
        """Scalar: the distance averaged over batch and positions, summed over levels.

        `batch` comes from Batches: "image" in [0,1] and the teacher's maps of it, "teacher". In training also "step",
        the number of batches before it in all epochs: draw random numbers from (seed, step), so a resume repeats it.
        """
        pairs = self.detector.pairs(batch["image"], batch["teacher"])
        return sum(level.mean() for level in self.detector.levels(*pairs))

    @torch.inference_mode()
    def validate(self, val: "Batches") -> float | dict[str, float]:
        """The score of an epoch, lowest is best: the mean anomaly map of the held-out good images.

        A dict has a score for each of the student's children by name; each child keeps its own best epoch.
        """
        self.detector.eval()
        maps = (anomaly_map(self.detector, self.compute, batch["image"], batch["teacher"]) for batch in val)
        return float(torch.cat([part.mean(dim=(1, 2, 3)) for part in maps]).double().mean())

    def on_fit_start(self, train: "Batches") -> dict[str, str]:
        """Prepare what all batches need, such as statistics or exemplars.

        Returns fingerprints, by name, of what else affects training, besides configuration, good images and teacher.
        """
        return {}

    def on_fit_end(self, val: "Batches") -> None:
        """Calibrate the finished student on held-out good images."""

    # ---- what scripts and notebooks use ----------------------------------------------------------------------

    @property
    def teacher(self) -> nn.Module:
        return self.detector.teacher

    @property
    def student(self) -> nn.Module:
        return self.detector.student

    def pretrained(self, backbone: str, out_indice: list[int], k: int = 0) -> Teacher:
        """The method's teacher number `k`, with the weights of the config."""
        from models.teachers.weights import build_teacher, find_source

        outline(backbone, out_indice)  # refuses an unknown network before searching for its weights
        if self.config.phase == "train":
            source = from_main(lambda: find_source(backbone, self.weights(k)))
        else:  # only the first process tests
            source = find_source(backbone, self.weights(k))
        return build_teacher(backbone, out_indice, source, self.config.seed)

    def weights(self, k: int = 0) -> str:
        """The key `weights` for teacher number `k`; `auto` is what the training, or the run of a fold, has found."""
        weights = self.config.weights if isinstance(self.config.weights, str) else self.config.weights[k]
        fold = "/" in str(self.config.calibration)
        student = self.run_dir.absolute().parents[1] / "student.safetensors" if fold else self.folder.student_file
        if weights == "auto" and (fold or self.config.phase == "test") and student.exists():
            return read_metadata(student)["teachers"][k]["weights"]
        return weights

    @torch.inference_mode()
    def features(self, image: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Images [B,3,H,W], uint8, uint16 or in [0,1] -> (teacher maps, student maps), each L x [B,C,h,w].

        Of any size that the networks take; with the key `tile`, give tiles.
        """
        self.detector.eval()
        with self.compute.autocast():
            return self.detector.pairs(self.compute.images(image))

    def anomaly_map(self, image: torch.Tensor) -> torch.Tensor:
        """The same images -> [B,1,H,W] float32; a score is the maximum, without what `fit: pad` or `roi` leaves out."""
        self.detector.eval()
        return anomaly_map(self.detector, self.compute, image)

    @cached_property
    def test_set(self) -> "TestSet":
        """The test images, and notes about what is missing."""
        from engine.splits import test_dataset

        return test_dataset(self.config)

    def train(self) -> None:
        """Train the student on train/good, or finish an interrupted training; raises as engine.run.train."""
        from engine import run

        if not self.fresh:  # trained or loaded before, as in a notebook
            config, run_dir = self.config, self.run_dir
            vars(self).clear()  # all that was made since, such as another teacher with statistics
            self.__init__(config, run_dir)
        self.fresh = False
        from_main(lambda: bool(self.test_set))  # an error there ends every process
        metadata = run.train(self, self.compute, self.folder, self.metadata, self.test_set if is_main() else None)
        if metadata is None:
            self.load()
        else:
            self.metadata = metadata
        if self.folds:
            self.folds.train()

    @cached_property
    def folds(self) -> "Folds | None":
        """The further students of `calibration: cross`."""
        from engine.cross import Folds

        return Folds(type(self), self.config, self.run_dir) if self.config.calibration == "cross" else None

    def test(self) -> dict[str, float]:
        """Score the test images and write the report; returns metrics as fractions; raises as engine.run.test."""
        from engine import run

        return run.test(self.detector, self.compute, self.config, self.folder, self.metadata, self.test_set, self.folds)

    def save(self) -> None:
        """Write the student and its metadata to `<run_dir>/student.safetensors`."""
        save_student(self.folder.student_file, self.student, self.metadata)

    def load(self) -> None:
        """Load the student. Raises UserError if the file is missing, damaged, or of another network or teacher."""
        self.metadata, self.fresh = self.folder.load(self.student, self.metadata), False
        if levels := self.metadata.get("standardise"):
            self.teacher.standardise(levels)
        if self.config.threads == "auto":
            from engine.threads import take_threads

            take_threads(self.metadata.get("threads"))
