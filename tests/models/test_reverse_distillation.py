"""RD's and RD++'s networks, losses and maps: the numeric checks of specs/stpm_rd_rdpp.md sections 2.8 and 3.8."""

import math

import numpy as np
import pytest
import torch

from engine.state import Training
from models.blocks import resnet_plan
from models.losses import cosine_distance, flat_cosine_distance
from models.reverse_distillation import Bottleneck, Decoder, projection
from models.teachers.features import Features
from tests.conftest import count
from trainer import build_trainer
from trainer.rdpp import FIELD, add_noise
from utils.errors import UserError


def networks(backbone, levels=(1, 2, 3)):
    channels = Features(backbone, levels).channels
    plan = resnet_plan(backbone)
    return Bottleneck(plan, channels), Decoder(plan, channels)


@pytest.mark.parametrize(
    ("backbone", "bottleneck", "unused", "decoder", "stages"),
    [
        ("resnet18", 12_205_312, 525_312, 3_703_168, [2_820_608, 705_792, 176_768]),
        ("resnet34", 16_925_952, 525_312, 5_770_624, [4_001_280, 1_296_640, 472_704]),
        ("resnet50", 39_222_272, 8_392_704, 15_821_824, [11_676_672, 3_202_048, 943_104]),
        ("wide_resnet50_2", 67_277_824, 8_392_704, 24_917_504, [17_840_128, 5_317_632, 1_759_744]),
    ],
)
def test_parameter_counts(backbone, bottleneck, unused, decoder, stages):
    """The earlier toolkit gave wide ResNets the narrow bottleneck. Left out: conv4 and bn4, which nothing uses."""
    with torch.device("meta"):
        ours = networks(backbone)
    assert count(ours[0]) == bottleneck - unused
    assert count(ours[1]) == decoder and [count(stage) for stage in ours[1].stages] == stages
    if backbone == "wide_resnet50_2":
        whole = count(ours[0]) + unused + count(ours[1])
        assert whole == 92_195_328 and whole * 4 / 2**20 == pytest.approx(351.70, abs=0.005)


@pytest.mark.parametrize(("backbone", "tensors"), [("resnet18", (24, 45)), ("wide_resnet50_2", (39, 126))])
def test_tensor_counts(backbone, tensors):
    """27 and 42 in the spec for the bottleneck, with the three of conv4 and bn4."""
    with torch.device("meta"):
        assert tuple(len(list(net.parameters())) for net in networks(backbone)) == tensors


@pytest.mark.parametrize(
    ("backbone", "expansion", "size"), [("resnet18", 1, (256, 256)), ("wide_resnet50_2", 4, (64, 96))]
)
def test_shapes(backbone, expansion, size):
    teacher = Features(backbone, [1, 2, 3]).eval()
    bottleneck, decoder = (net.eval() for net in networks(backbone))
    with torch.inference_mode():
        maps = teacher(torch.rand(1, 3, *size))
        embedding = bottleneck(maps)
        restored = decoder(embedding)
    assert embedding.shape == (1, 512 * expansion, size[0] // 32, size[1] // 32)
    assert [m.shape for m in restored] == [m.shape for m in maps]
    assert all(m.min() >= 0 for m in restored)


def test_the_largest_maps_get_the_most_blocks():
    _, decoder = networks("resnet34")
    assert [len(stage) for stage in decoder.stages] == [3, 4, 6]


def test_initialisation():
    """Transposed convolutions keep PyTorch's default, plain ones are Kaiming-normal (fan out)."""
    torch.manual_seed(0)
    _, decoder = networks("wide_resnet50_2")
    block = decoder.stages[0][0]
    # The spec's 512 -> 512 of the main path and 2048 -> 1024 of the shortcut.
    for weight, outputs, spread in ((block.main[2][0].weight, 512, 0.012758), (block.skip[0].weight, 1024, 0.009021)):
        assert weight.abs().max() <= 1 / math.sqrt(4 * outputs)
        assert weight.std().item() == pytest.approx(spread, rel=0.01)
    assert block.main[4][0].weight.std().item() == pytest.approx(0.0442, rel=0.01)  # 1 x 1, 512 -> 1024


def test_flattened_and_local_loss_differ():
    """Check 3; the earlier toolkit trained RD with the local one."""
    f = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).T.reshape(1, 2, 1, 2)
    g = torch.tensor([[3.0, 0.0], [1.0, 0.0]]).T.reshape(1, 2, 1, 2)
    assert flat_cosine_distance(f, g).item() == pytest.approx(0.1)
    assert cosine_distance(f, g).mean().item() == pytest.approx(0.5)


