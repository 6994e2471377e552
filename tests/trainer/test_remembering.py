"""RNST and RNRD (Gu et al., ICCV 2023), by hand and as in the only public code, and mistakes of earlier codes.

The public code is not the authors' (github.com/SimonThomine/RememberingNormality, b851e06).
"""

import pytest
import torch

from engine.loading import EpochBatches
from tests.conftest import count, run_script, small
from tests.memories import memory
from trainer import build_trainer
from trainer.remembering import alignment, exemplars
from utils.errors import UserError

R18 = [64, 128, 256]


@pytest.mark.parametrize(
    ("backbone", "without", "memories"),
    [
        ("resnet18", 3_192_384, 19_200),
        ("resnet34", 8_579_904, 19_200),
        ("resnet50", 9_362_496, 76_800),
        ("wide_resnet50_2", 9_362_496, 76_800),  # a wide teacher has a student of normal width
    ],
)
def test_parameters_of_forward_students(config, backbone, without, memories):
    student = build_trainer(config("rnst", backbone=backbone)).student
    assert count(student.memories) == memories and count(student) == without + memories


def test_alignment_of_equal_opposite_and_swapped_keys_and_values():
    assert alignment(memory([[0.0, 1.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 4.0]]), "signed").item() == pytest.approx(0.5)
    same = memory(torch.eye(64)[:50], torch.eye(64)[:50])
    assert alignment(same, "signed").item() == pytest.approx(0.02)
    opposite = memory(torch.ones(50, 4), -torch.ones(50, 4))
    assert alignment(opposite, "signed").item() == pytest.approx(-1)
    assert alignment(opposite, "abs").item() == pytest.approx(1)


@pytest.mark.parametrize(("size", "sides"), [(256, (64, 32, 16)), (224, (56, 28, 14))])
def test_shapes_of_the_forward_maps(config, size, sides):
    trainer = build_trainer(config("rnst", {"img_size": size}))
    teacher, student = trainer.features(torch.rand(1, 3, size, size))
    assert [m.shape for m in teacher] == [m.shape for m in student]
    assert [tuple(m.shape[1:]) for m in student] == [(c, s, s) for c, s in zip(R18, sides, strict=True)]


def test_shapes_of_the_reverse_maps(config):
    trainer = build_trainer(config("rnrd", {"img_size": 224, "memories": [0, 1, 2]}))
    teacher, student = trainer.features(torch.rand(1, 3, 224, 224))
    assert [m.shape for m in teacher] == [m.shape for m in student]
    with torch.inference_mode():
        assert trainer.student.bottleneck([maps.float() for maps in teacher]).shape == (1, 512, 7, 7)


def rnst(config, training=None, **top):
    trainer = build_trainer(config("rnst", training, precision="fp32", **top))
    fit_starts(trainer, torch.rand(1, 3, 64, 64))
    return trainer


def fit_starts(trainer, image):
    """As at the start of a training in which every exemplar is this image."""
    trainer.on_fit_start(Exemplars(trainer.teacher, trainer.compute.images(image)))


class Exemplars:
    """One image, always."""

    images = 1

    def __init__(self, teacher, image):
        self.teacher, self.image = teacher, image

    def with_teacher(self, teacher):
        return Exemplars(teacher, self.image)

    def maps_by_step(self, choose):
        return lambda step: self.teacher(self.image.expand(len(choose(step)), -1, -1, -1))


def one_hot(channel, batch=1, sizes=(64, 32, 16)):
    maps = [torch.zeros(batch, 2, n, n) for n in sizes]
    for level in maps:
        level[:, channel] = 1
    return maps


def test_loss_and_maps_of_orthogonal_features(config, monkeypatch):
    for images in (1, 4):
        trainer = rnst(config, {"lambda1": 0.0, "lambda2": 0.0, "batch_size": images})
        student, image = one_hot(1, images), torch.zeros(images, 3, 64, 64)
        monkeypatch.setattr(trainer.detector, "student_maps", lambda image, teacher, maps=student: maps)
        loss = trainer.loss({"image": image, "teacher": one_hot(0, images), "step": 0})
        assert loss.item() == pytest.approx(images)  # summed over the batch: the lambdas are chosen for this
    for weight, value in (("none", 3.0), ("1/hw", 0.005126953)):
        detector = rnst(config, {"layer_weight": weight}).detector
        final = detector.final_map(detector.levels(one_hot(0), one_hot(1)), (256, 256))
        torch.testing.assert_close(final, torch.full((1, 1, 256, 256), value), rtol=1e-5, atol=0)


