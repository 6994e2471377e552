"""EfficientAD as a method: losses, schedule, statistics, scale of the maps, penalty, and what it refuses."""

import csv

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from datasets.folder import FolderImages
from engine.loading import training_batches
from engine.method import Recipe
from engine.splits import split_train
from engine.state import TrainState
from models.efficientad import jitter, low_and_high
from pretraining.formula import FormulaImages
from tests.conftest import (
    REPO,
    assert_one_sentence,
    killed_at_the_first_checkpoint,
    run_script,
    small,
    write_image,
    write_mvtec,
)
from trainer import build_trainer
from trainer.efficientad import EfficientADTrainer
from utils.errors import UserError
from visualization import look


class Constant(nn.Module):
    """One learned value for every channel and position of the maps of a 256-px image."""

    def __init__(self, value, channels=384):
        super().__init__()
        self.value, self.channels = nn.Parameter(torch.tensor(float(value))), channels

    def forward(self, image):
        return self.value.expand(len(image), self.channels, 56, 56)


class Halves(nn.Module):
    """A student whose first half gives 2 and whose second half gives 3."""

    def head(self, image, part):
        return torch.full((len(image), 384, 56, 56), 2.0 if part.start == 0 else 3.0, device=image.device)


@pytest.fixture
def trainer(config):
    return build_trainer(config("ead", precision="fp32"))


@pytest.fixture
def by_hand(trainer):
    """Teacher 0, student 2 and 3, autoencoder 1: every loss is different."""
    replace_networks(trainer)
    return trainer


def replace_networks(trainer):
    trainer.teacher.net.pdn = Constant(0).requires_grad_(False)
    trainer.student.pdn = Halves()
    trainer.student.autoencoder = Constant(1)
    trainer.detector.to(trainer.device)


def batch(trainer, size=(256, 256)):
    """The batch that the engine gives in the first step, without the statistics of a data set."""
    trainer.teacher_maps = trainer.teacher
    image = trainer.compute.images(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)))
    return {"image": image, "teacher": trainer.teacher(image), "step": 0}


def test_losses_by_hand(by_hand):
    """Hard-feature loss 4, penalty 4, autoencoder 1, student towards the autoencoder 4."""
    loss = by_hand.loss(batch(by_hand))
    assert loss.item() == pytest.approx(13)
    loss.backward()
    # All elements together: 2 (1 - 0) of its own loss, 2 (1 - 3) of the student's, which is not detached.
    assert by_hand.student.autoencoder.value.grad.item() == pytest.approx(2 - 4)


def test_who_sees_which_image(trainer, monkeypatch):
    """The local half sees the image and a penalty image; teacher, autoencoder and global half its changed colours."""
    seen = {name: [] for name in ("teacher", "autoencoder", "local", "global")}

    def spy(name, function):
        return lambda image, *more: seen[name].append(image) or function(image, *more)

    given = batch(trainer)
    student, half = trainer.student, trainer.student.pdn.head
    monkeypatch.setattr(trainer.teacher.net, "forward", spy("teacher", trainer.teacher.net.forward))
    monkeypatch.setattr(student.autoencoder, "forward", spy("autoencoder", student.autoencoder.forward))
    monkeypatch.setattr(
        student.pdn, "head", lambda image, part: spy("global" if part.start else "local", half)(image, part)
    )
    trainer.loss(given)
    (changed,), (encoded,), (whole,), (plain, penalty) = (
        seen[n] for n in ("teacher", "autoencoder", "global", "local")
    )
    normalise, drawn = trainer.teacher.normalise, trainer.draw_penalty(FormulaImages(256), 0)
    assert torch.equal(plain, normalise(given["image"]))
    assert torch.equal(penalty, normalise(trainer.compute.images(drawn)))
    assert encoded is whole and torch.equal(encoded, changed) and not torch.equal(changed, plain)
    jittered = jitter(given["image"], np.random.default_rng((0, 0)))  # the one of this step
    assert torch.equal(changed, normalise(jittered))


def test_without_a_penalty_its_term_is_missing(config):
    trainer = build_trainer(config("ead", {"penalty_path": "none"}, precision="fp32"))
    replace_networks(trainer)
    assert trainer.penalty_images is None
    assert trainer.loss(batch(trainer)).item() == pytest.approx(9)


