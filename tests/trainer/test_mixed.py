"""MixedTeacher (Thomine et al., VISAPP 2023), as in its code (github.com/SimonThomine/MixedTeacher, a99e28f)."""

import csv

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.splits import split_train
from engine.student_file import read_metadata
from models.mixed import ReducedResNet
from models.teachers.features import Features
from tests.conftest import HeldOut, count
from trainer import build_trainer
from trainer.mixed import MixedTrainer, fuse
from utils.errors import UserError

NETS, LEVELS = ["resnet18", "efficientnet_b0"], [[1, 2], [3, 4]]


@pytest.fixture
def trainer(config):
    return build_trainer(config("mixed", backbone=NETS, out_indice=LEVELS, precision="fp32"))


def test_parameters(trainer):
    first, second = trainer.student.first, trainer.student.second
    assert count(first) == 317_888 and [count(stage) for stage in first.stages] == [78_208, 230_144]
    assert count(first.stem) == 9_408 + 128
    assert count(trainer.teacher.first) == 683_072 and count(second) == 3_595_388
    assert count(trainer.student) == 3_913_276


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        (256, [(64, 32, 32), (128, 16, 16), (112, 16, 16), (320, 8, 8)]),
        (224, [(64, 28, 28), (128, 14, 14), (112, 14, 14), (320, 7, 7)]),
    ],
)
def test_shapes(trainer, size, shapes):
    teacher, student = trainer.features(torch.rand(1, 3, size, size))
    assert [tuple(m.shape[1:]) for m in teacher] == [tuple(m.shape[1:]) for m in student] == shapes


def one_hot(channel, batch=1):
    maps = [torch.zeros(batch, 2, n, n) for n in (32, 16, 16, 8)]
    for level in maps:
        level[:, channel] = 1
    return maps


def test_maps_of_orthogonal_features(trainer, monkeypatch):
    seen = []
    monkeypatch.setattr("trainer.mixed.fuse", lambda local, context, how: seen.append((local, context)) or local)
    levels = trainer.detector.levels(one_hot(0), one_hot(1))
    trainer.detector.combine(levels, (256, 256))
    local, context = seen[0]
    torch.testing.assert_close(local, torch.full((1, 1, 256, 256), 0.0048828125))
    torch.testing.assert_close(context, torch.full((1, 1, 256, 256), 0.01953125))
    assert fuse(local, context, "reference").abs().max() == 0


def test_fusion_by_hand():
    local, context = torch.ones(1, 1, 2, 2), torch.tensor([[3.0, 0.0], [4.0, 2.0]]).view(1, 1, 2, 2)
    expected = torch.tensor([[2.4, 0.0], [3.2, 4.0]]).view(1, 1, 2, 2)
    torch.testing.assert_close(fuse(local, context, "reference"), expected)
    expected = torch.tensor([[3.0, 0.0], [4.0, 2.0]]).view(1, 1, 2, 2)  # (A - 0) / 4 x 4
    torch.testing.assert_close(fuse(local, context, "product"), expected)


def test_only_product_is_the_same_from_every_side():
    local, context = torch.rand(2, 2, 1, 5, 5)
    for how, same in (("reference", False), ("product", True)):
        turned = fuse(local.mT, context.mT, how).mT
        assert torch.allclose(turned, fuse(local, context, how)) is same


@pytest.mark.parametrize("how", ["reference", "product"])
def test_each_image_has_its_own_range(how):
    """The published code uses one range for the whole batch."""
    local, context = torch.rand(2, 2, 1, 5, 5)
    context[1] *= 100
    alone = torch.cat([fuse(local[i : i + 1], context[i : i + 1], how) for i in range(2)])
    torch.testing.assert_close(fuse(local, context, how), alone)


def test_a_copied_teacher_has_nothing_to_learn(trainer):
    """So students start from random weights; the published code copies the teacher's."""
    image = trainer.compute.images(torch.rand(2, 3, 64, 64))
    batch = {"image": image, "teacher": trainer.teacher(image)}
    trainer.student.eval()
    with torch.inference_mode():
        assert trainer.pair_losses(batch)[1] > 0.1
        trainer.student.second.load_state_dict(trainer.teacher.second.net.state_dict())
        assert trainer.pair_losses(batch)[1] == 0


