import pytest
import torch

from models.transport import epsilons, sinkhorn_divergence


def test_two_points_that_move_by_one_cost_a_half():
    """Both points move by one: the cost is half of its square."""
    x = torch.tensor([(0.0, 0.0), (1.0, 0.0)])
    y = torch.tensor([(0.0, 1.0), (1.0, 1.0)])
    value = sinkhorn_divergence(x, y)
    assert value.shape == () and value.item() == pytest.approx(0.5, abs=1e-5)


def test_clouds_of_one_point_cost_half_the_squared_distance():
    x = torch.tensor([[(0.2, 0.8)], [(0.5, 0.5)]])
    torch.testing.assert_close(sinkhorn_divergence(x, x.flip(0)), torch.tensor([0.09, 0.09]), atol=1e-6, rtol=0)


def test_a_permutation_of_the_same_points_costs_nothing_and_pulls_nowhere():
    """Values of RD++'s public code; points are as near as the blur, so that the plan really mixes them."""
    x = (torch.rand(6, 4) * 0.1).requires_grad_()
    value = sinkhorn_divergence(x, x[torch.randperm(6)])
    (gradient,) = torch.autograd.grad(value, x)
    assert abs(value.item()) < 1e-6 and gradient.abs().max() < 1e-6
    (gradient,) = torch.autograd.grad(sinkhorn_divergence(x, x.detach() + 0.1), x)
    assert gradient.abs().max() > 0.01


def test_schedule_length_and_ends():
    schedule = epsilons(blur=0.05, diameter=1e7, scaling=0.95)
    assert len(schedule) == 375
    assert schedule[0] == 1e14 and schedule[-1] == 0.05**2
    assert schedule[2] / schedule[1] == pytest.approx(0.95**2)
    assert schedule[:-1] == sorted(schedule[:-1], reverse=True) and schedule[-2] > schedule[-1] > 0.95**2 * schedule[-2]


@pytest.mark.parametrize("wrong", [{"scaling": 1.0}, {"scaling": 0.0}, {"blur": 0.0}, {"diameter": 0.05}])
def test_settings_that_give_no_schedule_are_refused(wrong):
    with pytest.raises(ValueError, match="scaling"):
        sinkhorn_divergence(torch.rand(2, 2), torch.rand(2, 2), **wrong)


def test_a_shift_costs_half_its_square_and_pulls_along_it():
    """Exact for the debiased divergence at any blur: S = |v|^2 / 2, dS/dy = v / N."""
    x, shift = torch.rand(5, 3), torch.tensor((0.5, -1.0, 2.0))
    y = (x + shift).requires_grad_()
    value = sinkhorn_divergence(x, y, blur=0.3)
    value.backward()
    assert value.item() == pytest.approx(2.625, rel=1e-4)
    torch.testing.assert_close(y.grad, (shift / 5).expand(5, 3), atol=1e-4, rtol=1e-3)


def test_far_points_are_matched_at_least_cost():
    """With a blur far below the distances the entropy is negligible: two points move by 0.5, two stay."""
    x = torch.tensor([(0.0,), (2.0,), (4.0,), (6.0,)])
    y = torch.tensor([(6.5,), (0.0,), (2.0,), (4.5,)])
    assert sinkhorn_divergence(x, y).item() == pytest.approx((0.125 + 0.125) / 4, rel=1e-3)


def test_gradient_is_the_slope_of_the_value():
    """Fine scaling, because the gradient is that of converged potentials."""
    x, step = torch.rand(4, 2).double(), torch.randn(3, 2).double()
    y = torch.rand(3, 2).double().requires_grad_()
    settings = {"blur": 0.5, "diameter": 10, "scaling": 0.997}
    (gradient,) = torch.autograd.grad(sinkhorn_divergence(x, y, **settings), y)
    ahead, behind = (sinkhorn_divergence(x, y.detach() + sign * 1e-4 * step, **settings) for sign in (1, -1))
    assert (gradient * step).sum().item() == pytest.approx((ahead - behind).item() / 2e-4, abs=2e-3)


def test_single_precision_survives_the_first_epsilons():
    """Clouds of 7 and 5: a plain logsumexp in float32 is wrong by more than the value itself here."""
    x, y = torch.randn(7, 3), torch.randn(5, 3) + 1
    low, high = sinkhorn_divergence(x, y), sinkhorn_divergence(x.double(), y.double())
    assert low.dtype == torch.float32 and high.dtype == torch.float64
    assert low.item() == pytest.approx(high.item(), rel=1e-4)


def test_a_batch_is_its_clouds_one_by_one_and_the_sides_are_alike():
    x, y = torch.rand(3, 6, 2), torch.rand(3, 4, 2)
    together = sinkhorn_divergence(x, y)
    one_by_one = torch.stack([sinkhorn_divergence(a, b) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(together, one_by_one, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(sinkhorn_divergence(y, x), together, atol=1e-6, rtol=1e-4)


def test_half_precision_and_autocast_are_computed_in_single():
    x, y = torch.rand(5, 3).bfloat16(), torch.rand(6, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        low = sinkhorn_divergence(x, y)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, sinkhorn_divergence(x.float(), y.float()), atol=1e-6, rtol=1e-5)
