"""The training loop: epochs, batches, and one process or several."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from engine.device import autocast
from engine.distributed import from_main
from engine.loading import Batches
from engine.state import Training
from utils.config import result_settings
from utils.console import note, progress
from utils.errors import UserError
from utils.ranks import is_main, world_size


def fit(trainer, train: Batches, val: Batches) -> Training:
    """Train `trainer.student` for all epochs, from the run folder's checkpoint if there is one."""
    config, total = trainer.config, trainer.total_steps(len(train))
    epochs = math.ceil(total / len(train))  # the last of which may be cut short
    if total < trainer.accumulate:
        raise UserError(f"TrainingData.epochs {epochs}: too few for one step of {trainer.accumulate} batches")
    loss = _loss_function(trainer)
    optimizer, scheduler = trainer.build_optimizer(total // trainer.accumulate)
    training = Training(trainer.student, optimizer, scheduler, trainer.dtype == torch.float16, trainer.accumulate)
    checkpoint = trainer.run_dir / "checkpoint.pt"
    settings = result_settings(config) | {
        "teacher": trainer.record["teacher"],
        **trainer.inputs,
        "good images": train.loader.dataset.fingerprint() + val.loader.dataset.fingerprint(),
        "arithmetic": f"{trainer.dtype} on {trainer.device.type}",
    }
    if config.resume and checkpoint.exists():
        training.resume(checkpoint, settings)
        note(f"going on with the interrupted training after epoch {len(training.history)} of {epochs}")
    with progress(None, "training", total, keep=True) as bar:
        bar.update(min(len(training.history) * len(train), total))
        for epoch in range(len(training.history), epochs):
            if training.is_stale(trainer.patience):
                note(f"stopped after epoch {epoch}: {trainer.patience} epochs without a better validation score")
                break
            begin = time.perf_counter()
            row = {"epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"]}
            batches = min(len(train), total - epoch * len(train))
            row["train_loss"] = train_epoch(trainer, loss, train, training, epoch, batches, bar)
            scores = _validate(trainer, val) if val.images else {}
            row |= {f"val_score_{part}" if part else "val_score": score for part, score in scores.items()}
            training.end_epoch(row | {"seconds": time.perf_counter() - begin}, scores)
            if is_main():
                training.save(checkpoint, settings)
    return training


def train_epoch(
    trainer, loss_function: Callable, train: Batches, training: Training, epoch: int, batches: int, bar: tqdm
) -> float:
    """One pass over the training images, or `batches` of it; returns the mean loss.

    Raises UserError when the loss is not finite.
    """
    trainer.student.train()
    train.loader.batch_sampler.epoch = epoch
    total = 0.0
    for number, batch in enumerate(itertools.islice(train, batches)):
        batch["step"] = epoch * len(train) + number
        with autocast(trainer.device, trainer.dtype), _explained(trainer):
            loss = loss_function(batch)
        total += _finite(loss.item(), f"the loss of epoch {epoch + 1}", trainer)
        training.step(loss)
        best = {"best": training.kept} if training.lowest else {}  # a method that keeps the last has none
        bar.set_postfix(epoch=epoch + 1, loss=f"{loss.item():.4f}", **best, refresh=False)
        bar.update()
    return total / batches


def _validate(trainer, val: Batches) -> dict[str, float]:
    """The score of each part of the student, "" being all of it; empty if the method does not choose by scores."""
    # The first process has the running statistics that DDP hands to all; the others wait for its word.
    scores = from_main(trainer.validate(val) if is_main() else None, trainer.device)
    if scores is None:
        return {}
    scores = scores if isinstance(scores, dict) else {"": scores}
    return {part: _finite(score, "the validation score", trainer) for part, score in scores.items()}


@contextlib.contextmanager
def _explained(trainer):
    """Batch norm cannot train on a single value per channel, and says so in words that name no key."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"TrainingData.crop_size {trainer.options.crop_size} leaves one position at the deepest level, which a "
            "batch of one image cannot normalise: take a larger size, or a batch_size that leaves no single image over"
        ) from None


def _finite(value: float, what: str, trainer) -> float:
    if math.isfinite(value):
        return value
    raise UserError(
        f"{what} is {value}: lower TrainingData.lr (now {trainer.options.lr:g}) or set precision=fp32, "
        "and start over with resume=false; results of earlier runs are untouched"
    )


def _loss_function(trainer) -> Callable[[dict], torch.Tensor]:
    """The method's loss of a batch; with several processes its gradients are averaged over them."""
    if world_size() == 1:
        return trainer.loss
    if trainer.device.type == "cuda":  # torch has no synchronised batch norm for CPUs
        # timm's conversion, since torch's drops the activation inside timm's fused norm layers.
        trainer.student = convert_sync_batchnorm(trainer.student)
    # Some timm networks keep blocks behind the last level that is asked for; those get no gradient.
    return DistributedDataParallel(_Loss(trainer), find_unused_parameters=True)


class _Loss(nn.Module):
    """The loss as a module that owns the student's parameters, which is where DDP looks for them."""

    def __init__(self, trainer):
        super().__init__()
        self.student, self.loss = trainer.student, trainer.loss

    def forward(self, batch: dict) -> torch.Tensor:
        return self.loss(batch)