@pytest.fixture
def trainer(config):
    return build_trainer(config("rd", precision="fp32"))


def loss_of(trainer, teacher, student, monkeypatch):
    monkeypatch.setattr(trainer.student, "forward", lambda maps: student)
    return trainer.loss({"image": None, "teacher": teacher}).item()


def one_hot(channel, sizes=(16, 8, 4), batch=1):
    maps = [torch.zeros(batch, 2, n, n) for n in sizes]
    for level in maps:
        level[:, channel] = 1
    return maps


def test_check_4_equal_and_orthogonal_features(trainer, monkeypatch):
    assert loss_of(trainer, one_hot(0), one_hot(0), monkeypatch) == pytest.approx(0, abs=1e-6)
    assert loss_of(trainer, one_hot(0, batch=3), one_hot(1, batch=3), monkeypatch) == pytest.approx(3)
    final = trainer.final_map(trainer.level_maps(one_hot(0), one_hot(1)), (64, 64))
    torch.testing.assert_close(final, torch.full((1, 1, 64, 64), 3.0))


def test_check_5_a_scale_per_position_shows_in_the_loss_alone(trainer, monkeypatch):
    torch.manual_seed(0)
    teacher = [torch.rand(2, 4, n, n) for n in (16, 8, 4)]
    per_image = [t * torch.tensor([0.5, 3.0]).view(2, 1, 1, 1) for t in teacher]
    assert loss_of(trainer, teacher, per_image, monkeypatch) == pytest.approx(0, abs=1e-6)
    per_place = [t * (torch.rand(2, 1, *t.shape[-2:]) + 0.1) for t in teacher]
    assert loss_of(trainer, teacher, per_place, monkeypatch) > 0.01
    assert trainer.final_map(trainer.level_maps(teacher, per_place), (64, 64)).max() < 1e-5


@pytest.mark.parametrize(
    ("level", "at", "peak", "place", "total", "smoothed"),
    [
        (2, (8, 8), 1.0, (136, 136), 289.0, 0.661413),
        (1, (16, 16), 0.9080983, (132, 132), None, 0.380327),
        (0, (32, 32), 0.7785499, (130, 130), None, 0.136483),
        (2, (0, 0), 1.0, (0, 0), 81.0, 0.7051823),
    ],
)
def test_checks_6_and_7_one_position_in_the_map(trainer, level, at, peak, place, total, smoothed):
    levels = [torch.zeros(1, 1, n, n) for n in (64, 32, 16)]
    levels[level][0, 0, at[0], at[1]] = 1
    combined = trainer.combine(levels, (256, 256))
    assert combined.max().item() == pytest.approx(peak, rel=1e-5)
    assert divmod(combined.argmax().item(), 256) == place
    if total is not None:
        assert combined.sum().item() == pytest.approx(total, rel=1e-4)
    assert trainer.final_map(levels, (256, 256)).max().item() == pytest.approx(smoothed, rel=1e-4)


def test_check_9_gradients_reach_all_of_the_student_and_none_of_the_teacher(trainer):
    image = torch.rand(2, 3, 64, 64)
    trainer.loss({"image": image, "teacher": trainer.teacher(image)}).backward()
    assert all(p.grad is None for p in trainer.teacher.parameters())
    assert all(p.grad is not None for p in trainer.student.parameters())


def test_check_10_loss_of_an_untrained_decoder(config):
    """About 1.69 of 3 with a random wide teacher."""
    trainer = build_trainer(config("rd", {"img_size": 256}, backbone="wide_resnet50_2", precision="fp32"))
    image = torch.randn(2, 3, 256, 256)
    with torch.inference_mode():
        assert trainer.loss({"image": image, "teacher": trainer.teacher(image)}).item() == pytest.approx(1.69, abs=0.2)


def test_recipe(trainer):
    adam, schedule = trainer.build_optimizer(10)
    (group,) = adam.param_groups
    assert isinstance(adam, torch.optim.Adam) and schedule is None
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.005, (0.5, 0.999), 0)
    assert trainer.options.sigma == 4 and trainer.options.val_ratio == 0


@pytest.mark.parametrize("method", ["rd", "rdpp", "rnrd"])
def test_the_last_epoch_is_kept_even_with_held_out_images(config, method):
    trainer = build_trainer(config(method, {"val_ratio": 0.2, "epochs": 3}))
    trainer.train()
    assert trainer.record["best_epoch"] == 3 and len(trainer.record["normal"]["scores"]) == 2
    assert "val_score" not in (trainer.run_dir / "training.csv").read_text()


