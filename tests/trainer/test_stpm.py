"""The numeric checks of specs/stpm_rd_rdpp.md section 1.7, and what STPM must not get wrong."""

import pytest
import torch

from engine.fit import train_epoch
from engine.state import Training
from tests.conftest import HeldOut
from trainer import build_trainer


@pytest.fixture
def trainer(config):
    return build_trainer(config("st", precision="fp32"))


def batch_of(teacher, student_maps=None):
    return {"image": torch.zeros(len(teacher[0]), 3, 64, 64), "teacher": teacher, "student": student_maps}


def loss_of(trainer, teacher, student, monkeypatch):
    monkeypatch.setattr(trainer, "student_maps", lambda image, maps: student)
    return trainer.loss(batch_of(teacher)).item()


def position(*vector):
    return torch.tensor(vector, dtype=torch.float32).view(1, -1, 1, 1)


def test_check_2_one_position(trainer, monkeypatch):
    assert loss_of(trainer, [position(3, 4)], [position(4, 3)], monkeypatch) == pytest.approx(0.08)


def test_check_3_mean_over_batch_and_positions(trainer, monkeypatch):
    teacher = position(3, 4).repeat(2, 1, 2, 1)
    student = teacher.clone()
    student[0] = torch.tensor([4.0, 3.0]).view(2, 1, 1)
    assert loss_of(trainer, [teacher], [student], monkeypatch) == pytest.approx(0.04)


def test_loss_does_not_grow_with_the_batch(trainer, monkeypatch):
    """Check 4: the earlier toolkit summed over the batch."""
    t, s = torch.randn(2, 1, 16, 8, 8)
    one = loss_of(trainer, [t] * 3, [s] * 3, monkeypatch)
    four = loss_of(trainer, [t.repeat(4, 1, 1, 1)] * 3, [s.repeat(4, 1, 1, 1)] * 3, monkeypatch)
    assert four == pytest.approx(one) and one == pytest.approx(3 * loss_of(trainer, [t], [s], monkeypatch))


def test_check_5_independent_features(trainer, monkeypatch):
    torch.manual_seed(0)
    shapes = [(4, 64, 64, 64), (4, 128, 32, 32), (4, 256, 16, 16)]
    teacher, student = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    assert loss_of(trainer, teacher, student, monkeypatch) == pytest.approx(6.0, abs=0.01)


@pytest.mark.parametrize(("student_channel", "loss", "map_value"), [(0, 0, 0), (1, 6, 8)])
def test_check_6_equal_and_orthogonal_features(trainer, monkeypatch, student_channel, loss, map_value):
    def one_hot(channel, size):
        maps = torch.zeros(1, 2, size, size)
        maps[:, channel] = 1
        return maps

    teacher = [one_hot(0, size) for size in (16, 8, 4)]
    student = [one_hot(student_channel, size) for size in (16, 8, 4)]
    assert loss_of(trainer, teacher, student, monkeypatch) == pytest.approx(loss)
    final = trainer.final_map(trainer.level_maps(teacher, student), (64, 64))
    torch.testing.assert_close(final, torch.full((1, 1, 64, 64), float(map_value)))


def test_check_8_scale_of_features_does_not_matter(trainer):
    teacher = [torch.randn(2, 8, n, n) for n in (16, 8, 4)]
    student = [torch.randn(2, 8, n, n) for n in (16, 8, 4)]
    scaled = [t * (torch.rand(2, 1, *t.shape[-2:]) + 0.5) for t in teacher]
    torch.testing.assert_close(
        trainer.final_map(trainer.level_maps(scaled, student), (64, 64)),
        trainer.final_map(trainer.level_maps(teacher, student), (64, 64)),
        atol=1e-4,
        rtol=1e-3,
    )


def test_check_9_a_step_moves_the_student_alone(trainer):
    before = {k: v.clone() for k, v in trainer.teacher.state_dict().items()}
    running = trainer.student.net["bn1"].running_mean.clone()
    weight = trainer.student.net["conv1"].weight.clone()
    optimizer, scheduler = trainer.build_optimizer(1)
    image = torch.rand(2, 3, 64, 64)
    trainer.student.train()
    Training(trainer.student, optimizer, scheduler, False).step(
        trainer.loss({"image": image, "teacher": trainer.teacher(image)})
    )
    for key, value in trainer.teacher.state_dict().items():
        assert torch.equal(value, before[key])
    assert not torch.equal(trainer.student.net["bn1"].running_mean, running)
    assert not torch.equal(trainer.student.net["conv1"].weight, weight)


def test_recipe(trainer):
    (group,) = trainer.build_optimizer(10)[0].param_groups
    assert isinstance(trainer.build_optimizer(10)[0], torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.4, 0.9, 1e-4)
    assert trainer.build_optimizer(10)[1] is None  # constant learning rate


def test_the_lr_of_the_file_is_the_lr_used(config):
    """The earlier toolkit trained with ten times the value in the file."""
    trainer = build_trainer(config("st", {"lr": 0.07}))
    assert trainer.build_optimizer(10)[0].param_groups[0]["lr"] == 0.07


@pytest.mark.parametrize("weights", ["bundled", "random"])
def test_the_student_is_never_the_teacher(config, weights):
    """With the teacher's weights in the student too, the map is zero everywhere and training teaches nothing."""
    trainer = build_trainer(config("st", weights=weights))
    assert not torch.equal(trainer.student.net["conv1"].weight, trainer.teacher.net.net["conv1"].weight)
    assert trainer.anomaly_map(torch.rand(1, 3, 64, 64)).max() > 0.01


@pytest.mark.parametrize(
    ("backbone", "levels"),
    [
        ("wide_resnet50_2", [1, 2, 3]),
        ("efficientnet_b0", [1, 2, 3]),
        ("mobilenetv3_large_100", [1, 2, 3]),
        ("convnext_atto", [0, 1, 2]),
        ("densenet121", [1, 2, 3]),
    ],
)
def test_other_backbones_train_and_come_back(config, backbone, levels):
    raw = config("st", {"epochs": 1, "lr": 0.05}, backbone=backbone, out_indice=levels)
    trainer = build_trainer(raw)
    trainer.train()
    figures = trainer.test()
    again = build_trainer(raw, ["phase=test"])
    again.load()
    assert again.test() == figures and "aupro" in figures


def test_model_choice_is_the_mean_product_map(trainer):
    val = HeldOut(trainer)
    expected = torch.cat([trainer.anomaly_map(batch["image"]) for batch in val]).mean().item()
    assert trainer.validate(val) == pytest.approx(expected, rel=1e-4)


def test_train_epoch_sets_train_mode(trainer, monkeypatch):
    """Validation leaves the student in eval mode; the next epoch must wake it."""
    from engine.loading import training_batches
    from utils.console import progress

    train, val = training_batches(trainer)
    training = Training(trainer.student, *trainer.build_optimizer(4), False)
    modes = []

    def loss(batch):
        modes.append(trainer.student.training)
        return trainer.loss(batch)

    for epoch in range(2):
        train_epoch(trainer, loss, train, training, epoch, len(train), progress(None, "", 4))
        trainer.validate(val)
        assert not trainer.student.training
    assert modes == [True] * 4
