"""STPM's loss, map and recipe (Wang et al., BMVC 2021, section 3, and the authors' code)."""

import pytest
import torch

from engine.state import TrainState
from trainer import build_trainer


@pytest.fixture
def trainer(config):
    return build_trainer(config("st", precision="fp32"))


def loss_of(trainer, teacher, student, monkeypatch):
    """The loss of a batch with these maps of teacher and student."""
    monkeypatch.setattr(trainer.detector, "student_maps", lambda image, maps: student)
    return trainer.loss({"image": torch.zeros(len(teacher[0]), 3, 64, 64), "teacher": teacher}).item()


def map_of(trainer, teacher, student):
    """The anomaly map, 64 x 64, of these maps of teacher and student."""
    detector = trainer.detector
    return detector.final_map(detector.levels(teacher, student), (64, 64))


def position(*vector):
    return torch.tensor(vector, dtype=torch.float32).view(1, -1, 1, 1)


def test_loss_of_one_position(trainer, monkeypatch):
    assert loss_of(trainer, [position(3, 4)], [position(4, 3)], monkeypatch) == pytest.approx(0.08)


def test_loss_is_a_mean_over_batch_and_positions(trainer, monkeypatch):
    teacher = position(3, 4).repeat(2, 1, 2, 1)
    student = teacher.clone()
    student[0] = torch.tensor([4.0, 3.0]).view(2, 1, 1)
    assert loss_of(trainer, [teacher], [student], monkeypatch) == pytest.approx(0.04)


def test_loss_does_not_grow_with_the_batch(trainer, monkeypatch):
    """The earlier toolkit summed over the batch."""
    t, s = torch.randn(2, 1, 16, 8, 8)
    one = loss_of(trainer, [t] * 3, [s] * 3, monkeypatch)
    four = loss_of(trainer, [t.repeat(4, 1, 1, 1)] * 3, [s.repeat(4, 1, 1, 1)] * 3, monkeypatch)
    assert four == pytest.approx(one) and one == pytest.approx(3 * loss_of(trainer, [t], [s], monkeypatch))


def test_loss_of_independent_features_is_two_a_level(trainer, monkeypatch):
    torch.manual_seed(0)
    shapes = [(4, 64, 64, 64), (4, 128, 32, 32), (4, 256, 16, 16)]
    teacher, student = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    assert loss_of(trainer, teacher, student, monkeypatch) == pytest.approx(6.0, abs=0.01)


@pytest.mark.parametrize(("student_channel", "loss", "map_value"), [(0, 0, 0), (1, 6, 8)])
def test_loss_and_map_of_equal_and_of_orthogonal_features(trainer, monkeypatch, student_channel, loss, map_value):
    def one_hot(channel, size):
        maps = torch.zeros(1, 2, size, size)
        maps[:, channel] = 1
        return maps

    teacher = [one_hot(0, size) for size in (16, 8, 4)]
    student = [one_hot(student_channel, size) for size in (16, 8, 4)]
    assert loss_of(trainer, teacher, student, monkeypatch) == pytest.approx(loss)
    torch.testing.assert_close(map_of(trainer, teacher, student), torch.full((1, 1, 64, 64), float(map_value)))


def test_lengths_of_feature_vectors_do_not_matter(trainer):
    teacher = [torch.randn(2, 8, n, n) for n in (16, 8, 4)]
    student = [torch.randn(2, 8, n, n) for n in (16, 8, 4)]
    scaled = [t * (torch.rand(2, 1, *t.shape[-2:]) + 0.5) for t in teacher]
    expected = map_of(trainer, teacher, student)
    torch.testing.assert_close(map_of(trainer, scaled, student), expected, atol=1e-4, rtol=1e-3)


def test_a_step_moves_the_student_alone(trainer):
    before = {k: v.clone() for k, v in trainer.teacher.state_dict().items()}
    running = trainer.student.net["bn1"].running_mean.clone()
    weight = trainer.student.net["conv1"].weight.clone()
    optimizer, scheduler = trainer.build_optimizer(1)
    image = trainer.compute.images(torch.rand(2, 3, 64, 64))
    trainer.student.train()
    loss = trainer.loss({"image": image, "teacher": trainer.teacher(image)})
    TrainState(trainer.student, optimizer, scheduler).step(loss)
    for key, value in trainer.teacher.state_dict().items():
        assert torch.equal(value, before[key])
    assert not torch.equal(trainer.student.net["bn1"].running_mean, running)
    assert not torch.equal(trainer.student.net["conv1"].weight, weight)


def test_optimizer_is_sgd_at_a_constant_rate(trainer):
    (group,) = trainer.build_optimizer(10)[0].param_groups
    assert isinstance(trainer.build_optimizer(10)[0], torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.4, 0.9, 1e-4)
    assert trainer.build_optimizer(10)[1] is None  # constant learning rate


def test_the_lr_of_the_file_is_the_lr_used(config):
    """The earlier toolkit used ten times the value in the file."""
    trainer = build_trainer(config("st", {"lr": 0.07}))
    assert trainer.build_optimizer(10)[0].param_groups[0]["lr"] == 0.07


@pytest.mark.parametrize("weights", ["bundled", "random"])
def test_the_student_is_never_the_teacher(config, weights):
    """If the student has the teacher's weights, the map is zero everywhere and it learns nothing."""
    trainer = build_trainer(config("st", weights=weights))
    assert not torch.equal(trainer.student.net["conv1"].weight, trainer.teacher.net.net["conv1"].weight)
    assert trainer.anomaly_map(torch.rand(1, 3, 64, 64)).max() > 0.01


@pytest.mark.parametrize(
    ("backbone", "levels"),
    [
        ("efficientnet_b0", [1, 2, 3]),
        ("mobilenetv3_large_100", [1, 2, 3]),
        ("convnext_atto", [0, 1, 2]),
        ("densenet121", [1, 2, 3]),
    ],
)
@pytest.mark.slow
def test_other_backbones_train_and_come_back(config, backbone, levels):
    raw = config("st", {"epochs": 1, "lr": 0.05}, backbone=backbone, out_indice=levels)
    trainer = build_trainer(raw)
    trainer.train()
    metrics = trainer.test()
    again = build_trainer(raw, ["phase=test"])
    again.load()
    assert again.test() == metrics and "aupro" in metrics
