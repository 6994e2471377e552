import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from models.anomaly_map import multiply_levels, repeat_inner, resize, smooth, sum_levels


def impulse(size, row, column, value=1.0):
    maps = torch.zeros(1, 1, size, size)
    maps[0, 0, row, column] = value
    return maps


def test_bilinear_samples():
    line = torch.tensor([[[[0.0, 1.0]]]])
    assert resize(line, (1, 4)).flatten().tolist() == [0, 0.25, 0.75, 1]
    torch.testing.assert_close(resize(line, (1, 4), True).flatten(), torch.tensor([0, 1 / 3, 2 / 3, 1]))


def test_smooth_matches_scipy_to_the_border():
    maps = torch.rand(3, 1, 40, 56)
    expected = np.stack([gaussian_filter(m[0].numpy(), sigma=4) for m in maps])
    np.testing.assert_allclose(smooth(maps, 4).squeeze(1).numpy(), expected, atol=1e-5)


def test_smooth_reference_values():
    blurred = smooth(impulse(65, 32, 32), 4)[0, 0]
    assert blurred[32, 32].item() == pytest.approx(0.0099478880, rel=1e-5)
    assert blurred[32, 36].item() == pytest.approx(0.0060336991, rel=1e-5)
    assert smooth(impulse(64, 0, 0), 4)[0, 0, 0, 0].item() == pytest.approx(0.0385767112, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_smooth_is_two_dimensional_for_every_batch_size(batch):
    """The earlier toolkit blurred rows only when the batch was one image."""
    blurred = smooth(impulse(65, 32, 32).repeat(batch, 1, 1, 1), 4)
    for one in blurred[:, 0]:
        assert (one > 0).any(dim=0).sum() == 33 and (one > 0).any(dim=1).sum() == 33
        torch.testing.assert_close(one, one.T)


def test_smooth_works_on_maps_smaller_than_the_kernel_and_keeps_constants():
    maps = torch.rand(1, 1, 5, 3)
    expected = gaussian_filter(maps[0, 0].numpy(), sigma=4)
    np.testing.assert_allclose(smooth(maps, 4)[0, 0].numpy(), expected, atol=1e-5)
    torch.testing.assert_close(smooth(torch.full((1, 1, 20, 20), 3.0), 4), torch.full((1, 1, 20, 20), 3.0))


def test_smooth_zero_leaves_the_map():
    maps = torch.rand(1, 1, 8, 8)
    assert smooth(maps, 0) is maps


def test_product_is_taken_at_the_finest_level_then_resized():
    """As STPM's published code does: 6.125, where resizing every level first would give 7.5078125."""
    levels = [torch.full((1, 1, 64, 64), 2.0), torch.full((1, 1, 32, 32), 2.0), impulse(16, 8, 8, 2.0)]
    at_finest = multiply_levels(levels, (64, 64))[0, 0]
    assert at_finest.max().item() == pytest.approx(6.125)
    assert at_finest[33, 33].item() == at_finest.max().item()
    assert multiply_levels(levels, (256, 256)).max().item() == pytest.approx(6.125)
    separately = torch.stack([resize(level, (256, 256)) for level in levels]).prod(dim=0)
    assert separately.max().item() == pytest.approx(7.5078125)


def test_sum_adds_levels_at_image_size():
    levels = [torch.full((2, 1, 8, 8), 1.0), torch.full((2, 1, 4, 4), 2.0)]
    torch.testing.assert_close(sum_levels(levels, (16, 24)), torch.full((2, 1, 16, 24), 3.0))


@pytest.mark.parametrize("combine", [sum_levels, multiply_levels])
def test_everything_after_the_networks_commutes_with_transposing(combine):
    levels = [torch.rand(1, 1, 16, 16), torch.rand(1, 1, 8, 8), torch.rand(1, 1, 4, 4)]
    turned = [level.transpose(-1, -2) for level in levels]
    expected = smooth(combine(levels, (64, 48)), 2).transpose(-1, -2)
    torch.testing.assert_close(smooth(combine(turned, (48, 64)), 2), expected, atol=1e-5, rtol=1e-4)


def test_the_border_counts_as_the_nearest_inner_position():
    level = torch.arange(20.0).view(1, 1, 4, 5)
    found = repeat_inner(level, 1)[0, 0]
    assert found.tolist() == [[6, 6, 7, 8, 8], [6, 6, 7, 8, 8], [11, 11, 12, 13, 13], [11, 11, 12, 13, 13]]
    assert repeat_inner(level, 0) is level
    assert repeat_inner(level, 9).shape == level.shape  # at least one position is always left
    assert repeat_inner(torch.ones(1, 1, 1, 1), 1).tolist() == [[[[1]]]]
