"""Distances between feature maps, in the exact form for scores and in the fast form for training."""

import pytest
import torch
import torch.nn.functional as F

from models.losses import batch_sum, cosine_distance, flat_cosine_distance, squared_distance

both_forms = pytest.mark.parametrize("exact", [True, False])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def vectors(*values):
    """Channel vectors at one row of positions: [1,C,1,W]."""
    return torch.tensor(values, dtype=torch.float32).T[None, :, None, :]


@both_forms
def test_squared_distance_of_two_vectors_by_hand(exact):
    assert squared_distance(vectors((3, 4)), vectors((4, 3)), exact=exact).item() == pytest.approx(0.08)


@both_forms
def test_squared_distance_is_that_of_unit_vectors_and_its_gradient_too(exact):
    t, s = torch.randn(2, 3, 16, 5, 7)
    a, b = s.clone().requires_grad_(), s.clone().requires_grad_()
    found = squared_distance(t, a, exact=exact)
    expected = (F.normalize(t, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1, keepdim=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.mean().backward()
    expected.mean().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


@both_forms
def test_cosine_distance_is_one_minus_the_cosine_and_its_gradient_too(exact):
    t, s = torch.randn(2, 3, 16, 5, 7)
    a, b = s.clone().requires_grad_(), s.clone().requires_grad_()
    found = cosine_distance(t, a, exact)
    expected = 1 - F.cosine_similarity(t, b, dim=1).unsqueeze(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.mean().backward()
    expected.mean().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("step", "size"), [(1e-2, 1e-4), (1e-3, 1e-6)])
def test_a_small_distance_is_not_lost_in_rounding(step, size):
    """|t|^2 + |s|^2 - 2 t.s in float32 is wrong by a third if unit vectors differ by 1e-3, and STPM has three."""
    t = torch.randn(4, 128, 8, 8)
    s = t + step * t.norm(dim=1, keepdim=True) * F.normalize(torch.randn_like(t), dim=1)
    for distance in (squared_distance, cosine_distance):
        found = distance(t, s).double()
        unit = [F.normalize(maps.double(), dim=1) for maps in (t, s)]
        expected = (unit[0] - unit[1]).square().sum(dim=1, keepdim=True) * (1 if distance is squared_distance else 0.5)
        assert size / 10 < expected.mean() < 10 * size
        assert ((found - expected) / expected).abs().max() < 1e-3


@both_forms
def test_a_dead_position_has_a_distance_and_no_wild_gradient(exact):
    """If one vector is zero, the squared form gives 1, and the cosine form also 1 (not 0.5)."""
    for distance in (squared_distance, cosine_distance):
        s = torch.zeros(1, 2, 1, 1, requires_grad=True)
        found = distance(vectors((3, 4)), s, exact=exact)
        found.sum().backward()
        assert found.item() == pytest.approx(1)
        assert torch.isfinite(s.grad).all()


@both_forms
def test_a_positive_scale_of_either_side_changes_nothing(exact):
    t, s = torch.randn(2, 2, 8, 4, 4)
    scale = torch.rand(2, 1, 4, 4) + 0.1
    for distance in (squared_distance, cosine_distance):
        expected = distance(t, s, exact=exact)
        torch.testing.assert_close(distance(t * scale, s, exact=exact), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(distance(t, s * scale, exact=exact), expected, atol=1e-5, rtol=1e-4)


@both_forms
def test_squared_distance_lies_between_0_and_4(exact):
    t = torch.randn(4, 32, 8, 8)
    same = squared_distance(t, t * 3, exact=exact)
    assert 0 <= same.min() and same.max() < 1e-6
    assert squared_distance(t, -t, exact=exact).max().item() == pytest.approx(4, abs=1e-5)


def test_without_norm_it_is_the_plain_squared_difference():
    t, s = torch.randn(2, 2, 8, 4, 4)
    expected = (t - s).square().sum(dim=1, keepdim=True)
    torch.testing.assert_close(squared_distance(t, s, norm=False), expected)


@both_forms
def test_half_precision_is_summed_in_single(exact):
    t, s = torch.randn(2, 2, 256, 4, 4)
    for distance in (squared_distance, cosine_distance):
        low = distance(t.bfloat16(), s.bfloat16(), exact=exact)
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, distance(t, s, exact=exact), atol=0.02, rtol=0.01)


def test_cosine_of_whole_maps_and_of_positions_differ():
    """RD's published code trains with the first, its paper's formula is the second."""
    f = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).T.reshape(1, 2, 1, 2)
    g = torch.tensor([[3.0, 0.0], [1.0, 0.0]]).T.reshape(1, 2, 1, 2)
    assert flat_cosine_distance(f, g).item() == pytest.approx(0.1)
    assert cosine_distance(f, g).mean().item() == pytest.approx(0.5)


def test_a_short_batch_counts_as_much_as_a_whole_one():
    """Mean over levels and positions, sum over the batch, as intended."""
    levels = [torch.full((3, 1, 4, 4), 2.0), torch.full((3, 1, 2, 2), 4.0)]
    assert batch_sum(levels, 8).item() == 8 * 3
    assert batch_sum([level[:1] for level in levels], 8).item() == 8 * 3
