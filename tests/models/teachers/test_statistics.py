"""Statistics of a teacher's channels, and teachers that are standardised with them."""

import numpy as np
import pytest
import torch

from engine.loading import training_batches
from engine.student_file import fingerprint
from models.teachers.statistics import ChannelStatistics
from tests.conftest import killed_at_the_first_checkpoint
from trainer import build_trainer, open_run
from utils.errors import UserError

LITE = {"backbone": "tf_efficientnet_lite0", "weights": "imagenet"}


def test_statistics_by_hand():
    mean, std = ChannelStatistics.of(torch.full((1, 2, 4, 4), value) for value in (1.0, 3.0)).moments
    assert mean.tolist() == [2, 2] and std.tolist() == [1, 1] and std.dtype == torch.float64


def test_statistics_of_small_deviations_and_uneven_chunks():
    """In float32, mean squares minus squared means would be 0 or negative here."""
    values = (1e4 + 0.01 * torch.arange(7 * 3 * 5 * 5)).view(7, 3, 5, 5)
    values[:, 2] = 0.25  # a dead channel
    mean, std = ChannelStatistics.of(values.split([1, 4, 2])).moments
    exact = values.numpy().astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), exact.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std[:2].numpy(), exact.std(axis=(0, 2, 3))[:2], rtol=1e-9)
    assert std[2].item() == 1e-6


def test_statistics_of_half_precision():
    values = torch.full((1, 1, 300, 300), 300.0, dtype=torch.float16)  # their squares and sums overflow in float16
    values[..., ::2] = 302
    mean, std = ChannelStatistics.of([values, values]).moments
    assert (mean.item(), std.item()) == (301, 1)


def test_the_lowest_value_is_kept():
    assert ChannelStatistics.of([torch.tensor([[[[3.0]]]]), torch.tensor([[[[-1.0]]]])]).lowest == -1


@pytest.mark.parametrize(
    "method", ["st", "rnst", *(pytest.param(m, marks=pytest.mark.slow) for m in ("rd", "rdpp", "rnrd"))]
)
def test_a_standardised_teachers_channels_have_mean_0_and_std_1_over_the_training_images(config, method):
    training = {"standardise": True, "epochs": 1, "lr": 0.01, "val_ratio": 0.2}
    trainer = build_trainer(config(method, training, precision="fp32", **LITE))
    teacher = trainer.metadata["teacher"]
    trainer.train()
    batches, _, _ = training_batches(trainer.config, trainer.teacher, trainer.compute)
    for level in batches.channel_statistics():
        mean, std = level.moments
        assert mean.abs().max() < 1e-3 and (std - 1).abs().max() < 1e-3
    again = open_run(trainer.run_dir)  # the student's file has the statistics; the teacher's weights are the same
    assert again.metadata["teacher"] == teacher and again.teacher.standardised
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(again.anomaly_map(image), trainer.anomaly_map(image))


@pytest.mark.parametrize(
    ("method", "training"),
    [("st", {"lr": 0.01}), pytest.param("rnrd", {"memories": [0, 1, 2]}, marks=pytest.mark.slow)],
)
def test_a_second_training_of_one_trainer_is_like_the_first(config, monkeypatch, method, training):
    """As in a notebook: with new statistics of a standardised teacher, or the trained student, it would differ."""
    settings = config(method, {"standardise": True, "epochs": 2, **training}, precision="fp32", **LITE)
    once, trainer = build_trainer(settings | {"run": "once"}), build_trainer(settings)
    once.train()
    with killed_at_the_first_checkpoint(monkeypatch):
        trainer.train()
    for _ in range(2):
        trainer.train()
        assert trainer.metadata["standardise"] == once.metadata["standardise"]
        assert fingerprint(trainer.student) == fingerprint(once.student)
        (trainer.run_dir / "metrics.json").write_text("{}")  # as if tested, so it begins anew


@pytest.mark.slow
def test_two_teachers_are_standardised_each_for_itself(config):
    top = {"backbone": ["tf_efficientnet_lite0"] * 2, "out_indice": [[1, 2], [3]], "weights": "imagenet"}
    trainer = build_trainer(config("mixed", {"standardise": True, "epochs": 1}, precision="fp32", **top))
    trainer.train()
    assert [len(teacher.levels) for teacher in (trainer.teacher.first, trainer.teacher.second)] == [2, 1]
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(open_run(trainer.run_dir).anomaly_map(image), trainer.anomaly_map(image))


def test_the_error_names_the_one_of_two_teachers_whose_features_are_never_negative(config):
    top = {"backbone": ["tf_efficientnet_lite0", "regnetx_002"], "out_indice": [[1, 2], [3]], "weights": "random"}
    with pytest.raises(UserError, match="the features of 'regnetx_002' are never negative"):
        build_trainer(config("mixed", {"standardise": True}, **top)).train()


def test_features_that_are_never_negative_cannot_be_standardised(config):
    with pytest.raises(UserError, match="standardise: leave this key out; .*'resnet18[^']*' are never negative"):
        build_trainer(config("st", {"standardise": True})).train()
    with pytest.raises(UserError, match="standardise"):  # it always does, in its own way
        build_trainer(config("ead", {"standardise": True}))


@pytest.mark.slow
def test_a_standardised_detector_can_be_exported(config):
    trainer = build_trainer(config("st", {"standardise": True, "epochs": 1}, device="cpu", precision="fp32", **LITE))
    trainer.train()
    image = torch.rand(2, 3, 64, 64)
    exported = torch.export.export(trainer.detector.eval(), (image,)).module()
    torch.testing.assert_close(exported(image), trainer.detector(image))
