"""The state from which an interrupted training is resumed."""

import pytest
import torch
from torch import nn

from engine.state import TrainState, _random_state, _set_random_state, threads_of
from utils.errors import UserError


def state_of(student, **more):
    return TrainState(student, torch.optim.SGD(student.parameters(), 0.1), None, **more)


def loss_of(student, factor=1.0):
    return factor * student(torch.ones(2, 1)).square().mean()


def test_the_best_epoch_is_the_first_with_the_lowest_validation_score():
    student = nn.Linear(1, 1)
    state = state_of(student)
    for epoch, score in enumerate([3.0, 1.0, 2.0, 1.0], start=1):
        with torch.no_grad():
            student.weight.fill_(epoch)
        state.end_epoch({"epoch": epoch}, {"": score})
    assert state.kept == 2 and state.best["weight"].item() == 2
    state.restore_best()
    assert student.weight.item() == 2


def test_gradients_wait_until_enough_batches_are_together():
    student = nn.Linear(1, 1)
    state = state_of(student, accumulate=2)
    before = student.weight.item()
    state.step(loss_of(student))
    assert student.weight.item() == before and state.pending == 1
    state.step(loss_of(student))
    assert student.weight.item() != before and state.pending == 0


def test_a_step_that_overflows_leaves_the_schedule_where_it_is():
    """float16 gradients sometimes overflow; GradScaler then skips the step."""
    student = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    state = TrainState(student, optimizer, scheduler, half_precision=True)
    before = student.weight.item()
    state.step(loss_of(student, float("inf")))
    assert student.weight.item() == before and scheduler.last_epoch == 0
    state.step(loss_of(student))
    assert student.weight.item() != before and scheduler.last_epoch == 1


@pytest.fixture
def saved(tmp_path):
    student = nn.Linear(1, 1)
    state = state_of(student, accumulate=2)
    state.step(loss_of(student))
    state.end_epoch({"epoch": 1, "seconds": 0.5}, {"": 1.0})
    state.save(tmp_path / "run/checkpoint.pt", {"seed": 0})  # the folder was removed meanwhile
    return student, tmp_path / "run/checkpoint.pt"


def test_a_checkpoint_brings_everything_back(saved):
    student, path = saved
    again = nn.Linear(1, 1)
    state = state_of(again, accumulate=2)
    state.resume(path, {"seed": 0})
    assert torch.equal(again.weight, student.weight) and torch.equal(again.weight.grad, student.weight.grad)
    assert state.pending == 1 and state.kept == 1 and state.history == [{"epoch": 1, "seconds": 0.5}]


def test_another_origin_is_refused_by_name(saved):
    with pytest.raises(UserError, match="unfinished training with other settings exists there .seed was 0, is 1"):
        state_of(nn.Linear(1, 1)).resume(saved[1], {"seed": 1})


@pytest.mark.parametrize("content", [b"rubbish", b""])
def test_a_damaged_checkpoint_is_named(saved, content):
    saved[1].write_bytes(content)
    with pytest.raises(UserError, match="checkpoint.pt: the checkpoint is damaged.*resume=false"):
        state_of(nn.Linear(1, 1)).resume(saved[1], {"seed": 0})


@pytest.mark.parametrize(
    "change", [{"history": 3, "student": None}, {"student": {}}, {"random": None}, {"threads": "x"}]
)
def test_a_checkpoint_with_other_contents_is_named(saved, change):
    content = torch.load(saved[1], weights_only=True)
    torch.save(content | change, saved[1])
    with pytest.raises(UserError, match="damaged or of another version"):
        state_of(nn.Linear(1, 1)).resume(saved[1], {"seed": 0})


def test_another_number_of_threads_is_said(saved, capsys):
    content = torch.load(saved[1], weights_only=True)
    began = torch.get_num_threads() + 2
    torch.save(content | {"threads": began}, saved[1])
    assert threads_of(saved[1]) == began and threads_of(saved[1].with_name("nothing.pt")) is None
    state_of(nn.Linear(1, 1), accumulate=2).resume(saved[1], {"seed": 0})
    assert f"started with {began} threads" in capsys.readouterr().err


def test_a_checkpoint_holds_the_random_state_of_one_gpu(monkeypatch):
    """Only of the GPU in use: a machine with fewer GPUs could not use the states of all."""
    told = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", told.append)
    _set_random_state(_random_state())
    assert [state.tolist() for state in told] == [[7]]
