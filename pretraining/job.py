"""What all recipes share: a training that can be interrupted, its log, and the finished teacher's files."""

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
from tqdm import tqdm

from engine.device import Compute, choose_device
from engine.machine import hardware
from engine.seed import set_seed
from engine.state import TrainState, resumable, threads_of
from engine.threads import take_threads, use_threads
from models.teachers.teacher import Statistics
from pretraining.memory import check_fits
from utils.command import ROOT
from utils.config import Count, Device, FilePath, NotNegative, Rate, Section, Threads
from utils.config_file import read_config
from utils.console import note
from utils.errors import UserError
from utils.files import check_writable, locked, write_bytes, write_csv, write_json
from utils.progress import progress

# These decide where and how fast; they do not change what is learned.
WITHOUT_EFFECT = {"save_path", "resume", "log_every", "device", "threads"}
READ_EVERY = 20  # steps between two reads of the loss, each of which has to wait for a GPU


class JobOptions(Section):
    """The keys of every recipe."""

    recipe: Literal["classify", "distil"]
    save_path: FilePath = "teachers"
    steps: Count
    batch_size: Count  # images in a step
    lr: Rate
    weight_decay: NotNegative
    log_every: Count = 100  # steps per row of the log, and per checkpoint
    device: Device = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    threads: Threads | Literal["auto"] = "auto"  # of this process on a CPU; auto leaves busy cores to other processes
    resume: bool = True


class Job:
    """A recipe is a subclass: `net` is trained, and the images of `loss(step)` depend on (seed, step) only."""

    Options: type[JobOptions]
    name: str  # of the teacher and of its files
    base: str  # the shipped file of this recipe
    on_a_gpu: dict[str, Any]  # keys to change in it on a GPU
    sizes: str  # the keys that decide how much memory a step needs
    origin: dict[str, str] = {}  # fingerprints of what the teacher is made from

    def __init__(self, options: JobOptions):
        self.options = options
        use_threads(options.threads)
        self.device = choose_device(options.device)
        self.folder = Path(options.save_path, self.name)
        self.file = self.folder / f"{self.name}.safetensors"
        self.checkpoint = self.folder / "checkpoint.pt"
        if options.resume and options.threads == "auto":
            take_threads(threads_of(self.checkpoint))
        self.with_a_gpu = self._with_a_gpu()
        set_seed(options.seed)
        check_fits(self.memory(), self.device, "a step", self.sizes)
        net = self.build()
        self.compute = Compute.chosen(self.device, options.precision, net)
        self.net = self.compute.place(net)

    # ---- what a recipe implements ----------------------------------------------------------------------------

    def memory(self) -> int:
        """Bytes that a step needs at least. It is called first, and raises UserError for what cannot be built."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        """The network to train."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Prepare what the first step needs: images, statistics."""

    def loss(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a step, and metrics for the log, scalars without gradients."""
        raise NotImplementedError

    def optimizer(self) -> tuple[torch.optim.Optimizer, Any]:
        """(optimizer, scheduler stepped after every step, or None)."""
        raise NotImplementedError

    def teacher(self) -> dict[str, torch.Tensor]:
        """The tensors of the teacher."""
        raise NotImplementedError

    def statistics(self) -> Statistics:
        """How the teacher's images are normalised."""
        raise NotImplementedError

    def notes(self) -> dict[str, Any]:
        """Further entries of the manifest."""
        return {}

    # ---- the loop --------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train, or resume an interrupted training; returns the teacher's file.

        Raises UserError for a folder that cannot be written, is in use or has a finished teacher, and if the loss is
        no longer finite.
        """
        check_writable(self.folder)
        with locked(self.folder):
            if self.file.exists():
                raise UserError(
                    f"{self.file} is a finished teacher, perhaps hours of work: move it, or change save_path"
                )
            path = self._write(self._train())
            self.checkpoint.unlink(missing_ok=True)
        return path

    def _train(self) -> list[dict[str, float]]:
        """Do all remaining steps; returns the rows of the log."""
        o = self.options
        state = TrainState(self.net, *self.optimizer(), self.compute.dtype == torch.float16)
        settings = o.model_dump(mode="json", exclude=WITHOUT_EFFECT) | self.origin | {"arithmetic": str(self.compute)}
        if o.resume and self.checkpoint.exists():
            state.resume(self.checkpoint, settings)
        self.prepare()
        done = state.history[-1]["step"] if state.history else 0
        if done:
            note(f"resuming the interrupted training after step {done} of {o.steps}")
        with progress(None, self.name, o.steps, keep=True) as bar, resumable(state, o.resume):
            bar.update(done)
            while done < o.steps:
                part = range(done, min(done + o.log_every, o.steps))
                state.end_epoch(self._row(state, part, bar), {})
                done = part.stop
                state.save(self.checkpoint, settings)
                rows = state.history
                write_csv(self.folder / "log.csv", list(rows[0]), [row.values() for row in rows])
        return state.history

    def _row(self, state: TrainState, part: range, bar: tqdm) -> dict[str, float]:
        """Do the steps of `part`; returns their means as a row of the log."""
        begin, sums = time.perf_counter(), {}
        lr = state.optimizer.param_groups[0]["lr"]
        self.net.train()
        for number, step in enumerate(part, start=1):
            with self.compute.autocast():
                loss, metrics = self.loss(step)
            state.step(loss)
            for key, value in {"loss": loss.detach(), **metrics}.items():
                sums[key] = sums.get(key, 0.0) + value.double()
            if number % READ_EVERY == 0 or number == len(part):
                means = {key: value.item() / number for key, value in sums.items()}
                self._check_finite(means["loss"], step)
                bar.set_postfix({key: f"{value:.3f}" for key, value in means.items()}, refresh=False)
            bar.update()
        return {"step": part.stop, "lr": lr, **means, "seconds": time.perf_counter() - begin}

    def _check_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {step + 1}: lower lr (now {self.options.lr:g})")

    def _with_a_gpu(self) -> str:
        """The command that trains this recipe anew on a GPU, with keys for about an hour by estimate."""
        file = f"configs/teachers/{self.base}.yaml"
        shipped = type(self.options).model_validate(read_config(ROOT / file)).model_dump(mode="json")
        own = self.options.model_dump(mode="json", exclude=WITHOUT_EFFECT | {"precision"})
        changed = {key: value for key, value in own.items() if value != shipped[key]} | self.on_a_gpu
        changed["save_path"] = "teachers/gpu"  # another folder, because a finished teacher is not replaced
        words = [f"{key}={_as_yaml(value)}" for key, value in changed.items()]
        return shlex.join(["python3", "pretrain.py", "--config", file, *words])

    def _write(self, history: list[dict[str, float]]) -> Path:
        """Write the teacher as float16 .safetensors, and next to it a manifest on how it was made."""
        tensors = {
            key: tensor.detach().cpu().to(torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous()
            for key, tensor in self.teacher().items()
            if not key.endswith("num_batches_tracked")  # a frozen network does not use it
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
        write_json(self.file.with_suffix(".json"), manifest)
        write_bytes(self.file, content)  # last: if it exists, everything is finished
        return self.file


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def warm_cosine(step: int, steps: int, warmup: float) -> float:
    """The factor of the learning rate at a step: rises to 1 in a share `warmup` of the steps, then falls to 0."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))
