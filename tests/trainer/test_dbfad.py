"""DBFAD's training and map, as in the authors' code (github.com/SimonThomine/DBFAD, 385e68a)."""

import pytest
import torch

from engine.splits import split_train
from engine.state import TrainState
from models.losses import batch_sum
from tests.conftest import HeldOut, count
from trainer import TRAINERS, build_trainer
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
def test_loss_of_constant_features_is_summed_over_a_batch(trainer, batch, channel, sign, loss):
    levels = trainer.detector.levels(features(batch, 0), features(batch, channel, sign))
    assert batch_sum(levels, batch).item() == pytest.approx(loss)


def test_map_of_constant_features_shares_each_level_out_over_its_positions(trainer):
    """2/4096 + 1/1024 + 1/256."""
    detector = trainer.detector
    final = detector.final_map(detector.levels(features(1, 0), features(1, 1)), (256, 256))
    torch.testing.assert_close(final, torch.full((1, 1, 256, 256), 0.00537109375), rtol=1e-5, atol=0)


def test_blur_of_an_impulse_and_of_a_plain_image():
    impulse = torch.zeros(1, 3, 7, 7)
    impulse[:, :, 3, 3] = 1
    blurred = blur(impulse)[0, 0]
    found = [blurred[2, 2].item(), blurred[2, 3].item(), blurred[3, 3].item()]
    assert found == pytest.approx([0.0571, 0.1248, 0.2725], abs=5e-5)
    assert blurred[1].abs().max() == 0 and blurred.sum().item() == pytest.approx(1)
    torch.testing.assert_close(blur(torch.full((2, 3, 5, 6), 0.7)), torch.full((2, 3, 5, 6), 0.7))  # the border too


@pytest.mark.slow
def test_training_and_validation_see_blurred_images_and_tests_do_not(trainer, monkeypatch):
    seen, fitted = [], []
    forward = trainer.teacher.forward
    monkeypatch.setattr(trainer.teacher, "forward", lambda image: seen.append(image.clone()) or forward(image))
    monkeypatch.setattr("trainer.dbfad.blur", lambda image: torch.full_like(image, 7.0))
    monkeypatch.setattr(trainer, "on_fit_end", lambda val: fitted.append(len(seen)))
    trainer.train()
    held_out = trainer.metadata["normal"]["scores"]
    trainer.test()
    training, testing = seen[: fitted[0]], seen[fitted[0] :]
    assert len(training) > 1 and all((image == 7).all() for image in training)
    assert len(testing) > 1 and all((image != 7).any() for image in testing)
    assert len(held_out) == 3  # of 10, as a test would score them


def test_split_and_steps_of_mvtecs_carpet():
    options = TRAINERS["dbfad"].Options()
    train, val, _ = split_train(280, options.val_ratio, 0)
    assert (len(train), len(val), -(-len(train) // options.batch_size)) == (196, 84, 49)


def test_optimizer_plateau_and_defaults(trainer):
    adam, schedule = trainer.build_optimizer(10)
    (group,) = adam.param_groups
    assert isinstance(adam, torch.optim.Adam) and (group["lr"], group["betas"]) == (0.005, (0.9, 0.999))
    assert (schedule.factor, schedule.patience, schedule.mode) == (0.1, 5, "min")
    options = type(trainer).Options()
    assert (options.epochs, options.batch_size, options.early_stop, options.val_ratio) == (100, 4, 10, 0.3)


def run(trainer, scores):
    """Epochs with these validation scores; the learning rate after each, and the number of trained epochs."""
    state, rates = TrainState(trainer.student, *trainer.build_optimizer(1)), []
    for score in scores:
        if state.is_stale(trainer.recipe().patience):
            break
        state.end_epoch({}, {"": score})
        rates.append(state.optimizer.param_groups[0]["lr"])
    return state, rates


def test_plateau_lowers_the_rate_and_training_stops_early(trainer):
    state, rates = run(trainer, [3.0, 1.0] + [2.0] * 30)
    assert state.kept == 2 and len(state.history) == 12  # 10 epochs without a better one
    assert rates[:7] == [0.005] * 7 and rates[7] == pytest.approx(0.0005)  # the 6th of them


def test_an_equal_score_is_no_better_one(trainer):
    assert len(run(trainer, [1.0] * 30)[0].history) == 11


@pytest.mark.slow
def test_early_stopping_in_a_run(config, monkeypatch, capsys):
    trainer = build_trainer(config("dbfad", {"epochs": 9, "early_stop": 2}))
    monkeypatch.setattr(trainer, "validate", lambda val: 1.0)
    trainer.train()
    assert "stopped after epoch 3: 2 epochs without a better validation score" in capsys.readouterr().err
    assert trainer.metadata["best_epoch"] == 1
    assert len((trainer.run_dir / "training.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_without_held_out_images_it_trains_to_the_end(config):
    trainer = build_trainer(config("dbfad", {"epochs": 3, "early_stop": 1, "val_ratio": 0}))
    trainer.train()
    assert trainer.metadata["best_epoch"] == 3


@pytest.mark.slow
def test_plateau_goes_on_in_a_resumed_run(config, monkeypatch):
    """Five epochs without a better loss are before the interruption; the sixth, which lowers the rate, is after it."""
    raw = config("dbfad", {"epochs": 8, "early_stop": 20})
    save = TrainState.save

    def save_and_die(state, *where):
        state._next_save = 0.0
        save(state, *where)
        if len(state.history) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr("trainer.dbfad.DBFADTrainer.validate", lambda self, val: 1.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainState, "save", save_and_die)
        build_trainer(raw).train()
    trainer = build_trainer(raw)
    trainer.train()
    rows = (trainer.run_dir / "training.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["0.005"] * 7 + ["0.0005"]
    assert trainer.metadata["best_epoch"] == 1


def test_validation_sees_images_as_precise_as_training_does(config, monkeypatch):
    """Blurring in half precision would change the images."""
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


def test_the_sspcabs_loss_counts_by_its_weight(config):
    image = torch.rand(2, 3, 64, 64)
    losses = []
    for weight in (0.0, 0.1, 0.2):
        trainer = build_trainer(config("dbfad", {"sspcab_weight": weight}, precision="fp32"))
        image = trainer.compute.images(image)
        losses.append(trainer.loss({"image": image, "teacher": trainer.teacher(image)}).item())
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)
    predicted = trainer.student.forward_with_loss(trainer.teacher(image))[1].item()
    assert losses[1] - losses[0] == pytest.approx(0.1 * predicted, rel=1e-3) and predicted > 0


def test_the_variant_without_links_trains(config):
    trainer = build_trainer(config("dbfad", {"residual": False, "epochs": 1}))
    assert count(trainer.student.links) == 0
    trainer.train()
    assert "aupro" in trainer.test()


def test_sizes_and_levels_that_fit_and_those_that_do_not(config):
    raw = config("dbfad", {"epochs": 1, "img_size": [96, 128]}, backbone="mobilenetv3_small_100")
    trainer = build_trainer(raw)
    trainer.train()
    assert trainer.anomaly_map(torch.rand(1, 3, 96, 128)).shape == (1, 1, 96, 128)
    with pytest.raises(UserError, match=r"img_size \(96, 64\): .* at least 96"):
        build_trainer(config("dbfad", {"img_size": [96, 64]}))
    with pytest.raises(UserError, match=r"out_indice: this method needs levels of strides 2, 4, 8 and 16"):
        build_trainer(config("dbfad", out_indice=[1, 2, 3]))
