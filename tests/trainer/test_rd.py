"""RD as a method (Deng & Li, CVPR 2022): loss, map and recipe, and what it and its successors refuse."""

import pytest
import torch

from tests.conftest import count
from trainer import build_trainer
from utils.errors import UserError


@pytest.fixture
def trainer(config):
    return build_trainer(config("rd", precision="fp32"))


def loss_of(trainer, teacher, student, monkeypatch):
    monkeypatch.setattr(trainer.student, "forward_with_loss", lambda maps: (student, 0.0))
    return trainer.loss({"image": None, "teacher": teacher}).item()


def map_of(trainer, teacher, student):
    """The anomaly map of a 64-px image with these levels."""
    return trainer.detector.final_map(trainer.detector.levels(teacher, student), (64, 64))


def one_hot(channel, sizes=(16, 8, 4), batch=1):
    maps = [torch.zeros(batch, 2, n, n) for n in sizes]
    for level in maps:
        level[:, channel] = 1
    return maps


def test_equal_features_cost_nothing_and_orthogonal_ones_one_a_level(trainer, monkeypatch):
    assert loss_of(trainer, one_hot(0), one_hot(0), monkeypatch) == pytest.approx(0, abs=1e-6)
    assert loss_of(trainer, one_hot(0, batch=3), one_hot(1, batch=3), monkeypatch) == pytest.approx(3)
    final = map_of(trainer, one_hot(0), one_hot(1))
    torch.testing.assert_close(final, torch.full((1, 1, 64, 64), 3.0))


def test_a_scale_per_position_shows_in_the_loss_alone(trainer, monkeypatch):
    torch.manual_seed(0)
    teacher = [torch.rand(2, 4, n, n) for n in (16, 8, 4)]
    per_image = [t * torch.tensor([0.5, 3.0]).view(2, 1, 1, 1) for t in teacher]
    assert loss_of(trainer, teacher, per_image, monkeypatch) == pytest.approx(0, abs=1e-6)
    per_place = [t * (torch.rand(2, 1, *t.shape[-2:]) + 0.1) for t in teacher]
    assert loss_of(trainer, teacher, per_place, monkeypatch) > 0.01
    assert map_of(trainer, teacher, per_place).max() < 1e-5


@pytest.mark.parametrize(
    ("level", "at", "peak", "place", "total", "smoothed"),
    [
        (2, (8, 8), 1.0, (136, 136), 289.0, 0.661413),
        (1, (16, 16), 0.9080983, (132, 132), None, 0.380327),
        (0, (32, 32), 0.7785499, (130, 130), None, 0.136483),
        (2, (0, 0), 1.0, (0, 0), 81.0, 0.7051823),
    ],
)
def test_one_position_of_a_level_in_the_map(trainer, level, at, peak, place, total, smoothed):
    levels = [torch.zeros(1, 1, n, n) for n in (64, 32, 16)]
    levels[level][0, 0, at[0], at[1]] = 1
    combined = trainer.detector.combine(levels, (256, 256))
    assert combined.max().item() == pytest.approx(peak, rel=1e-5)
    assert divmod(combined.argmax().item(), 256) == place
    if total is not None:
        assert combined.sum().item() == pytest.approx(total, rel=1e-4)
    assert trainer.detector.final_map(levels, (256, 256)).max().item() == pytest.approx(smoothed, rel=1e-4)


def test_gradients_reach_all_of_the_student_and_none_of_the_teacher(trainer):
    image = trainer.compute.images(torch.rand(2, 3, 64, 64))
    trainer.loss({"image": image, "teacher": trainer.teacher(image)}).backward()
    assert all(p.grad is None for p in trainer.teacher.parameters())
    assert all(p.grad is not None for p in trainer.student.parameters())


def test_the_loss_of_an_untrained_decoder(config):
    """About 1.69 of 3 with a random wide teacher, as the published networks have."""
    trainer = build_trainer(config("rd", {"img_size": 256}, backbone="wide_resnet50_2", precision="fp32"))
    with torch.inference_mode():
        teacher = trainer.teacher.net(torch.randn(2, 3, 256, 256, device=trainer.device))
        assert trainer.loss({"image": None, "teacher": teacher}).item() == pytest.approx(1.69, abs=0.2)


