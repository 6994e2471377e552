"""RD++ as a method (Tien et al., CVPR 2023): its losses and noise, and what it adds to RD."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

from engine.state import TrainState
from trainer import build_trainer
from trainer.rdpp import FIELD, add_noise, transport_to_shuffled
from utils.errors import UserError


class Training(NamedTuple):
    """All that RD++ needs of its training batches."""

    teacher: torch.nn.Module


@pytest.fixture
def rdpp(config):
    return build_trainer(config("rdpp", precision="fp32"))


def vector(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


@pytest.mark.parametrize(("cosines", "value"), [((0.96,), 0.46), ((0.96, 0.0), 0.23), ((0.49,), 0.0), ((-0.3,), 0.0)])
def test_the_contrast_term_is_the_cosine_above_a_half(rdpp, monkeypatch, cosines, value):
    monkeypatch.setattr("trainer.rdpp.RECONSTRUCT_WEIGHT", 0)
    monkeypatch.setattr("trainer.rdpp.CONTRAST_WEIGHT", 1)
    noisy = torch.cat([vector(1, 0) for _ in cosines])
    projected = torch.cat([vector(c, math.sqrt(1 - c * c)) for c in cosines]).requires_grad_()
    loss = rdpp.projection_loss([noisy], [projected], [projected])
    assert loss.item() == pytest.approx(value, abs=1e-6)
    if value == 0:
        (gradient,) = torch.autograd.grad(loss, projected)
        assert gradient.abs().max() == 0


def test_both_terms_by_hand(rdpp):
    noisy, projected, projected_noisy = ([vector(*v)] * 3 for v in ((4, 3), (3, 4), (0, 5)))
    terms = rdpp.projection_loss(noisy, projected, projected_noisy)
    assert terms.item() / 1.11 == pytest.approx(0.1297297, abs=1e-6)
    assert terms.item() * 0.2 / 1.11 == pytest.approx(0.0259459, abs=1e-6)


def test_transport_changes_nothing_but_time(config, monkeypatch):
    """The reason why it is off: a batch and the same batch in another order are the same cloud of points."""
    trainer = build_trainer(config("rdpp", {"transport": True}, precision="fp32"))
    without = build_trainer(config("rdpp", precision="fp32"))
    maps = [[torch.randn(3, 4, 8, 8) for _ in range(3)] for _ in range(3)]
    compared = []

    def spy(maps):
        compared.append(maps)
        return transport_to_shuffled(maps)

    monkeypatch.setattr("trainer.rdpp.transport_to_shuffled", spy)
    assert trainer.projection_loss(*maps).item() == pytest.approx(without.projection_loss(*maps).item(), abs=1e-6)
    assert compared == maps[1]


def test_noise_patches_are_rectangles_of_10_to_31_px_off_the_border():
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
    """The published code's mistake: one field, always cut at its origin."""
    noise = torch.arange(FIELD * FIELD, dtype=torch.float32).view(1, FIELD, FIELD).repeat(3, 1, 1) + 1
    changed = add_noise(torch.zeros(8, 3, 64, 64), noise, np.random.default_rng(0))
    assert len({picture[picture > 0].min().item() for picture in changed}) == 8


@pytest.mark.parametrize("size", [(32, 32), (32, 200)])
def test_patches_fit_into_the_smallest_images(size):
    changed = add_noise(torch.zeros(200, 3, *size), torch.ones(3, FIELD, FIELD), np.random.default_rng(1))
    assert changed[..., 0, :].sum() + changed[..., -1, :].sum() + changed[..., 0].sum() + changed[..., -1].sum() == 0
    assert (changed.sum(dim=(1, 2, 3)) > 0).all()


def test_the_noise_is_that_of_pixels_in_the_unit_range(rdpp):
    """0.2 of the field in [0, 1], before normalisation; similar in all channels."""
    rdpp.on_fit_start(Training(rdpp.teacher))
    in_unit_range = rdpp.noise.cpu()
    assert in_unit_range.std().item() == pytest.approx(0.083, abs=0.02)
    assert in_unit_range.abs().max() < 0.3
    assert np.corrcoef(in_unit_range[0].flatten(), in_unit_range[1].flatten())[0, 1] > 0.9