@pytest.mark.parametrize("method", ["rd", "rdpp", "rnrd", "dbfad"])
def test_sizes_that_cannot_be_halved_and_doubled_are_refused(config, method):
    with pytest.raises(UserError, match=r"crop_size \(72, 64\): this method needs multiples of 32"):
        build_trainer(config(method, {"img_size": [72, 64]}))


@pytest.mark.parametrize("method", ["rd", "rdpp", "rnrd", "rnst"])
def test_a_backbone_or_levels_that_do_not_fit_are_refused(config, method):
    with pytest.raises(UserError, match="'efficientnet_b0' is no ResNet; this method mirrors one: resnet18"):
        build_trainer(config(method, backbone="efficientnet_b0"))
    with pytest.raises(UserError, match=r"out_indice: this method needs levels of strides \[4, 8\], .* \[4, 16\]"):
        build_trainer(config(method, backbone="resnet18", out_indice=[1, 3]))


def test_what_does_not_fit_is_said_before_weights_are_fetched(config, monkeypatch):
    monkeypatch.setattr("models.teachers.weights.find_source", lambda *where: pytest.fail("looked for weights"))
    for method in ("rd", "rdpp", "rnrd", "rnst"):
        with pytest.raises(UserError, match="is no ResNet"):
            build_trainer(config(method, backbone="efficientnet_b0", weights="imagenet"))
    for method in ("rd", "rdpp", "rnrd", "dbfad"):
        with pytest.raises(UserError, match="crop_size"):
            build_trainer(config(method, {"img_size": 72}, weights="imagenet"))
    with pytest.raises(UserError, match="up to 4 levels"):
        build_trainer(config("rd", out_indice=[0, 1, 2, 3, 4], weights="imagenet"))
    with pytest.raises(UserError, match="memories"):
        build_trainer(config("rnrd", {"memories": [3]}, weights="imagenet"))


def test_one_image_of_one_position_is_explained(config):
    trainer = build_trainer(config("rd", {"img_size": 32, "batch_size": 7, "val_ratio": 0.2}))  # 8 images: one is left
    with pytest.raises(UserError, match=r"crop_size \(32, 32\) leaves one position .* batch_size"):
        trainer.train()


def test_too_few_batches_for_one_step(config):
    trainer = build_trainer(config("rdpp", {"epochs": 1, "batch_size": 16}))
    with pytest.raises(UserError, match="TrainingData.epochs 1: too few for one step of 2 batches"):
        trainer.train()


def test_norm_cannot_be_switched_off(config):
    with pytest.raises(UserError, match="TrainingData.norm"):
        build_trainer(config("rd", {"norm": False}))


@pytest.mark.parametrize(("backbone", "levels"), [("resnet50", [1, 2]), ("resnet34", [2, 3]), ("resnet26", [1, 2, 3])])
def test_other_resnets_and_levels_train_and_come_back(config, backbone, levels):
    raw = config("rd", {"epochs": 1, "img_size": [64, 96]}, backbone=backbone, out_indice=levels)
    trainer = build_trainer(raw)
    trainer.train()
    figures = trainer.test()
    again = build_trainer(raw, ["phase=test"])
    again.load()
    assert again.test() == figures


# ---- RD++ ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "parameters"),
    [(64, 46_224), (128, 184_608), (256, 737_856), (512, 2_950_272), (1024, 11_798_784)],
)
def test_projection_counts(channels, parameters):
    with torch.device("meta"):
        assert count(projection(channels)) == parameters == 11.25 * channels**2 + 2.25 * channels


def test_projection_statistics_and_modes():
    """Checks 1 to 3: instance norm makes training and testing the same and cancels every bias."""
    torch.manual_seed(0)
    net, maps = projection(256), torch.randn(2, 256, 32, 32)
    with torch.inference_mode():
        trained, tested = net.train()(maps), net.eval()(maps)
        assert torch.equal(trained, tested) and tested.shape == maps.shape
        assert tested.mean().item() == pytest.approx(0.3935, abs=0.005)
        assert tested.square().mean().item() == pytest.approx(0.5, abs=0.001)
        before_relu = net[:3](maps)
        for layer in net[3][:2]:
            before_relu = layer(before_relu)
        assert before_relu.mean(dim=(2, 3)).abs().max() < 1e-4
        torch.testing.assert_close(before_relu.var(dim=(2, 3), correction=0), torch.ones(2, 256), atol=1e-2, rtol=0)
        for block in net:
            block[0].bias += torch.randn_like(block[0].bias)
        torch.testing.assert_close(net(maps), tested, atol=1e-4, rtol=1e-3)