def test_half_precision_squares_in_single(by_hand, monkeypatch):
    """The square of 300 is too large for float16."""
    large = torch.full((1, 384, 56, 56), 300, dtype=torch.float16, device=by_hand.device)
    for half in ("local", "global_head"):
        monkeypatch.setattr(by_hand.student, half, lambda image: large)
    expected = 2 * 300**2 + 1 + 299**2
    assert by_hand.loss(batch(by_hand)).item() == pytest.approx(expected, rel=1e-4)
    assert by_hand.detector.distance(large, 0 * large).unique().item() == 300**2


def test_the_teacher_is_compared_by_its_statistics(by_hand):
    by_hand.student.mean += 4
    by_hand.student.std *= 2  # the teacher now gives (0 - 4) / 2 = -2
    assert by_hand.loss(batch(by_hand)).item() == pytest.approx(16 + 4 + 9 + 4)


@pytest.mark.slow
def test_statistics_are_of_the_training_images_alone(config):
    trainer = build_trainer(config("ead", {"val_ratio": 0.5}, precision="fp32"))
    train, val, _ = training_batches(trainer.config, trainer.teacher, trainer.compute)
    trainer.on_fit_start(train)
    maps = train.maps_of(list(range(train.images)))[0].double()
    assert train.images == 5 and val.images == 5
    mean, std = maps.mean(dim=(0, 2, 3)), maps.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(trainer.student.mean.flatten().double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trainer.student.std.flatten().double(), std, rtol=1e-5, atol=1e-6)


def test_steps_and_schedule_of_the_published_recipe():
    """0-based steps 0 to 66499 at 1e-4, the rest at a tenth."""
    trainer = build_trainer(
        {"data_path": "d", "obj": "o", "distillType": "ead", "backbone": "small", "weights": "random"}
    )
    assert trainer.recipe().steps == 70000 and trainer.recipe().keep == "last"
    optimizer, scheduler = trainer.build_optimizer(70000)
    rates = {k: scheduler.lr_lambdas[0](k) * trainer.options.lr for k in (0, 66499, 66500, 69999)}
    assert rates == pytest.approx({0: 1e-4, 66499: 1e-4, 66500: 1e-5, 69999: 1e-5})
    assert optimizer.param_groups[0]["weight_decay"] == 1e-5 and optimizer.param_groups[0]["lr"] == 1e-4
    assert isinstance(optimizer, torch.optim.Adam) and not isinstance(optimizer, torch.optim.AdamW)