def test_the_recipe(trainer):
    adam, schedule = trainer.build_optimizer(10)
    (group,) = adam.param_groups
    assert isinstance(adam, torch.optim.Adam) and schedule is None
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.005, (0.5, 0.999), 0)
    assert trainer.options.sigma == 4 and trainer.options.val_ratio == 0


@pytest.mark.parametrize("method", ["rd", "rdpp", "rnrd"])
def test_the_last_epoch_is_kept(config, method):
    assert build_trainer(config(method, {"val_ratio": 0.2})).recipe().keep == "last"


def test_held_out_images_choose_nothing_and_are_scored(config):
    trainer = build_trainer(config("rd", {"val_ratio": 0.2, "epochs": 3}))
    trainer.train()
    assert trainer.metadata["best_epoch"] == 3 and len(trainer.metadata["normal"]["scores"]) == 2
    assert "val_score" not in (trainer.run_dir / "training.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["rd", "rdpp", "rnrd", "dbfad"])
def test_sizes_that_cannot_be_halved_and_doubled_are_refused(config, method):
    with pytest.raises(UserError, match=r"img_size \(72, 64\): this method needs multiples of 32"):
        build_trainer(config(method, {"img_size": [72, 64]}))


@pytest.mark.parametrize("method", ["rd", "rdpp", "rnrd", "rnst"])
def test_levels_that_do_not_fit_are_refused(config, method):
    with pytest.raises(UserError, match=r"out_indice: this method needs levels of strides \[4, 8\] .got \[4, 16\]"):
        build_trainer(config(method, backbone="resnet18", out_indice=[1, 3]))


def test_what_does_not_fit_is_said_before_weights_are_fetched(config, monkeypatch):
    monkeypatch.setattr("models.teachers.weights.find_source", lambda *where: pytest.fail("looked for weights"))
    for method in ("rd", "rdpp", "rnrd", "rnst", "dbfad"):
        with pytest.raises(UserError, match="widths: a ResNet's student"):
            build_trainer(config(method, {"widths": [8, 8, 8]}, weights="imagenet"))
    for method in ("rd", "rdpp", "rnrd", "dbfad"):
        with pytest.raises(UserError, match="img_size"):
            build_trainer(config(method, {"img_size": 72}, weights="imagenet"))
    with pytest.raises(UserError, match="up to 4 levels"):
        build_trainer(config("rd", out_indice=[0, 1, 2, 3, 4], weights="imagenet"))
    with pytest.raises(UserError, match="memories"):
        build_trainer(config("rnrd", {"memories": [3]}, weights="imagenet"))


def test_one_image_of_one_position_is_explained(config):
    trainer = build_trainer(config("rd", {"img_size": 32, "batch_size": 7, "val_ratio": 0.2}))  # 8 images: one is left
    with pytest.raises(UserError, match=r"img_size \(32, 32\) leaves one position .* batch_size"):
        trainer.train()


def test_norm_cannot_be_switched_off(config):
    with pytest.raises(UserError, match="TrainingData.norm"):
        build_trainer(config("rd", {"norm": False}))


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "levels"), [("resnet50", [1, 2]), ("resnet34", [2, 3]), ("resnet26", [1, 2, 3])])
def test_other_resnets_and_levels_train_and_come_back(config, backbone, levels):
    raw = config("rd", {"epochs": 1, "img_size": [64, 96]}, backbone=backbone, out_indice=levels)
    trainer = build_trainer(raw)
    trainer.train()
    metrics = trainer.test()
    again = build_trainer(raw, ["phase=test"])
    again.load()
    assert again.test() == metrics


def test_sspcab_in_the_decoder(config):
    """It replaces the second-to-last convolution, and its loss is added with its weight."""
    raw = config("rd", {"sspcab": True, "sspcab_weight": 0.0}, precision="fp32")
    losses = []
    for weight in (0.0, 0.1, 0.2):
        trainer = build_trainer(raw, [f"TrainingData.sspcab_weight={weight}"])
        image = trainer.compute.images(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        losses.append(trainer.loss({"image": image, "teacher": trainer.teacher(image)}).item())
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)
    predicted = trainer.student.forward_with_loss(trainer.teacher(image))[1].item()
    assert losses[1] - losses[0] == pytest.approx(0.1 * predicted, rel=1e-3) and predicted > 0
    plain = build_trainer(config("rd"))
    assert count(trainer.student) - count(plain.student) == 17_736 - 64 * 64 * 9