@pytest.fixture
def rdpp(config):
    return build_trainer(config("rdpp", precision="fp32"))


def vector(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


@pytest.mark.parametrize(("cosines", "value"), [((0.96,), 0.46), ((0.96, 0.0), 0.23), ((0.5,), 0.0), ((-0.3,), 0.0)])
def test_check_4_contrast(rdpp, monkeypatch, cosines, value):
    monkeypatch.setattr("trainer.rdpp.RECONSTRUCT_WEIGHT", 0)
    monkeypatch.setattr("trainer.rdpp.CONTRAST_WEIGHT", 1)
    noisy = torch.cat([vector(1, 0) for _ in cosines])
    projected = torch.cat([vector(c, math.sqrt(1 - c * c)) for c in cosines]).requires_grad_()
    loss = rdpp.projection_loss([noisy], [projected], [projected])
    assert loss.item() == pytest.approx(value, abs=1e-6)
    if value == 0:
        (gradient,) = torch.autograd.grad(loss, projected)
        assert gradient.abs().max() == 0


def test_check_5_composite(rdpp):
    noisy, projected, projected_noisy = ([vector(*v)] * 3 for v in ((4, 3), (3, 4), (0, 5)))
    terms = rdpp.projection_loss(noisy, projected, projected_noisy)
    assert terms.item() / 1.11 == pytest.approx(0.1297297, abs=1e-6)
    assert terms.item() * 0.2 / 1.11 == pytest.approx(0.0259459, abs=1e-6)


def test_transport_changes_nothing_but_time(config):
    """The reason why it is off: a batch and the same batch in another order are one cloud of points."""
    trainer = build_trainer(config("rdpp", {"transport": True}, precision="fp32"))
    without = build_trainer(config("rdpp", precision="fp32"))
    maps = [[torch.randn(3, 4, 8, 8) for _ in range(3)] for _ in range(3)]
    assert trainer.projection_loss(*maps).item() == pytest.approx(without.projection_loss(*maps).item(), abs=1e-6)


def test_check_8_noise_patches():
    image, noise = torch.zeros(64, 3, 256, 256), torch.rand(3, FIELD, FIELD) + 1
    changed = add_noise(image, noise, np.random.default_rng(0))
    assert image.abs().max() == 0  # the clean view stays clean
    sizes, tops = [], []
    for picture in changed:
        rows, columns = (picture.abs().sum(dim=dims).nonzero().flatten() for dims in ((0, 2), (0, 1)))
        for side in (rows, columns):
            assert side[0] >= 1 and side[-1] <= 254
            assert len(side) == side[-1] - side[0] + 1  # one rectangle
            sizes.append(len(side))
        tops.append(rows[0].item())
        assert (picture != 0).sum() == 3 * len(rows) * len(columns)
    assert min(sizes) == 10 and max(sizes) == 31 and len(set(tops)) > 30


def test_patches_are_not_all_the_same_corner_of_the_noise():
    """The published code's pitfall: one field, always cut at its origin."""
    noise = torch.arange(FIELD * FIELD, dtype=torch.float32).view(1, FIELD, FIELD).repeat(3, 1, 1) + 1
    changed = add_noise(torch.zeros(8, 3, 64, 64), noise, np.random.default_rng(0))
    assert len({picture[picture > 0].min().item() for picture in changed}) == 8


@pytest.mark.parametrize("size", [(32, 32), (32, 200)])
def test_patches_fit_into_the_smallest_images(size):
    changed = add_noise(torch.zeros(200, 3, *size), torch.ones(3, FIELD, FIELD), np.random.default_rng(1))
    assert changed[..., 0, :].sum() + changed[..., -1, :].sum() + changed[..., 0].sum() + changed[..., -1].sum() == 0
    assert (changed.sum(dim=(1, 2, 3)) > 0).all()


def test_noise_is_added_before_normalisation(rdpp):
    """0.2 of the noise in [0, 1], the same field in all channels but for its third axis."""
    rdpp.before_training(None)
    in_unit_range = rdpp.noise.cpu() * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert in_unit_range.std().item() == pytest.approx(0.083, abs=0.02)
    assert in_unit_range.abs().max() < 0.3
    assert np.corrcoef(in_unit_range[0].flatten(), in_unit_range[1].flatten())[0, 1] > 0.9


def test_noise_is_drawn_from_seed_and_step(rdpp):
    """So that a resumed run repeats it and two epochs differ."""
    rdpp.before_training(None)
    image = torch.rand(2, 3, 64, 64)
    batch = {"image": image, "teacher": rdpp.teacher(image)}
    torch.manual_seed(0)
    losses = [rdpp.loss(batch | {"step": step}).item() for step in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(("batches", "epochs", "steps"), [(18, 1, 9), (17, 1, 8), (17, 2, 17)])
def test_check_9_step_accounting(rdpp, batches, epochs, steps):
    """A batch left over waits for the next epoch; it is neither discarded nor added to a step of two others."""
    adam, schedule = rdpp.build_optimizer(steps)
    training = Training(rdpp.student, adam, schedule, False, rdpp.accumulate)
    weights = [p for group in adam.param_groups for p in group["params"]]
    taken = []
    adam.register_step_post_hook(lambda *_: taken.append(weights[0].grad.flatten()[0].item()))
    for _ in range(epochs):
        for _ in range(batches):
            training.step(sum(p.sum() for p in weights))
        training.end_epoch({}, {})
    assert taken == [2.0] * steps  # each the sum of exactly two batches' gradients
    assert training.pending == (batches * epochs) % 2


def test_the_waiting_gradient_is_in_the_checkpoint(rdpp, config):
    training = Training(rdpp.student, *rdpp.build_optimizer(3), False, rdpp.accumulate)
    training.step(sum(p.sum() for p in rdpp.student.parameters()))
    rdpp.run_dir.mkdir(parents=True)
    training.save(rdpp.run_dir / "checkpoint.pt", {})
    fresh = build_trainer(config("rdpp", precision="fp32"))
    resumed = Training(fresh.student, *fresh.build_optimizer(3), False, fresh.accumulate)
    resumed.resume(rdpp.run_dir / "checkpoint.pt", {})
    assert resumed.pending == 1 and all((p.grad == 1).all() for p in fresh.student.parameters())


def test_rdpp_recipe(rdpp):
    adam, schedule = rdpp.build_optimizer(10)
    rates = {id(p): group["lr"] for group in adam.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in rdpp.student.projections.parameters()} == {0.001}
    assert {rates[id(p)] for p in rdpp.student.reverse.parameters()} == {0.005}
    assert len(rates) == len(list(rdpp.student.parameters())) and schedule is None
    assert all(group["betas"] == (0.5, 0.999) and group["weight_decay"] == 0 for group in adam.param_groups)
    assert rdpp.accumulate == 2


def test_check_10_without_projections_it_is_rd(config, monkeypatch):
    rd, rdpp = (build_trainer(config(method, precision="fp32")) for method in ("rd", "rdpp"))
    rdpp.student.reverse.load_state_dict(rd.student.state_dict())
    monkeypatch.setattr(rdpp.student, "projections", torch.nn.ModuleList(torch.nn.Identity() for _ in range(3)))
    monkeypatch.setattr("trainer.rdpp.PROJECTION_WEIGHT", 0)
    rdpp.before_training(None)
    image = torch.rand(2, 3, 64, 64)
    assert torch.equal(rd.anomaly_map(image), rdpp.anomaly_map(image))
    batch = {"image": image, "teacher": rd.teacher(image), "step": 0}
    assert rd.loss(batch).item() == rdpp.loss(batch).item()


def test_the_map_compares_with_the_raw_teacher(rdpp, monkeypatch):
    """Not with the projected one (pitfall 10)."""
    image, compared = torch.rand(1, 3, 64, 64), []
    distance = rdpp.distance
    monkeypatch.setattr(rdpp, "distance", lambda t, s: compared.append((t, s)) or distance(t, s))
    rdpp.anomaly_map(image)
    with torch.inference_mode():
        teacher = rdpp.teacher(image)
        restored = rdpp.student.reverse(rdpp.student.project(teacher))
    for (t, s), raw, decoded in zip(compared, teacher, restored, strict=True):
        assert torch.equal(t, raw) and torch.equal(s, decoded)


def test_sspcab_in_the_decoder(config):
    """It takes the place of the last but one convolution, and its loss takes part by its weight."""
    raw = config("rd", {"sspcab": True, "sspcab_weight": 0.0}, precision="fp32")
    image = torch.rand(2, 3, 64, 64)
    losses = []
    for weight in (0.0, 0.1, 0.2):
        trainer = build_trainer(raw, [f"TrainingData.sspcab_weight={weight}"])
        losses.append(trainer.loss({"image": image, "teacher": trainer.teacher(image)}).item())
    assert losses[1] > losses[0] and losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)
    plain = build_trainer(config("rd"))
    assert count(trainer.student) - count(plain.student) == 17_736 - 64 * 64 * 9
