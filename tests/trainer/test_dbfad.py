"""DBFAD's training and map: numeric checks of specs/dbfad_mixed_rn_sspcab.md section 1.8; networks are elsewhere."""

import pytest
import torch

from datasets.readers.mvtec import split_train
from engine.state import Training
from models.losses import batch_sum
from tests.conftest import HeldOut, count
from trainer import build_trainer
from trainer.dbfad import blur
from utils.errors import UserError


@pytest.fixture
def trainer(config):
    return build_trainer(config("dbfad", precision="fp32"))


def features(batch, channel, sign=1.0, sizes=(64, 64, 32, 16)):
    maps = [torch.zeros(batch, 2, n, n) for n in sizes]
    for level in maps:
        if channel is not None:
            level[:, channel] = sign
    return maps


@pytest.mark.parametrize(
    ("batch", "channel", "sign", "loss"), [(1, 1, 1, 1.0), (4, 1, 1, 4.0), (1, 0, -1, 2.0), (1, None, 0, 0.5)]
)
def test_check_5_loss(trainer, batch, channel, sign, loss):
    levels = trainer.level_maps(features(batch, 0), features(batch, channel, sign))
    assert batch_sum(levels, batch).item() == pytest.approx(loss)


def test_check_6_constant_map(trainer):
    final = trainer.final_map(trainer.level_maps(features(1, 0), features(1, 1)), (256, 256))
    torch.testing.assert_close(final, torch.full((1, 1, 256, 256), 0.00537109375), rtol=1e-5, atol=0)


def test_check_8_blur():
    impulse = torch.zeros(1, 3, 7, 7)
    impulse[:, :, 3, 3] = 1
    blurred = blur(impulse)[0, 0]
    found = [blurred[2, 2].item(), blurred[2, 3].item(), blurred[3, 3].item()]
    assert found == pytest.approx([0.0571, 0.1248, 0.2725], abs=5e-5)
    assert blurred[1].abs().max() == 0 and blurred.sum().item() == pytest.approx(1)
    torch.testing.assert_close(blur(torch.full((2, 3, 5, 6), 0.7)), torch.full((2, 3, 5, 6), 0.7))  # the border too


def test_training_and_validation_see_blurred_images_and_tests_do_not(trainer, monkeypatch):
    seen = []
    forward = trainer.teacher.net.forward
    monkeypatch.setattr(trainer.teacher.net, "forward", lambda image: seen.append(image.clone()) or forward(image))
    monkeypatch.setattr("trainer.dbfad.blur", lambda image: torch.full_like(image, 7.0))
    trainer.train()
    held_out = trainer.record["normal"]["scores"]
    trainer.test()
    # Size and features of training and held-out images come first; then the finished student's scores.
    training, testing = seen[:4], seen[4:]
    assert all((image == 7).all() for image in training)
    assert len(testing) > 1 and all((image != 7).any() for image in testing)
    assert len(held_out) == 3  # of 10, as a test would score them


