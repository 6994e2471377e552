"""The training loop over epochs and batches, in one process or several."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from engine.device import Compute
from engine.distributed import from_main, mean_over_processes
from engine.loading import Batches
from engine.loggers import logged
from engine.method import Method
from engine.seed import set_seed
from engine.state import TrainState, resumable
from utils.console import note, remember
from utils.errors import UserError
from utils.progress import progress
from utils.ranks import is_main, rank, world_size

GREW = 2  # times the first epoch's loss: more than chance, since a student that learns loses most of it
READ_EVERY = 20  # steps between two readings of the loss, each of which waits for the GPU


def fit(
    method: Method,
    compute: Compute,
    train: Batches,
    val: Batches,
    checkpoint: Path,
    origin: dict[str, Any],
    measure: Callable[[], dict[str, float]] | None = None,
) -> TrainState:
    """Train `method.detector.student` to the end, from `checkpoint` if it exists and `resume` is set.

    `origin` holds all that affects the result: a checkpoint with another origin is refused. Raises UserError for that,
    for a recipe too short for one step, and for a loss that is no longer finite. `measure` gives further columns of an
    epoch's row; nothing depends on them.
    """
    recipe = method.recipe()
    total = recipe.steps or recipe.epochs * len(train)
    epochs = math.ceil(total / len(train))  # the last one may be shorter
    if total < recipe.accumulate:
        raise UserError(f"TrainingData.epochs {epochs}: too few for one step of {recipe.accumulate} batches")
    loss = _loss_function(method, compute.device)
    optimizer, scheduler = method.build_optimizer(total // recipe.accumulate)
    half_precision = compute.dtype == torch.float16
    state = TrainState(method.detector.student, optimizer, scheduler, half_precision, recipe.accumulate)
    if method.config.resume and from_main(checkpoint.exists):
        state.resume(checkpoint, origin)
        note(f"resuming the interrupted training after epoch {len(state.history)} of {epochs}")
    remember(f"training: {epochs} epochs of {len(train)} batches")
    with (
        logged(method.config, checkpoint.parent, state.history) as loggers,
        progress(None, "training", total, keep=True) as bar,
        resumable(state, method.config.resume),
    ):
        bar.update(min(len(state.history) * len(train), total))
        for epoch in range(len(state.history), epochs):
            if state.is_stale(recipe.patience):
                note(f"stopped after epoch {epoch}: {recipe.patience} epochs without a better validation score")
                break
            begin = time.perf_counter()
            row = {"epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"]}
            batches = min(len(train), total - epoch * len(train))
            row["train_loss"] = train_epoch(method, compute, loss, train, state, epoch, batches, bar)
            scores = _validate(method, val) if val.images and recipe.keep == "best" else {}
            row |= {f"val_score_{part}" if part else "val_score": score for part, score in scores.items()}
            seconds = time.perf_counter() - begin
            row |= from_main(measure) if measure else {}
            state.end_epoch(row | {"seconds": seconds}, scores)
            bar.set_postfix(epoch=epoch + 1, loss=f"{row['train_loss']:.4f}", **_best(state), refresh=False)
            if is_main():
                state.save(checkpoint, origin)
            loggers.epoch(state.history[-1])
    _note_growth([row["train_loss"] for row in state.history], method.config.TrainingData.lr)
    return state


def train_epoch(
    method: Method,
    compute: Compute,
    loss_function: Callable[[dict], torch.Tensor],
    train: Batches,
    state: TrainState,
    epoch: int,
    batches: int,
    bar: tqdm,
) -> float:
    """One pass over the training images, or `batches` of it; returns the mean loss over all processes.

    Raises UserError when the loss is not finite.
    """
    method.detector.train()
    train.loader.batch_sampler.epoch = epoch
    if world_size() > 1:  # a process's own randomness, such as dropout; the networks are the same in all of them
        set_seed((method.config.seed + 7919 * (epoch * world_size() + rank())) % 2**32)
    total = torch.zeros((), dtype=torch.float64, device=compute.device)
    for number, batch in enumerate(itertools.islice(train, batches), start=1):
        batch["step"] = epoch * len(train) + number - 1
        # Gradients are exchanged only before a step, and at the end of an epoch, since the checkpoint stores them.
        exchange = state.pending + 1 == state.accumulate or number == batches
        with contextlib.nullcontext() if exchange else _no_exchange(loss_function):
            with compute.autocast(), _explained(method):
                loss = loss_function(batch)
            state.step(loss)
        total += loss.detach()
        if number % READ_EVERY == 0 or number == batches:
            mean = _finite(total.item() / number, f"the loss of epoch {epoch + 1}", method)
            bar.set_postfix(epoch=epoch + 1, loss=f"{mean:.4f}", **_best(state), refresh=False)
        bar.update()
    return mean_over_processes(total / batches)


def _note_growth(losses: Sequence[float], lr: float) -> None:
    """Say that the losses of the epochs grew, if they did: the training diverged."""
    if losses[-1] > GREW * losses[0]:
        note(
            f"the loss grew from {losses[0]:.3g} in epoch 1 to {losses[-1]:.3g} in epoch {len(losses)}: "
            f"TrainingData.lr (now {lr:g}) is probably too high"
        )


def _validate(method: Method, val: Batches) -> dict[str, float]:
    """The score of each part of the student; "" means the whole student."""
    # DDP copies the running statistics of the first process to all; the others wait for its scores.
    scores = from_main(lambda: method.validate(val))
    scores = scores if isinstance(scores, dict) else {"": scores}
    return {part: _finite(score, "the validation score", method) for part, score in scores.items()}


def _best(state: TrainState) -> dict[str, Any]:
    """The best epoch, or that of each part, for the progress bar; empty for a method that keeps the last epoch."""
    return {"best": " and ".join(map(str, state.best_epoch.values()))} if state.lowest else {}


@contextlib.contextmanager
def _explained(method: Method) -> Iterator[None]:
    """Name the key if batch norm fails because it cannot train on a single value per channel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        options = method.config.TrainingData
        raise UserError(
            f"TrainingData.{options.input_key} {options.input_size} leaves one position at the deepest level, "
            "and batch norm cannot train on that if a batch has only one image: choose a larger size, or a batch_size "
            "with no single image left over"
        ) from None


def _finite(value: float, what: str, method: Method) -> float:
    if math.isfinite(value):
        return value
    raise UserError(
        f"{what} is {value}: lower TrainingData.lr (now {method.config.TrainingData.lr:g}) or set precision=fp32, "
        "and start over with resume=false; results of earlier runs are unchanged"
    )


def _loss_function(method: Method, device: torch.device) -> Callable[[dict], torch.Tensor]:
    """The method's loss of a batch; with several processes, its gradients are averaged over them."""
    if world_size() == 1:
        return method.loss
    if device.type == "cuda":  # torch has no synchronised batch norm for CPUs
        # timm's conversion, since torch's drops the activation inside timm's fused norm layers.
        method.detector.student = convert_sync_batchnorm(method.detector.student)
    # Some timm networks keep blocks behind the last level that is asked for; those get no gradient.
    return DistributedDataParallel(_Loss(method), find_unused_parameters=True)


def _no_exchange(loss_function: Callable) -> contextlib.AbstractContextManager:
    return loss_function.no_sync() if isinstance(loss_function, DistributedDataParallel) else contextlib.nullcontext()


class _Loss(nn.Module):
    """The loss as a module that contains the student's parameters, because DDP looks for them there."""

    def __init__(self, method: Method):
        super().__init__()
        self.student, self.loss = method.detector.student, method.loss

    def forward(self, batch: dict) -> torch.Tensor:
        return self.loss(batch)