def gradients(config, **weights):
    """Whether keys, values and convolutions get a gradient from the terms whose weights are given."""
    trainer = rnst(config, weights)
    image = trainer.compute.images(torch.rand(2, 3, 64, 64))
    student = trainer.student
    batch = {"image": image, "teacher": trainer.teacher(image), "step": 0}
    trainer.loss(batch).backward()
    assert all(p.grad is None for p in trainer.teacher.parameters())
    return {
        name: all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
        for name, parameters in {
            "keys": [m.keys for m in student.memories],
            "values": [m.values for m in student.memories],
            "stages": [student.stages[1][0].main[0][0].weight],
        }.items()
    }


def test_which_term_teaches_what(config, monkeypatch):
    assert gradients(config, lambda1=0.0, lambda2=0.0) == {"keys": True, "values": True, "stages": True}
    # Without distillation: the embedding term trains only values, the orthogonality term keys and values.
    monkeypatch.setattr("trainer.remembering.RNSTDetector.levels", lambda self, t, s: [torch.zeros(1, 1, 1, 1)])
    assert gradients(config, lambda1=1.0, lambda2=0.0) == {"keys": False, "values": True, "stages": False}
    assert gradients(config, lambda1=0.0, lambda2=1.0) == {"keys": True, "values": True, "stages": False}


def test_lambda1_and_lambda2_are_two_keys(config):
    """The earlier toolkit read lambda2 from lambda1."""
    losses = {}
    for key in ("lambda1", "lambda2"):
        for value in (0.0, 1.0):
            trainer = rnst(config, {"lambda1": 0.0, "lambda2": 0.0} | {key: value})
            torch.manual_seed(0)
            image = trainer.compute.images(torch.rand(2, 3, 64, 64))
            fit_starts(trainer, image[:1])
            losses[key, value] = trainer.loss({"image": image, "teacher": trainer.teacher(image), "step": 0}).item()
    assert losses["lambda1", 0.0] == losses["lambda2", 0.0]
    assert losses["lambda1", 1.0] - losses["lambda1", 0.0] > 1  # 16 exemplars, each about 0.5 to 1 away
    assert 0 < losses["lambda2", 1.0] - losses["lambda2", 0.0] < 1


def test_the_terms_by_hand_with_their_lambdas(config, monkeypatch):
    """Of two memories: the embedding summed over exemplars, its mean over memories; orthogonality summed over them."""
    two, same = memory([[0.0, 1.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 4.0]]), memory(*[torch.eye(64)[:50]] * 2)
    q = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand(16, 2, 1, 1)
    losses = []
    for lambdas, memories, maps in (
        ({"lambda1": 0.0, "lambda2": 0.0}, [two, two], [q, q]),
        ({"lambda1": 0.5, "lambda2": 0.0}, [two, two], [q, q]),
        ({"lambda1": 0.0, "lambda2": 0.5}, [same, same], [torch.ones(16, 64, 1, 1)] * 2),
    ):
        trainer = rnst(config, {"orth": "signed"} | lambdas)
        monkeypatch.setattr(trainer, "reminders", lambda step, found=(memories, maps): found)
        image = trainer.compute.images(torch.ones(2, 3, 64, 64))
        losses.append(trainer.loss({"image": image, "teacher": trainer.teacher(image), "step": 0}).item())
    assert losses[1] - losses[0] == pytest.approx(0.5 * 16 * 0.194528, abs=1e-4)
    assert losses[2] - losses[0] == pytest.approx(0.5 * 0.04, abs=1e-4)