def test_noise_is_drawn_from_seed_and_step(rdpp):
    """So that a resumed run repeats it and two epochs differ."""
    rdpp.on_fit_start(Training(rdpp.teacher))
    image = rdpp.compute.images(torch.rand(2, 3, 64, 64))
    batch = {"image": image, "teacher": rdpp.teacher(image)}
    torch.manual_seed(0)
    losses = [rdpp.loss(batch | {"step": step}).item() for step in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_a_step_needs_two_batches(config):
    assert build_trainer(config("rdpp")).recipe().accumulate == 2
    trainer = build_trainer(config("rdpp", {"epochs": 1, "batch_size": 16}))
    with pytest.raises(UserError, match="TrainingData.epochs 1: too few for one step of 2 batches"):
        trainer.train()


@pytest.mark.parametrize(("batches", "epochs", "steps"), [(17, 1, 8), (17, 2, 17)])
def test_a_batch_left_over_waits_for_the_next_epoch(rdpp, batches, epochs, steps):
    """It is neither discarded nor added to a step of two others."""
    adam, schedule = rdpp.build_optimizer(steps)
    state = TrainState(rdpp.student, adam, schedule, False, rdpp.recipe().accumulate)
    weights = [p for group in adam.param_groups for p in group["params"]]
    taken = []
    adam.register_step_post_hook(lambda *_: taken.append(weights[0].grad.flatten()[0].item()))
    for _ in range(epochs):
        for _ in range(batches):
            state.step(sum(p.sum() for p in weights))
        state.end_epoch({}, {})
    assert taken == [2.0] * steps  # each the sum of exactly two batches' gradients
    assert state.pending == (batches * epochs) % 2


def test_the_recipe(rdpp):
    adam, schedule = rdpp.build_optimizer(10)
    rates = {id(p): group["lr"] for group in adam.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in rdpp.student.projections.parameters()} == {0.001}
    assert {rates[id(p)] for p in rdpp.student.reverse.parameters()} == {0.005}
    assert len(rates) == len(list(rdpp.student.parameters())) and schedule is None
    assert all(group["betas"] == (0.5, 0.999) and group["weight_decay"] == 0 for group in adam.param_groups)


def test_the_terms_of_the_projections_have_their_weight(rdpp, monkeypatch):
    """0.2 / 1.11 of the published code; the noisy maps of the teacher come first, then both projected ones."""
    monkeypatch.setattr("trainer.rdpp.RECONSTRUCT_WEIGHT", 1e4)  # random teachers hardly see the noise
    rdpp.on_fit_start(Training(rdpp.teacher))
    image = rdpp.compute.images(torch.rand(2, 3, 64, 64))
    batch = {"image": image, "teacher": rdpp.teacher(image), "step": 3}
    noisy = rdpp.teacher_maps(add_noise(image, rdpp.noise, np.random.default_rng((0, 3, 0))))
    projected, projected_noisy = rdpp.student.project(batch["teacher"]), rdpp.student.project(noisy)
    restored = rdpp.distillation(batch["teacher"], rdpp.student.reverse, projected)
    terms = rdpp.projection_loss(noisy, projected, projected_noisy)
    assert rdpp.loss(batch).item() == pytest.approx((restored + 0.2 / 1.11 * terms).item(), rel=1e-5)
    assert terms.item() > 1


def test_without_projections_it_is_rd(config, monkeypatch):
    rd, rdpp = (build_trainer(config(method, precision="fp32")) for method in ("rd", "rdpp"))
    rdpp.student.reverse.load_state_dict(rd.student.state_dict())
    monkeypatch.setattr(rdpp.student, "projections", torch.nn.ModuleList(torch.nn.Identity() for _ in range(3)))
    monkeypatch.setattr("trainer.rdpp.PROJECTION_WEIGHT", 0)
    rdpp.on_fit_start(Training(rdpp.teacher))
    image = rd.compute.images(torch.rand(2, 3, 64, 64))
    assert torch.equal(rd.anomaly_map(image), rdpp.anomaly_map(image))
    batch = {"image": image, "teacher": rd.teacher(image), "step": 0}
    assert rd.loss(batch).item() == rdpp.loss(batch).item()


def test_the_map_compares_with_the_raw_teacher(rdpp, monkeypatch):
    """Not with the projected one."""
    image, compared = rdpp.compute.images(torch.rand(1, 3, 64, 64)), []
    distance = rdpp.detector.distance
    monkeypatch.setattr(rdpp.detector, "distance", lambda t, s: compared.append((t, s)) or distance(t, s))
    rdpp.anomaly_map(image)
    with torch.inference_mode():
        teacher = rdpp.teacher(image)
        restored = rdpp.student.reverse(rdpp.student.project(teacher))
    for (t, s), raw, decoded in zip(compared, teacher, restored, strict=True):
        assert torch.equal(t, raw) and torch.equal(s, decoded)
