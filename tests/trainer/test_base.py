"""What a method inherits: its recipe, loss and choice of the student, and the interface of scripts and notebooks."""

import pytest
import torch

from models.detector import Detector
from models.teachers.features import Features
from tests.conftest import HeldOut
from trainer import TRAINERS, build_trainer
from trainer.base import BaseTrainer
from utils.errors import UserError


class Plain(BaseTrainer):
    """A method that implements only what it must."""

    def build_detector(self):
        c = self.config
        return Detector(self.pretrained(c.backbone, c.out_indice), Features(c.backbone, c.out_indice))


@pytest.fixture
def plain(config, monkeypatch):
    """plain(**keys) -> a trainer of the method that implements only what it must."""
    monkeypatch.setitem(TRAINERS, "plain", Plain)
    return lambda **keys: build_trainer(config("plain", {"lr": 0.02, "epochs": 3}, precision="fp32", **keys))


def test_a_method_must_build_its_detector(plain):
    with pytest.raises(TypeError, match=r"BaseTrainer must implement build_detector\(\)"):
        BaseTrainer(plain().config)


def test_the_recipe_of_a_method_that_has_none(plain):
    trainer = plain()
    recipe, (adam, schedule) = trainer.recipe(), trainer.build_optimizer(10)
    assert (recipe.epochs, recipe.steps, recipe.accumulate, recipe.keep, recipe.patience) == (3, 0, 1, "best", None)
    (group,) = adam.param_groups
    assert isinstance(adam, torch.optim.Adam) and group["lr"] == 0.02 and schedule is None
    assert set(map(id, group["params"])) == set(map(id, trainer.student.parameters()))


def test_the_loss_is_the_mean_of_each_level_summed(plain, monkeypatch):
    trainer = plain()
    levels = [torch.tensor([[1.0, 3.0], [2.0, 6.0]]).view(2, 1, 1, 2), torch.tensor([0.5, 1.5]).view(2, 1, 1, 1)]
    monkeypatch.setattr(trainer.detector, "levels", lambda teacher, student: levels)
    image = trainer.compute.images(torch.rand(2, 3, 64, 64))
    assert trainer.loss({"image": image, "teacher": trainer.teacher(image)}).item() == 3 + 1


def test_the_seed_decides_the_first_student(plain):
    first, again, other = (plain(seed=seed).student.net["conv1"].weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("use", ["features", "anomaly_map"])
def test_a_student_in_training_is_shown_as_it_is_tested(plain, use):
    """With batch norm in training mode, the maps of an image would depend on the others, and change the student."""
    trainer, image = plain(), torch.rand(2, 3, 64, 64)
    trainer.student.train()
    before = {key: value.clone() for key, value in trainer.student.state_dict().items()}
    getattr(trainer, use)(image)
    assert not trainer.detector.training and not trainer.student.training
    assert all(torch.equal(value, before[key]) for key, value in trainer.student.state_dict().items())


def test_model_choice_is_by_the_mean_map_of_held_out_images(config):
    trainer = build_trainer(config("st", precision="fp32"))
    val = HeldOut(trainer)
    expected = torch.cat([trainer.anomaly_map(batch["image"]) for batch in val]).mean().item()
    trainer.student.train()
    assert trainer.validate(val) == pytest.approx(expected, rel=1e-4) and not trainer.student.training


def test_auto_weights_are_those_of_the_training(config, monkeypatch):
    """ImageNet weights that are found later must not be used to test a run trained with the bundled teacher."""
    raw = config("st", weights="auto")
    trained = build_trainer(raw)
    assert [each["weights"] for each in trained.metadata["teachers"]] == ["bundled"]
    trained.run_dir.mkdir(parents=True)
    trained.save()
    monkeypatch.setattr(
        "models.teachers.weights._imagenet", lambda backbone: pytest.fail("looked for ImageNet weights")
    )
    build_trainer(raw, ["phase=test"]).load()


def test_a_test_can_build_in_the_first_process_alone(plain, monkeypatch):
    """Such as the students of the folds, when the other processes have ended."""
    monkeypatch.setattr("trainer.base.from_main", lambda make: pytest.fail("it waited for the other processes"))
    assert plain(phase="test").teacher


def test_a_missing_and_a_damaged_student_file_are_named(config):
    trainer = build_trainer(config("st"))
    with pytest.raises(UserError, match="student.safetensors does not exist: train first"):
        trainer.load()
    trainer.run_dir.mkdir(parents=True)
    trainer.folder.student_file.write_bytes(b"rubbish")
    with pytest.raises(UserError, match="student.safetensors.*damaged"):
        trainer.load()


def test_a_test_takes_the_threads_of_the_training(config):
    own = torch.get_num_threads()
    raw = config("st", {"epochs": 1}, threads=2)
    build_trainer(raw).train()
    try:
        torch.set_num_threads(1)
        again = build_trainer(raw | {"threads": "auto", "phase": "test"})
        again.load()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(own)


class ConstantDetector(Detector):
    def final_map(self, levels, size):
        return torch.full((len(levels[0]), 1, *size), 7.0, device=levels[0].device)


def test_a_detectors_own_map_is_used_everywhere(config, monkeypatch):
    class Constant(TRAINERS["st"]):
        def build_detector(self):
            ordinary = super().build_detector()
            return ConstantDetector(ordinary.teacher, ordinary.student)

    monkeypatch.setitem(TRAINERS, "constant", Constant)
    trainer = build_trainer(config("st", {"epochs": 1}, distillType="constant"))
    trainer.train()
    assert trainer.test()["image_auroc"] == 0.5
    assert trainer.metadata["normal"]["scores"] == [7, 7]
    assert ",7.0," in (trainer.run_dir / "training.csv").read_text()
