"""The training loop: modes, lengths, losses, and when gradients are exchanged."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine import fit as module
from engine.device import DTYPES
from engine.fit import train_epoch
from engine.loading import training_batches
from engine.method import Recipe
from engine.state import TrainState, resumable
from trainer import build_trainer
from utils.errors import UserError
from utils.progress import progress


def parts(trainer):
    """(training batches, held-out batches, state) of a trainer."""
    *batches, _ = training_batches(trainer.config, trainer.teacher, trainer.compute)
    trainer.on_fit_start(batches[0])
    return *batches, TrainState(trainer.student, *trainer.build_optimizer(4), accumulate=trainer.recipe().accumulate)


def run_epoch(trainer, loss, train, state, epoch=0):
    return train_epoch(trainer, trainer.compute, loss, train, state, epoch, len(train), progress(None, "", 4))


def test_every_epoch_trains_the_student_in_train_mode(config):
    """Validation leaves it in eval mode; the earlier toolkit trained in it from the second epoch."""
    trainer = build_trainer(config("st"))
    train, val, state = parts(trainer)
    modes = []

    def loss(batch):
        modes.append((trainer.student.training, trainer.teacher.training))
        return trainer.loss(batch)

    for epoch in range(2):
        run_epoch(trainer, loss, train, state, epoch)
        trainer.validate(val)
        assert not trainer.student.training
    assert modes == [(True, False)] * 4


def test_batches_are_counted_through_all_epochs_and_the_loss_is_their_mean(config):
    trainer = build_trainer(config("st"))
    train, _, state = parts(trainer)
    seen = []

    def loss(batch):
        seen.append((batch["step"], value := trainer.loss(batch)))
        return value

    means = [run_epoch(trainer, loss, train, state, epoch) for epoch in range(2)]
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert means[1] == pytest.approx((seen[2][1].item() + seen[3][1].item()) / 2)


def test_the_loss_is_not_read_in_every_step(config, monkeypatch):
    """Each reading waits for a GPU."""
    trainer = build_trainer(config("st", {"batch_size": 2}))
    train, _, state = parts(trainer)
    item, read = torch.Tensor.item, []
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: read.append(tensor) or item(tensor))
    run_epoch(trainer, trainer.loss, train, state)
    assert len(read) < len(train)  # DataLoader's seed, this process's sum, and the mean over all processes


def test_a_loss_that_is_not_finite_ends_the_training_with_a_sentence(config):
    trainer = build_trainer(config("st"))
    train, _, state = parts(trainer)
    with pytest.raises(UserError, match=r"the loss of epoch 1 is (nan|inf): lower TrainingData.lr"):
        run_epoch(trainer, lambda batch: trainer.loss(batch) * float("inf"), train, state)


def test_the_progress_bar_shows_the_best_epoch_of_each_part_as_plain_numbers():
    state = TrainState(net := nn.ModuleDict({"a": nn.Linear(1, 1)}), torch.optim.Adam(net.parameters()), None)
    state.end_epoch({}, {"a": 2.0, "b": 1.0})
    state.end_epoch({}, {"a": 1.0, "b": 1.0})
    assert module._best(state) == {"best": "2 and 1"}


@pytest.mark.parametrize("factor", [1, 10])
def test_a_loss_that_grew_is_said_at_the_end(config, monkeypatch, capsys, factor):
    """STPM on unnormalised features, with the lr of the normalised ones: no word, and an image AUROC of 49."""
    trainer = build_trainer(config("st", {"epochs": 3}))
    loss = trainer.loss
    monkeypatch.setattr(trainer, "loss", lambda batch: loss(batch) * factor ** batch["step"])
    trainer.train()
    said = "note: the loss grew from " in (errors := capsys.readouterr().err)
    assert said == (factor > 1) and said == ("in epoch 3: TrainingData.lr (now 0.4) is probably too high" in errors)


def test_gradients_are_exchanged_when_a_step_follows_or_an_epoch_ends(config, monkeypatch):
    """Gradients that are only added up are not sent; those in a checkpoint must be the same in all processes."""
    trainer = build_trainer(config("rdpp", {"accumulate": 2, "batch_size": 4}))  # 10 images: three batches
    train, _, state = parts(trainer)
    held_back = []

    class Spy:
        def __enter__(self):
            held_back.append(state.pending)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(module, "_no_exchange", lambda loss: Spy())
    run_epoch(trainer, trainer.loss, train, state)
    assert held_back == [0] and state.pending == 1


def test_only_ddp_has_an_exchange_to_hold_back(tmp_path):
    with module._no_exchange(lambda batch: None):
        pass
    dist.init_process_group("gloo", f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        net = DistributedDataParallel(nn.Linear(1, 1))
        with module._no_exchange(net):
            assert not net.require_backward_grad_sync
        assert net.require_backward_grad_sync
    finally:
        dist.destroy_process_group()


def test_a_training_too_short_for_one_step_is_refused(config):
    trainer = build_trainer(config("rdpp", {"accumulate": 50, "epochs": 1}))
    with pytest.raises(UserError, match="too few for one step of 50 batches"):
        trainer.train()


def test_epochs_of_a_training_in_steps_are_a_hundredth_of_it():
    assert Recipe(epochs=3).epoch_length is None
    assert Recipe(steps=70000).epoch_length == 700 and Recipe(steps=3).epoch_length == 1


def test_ctrl_c_says_what_is_kept_once_there_is_a_checkpoint(tmp_path, capsys):
    student = nn.Linear(1, 1)
    state = TrainState(student, torch.optim.SGD(student.parameters(), 0.1), None)

    def said(resume):
        with pytest.raises(KeyboardInterrupt), resumable(state, resume):
            raise KeyboardInterrupt
        return capsys.readouterr().err

    assert said(True) == ""
    state.save(tmp_path / "checkpoint.pt", {})
    assert "the same command resumes this training" in said(True) and said(False) == ""


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_a_gpu_trains_in_every_precision(config, precision):
    trainer = build_trainer(config("st", device="cuda", precision=precision))
    trainer.train()
    assert "aupro" in trainer.test() and trainer.compute.dtype == DTYPES[precision]
