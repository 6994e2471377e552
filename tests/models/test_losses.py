import pytest
import torch
import torch.nn.functional as F

from models.losses import squared_distance


def vectors(*values):
    """Channel vectors at one row of positions: [1,C,1,W]."""
    return torch.tensor(values, dtype=torch.float32).T[None, :, None, :]


def test_hand_computed_value():
    assert squared_distance(vectors((3, 4)), vectors((4, 3))).item() == pytest.approx(0.08)


def test_is_twice_one_minus_cosine():
    t, s = torch.randn(2, 3, 16, 5, 7)
    expected = 2 - 2 * F.cosine_similarity(t, s, dim=1)
    torch.testing.assert_close(squared_distance(t, s).squeeze(1), expected, atol=1e-5, rtol=1e-5)


def test_equals_the_distance_of_normalised_vectors():
    t, s = torch.randn(2, 3, 16, 5, 7)
    expected = (F.normalize(t, dim=1) - F.normalize(s, dim=1)).square().sum(dim=1, keepdim=True)
    torch.testing.assert_close(squared_distance(t, s), expected, atol=1e-5, rtol=1e-5)


def test_gradient_equals_the_normalised_form():
    t, s = torch.randn(2, 2, 8, 4, 4)
    a, b = s.clone().requires_grad_(), s.clone().requires_grad_()
    squared_distance(t, a).mean().backward()
    (F.normalize(t, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


def test_a_dead_position_counts_one_and_has_no_wild_gradient():
    """With one vector all zero the squared form gives 1 (the cosine form would give 2)."""
    s = torch.zeros(1, 2, 1, 1, requires_grad=True)
    distance = squared_distance(vectors((3, 4)), s)
    distance.sum().backward()
    assert distance.item() == pytest.approx(1)
    assert torch.isfinite(s.grad).all()


def test_positive_scale_of_either_side_changes_nothing():
    t, s = torch.randn(2, 2, 8, 4, 4)
    scale = torch.rand(2, 1, 4, 4) + 0.1
    torch.testing.assert_close(squared_distance(t * scale, s), squared_distance(t, s), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(squared_distance(t, s * scale), squared_distance(t, s), atol=1e-5, rtol=1e-4)


def test_range_and_never_negative():
    t = torch.randn(4, 32, 8, 8)
    same = squared_distance(t, t * 3)
    assert 0 <= same.min() and same.max() < 1e-6
    assert squared_distance(t, -t).max().item() == pytest.approx(4, abs=1e-5)


def test_without_norm_is_the_plain_squared_difference():
    t, s = torch.randn(2, 2, 8, 4, 4)
    expected = (t - s).square().sum(dim=1, keepdim=True)
    torch.testing.assert_close(squared_distance(t, s, norm=False), expected)


def test_half_precision_is_summed_in_single():
    t, s = torch.randn(2, 2, 256, 4, 4)
    low = squared_distance(t.bfloat16(), s.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, squared_distance(t, s), atol=0.02, rtol=0.01)
