"""The state of a training: everything that is needed to resume it with the same result."""

import contextlib
import io
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from engine.student_file import changes
from utils.console import note
from utils.errors import UserError, reason
from utils.files import write_bytes


class TrainState:
    """Student, optimizer and progress: one history row per finished epoch, and the best student so far."""

    def __init__(
        self,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,  # torch's schedulers have no common class
        half_precision: bool = False,
        accumulate: int = 1,
    ):
        self.student, self.optimizer, self.scheduler = student, optimizer, scheduler
        optimizer.register_step_post_hook(self._after_optimizer)
        self.accumulate, self.pending = accumulate, 0  # batches per step, and batches since the last step
        device = next(student.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=half_precision)  # float16 gradients underflow
        self.history: list[dict[str, float]] = []
        # For each part of the student ("" means the whole student): its best epoch, from 1, and that epoch's score.
        self.best_epoch: dict[str, int] = {}
        self.lowest: dict[str, float] = {}
        self.best: dict[str, torch.Tensor] = {}
        self.on_disk = False  # whether a checkpoint holds this training
        self._next_save = 0.0

    def step(self, loss: torch.Tensor) -> None:
        """Add a batch's gradients, and do a step after every `accumulate` batches.

        Batches left over at the end of an epoch are used in the next one, so all steps have equally many.
        """
        self.scaler.scale(loss).backward()
        self.pending += 1
        if self.pending < self.accumulate:
            return
        self.pending = 0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _after_optimizer(self, *_: Any) -> None:
        """Called by the optimizer, so not for a step that the scaler skips because its gradients overflow."""
        if self.scheduler is not None and not self._waits_for_scores:
            self.scheduler.step()

    def end_epoch(self, row: dict[str, float], scores: dict[str, float]) -> None:
        """Add a row; keep each part of the student at its lowest score so far, or the whole student without scores."""
        self.history.append(row)
        if not scores:
            self.best_epoch[""] = len(self.history)  # the last one, which needs no copy
        for part, score in scores.items():
            if score < self.lowest.get(part, math.inf):
                self.lowest[part] = score
                self._keep(part)
        if scores and self._waits_for_scores:
            self.scheduler.step(sum(scores.values()))

    def restore_best(self) -> None:
        """Load the best epoch's values into the student; nothing happens if the last epoch is kept."""
        if self.best:
            self.student.load_state_dict(self.best)

    def is_stale(self, patience: int | None) -> bool:
        """Whether no part got a better score in the last `patience` epochs."""
        return bool(patience and self.history and len(self.history) - max(self.best_epoch.values()) >= patience)

    @property
    def kept(self) -> int | dict[str, int] | None:
        """The best epoch of the student, or of each of its parts; None before the first epoch."""
        return self.best_epoch.get("", self.best_epoch or None)

    @property
    def _waits_for_scores(self) -> bool:
        return isinstance(self.scheduler, ReduceLROnPlateau)

    def _keep(self, part: str) -> None:
        self.best_epoch[part] = len(self.history)
        for key, tensor in self.student.state_dict().items():
            if not part or key.startswith(f"{part}."):
                self.best[key] = tensor.detach().clone()

    def save(self, path: Path, origin: dict[str, Any]) -> None:
        """Write a checkpoint of a run with this `origin`; checkpoints take at most 5 % of the time.

        Epochs that are lost when a run is killed are repeated exactly when it resumes.
        """
        begin = time.monotonic()
        if begin < self._next_save:
            return
        content = io.BytesIO()  # torch.save itself would report a full disk as an unspecific error
        torch.save(self.state_dict(origin), content)
        path.parent.mkdir(parents=True, exist_ok=True)  # the results folder may have been deleted meanwhile
        write_bytes(path, content.getbuffer())
        self.on_disk = True
        self._next_save = time.monotonic() + 20 * (time.monotonic() - begin)

    def state_dict(self, origin: dict[str, Any]) -> dict[str, Any]:
        return {
            "origin": origin,
            "threads": torch.get_num_threads(),
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else {},
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "best_epoch": self.best_epoch,
            "lowest": self.lowest,
            "best": self.best,
            "pending": self.pending,
            "gradients": [parameter.grad for parameter in self.student.parameters()] if self.pending else [],
            "random": _random_state(),
        }

    def resume(self, path: Path, origin: dict[str, Any]) -> None:
        """Load the checkpoint at `path`.

        Raises UserError if it is damaged or has another origin; nothing is lost or overwritten.
        """
        try:
            state = _checked(path)
            changed = changes(state["origin"], origin)
        except Exception as error:  # torch.load's failures have no common class
            raise _damaged(path, error) from None
        if changed:
            raise UserError(
                f"{path}: an unfinished training with other settings exists there ({changed}); finish it with those "
                "settings, or start over with resume=false"
            )
        began, now = state["threads"], torch.get_num_threads()
        if began != now:
            note(
                f"this training started with {began} threads: with {now} the last digits will differ from an "
                f"uninterrupted run (threads={began} keeps them)"
            )
        try:
            self._take(state)
        except Exception as error:  # a file of another program may contain anything
            raise _damaged(path, error) from None
        self.on_disk = True

    def _take(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        for key in ("history", "best_epoch", "lowest", "best", "pending"):
            setattr(self, key, state[key])
        for parameter, gradient in zip(self.student.parameters(), state["gradients"], strict=bool(state["gradients"])):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        _set_random_state(state["random"])


class _Checkpoint(BaseModel):
    """The parts of a checkpoint that are not checked where they are used."""

    model_config = ConfigDict(strict=True, extra="allow")

    origin: dict[str, Any]
    threads: Annotated[int, Field(ge=1, le=4096)]
    history: list[dict[str, float]]
    best_epoch: dict[str, int]
    lowest: dict[str, float]
    pending: Annotated[int, Field(ge=0)]
    gradients: list[Any]

    @model_validator(mode="after")
    def rows_say_how_long_they_took(self):
        if not all("seconds" in row for row in self.history) or bool(self.history) != bool(self.best_epoch):
            raise ValueError("its history is not complete")
        return self


def _checked(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint. Raises the errors of torch.load and pydantic."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    _Checkpoint.model_validate(state)
    return state


@contextlib.contextmanager
def resumable(state: TrainState, resume: bool) -> Iterator[None]:
    """On Ctrl-C, print what is kept; `resume` is whether the same command would use it."""
    try:
        yield
    except KeyboardInterrupt:
        if state.on_disk and resume:
            note("the same command resumes this training from its last checkpoint")
        raise


def threads_of(path: Path) -> int | None:
    """Number of threads that a checkpoint was written with; None if there is no readable checkpoint."""
    with contextlib.suppress(Exception):
        return _checked(path)["threads"]
    return None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: the checkpoint is damaged or of another version ({reason(error)}); start over with resume=false"
    )


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])  # of the GPU in use: another machine may have fewer
