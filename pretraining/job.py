"""What the recipes share: a loop over steps that can be interrupted, its log, and the finished teacher's files."""

import hashlib
import json
import math
import platform
import shlex
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import Field
from safetensors.torch import save
from torch import nn

from engine.device import Compute, hardware
from engine.seed import set_seed
from engine.state import TrainState
from models.teachers.teacher import Statistics
from utils.config import Count, NotNegative, Rate, Section, Text, read_config
from utils.console import note, progress
from utils.errors import UserError
from utils.files import check_writable, write_bytes, write_csv, write_json

ROOT = Path(__file__).parents[1]

# These say where and how fast; they do not change what is learned.
WITHOUT_EFFECT = {"save_path", "resume", "log_every", "device"}


class JobOptions(Section):
    """The keys every recipe has."""

    recipe: Literal["classify", "distil"]
    save_path: Text = "teachers"
    steps: Count
    batch_size: Count  # images in a step
    lr: Rate
    weight_decay: NotNegative
    log_every: Count = 100  # steps to a row of the log, and to a checkpoint
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    resume: bool = True


class Job:
    """A recipe is a subclass: `net` is what learns, `loss(step)` draws its images from (seed, step) alone."""

    Options: type[JobOptions]
    name: str  # of the teacher and of its files
    base: str  # the shipped file of this recipe
    on_a_gpu: dict[str, Any]  # what is changed of it to make more of a GPU
    origin: dict[str, str] = {}  # fingerprints of what the teacher is made from

    def __init__(self, options: JobOptions):
        self.options = options
        self.compute = Compute.chosen(options.device, options.precision)
        self.device = self.compute.device
        self.folder = Path(options.save_path, self.name)
        self.file = self.folder / f"{self.name}.safetensors"
        self.with_a_gpu = self._with_a_gpu()
        set_seed(options.seed)
        self.net = self.compute.place(self.build())

    # ---- what a recipe writes --------------------------------------------------------------------------------

    def build(self) -> nn.Module:
        """Everything that learns."""
        raise NotImplementedError

    def prepare(self) -> None:
        """What must be there before the first step: images, statistics."""

    def loss(self, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of a step, and figures for the log."""
        raise NotImplementedError

    def optimizer(self) -> tuple[torch.optim.Optimizer, Any]:
        """(optimizer, scheduler stepped after every step, or None)."""
        raise NotImplementedError

    def teacher(self) -> dict[str, torch.Tensor]:
        """The tensors a teacher consists of."""
        raise NotImplementedError

    def statistics(self) -> Statistics:
        """How the teacher's images are normalised."""
        raise NotImplementedError

    def notes(self) -> dict[str, Any]:
        """What else the manifest should hold."""
        return {}

    # ---- the loop --------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train, or go on with an interrupted training; returns the teacher's file.

        Raises UserError for an unwritable folder, one with a finished teacher, or a loss that is no longer finite.
        """
        check_writable(self.folder)
        o, checkpoint = self.options, self.folder / "checkpoint.pt"
        if self.file.exists():
            raise UserError(
                f"{self.file} is a finished teacher, of hours of work perhaps: move it, or change save_path"
            )
        training = TrainState(self.net, *self.optimizer(), self.compute.dtype == torch.float16)
        settings = o.model_dump(mode="json", exclude=WITHOUT_EFFECT) | self.origin | {"arithmetic": str(self.compute)}
        if o.resume and checkpoint.exists():
            training.resume(checkpoint, settings)
        self.prepare()
        done = training.history[-1]["step"] if training.history else 0
        if done:
            note(f"going on with the interrupted training after step {done} of {o.steps}")
        with progress(None, self.name, o.steps, keep=True) as bar:
            bar.update(done)
            while done < o.steps:
                part = range(done, min(done + o.log_every, o.steps))
                training.end_epoch(self._row(training, part, bar), {})
                done = part.stop
                training.save(checkpoint, settings)
                rows = training.history
                write_csv(self.folder / "log.csv", list(rows[0]), [row.values() for row in rows])
        path = self._write(training.history)
        checkpoint.unlink(missing_ok=True)
        return path

    def _row(self, training: TrainState, part: range, bar) -> dict[str, float]:
        """Some steps, and their means as a row of the log."""
        begin, sums = time.perf_counter(), {}
        lr = training.optimizer.param_groups[0]["lr"]
        self.net.train()
        for step in part:
            with self.compute.autocast():
                loss, figures = self.loss(step)
            figures = {"loss": loss.item(), **figures}
            if not math.isfinite(figures["loss"]):
                raise UserError(f"the loss of step {step} is {figures['loss']}: lower lr (now {self.options.lr:g})")
            training.step(loss)
            sums = {key: sums.get(key, 0.0) + value for key, value in figures.items()}
            bar.set_postfix({key: f"{value:.3f}" for key, value in figures.items()}, refresh=False)
            bar.update()
        means = {key: value / len(part) for key, value in sums.items()}
        return {"step": part.stop, "lr": lr, **means, "seconds": time.perf_counter() - begin}

    def _with_a_gpu(self) -> str:
        """The command that makes the most of this recipe on a GPU within an hour or so, by estimate, from the start."""
        file = f"configs/teachers/{self.base}.yaml"
        shipped = type(self.options).model_validate(read_config(ROOT / file)).model_dump(mode="json")
        own = self.options.model_dump(mode="json", exclude=WITHOUT_EFFECT | {"precision"})
        changed = {key: value for key, value in own.items() if value != shipped[key]} | self.on_a_gpu
        changed["save_path"] = "teachers/gpu"  # beside this one, which would not be replaced
        words = [f"{key}={_as_yaml(value)}" for key, value in changed.items()]
        return shlex.join(["python3", "pretrain.py", "--config", file, *words])

    def _write(self, history: list[dict[str, float]]) -> Path:
        """The teacher as float16 .safetensors, and a manifest beside it that says where it comes from."""
        tensors = {
            key: tensor.detach().cpu().to(torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous()
            for key, tensor in self.teacher().items()
            if not key.endswith("num_batches_tracked")  # plays no part in a frozen network
        }
        options = self.options.model_dump(mode="json", exclude=WITHOUT_EFFECT)
        content = save(tensors, metadata={"recipe": json.dumps(options)})
        manifest = {
            "teacher": self.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            **self.statistics()._asdict(),
            "recipe": options,
            **self.origin,
            "date": date.today().isoformat(),
            "seconds": round(sum(row["seconds"] for row in history)),
            "hardware": hardware(self.device),
            "precision": str(self.compute.dtype).removeprefix("torch."),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
            "last": {key: value for key, value in history[-1].items() if key != "seconds"},
            "with_a_gpu": self.with_a_gpu,
            **self.notes(),
        }
        write_bytes(self.file, content)
        write_json(self.file.with_suffix(".json"), manifest)
        return self.file


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def warm_cosine(step: int, steps: int, warmup: float) -> float:
    """The factor of the learning rate at a step: up to 1 over a share `warmup`, then down to 0."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))