@pytest.mark.slow
def test_steps_are_counted_and_the_last_epoch_is_cut(config, monkeypatch):
    trainer = build_trainer(config("ead", {"steps": 3, "penalty_path": "none"}))
    monkeypatch.setattr(Recipe, "epoch_length", 2)
    steps, rates, loss, build = [], [], trainer.loss, trainer.build_optimizer
    made = []
    trainer.build_optimizer = lambda total: made.append(build(total)) or made[0]

    def spy(batch):
        steps.append(batch["step"])
        rates.append(made[0][0].param_groups[0]["lr"])
        return loss(batch)

    trainer.loss = spy
    trainer.train()
    assert steps == [0, 1, 2]
    assert rates == pytest.approx([1e-4] * 2 + [1e-5])  # 95 % of 3 are 2
    rows = list(csv.DictReader((trainer.run_dir / "training.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"] and "val_score" not in rows[0]
    assert trainer.metadata["best_epoch"] == 2


@pytest.mark.slow
def test_a_run_resumed_after_the_decay_does_not_decay_again(config, monkeypatch):
    raw = config("ead", {"steps": 2, "penalty_path": "none"})
    first, build, rates = build_trainer(raw), EfficientADTrainer.build_optimizer, []
    monkeypatch.setattr(EfficientADTrainer, "on_fit_end", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    never = property(lambda _: 0.0, lambda *_: None)
    monkeypatch.setattr(TrainState, "_next_save", never, raising=False)  # a checkpoint after every epoch
    with pytest.raises(KeyboardInterrupt):
        first.train()
    again = build_trainer(raw | {"resume": True})

    def spy(trainer, total):
        rates.append(build(trainer, total))
        return rates[-1]

    monkeypatch.setattr(EfficientADTrainer, "build_optimizer", spy)
    with pytest.raises(KeyboardInterrupt):
        again.train()
    assert rates[0][0].param_groups[0]["lr"] == pytest.approx(1e-5)


def test_an_epoch_is_a_hundredth_of_the_steps(config):
    assert build_trainer(config("ead", {"steps": 70000})).recipe().epoch_length == 700
    assert build_trainer(config("ead", {"steps": 6})).recipe().epoch_length == 1


@pytest.mark.slow
def test_the_teachers_maps_of_unchanged_images_are_computed_once(config, device, monkeypatch):
    if device.type == "cuda":
        pytest.skip("features are cached on a CPU alone: a GPU computes them faster than it fetches them")
    trainer = build_trainer(config("ead", {"steps": 2, "val_ratio": 0.2}))
    calls, forward = [], trainer.teacher.net.forward
    monkeypatch.setattr(trainer.teacher.net, "forward", lambda image: calls.append(len(image)) or forward(image))
    trainer.train()
    # Per set one for the size and each image once; in training the changed images; the held-out ones as in a test.
    assert sum(calls) == (1 + 8) + (1 + 2) + 2 + 2


@pytest.mark.parametrize(
    ("size", "validation"),
    [(209, 21), (224, 23), (219, 22), (280, 28), (264, 27), (391, 40), (245, 25), (220, 22), (267, 27), (320, 32)]
    + [(230, 23), (60, 6), (213, 22), (247, 25), (240, 24)],
)
def test_a_tenth_of_mvtec_is_held_out(size, validation):
    train, val, _ = split_train(size, 0.1, seed=0)
    assert (len(train), len(val)) == (int(0.9 * size), validation)


def test_maps_are_brought_to_one_scale(trainer):
    """Each map with its own quantiles, local first: 0.2 and 0 with equal ones, 0.2 and 0.02 with others."""
    detector = trainer.detector.cpu()
    levels = [torch.full((1, 1, 56, 56), value) for value in (10.0, 2.0)]
    for pairs, mean in (([[2.0, 6.0], [2.0, 6.0]], 0.1), ([[2.0, 6.0], [0.0, 10.0]], 0.11)):
        trainer.student.quantiles.copy_(torch.tensor(pairs))
        final = detector.combine(levels, (256, 256))
        torch.testing.assert_close(final[:, :, 128, 32:220], torch.full((1, 1, 188), mean))
    trainer.student.quantiles[1] = trainer.student.quantiles[0]
    empty = detector.combine([torch.zeros(1, 1, 56, 56)] * 2, (256, 256))
    assert empty[0, 0, 128, 128].item() == pytest.approx(-0.05)
    assert empty[0, 0, 0, 0].item() == 0 and empty.max().item() == 0  # the border is added after the scaling


def test_border_and_resize(trainer):
    """A cell of the map is placed where its 33 x 33 pixels are."""
    detector = trainer.detector.cpu()
    trainer.student.quantiles.copy_(torch.tensor([[0.0, 0.1], [0.0, 0.1]]))
    spot, one = torch.zeros(1, 1, 56, 56), torch.ones(1, 1, 56, 56)
    spot[0, 0, 10, 20] = 1
    final = detector.combine([spot, spot], (256, 256))[0, 0]
    assert final.max().item() == pytest.approx(0.765625) and final.sum().item() == pytest.approx(16, rel=1e-5)
    peak = (final == final.max()).nonzero()
    assert peak.min(dim=0).values.tolist() == [57, 97] and peak.max(dim=0).values.tolist() == [58, 98]
    row = detector.combine([one, one], (256, 256))[0, 0, 128, :20]
    torch.testing.assert_close(row, torch.tensor([0.0] * 14 + [0.125, 0.375, 0.625, 0.875, 1, 1]))


def test_quantiles_by_hand():
    low, high = low_and_high(torch.arange(1.0, 1001).reshape(2, 1, 5, 100).split(1)).tolist()
    assert (low, high) == (pytest.approx(900.1), pytest.approx(995.005))
    many = [torch.ones(2**13, 2**11 + 1)]  # more than 2^24 values
    assert low_and_high(many).tolist() == [1, 1]


@pytest.mark.slow
def test_quantiles_are_of_the_held_out_images(config):
    """Unchanged ones, all positions pooled, each map on its own, the autoencoder without dropout."""
    trainer = build_trainer(config("ead", {"val_ratio": 0.2}, precision="fp32"))
    train, val, _ = training_batches(trainer.config, trainer.teacher, trainer.compute)
    trainer.on_fit_start(train)
    trainer.student.train()
    trainer.on_fit_end(val)
    with torch.inference_mode():
        trainer.student.eval()
        levels = [trainer.detector.levels(*trainer.detector.pairs(batch["image"], batch["teacher"])) for batch in val]
    for k, (low, high) in enumerate(trainer.student.quantiles.tolist()):
        values = np.concatenate([level[k].double().cpu().numpy().ravel() for level in levels])
        assert len(values) == 2 * 56 * 56
        assert [low, high] == pytest.approx(np.quantile(values, [0.9, 0.995]).tolist(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "gigaflop"), [("small", 75.89), ("medium", 235.41)])
def test_arithmetic_of_a_test_image(config, kind, gigaflop):
    trainer = build_trainer(config("ead", backbone=kind, precision="fp32"))
    with FlopCounterMode(display=False) as counter:
        trainer.anomaly_map(torch.zeros(1, 3, 256, 256))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gigaflop, abs=0.005)


def test_a_map_is_the_same_twice(trainer):
    image = torch.rand(1, 3, 256, 256)
    trainer.student.train()
    assert torch.equal(trainer.anomaly_map(image), trainer.anomaly_map(image))


def test_what_a_run_needs_is_saved_with_the_student(trainer):
    constants = {"mean", "std", "quantiles"}
    assert constants <= set(trainer.student.state_dict())
    assert not any(key.startswith("teacher") for key in trainer.student.state_dict())


def test_pages_show_the_maps_where_they_lie_in_the_image(trainer):
    view = look(trainer, trainer.test_set[0], 0)
    assert [level.model for level in view.levels] == ["teacher", "autoencoder"]
    for level in view.levels:
        assert level.teacher.shape == level.student.shape == (384, 56, 56) and level.distance.shape == (64, 64)
        assert level.distance[4:60, 4:60].min() > 0 == level.distance[:4].max()


@pytest.mark.slow
@pytest.mark.parametrize("size", [[256, 320], [300, 270]])
def test_sizes_other_than_256(config, size):
    trainer = build_trainer(config("ead", {"img_size": size}))
    assert trainer.anomaly_map(torch.rand(1, 3, *size)).shape == (1, 1, *size)
    assert trainer.penalty_stream(0).shape == (1, 3, *size)
    assert trainer.loss(batch(trainer, size)).isfinite()


# ---- penalty ---------------------------------------------------------------------------------------------------------


def test_penalty_images_are_new_in_every_step_and_the_same_in_a_resumed_run(config):
    one, other = (build_trainer(config("ead", {"steps": 100})) for _ in range(2))
    first = [one.penalty_stream(step) for step in range(6)]
    assert all(image.shape == (1, 3, 256, 256) and image.dtype == torch.uint8 for image in first)
    assert not any(torch.equal(first[0], image) for image in first[1:])
    assert torch.equal(other.penalty_stream(4), first[4])  # without the steps before


def test_three_in_ten_penalty_images_are_gray(tmp_path, config):
    rng = np.random.default_rng(0)
    for i in range(3):
        write_image(tmp_path / "any" / f"{i}/a.png", rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    trainer = build_trainer(config("ead", {"penalty_path": str(tmp_path / "any"), "steps": 400}))
    images = [trainer.draw_penalty(trainer.penalty_images, k) for k in range(100)]
    gray = [torch.equal(image, image[:, :1].expand_as(image)) for image in images]
    assert 18 <= sum(gray) <= 42
    assert len({image.sum().item() for image in images}) == 6  # every file, with and without colour


def test_a_folder_of_penalty_images(tmp_path):
    """Read from all subfolders, the aspect ratio not kept; the middle of twice the size."""
    image = np.zeros((64, 128, 3), np.uint8)
    image[16:48, 32:96] = (200, 100, 50)
    write_image(tmp_path / "deep/er/a.PNG", image)
    cv2.imwrite(str(tmp_path / "b.tif"), np.full((40, 40), 40000, np.uint16))
    (tmp_path / "notes.txt").write_text("no image")
    images = FolderImages("penalty_path", str(tmp_path), (512, 512), (256, 256))
    assert len(images) == 2
    assert images[1].shape == (256, 256, 3) and images[1].dtype == np.uint8
    assert (images[1][4:-4, 4:-4] == (200, 100, 50)).all()
    assert (images[0] == 40000 >> 8).all() and (images[2] == images[0]).all()


def test_a_penalty_folder_without_images_is_named(tmp_path, config):
    with pytest.raises(UserError, match=f"penalty_path: there are no images .* below {tmp_path}"):
        build_trainer(config("ead", {"penalty_path": str(tmp_path)}))


@pytest.mark.slow
def test_other_penalty_files_do_not_go_on_with_an_interrupted_run(tmp_path, config, monkeypatch):
    """With one more file, every step would draw another image than before."""
    rng = np.random.default_rng(0)
    for i in range(2):
        write_image(tmp_path / f"any/{i}.png", rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    raw = config("ead", {"penalty_path": str(tmp_path / "any"), "steps": 2})
    with killed_at_the_first_checkpoint(monkeypatch):
        build_trainer(raw).train()
    (tmp_path / "any/0.png").rename(tmp_path / "any/2.png")
    with pytest.raises(UserError, match="penalty images changed"):
        build_trainer(raw).train()


@pytest.mark.slow
def test_a_damaged_penalty_image_is_named(tmp_path, config):
    """The training continues as long as there is another file."""
    (tmp_path / "any").mkdir()
    (tmp_path / "any/half.jpg").write_bytes(b"rubbish")
    (tmp_path / "any/._a.jpg").write_bytes(b"what a file browser leaves")
    (tmp_path / "any/folder.png").mkdir()
    trainer = build_trainer(config("ead", {"penalty_path": str(tmp_path / "any"), "steps": 2}))
    with pytest.raises(UserError, match="half.jpg: cannot be read as an image"):
        trainer.train()


def test_the_next_file_stands_for_a_damaged_one(tmp_path, capsys):
    for name, value in (("a", 10), ("b", 20)):
        write_image(tmp_path / f"{name}.png", np.full((8, 8, 3), value, np.uint8))
    (tmp_path / "c.jpg").write_bytes(b"rubbish")
    images = FolderImages("penalty_path", str(tmp_path), (8, 8))
    assert [int(images[k].max()) for k in (0, 1, 2, 5)] == [10, 20, 10, 10]
    said = capsys.readouterr().err
    assert said.count("c.jpg: cannot be read as an image") == 1 and "the next file is used instead" in said


def test_a_test_needs_no_penalty_images(tmp_path, config):
    raw = config("ead", {"penalty_path": str(tmp_path / "gone"), "steps": 2})
    assert build_trainer(raw, ["phase=test"]).anomaly_map(torch.rand(1, 3, 256, 256)).isfinite().all()


def test_a_trainer_built_to_test_trains_with_the_penalty(config):
    """Earlier it left the penalty out without a message."""
    trainer = build_trainer(config("ead", precision="fp32", phase="test"))
    replace_networks(trainer)
    assert trainer.loss(batch(trainer)).item() == pytest.approx(13)  # 9 without the penalty


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("TrainingData.batch_size=8", "'TrainingData.batch_size' must be 1: the hard-feature loss"),
        ("TrainingData.img_size=128", "command line: 'TrainingData.img_size' must be at least 256 pixels per side"),
        ("TrainingData.crop_size=224", "'TrainingData.crop_size' must be at least 256"),
        ("TrainingData.val_ratio=0", "command line: 'TrainingData.val_ratio' must be above 0: held-out good images"),
        ("TrainingData.epochs=10", "counts steps of one image, not epochs: use the key steps"),
        ("TrainingData.norm=true", "unknown key 'TrainingData.norm'"),
        ("out_indice=[1, 2]", "unknown key 'out_indice'"),
        ("backbone=resnet18", "'backbone' must be small or medium"),
        ("weights=imagenet", "no model hub has one; write bundled"),
        ("weights=nowhere.pth", "nowhere.pth is not a file"),
    ],
)
def test_refused(config, word, said):
    with pytest.raises(UserError) as caught:
        build_trainer(config("ead"), [word])
    assert said in str(caught.value)


@pytest.mark.slow
def test_a_missing_teacher_is_said_in_a_sentence(tmp_path):
    words = ("data_path=nowhere", f"save_path={tmp_path}", "backbone=medium", "weights=bundled")
    process = run_script("trainNet.py", "--config", REPO / "configs/configEAD.yaml", *words)
    assert_one_sentence(process, "no medium PDN is bundled; make one", "configs/teachers/pdn_medium.yaml")


def test_one_good_image_cannot_be_held_out_of(tmp_path):
    write_mvtec(tmp_path, train=1)
    trainer = build_trainer(small("ead", data_path=str(tmp_path), save_path=str(tmp_path / "r")))
    with pytest.raises(UserError, match=r"train/good: 1 image\(s\) and a val_ratio of 0.1 leave none to train on"):
        trainer.train()
