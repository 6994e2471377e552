"""RNST and RNRD (Gu et al., ICCV 2023), by hand and as in the only public code, and mistakes of earlier codes.

The public code is not the authors' (github.com/SimonThomine/RememberingNormality, b851e06).
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.blocks import resnet_plan
from models.losses import squared_distance
from models.memory import NormalityMemory, RememberingStudent
from models.reverse_distillation import Bottleneck, Decoder
from models.teachers.features import Features
from tests.conftest import count, run_script, small
from tests.unit_fill import unit_fill
from trainer import build_trainer
from trainer.remembering import alignment, exemplars
from utils.errors import UserError

R18 = [64, 128, 256]


def memory(keys, values):
    net = NormalityMemory(*torch.as_tensor(keys).shape)
    net.load_state_dict({"keys": torch.as_tensor(keys, dtype=torch.float32), "values": torch.as_tensor(values).float()})
    return net


def query(*vector):
    return torch.tensor(vector, dtype=torch.float32).view(1, -1, 1, 1)


def test_a_memory_is_learned_and_saved():
    """The earlier toolkit's were tensors on the GPU that were in no optimizer and no file."""
    net = NormalityMemory(50, 64)
    assert count(net) == 6400 and set(net.state_dict()) == {"keys", "values"}


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


def test_parameters_of_the_forward_students_parts():
    with torch.device("meta"):
        net = RememberingStudent(resnet_plan("resnet18"), R18, [NormalityMemory(50, c) for c in R18[:-1]])
    assert [count(part) for part in (net.stem, *net.stages)] == [9_408 + 128, 147_968, 607_488, 2_427_392]


@pytest.mark.parametrize(
    ("backbone", "without", "memories"),
    [
        ("resnet18", 5_079_424, 89_600),
        ("resnet34", 7_146_880, 89_600),
        ("resnet50", 27_520_000, 358_400),
        ("wide_resnet50_2", 37_303_808, 358_400),
    ],
)
def test_parameters_of_reverse_decoders(backbone, without, memories):
    with torch.device("meta"):
        channels = Features(backbone, [1, 2, 3]).channels
        sizes = [2 * channels[2], channels[2], channels[1]]
        memory = {k: NormalityMemory(50, n) for k, n in enumerate(sizes)}
        decoder = Decoder(resnet_plan(backbone), channels, memory)
    assert count(decoder.memories) == memories and count(decoder) == without + memories


def test_a_memory_of_two_items_by_hand():
    net = memory([[0.0, 1.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 4.0]])
    q = query(3, 0)
    torch.testing.assert_close(net.recall(q), query(0.537883, 2.924234), atol=1e-5, rtol=0)
    torch.testing.assert_close(net.embed(q), query(1.462117, 1.075766), atol=1e-5, rtol=0)
    assert 0.5 * squared_distance(q, net.embed(q)).item() == pytest.approx(0.194528, abs=1e-5)
    assert alignment(net, "signed").item() == pytest.approx(0.5)


def test_weights_of_50_items_are_nearly_uniform_at_temperature_1():
    keys, values = -torch.ones(50, 1), torch.zeros(50, 1)
    keys[0], values[0] = 1, 1
    assert memory(keys, values).recall(query(5)).item() == pytest.approx(0.1310371, abs=1e-6)
    one_hot = memory(torch.eye(50), torch.eye(50)).recall(query(*torch.eye(50)[0])).flatten()
    assert one_hot[0].item() == pytest.approx(0.0525594, abs=1e-6)
    torch.testing.assert_close(one_hot[1:], torch.full((49,), 0.0193355), atol=1e-6, rtol=0)


def test_a_low_temperature_picks_one_item():
    net = memory(torch.eye(50), torch.eye(50))
    net.temperature = 0.1
    assert net.recall(query(*torch.eye(50)[0])).flatten()[0].item() == pytest.approx(0.9978, abs=1e-4)