def test_check_10_split_and_steps():
    train, val = split_train(280, 0.3, 0)
    assert (len(train), len(val), -(-len(train) // 4)) == (196, 84, 49)


def test_recipe(trainer):
    adam, schedule = trainer.build_optimizer(10)
    (group,) = adam.param_groups
    assert isinstance(adam, torch.optim.Adam) and (group["lr"], group["betas"]) == (0.005, (0.9, 0.999))
    assert (schedule.factor, schedule.patience, schedule.mode) == (0.1, 5, "min")
    options = type(trainer).Options()
    assert (options.epochs, options.batch_size, options.early_stop, options.val_ratio) == (100, 4, 10, 0.3)


def run(trainer, scores):
    """Epochs with these validation scores; the learning rate after each, and how many were trained."""
    training, rates = Training(trainer.student, *trainer.build_optimizer(1), False), []
    for score in scores:
        if training.is_stale(trainer.patience):
            break
        training.end_epoch({}, {"": score})
        rates.append(training.optimizer.param_groups[0]["lr"])
    return training, rates


def test_plateau_and_early_stopping(trainer):
    training, rates = run(trainer, [3.0, 1.0] + [2.0] * 30)
    assert training.kept == 2 and len(training.history) == 12  # 10 epochs without a better one
    assert rates[:7] == [0.005] * 7 and rates[7] == pytest.approx(0.0005)  # the 6th of them


def test_an_equal_score_is_no_better_one(trainer):
    assert len(run(trainer, [1.0] * 30)[0].history) == 11


def test_early_stopping_in_a_run(config, monkeypatch, capsys):
    trainer = build_trainer(config("dbfad", {"epochs": 9, "early_stop": 2}))
    monkeypatch.setattr(trainer, "validate", lambda val: 1.0)
    trainer.train()
    assert "stopped after epoch 3: 2 epochs without a better validation score" in capsys.readouterr().err
    assert trainer.record["best_epoch"] == 1
    assert len((trainer.run_dir / "training.csv").read_text().splitlines()) == 4


def test_without_held_out_images_it_trains_to_the_end(config):
    trainer = build_trainer(config("dbfad", {"epochs": 3, "early_stop": 1, "val_ratio": 0}))
    trainer.train()
    assert trainer.record["best_epoch"] == 3


def test_plateau_goes_on_in_a_resumed_run(config, monkeypatch):
    """Five epochs without a better loss lie before the interruption, the sixth, which lowers the rate, after it."""
    raw = config("dbfad", {"epochs": 8, "early_stop": 20})
    save = Training.save

    def save_and_die(training, *where):
        training._next_save = 0.0
        save(training, *where)
        if len(training.history) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr("trainer.dbfad.DBFADTrainer.validate", lambda self, val: 1.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "save", save_and_die)
        build_trainer(raw).train()
    trainer = build_trainer(raw)
    trainer.train()
    rows = (trainer.run_dir / "training.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["0.005"] * 7 + ["0.0005"]
    assert trainer.record["best_epoch"] == 1


def test_validation_sees_images_as_precise_as_training_does(config, monkeypatch):
    """Blurred in half precision they would be other images."""
    trainer, seen = build_trainer(config("dbfad", precision="bf16")), []
    monkeypatch.setattr("trainer.dbfad.blur", lambda image: seen.append(blur(image).dtype) or image)
    trainer.train()
    assert set(seen) == {torch.float32}


def test_validation_is_the_mean_loss(trainer):
    val = HeldOut(trainer)
    score = trainer.validate(val)
    with torch.inference_mode():
        weighted = sum(trainer.loss(batch).item() * len(batch["image"]) for batch in val) / 3
    assert score == pytest.approx(weighted, rel=1e-5)  # in the units of the training loss


def test_sspcab_loss_by_its_weight(config):
    image = torch.rand(2, 3, 64, 64)
    losses = []
    for weight in (0.0, 0.1, 0.2):
        trainer = build_trainer(config("dbfad", {"sspcab_weight": weight}, precision="fp32"))
        losses.append(trainer.loss({"image": image, "teacher": trainer.teacher(image)}).item())
    assert losses[1] > losses[0] and losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_domain_generalisation_variant_trains(config):
    trainer = build_trainer(config("dbfad", {"residual": False, "epochs": 1}))
    assert count(trainer.student.links) == 0
    trainer.train()
    assert "aupro" in trainer.test()


def test_sizes_and_levels(config):
    raw = config("dbfad", {"epochs": 1, "img_size": [96, 128]}, backbone="mobilenetv3_small_100")
    trainer = build_trainer(raw)
    trainer.train()
    assert trainer.anomaly_map(torch.rand(1, 3, 96, 128)).shape == (1, 1, 96, 128)
    with pytest.raises(UserError, match=r"crop_size \(96, 64\): .* at least 96"):
        build_trainer(config("dbfad", {"img_size": [96, 64]}))
    with pytest.raises(UserError, match=r"out_indice: this method needs levels of strides 2, 4, 8 and 16"):
        build_trainer(config("dbfad", out_indice=[1, 2, 3]))