def test_reminders_pair_each_memory_with_its_level(config):
    forward = build_trainer(config("rnst", precision="fp32"))
    image = forward.compute.images(torch.rand(1, 3, 64, 64))
    fit_starts(forward, image)
    memories, maps = forward.reminders(0)
    assert list(memories) == list(forward.student.memories)
    for m, t in zip(maps, forward.teacher(image)[:2], strict=True):
        torch.testing.assert_close(m[:1], t)
    for places in ([0, 1, 2], [1, 2], [2]):
        reverse = build_trainer(config("rnrd", {"memories": places}, weights="random", precision="fp32"))
        fit_starts(reverse, image)
        memories, maps = reverse.reminders(0)
        assert [memory.channels for memory in memories] == [(512, 256, 128)[k] for k in places]
        whole = reverse.pretrained("resnet18", [2, 3, 4]).to(image.device)(image)[::-1]
        for k, m in zip(places, maps, strict=True):
            torch.testing.assert_close(m[:1], whole[k], rtol=1e-3, atol=1e-4)


def test_exemplars_go_round_through_all_images():
    drawn = [exemplars(step, count=3, images=5, seed=0) for step in range(5)]
    flat = sum(drawn, [])
    assert [sorted(flat[k : k + 5]) for k in (0, 5, 10)] == [list(range(5))] * 3
    assert flat[:5] != flat[5:10]
    assert drawn[3] == exemplars(3, 3, 5, 0)  # depends on the step only, so a resumed run repeats it
    assert len(exemplars(0, count=16, images=5, seed=0)) == 16  # more than there are images, more than a batch


def test_exemplars_are_drawn_independently_of_the_batches():
    """With as many exemplars as images in a batch, they were the batch itself, which RNRD's recipe has (16)."""
    batches = list(EpochBatches(320, 16, seed=0))
    shared = [len({*batch} & {*exemplars(step, 16, 320, seed=0)}) for step, batch in enumerate(batches)]
    assert 0 < sum(shared) < 2 * 16  # 0.8 in each of the 20 steps by chance


def test_layer4_is_only_for_exemplars(config):
    """The earlier code computed it for every test image."""
    trainer = build_trainer(config("rnrd", {"memories": [0, 1, 2]}, weights="random"))
    assert not any("layer4" in name for name, _ in trainer.teacher.named_modules())
    assert "layer4" in dict(trainer.deep_teacher.net.net.named_modules())
    assert len(trainer.teacher(trainer.compute.images(torch.rand(1, 3, 64, 64)))) == 3


def test_a_trainer_built_for_a_test_does_not_load_layer4_but_may_train(config):
    raw = config("rnrd", {"memories": [0, 1, 2], "epochs": 1}, weights="random")
    trainer = build_trainer(raw | {"phase": "test"})
    assert "deep_teacher" not in vars(trainer)
    trainer.train()
    assert "deep_teacher" in vars(trainer)


@pytest.mark.slow
@pytest.mark.parametrize(("cache_mb", "computed"), [(500, 1 + 10), (0, 1 + 2 * 3 * 3)])
def test_layer4_of_exemplars_is_computed_once_if_it_fits_into_the_cache(config, device, cache_mb, computed):
    if device.type == "cuda":
        pytest.skip("maps are cached only on a CPU")
    training = {"memories": [0, 1, 2], "epochs": 2, "batch_size": 4, "n_embed": 3}
    trainer = build_trainer(config("rnrd", training, weights="random", precision="fp32", cache_mb=cache_mb))
    seen = []
    trainer.deep_teacher.net.register_forward_hook(lambda _, inputs, maps: seen.append(len(inputs[0])))
    trainer.train()
    assert sum(seen) == computed  # one to see the size, and then all 10 images, or 3 exemplars a step


@pytest.mark.parametrize("method", ["rnst", "rnrd"])
@pytest.mark.parametrize("one_cycle", [True, False])
def test_optimizers_and_schedules(config, method, one_cycle):
    trainer = build_trainer(config(method, {"one_cycle": one_cycle}))
    optimizer, schedule = trainer.build_optimizer(100)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == set(map(id, trainer.student.parameters()))
    if one_cycle:
        assert schedule.state_dict()["total_steps"] == 100
        assert optimizer.param_groups[0]["lr"] == pytest.approx(trainer.options.lr / 25)
    elif method == "rnst":
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, torch.optim.SGD)
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.4, 0.9, 1e-4)
    else:
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, torch.optim.Adam)
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.005, (0.5, 0.999), 0)
    if not one_cycle:
        assert schedule is None