def test_alignment_of_equal_and_of_opposite_keys_and_values():
    same = memory(torch.eye(64)[:50], torch.eye(64)[:50])
    maps = torch.randn(2, 64, 3, 3)
    torch.testing.assert_close(same.recall(maps), same.embed(maps))
    assert alignment(same, "signed").item() == pytest.approx(0.02)
    opposite = memory(torch.ones(50, 4), -torch.ones(50, 4))
    assert alignment(opposite, "signed").item() == pytest.approx(-1)
    assert alignment(opposite, "abs").item() == pytest.approx(1)


def test_recall_by_its_definition():
    torch.manual_seed(0)
    net, maps = NormalityMemory(50, 64), torch.randn(3, 64, 4, 5)
    expected = torch.empty_like(maps)
    for b, y, x in np.ndindex(3, 4, 5):
        weights = F.cosine_similarity(maps[b, :, y, x][None], net.keys).softmax(0)
        expected[b, :, y, x] = net.values.T @ weights
    torch.testing.assert_close(net.recall(maps), expected)
    torch.testing.assert_close(net(maps), torch.cat([maps, expected], dim=1))  # features first, then the recalled


@pytest.mark.parametrize(("size", "sides"), [(256, (64, 32, 16)), (224, (56, 28, 14))])
def test_shapes_of_the_forward_maps(config, size, sides):
    trainer = build_trainer(config("rnst", {"img_size": size}))
    teacher, student = trainer.features(torch.rand(1, 3, size, size))
    assert [m.shape for m in teacher] == [m.shape for m in student]
    assert [tuple(m.shape[1:]) for m in student] == [(c, s, s) for c, s in zip(R18, sides, strict=True)]


@torch.inference_mode()
def test_shapes_for_a_wide_teacher():
    plan, channels = resnet_plan("wide_resnet50_2"), [256, 512, 1024]
    forward = RememberingStudent(plan, channels, [NormalityMemory(50, c) for c in channels[:-1]])
    reverse = Decoder(plan, channels, {k: NormalityMemory(50, n) for k, n in enumerate((2048, 1024, 512))})
    for maps in (forward(torch.ones(1, 3, 256, 256)), reverse(torch.ones(1, 2048, 8, 8))):
        assert [tuple(m.shape[1:]) for m in maps] == [(256, 64, 64), (512, 32, 32), (1024, 16, 16)]


def test_shapes_of_the_reverse_maps(config):
    trainer = build_trainer(config("rnrd", {"img_size": 224, "memories": [0, 1, 2]}))
    teacher, student = trainer.features(torch.rand(1, 3, 224, 224))
    assert [m.shape for m in teacher] == [m.shape for m in student]
    with torch.inference_mode():
        assert trainer.student.bottleneck([maps.float() for maps in teacher]).shape == (1, 512, 7, 7)


def fill_memories(net):
    for module in net.modules():
        if isinstance(module, NormalityMemory):
            with torch.no_grad():
                module.keys.fill_(1)
                module.values.fill_(0.5)
    return unit_fill(net)


