"""The state of a training: everything an interrupted run needs to go on as if nothing had happened."""

import io
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.config import difference
from utils.errors import UserError
from utils.files import write_bytes


class Training:
    """Student, optimiser and what is known so far: one history row per finished epoch, the best student."""

    def __init__(self, student: nn.Module, optimizer, scheduler, half_precision: bool):
        self.student, self.optimizer, self.scheduler = student, optimizer, scheduler
        device = next(student.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=half_precision)  # float16 gradients underflow
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0  # counted from 1; 0 before any
        self.best: dict[str, torch.Tensor] = {}
        self._next_save = 0.0

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()

    def end_epoch(self, row: dict[str, float]) -> None:
        """Add a row; keep the student if its `val_score` is the lowest so far, or always if there is none."""
        earlier = [past["val_score"] for past in self.history if "val_score" in past]
        self.history.append(row)
        if not earlier or row["val_score"] < min(earlier):
            self.best_epoch = len(self.history)
            self.best = {key: tensor.detach().clone() for key, tensor in self.student.state_dict().items()}

    def save(self, path: Path, settings: dict[str, Any]) -> None:
        """Write a checkpoint of a run with these `settings`, unless writing has lately taken 5 % of the time.

        What a kill then costs is repeated exactly when the run resumes.
        """
        begin = time.monotonic()
        if begin < self._next_save:
            return
        content = io.BytesIO()  # torch.save's own file writing turns a full disk into an error of no class
        torch.save(self.state_dict(settings), content)
        write_bytes(path, content.getvalue())
        self._next_save = time.monotonic() + 20 * (time.monotonic() - begin)

    def state_dict(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {
            "settings": settings,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else {},
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best": self.best,
            "random": _random_state(),
        }

    def resume(self, path: Path, settings: dict[str, Any]) -> None:
        """Take up the checkpoint at `path`.

        Raises UserError when it is damaged or of another configuration; nothing is lost or overwritten.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            changed = difference(state["settings"], settings)
        except Exception as error:  # torch.load's failures have no common class
            raise _damaged(path, error) from None
        if changed:
            raise UserError(
                f"{path}: an interrupted training with other settings ({changed}) is waiting there; finish it with "
                "those settings, or start over with resume=false"
            )
        try:
            self.student.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            self.scaler.load_state_dict(state["scaler"])
            self.history, self.best_epoch, self.best = state["history"], state["best_epoch"], state["best"]
            _set_random_state(state["random"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"{path}: the checkpoint is damaged or of another version ({reason}); start over with resume=false"
    )


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