@pytest.mark.slow
def test_a_fresh_process_reproduces_the_scores(tiny_mvtec, tmp_path):
    """In the earlier toolkit phase=test crashed, and a restored student had another, random memory."""
    raw = small("rnrd", {"memories": [0, 1, 2]}, data_path=str(tiny_mvtec), save_path=str(tmp_path))
    trainer = build_trainer(raw)
    trainer.train()
    trainer.test()
    before = (trainer.run_dir / "scores.csv").read_text()
    (trainer.run_dir / "scores.csv").unlink()
    process = run_script("trainNet.py", "--config", trainer.run_dir / "config.yaml", "phase=test")
    assert process.returncode == 0, process.stderr
    assert (trainer.run_dir / "scores.csv").read_text() == before


def test_memory_0_needs_a_teacher_with_layer4(config):
    with pytest.raises(UserError, match=r"end at level 3; write TrainingData.memories=\[1,2\]$"):
        build_trainer(config("rnrd", {"memories": [0, 1, 2]}, weights="bundled"))


@pytest.mark.parametrize("places", [[3], [0, 7], [-1], [], [1, 1]])
def test_memories_that_the_decoder_has_no_place_for(config, places):
    with pytest.raises(UserError, match="memories"):
        build_trainer(config("rnrd", {"memories": places}))


def test_with_two_levels_the_error_says_which_memories_are_possible(config):
    with pytest.raises(UserError, match=r"the decoder has no stage 2; write TrainingData.memories=\[0,1\]$"):
        build_trainer(config("rnrd", {"memories": [0, 1, 2]}, out_indice=[1, 2]))


def test_other_errors_do_not_blame_the_memory(config):
    with pytest.raises(UserError, match="no.* 'resnet81'; did you mean [^;]*$"):
        build_trainer(config("rnrd", {"memories": [0, 1, 2]}, backbone="resnet81"))
    with pytest.raises(UserError, match="no level 5.* memory 0 learns from the level after the last one: choose other"):
        build_trainer(config("rnrd", {"memories": [0]}, out_indice=[4]))
    with pytest.raises(UserError, match="out_indice: memories lie between levels"):
        build_trainer(config("rnst", out_indice=[1]))


def test_scale_of_the_loss_beside_its_hosts(config, monkeypatch):
    """RNST's loss of a batch of 32 is 32 / 6 of STPM's: a sum over images, a mean over three levels of half of it."""
    teacher = [torch.rand(2, 4, n, n) for n in (16, 8, 4)]
    student = [torch.rand(2, 4, n, n) for n in (16, 8, 4)]
    losses = {}
    for method in ("st", "rnst"):
        weights = {"lambda1": 0.0, "lambda2": 0.0} if method == "rnst" else {}
        trainer = build_trainer(config(method, {"batch_size": 32} | weights, precision="fp32"))
        if method == "rnst":
            fit_starts(trainer, torch.rand(1, 3, 64, 64))
        monkeypatch.setattr(trainer.detector, "student_maps", lambda image, maps: student)
        losses[method] = trainer.loss({"image": torch.zeros(2, 3, 64, 64), "teacher": teacher, "step": 0}).item()
    assert losses["rnst"] / losses["st"] == pytest.approx(32 / 6, rel=1e-5)


def test_forward_levels_begin_with_layer1(config):
    with pytest.raises(UserError, match=r"out_indice: this method needs levels of strides \[4, 8\]"):
        build_trainer(config("rnst", out_indice=[2, 3]))


def test_a_batch_smaller_than_the_exemplars_trains_whole_epochs(config):
    """The published code zips two loaders, so an epoch ends with the shorter one."""
    trainer = build_trainer(config("rnst", {"batch_size": 2, "n_embed": 16, "one_cycle": True, "lr": 0.005}))
    trainer.train()
    assert len((trainer.run_dir / "training.csv").read_text().splitlines()) == 3


def test_teacher_features_of_exemplars_are_not_computed_again(config, device, monkeypatch):
    if device.type == "cuda":
        pytest.skip("features are cached on a CPU alone: a GPU computes them faster than it fetches them")
    trainer = build_trainer(config("rnst"))
    calls = []
    forward = trainer.teacher.net.forward
    monkeypatch.setattr(trainer.teacher.net, "forward", lambda image: calls.append(len(image)) or forward(image))
    trainer.train()
    assert sum(calls) == (1 + 8) + (1 + 2) + 2