def mean_and_centre(maps):
    return [(m.mean().item(), m[0, 0, m.shape[2] // 2, m.shape[3] // 2].item()) for m in maps]


@torch.inference_mode()
def test_values_of_unit_filled_networks():
    """Computed by hand away from the border; the public code gives the same means."""
    plan = resnet_plan("resnet18")
    forward = fill_memories(RememberingStudent(plan, R18, [NormalityMemory(50, c) for c in R18[:-1]]))
    found = mean_and_centre(forward(torch.ones(1, 3, 256, 256)))
    expected = [(3.864365, 3.999941), (8.325092, 8.999775), (16.062340, 18.999344)]
    assert np.allclose(found, expected, rtol=1e-4)
    decoder = fill_memories(Decoder(plan, R18, {k: NormalityMemory(50, c) for k, c in enumerate((512, 256, 128))}))
    found = mean_and_centre(decoder(torch.ones(1, 512, 8, 8)))
    expected = [(13.133232, 14.999414), (6.164651, 6.999824), (2.705761, 2.999964)]
    assert np.allclose(found, expected, rtol=1e-4)
    bottleneck = unit_fill(Bottleneck(plan, R18))
    ones = [torch.ones(1, c, n, n) for c, n in zip(R18, (64, 32, 16), strict=True)]
    assert np.allclose(mean_and_centre([bottleneck(ones)]), [(3.048546, 3.999923)], rtol=1e-4)


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


def test_lambda1_and_lambda2_are_two_keys(config, monkeypatch):
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


def test_reminders_pair_each_memory_with_its_level(config):
    forward = build_trainer(config("rnst", precision="fp32"))
    image = forward.compute.images(torch.rand(1, 3, 64, 64))
    teacher = forward.teacher(image)
    assert [maps is teacher[k] for k, (_, maps) in enumerate(forward.reminders(teacher))] == [True, True]
    for places in ([0, 1, 2], [1, 2], [2]):
        reverse = build_trainer(config("rnrd", {"memories": places}, precision="fp32"))
        fit_starts(reverse, image)
        teacher = reverse.teacher(image)
        pairs = reverse.reminders(teacher)
        assert [memory.keys.shape[1] for memory, _ in pairs] == [(512, 256, 128)[k] for k in places]
        assert [maps.shape[1] for _, maps in pairs] == [(512, 256, 128)[k] for k in places]


def test_exemplars_go_round_through_all_images():
    drawn = [exemplars(step, count=3, images=5, seed=0) for step in range(5)]
    flat = sum(drawn, [])
    assert [sorted(flat[k : k + 5]) for k in (0, 5, 10)] == [list(range(5))] * 3
    assert flat[:5] != flat[5:10]
    assert drawn[3] == exemplars(3, 3, 5, 0)  # depends on the step only, so a resumed run repeats it
    assert len(exemplars(0, count=16, images=5, seed=0)) == 16  # more than there are images, more than a batch


def test_layer4_is_for_exemplars_alone(config):
    """The earlier code computed it for every test image."""
    trainer = build_trainer(config("rnrd", {"memories": [0, 1, 2]}))
    computed = []
    trainer.teacher.net.deepest.register_forward_hook(lambda *_: computed.append(1))
    image = trainer.compute.images(torch.rand(1, 3, 64, 64))
    trainer.anomaly_map(image)
    assert not computed
    fit_starts(trainer, image)
    trainer.reminders(trainer.teacher(image))
    assert computed == [1]


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
        assert isinstance(optimizer, torch.optim.SGD) and optimizer.param_groups[0]["lr"] == 0.4
    else:
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.999) and optimizer.param_groups[0]["lr"] == 0.005
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
    with pytest.raises(UserError, match=r"end at level 3; TrainingData.memories=\[1, 2\] does not need level 4"):
        build_trainer(config("rnrd", {"memories": [0, 1, 2]}, weights="bundled"))


@pytest.mark.parametrize("places", [[3], [0, 7], [-1], [], [1, 1]])
def test_memories_that_the_decoder_has_no_place_for(config, places):
    with pytest.raises(UserError, match="memories"):
        build_trainer(config("rnrd", {"memories": places}))


def test_other_errors_do_not_blame_the_memory(config):
    with pytest.raises(UserError, match="no.* 'resnet81'; did you mean [^;]*$"):
        build_trainer(config("rnrd", {"memories": [0, 1, 2]}, backbone="resnet81"))
    with pytest.raises(UserError, match="out_indice: with memory 0 the levels must be from 1 to 3"):
        build_trainer(config("rnrd", {"memories": [0]}, out_indice=[3, 4]))
    with pytest.raises(UserError, match="out_indice: memories lie between levels"):
        build_trainer(config("rnst", out_indice=[1]))


def test_reading_is_done_in_full_precision():
    """The weights are nearly equal; in half precision their difference would be lost."""
    net, maps = NormalityMemory(50, 64), torch.rand(1, 64, 4, 4)
    exact = net.recall(maps)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net.recall(maps), exact) and net.alignment().dtype == torch.float32


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