def test_one_cycle_of_learning_rate_and_momentum(trainer):
    adam, schedule = trainer.build_optimizer(1000)
    seen = []
    for _ in range(1000):
        seen.append((adam.param_groups[0]["lr"], adam.param_groups[0]["betas"][0]))
        adam.step()
        schedule.step()
    rates = [lr for lr, _ in seen]
    assert rates[0] == pytest.approx(1.6e-4) and max(rates) == pytest.approx(4e-3)
    assert rates.index(max(rates)) == pytest.approx(300, abs=2)
    assert rates[-1] == pytest.approx(1.6e-8)
    betas = [beta for _, beta in seen]
    assert betas[0] == pytest.approx(0.95) and min(betas) == pytest.approx(0.85)
    assert betas[-1] == pytest.approx(0.95, abs=1e-4)


def test_split_and_steps_of_mvtecs_carpet():
    train, val, _ = split_train(280, 0.2, 0)
    assert (len(train), len(val), -(-len(train) // MixedTrainer.Options().batch_size)) == (224, 56, 28)


def test_loss_sums_over_a_batch(config, monkeypatch):
    for images in (1, 4):
        trainer = build_trainer(config("mixed", {"batch_size": images}, backbone=NETS, out_indice=LEVELS))
        monkeypatch.setattr(trainer.detector, "student_maps", lambda image, teacher, n=images: one_hot(1, n))
        losses = trainer.pair_losses({"image": torch.zeros(images, 3, 64, 64), "teacher": one_hot(0, images)})
        assert losses.tolist() == pytest.approx([images, images])


def test_each_pair_keeps_its_own_best_epoch(config, monkeypatch):
    trainer = build_trainer(config("mixed", {"epochs": 3}))
    scores = iter([{"first": 3.0, "second": 1.0}, {"first": 1.0, "second": 2.0}, {"first": 2.0, "second": 3.0}])
    states = []

    def validate(val):
        states.append({key: value.clone() for key, value in trainer.student.state_dict().items()})
        return next(scores)

    monkeypatch.setattr(trainer, "validate", validate)
    trainer.train()
    assert trainer.metadata["best_epoch"] == {"first": 2, "second": 1}
    for key, value in trainer.student.state_dict().items():
        assert torch.equal(value, states[1 if key.startswith("first.") else 0][key])
    with (trainer.run_dir / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["val_score_second"] for row in rows] == ["1.0", "2.0", "3.0"]


def test_validation_is_the_loss_of_each_pair(trainer):
    val = HeldOut(trainer)
    scores = trainer.validate(val)
    assert set(scores) == {"first", "second"} and not trainer.student.training
    with torch.inference_mode():
        losses = sum(trainer.pair_losses(batch) * len(batch["image"]) for batch in val) / 3
    assert list(scores.values()) == pytest.approx(losses.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("backbone", "levels"), [(["mobilenetv3_small_100", "resnet34"], [[1], [2, 3]]), (["resnet26", "resnet18"], LEVELS)]
)
@pytest.mark.slow
def test_other_pairs_train_and_come_back(config, backbone, levels):
    raw = config("mixed", {"epochs": 1}, backbone=backbone, out_indice=levels)
    trainer = build_trainer(raw)
    trainer.train()
    metrics = trainer.test()
    again = build_trainer(raw, ["phase=test"])
    again.load()
    assert again.test() == metrics and [each["backbone"] for each in trainer.metadata["teachers"]] == backbone


def test_weights_for_each_pair(config, tmp_path):
    paths = []
    for backbone, levels in zip(NETS, LEVELS, strict=True):
        paths.append(str(tmp_path / f"{backbone}.safetensors"))
        save_file(Features(backbone, levels).net.state_dict(), paths[-1])
    trainer = build_trainer(config("mixed", backbone=NETS, out_indice=LEVELS, weights=paths))
    assert [each["weights"] for each in trainer.metadata["teachers"]] == paths
    given = load_file(paths[1])
    assert torch.equal(trainer.teacher.second.net.net.state_dict()["conv_stem.weight"].cpu(), given["conv_stem.weight"])
    with pytest.raises(UserError, match="weights"):
        build_trainer(config("mixed", backbone=NETS, out_indice=LEVELS, weights=paths[:1]))


def test_two_teachers_of_one_backbone_are_recorded_each_with_its_weights(config, tmp_path):
    backbone, levels, paths = ["resnet18", "resnet18"], [[1, 2], [3]], []
    for name, out_indice in zip("ab", levels, strict=True):
        paths.append(str(tmp_path / f"{name}.safetensors"))
        save_file(Features("resnet18", out_indice).net.state_dict(), paths[-1])
    trainer = build_trainer(config("mixed", backbone=backbone, out_indice=levels, weights=paths))
    trainer.run_dir.mkdir(parents=True)
    trainer.save()
    recorded = read_metadata(trainer.folder.student_file)["teachers"]
    assert [(each["backbone"], each["weights"]) for each in recorded] == [("resnet18", path) for path in paths]
    for kept, path in ((trainer.teacher.first.net.features, paths[0]), (trainer.teacher.second.net, paths[1])):
        assert torch.equal(kept.net["conv1"].weight.cpu(), load_file(path)["conv1.weight"])


def test_each_teacher_and_its_student_see_images_normalised_by_the_teachers_own_statistics(config, monkeypatch):
    """EfficientNet-Lite's weights were trained with mean and standard deviation 0.5, the ResNet's with ImageNet's."""
    trainer = build_trainer(
        config("mixed", backbone=["resnet18", "tf_efficientnet_lite0.in1k"], out_indice=LEVELS, precision="fp32")
    )
    teacher, student, seen = trainer.teacher, trainer.student, {}
    parts = {"teacher 1": teacher.first.net, "student 1": student.first}
    parts |= {"teacher 2": teacher.second.net, "student 2": student.second}
    for name, net in parts.items():
        monkeypatch.setattr(
            net, "forward", lambda image, name=name, run=net.forward: seen.update({name: image}) or run(image)
        )
    image = torch.rand(2, 3, 64, 64)
    trainer.features(image)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for name, expected in (("1", (image - mean) / std), ("2", (image - 0.5) / 0.5)):
        torch.testing.assert_close(seen[f"teacher {name}"].cpu(), expected)
        assert torch.equal(seen[f"student {name}"], seen[f"teacher {name}"])
    recorded = [(each["mean"], each["std"]) for each in trainer.metadata["teachers"]]
    assert recorded == [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3, (0.5,) * 3)]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"backbone": "resnet18"}, "'backbone' must be a list of two"),
        ({"backbone": ["resnet18"]}, "'backbone' must be a list of two"),
        ({"backbone": ["resnet18"] * 3}, "'backbone' must be a list of two"),
        ({"out_indice": [[1, 2]]}, "'out_indice' must be a list of two"),
        ({"out_indice": [1, 2]}, "'out_indice'"),
        ({"out_indice": [[2, 1], [3]]}, "'out_indice'"),
        ({"out_indice": [[0, 1], [3]]}, "levels 1 to 4"),
    ],
)
def test_wrong_pairs(config, keys, words):
    with pytest.raises(UserError, match=words):
        build_trainer(config("mixed", **keys))


def test_a_pair_is_for_mixed_alone(config):
    with pytest.raises(UserError, match="'backbone'"):
        build_trainer(config("st", backbone=NETS))


def test_the_deep_pair_is_of_one_architecture_even_as_a_resnet18(config):
    trainer = build_trainer(config("mixed", backbone=["resnet18", "resnet18"], out_indice=[[1, 2], [3]]))
    assert isinstance(trainer.student.first, ReducedResNet) and isinstance(trainer.student.second, Features)
    assert [m.shape[-1] for m in trainer.features(torch.rand(1, 3, 64, 64))[1]] == [8, 4, 4]
