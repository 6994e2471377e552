"""The numeric checks of specs/dbfad_mixed_rn_sspcab.md section 4.7, and the pitfalls of 4.6."""

import pytest
import torch
from torch import nn

from models.sspcab import SSPCAB, sspcab_losses
from tests.unit_fill import unit_fill


@torch.no_grad()
def filled(block, weight, bias):
    """Each corner passes `weight` of its channel at every position, plus `bias`; the gate is one half everywhere."""
    for parameter in block.parameters():
        parameter.zero_()
    for corner in block.corners:
        corner.weight.diagonal().fill_(weight)
        corner.bias.fill_(bias)
    return block


@pytest.mark.parametrize(
    ("channels", "kernel_dim", "count"),
    [
        (8, 1, 313),
        (64, 1, 17_736),
        (128, 1, 70_288),
        (256, 1, 279_840),
        (512, 1, 1_116_736),
        (1024, 1, 4_461_696),
        (2048, 1, 17_836_288),
        (8, 2, 1_081),
        (8, 3, 2_361),
    ],
)
def test_check_1_parameters(channels, kernel_dim, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in SSPCAB(channels, kernel_dim).parameters()) == count


@pytest.mark.parametrize("kernel_dim", [1, 2, 3])
@pytest.mark.parametrize("dilation", [0, 1, 2])
def test_check_2_keeps_the_size(kernel_dim, dilation):
    x = torch.randn(2, 8, 11, 13)
    assert SSPCAB(8, kernel_dim, dilation)(x).shape == x.shape


@pytest.mark.parametrize(("corner", "position"), [(0, (6, 6)), (1, (2, 6)), (2, (6, 2)), (3, (2, 2))])
def test_check_3_each_branch_sees_its_corner(corner, position):
    block = filled(SSPCAB(1), 0, 0)
    nn.init.ones_(block.corners[corner].weight)
    impulse = torch.zeros(1, 1, 9, 9)
    impulse[..., 4, 4] = 1
    assert [tuple(p) for p in block(impulse)[0, 0].nonzero().tolist()] == [position]


@pytest.mark.parametrize(
    ("kernel_dim", "dilation", "offsets"),
    [(1, 0, [1]), (1, 1, [2]), (1, 2, [3]), (2, 1, [2, 3]), (3, 2, [3, 4, 5])],
)
def test_checks_4_and_9_the_receptive_field_is_four_corners(kernel_dim, dilation, offsets):
    """The gate is constant, so what is left is the masked convolution: neither the centre nor an edge is read."""
    block = filled(SSPCAB(1, kernel_dim, dilation), 1, 0)
    x = torch.ones(1, 1, 15, 15, requires_grad=True)
    block(x)[0, 0, 7, 7].backward()
    read = {(row - 7, column - 7) for row, column in x.grad[0, 0].nonzero().tolist()}
    both = [*offsets, *(-k for k in offsets)]
    assert read == {(row, column) for row in both for column in both}


def test_check_5_zero_padding_and_the_mean_loss():
    block, x = filled(SSPCAB(8), 0.25, 0), torch.ones(1, 8, 8, 8)
    with sspcab_losses(block) as losses:
        y = block(x)
    assert torch.equal(y[0, :, 4, 4], torch.full((8,), 0.5))
    assert torch.equal(y[0, :, 0, 4], torch.full((8,), 0.25)) and torch.equal(y[0, :, 4, 7], torch.full((8,), 0.25))
    assert torch.equal(y[0, :, 0, 7], torch.full((8,), 0.125))
    assert [loss.item() for loss in losses] == [0.53515625]


@pytest.mark.parametrize(("bias", "output"), [(1, 2.0), (-1, 0.0)])
def test_checks_6_and_7_the_sum_of_the_branches_is_rectified(bias, output):
    y = filled(SSPCAB(8), 0, bias)(torch.ones(1, 8, 5, 5))
    assert torch.equal(y, torch.full_like(y, output))


def test_branches_are_summed_before_they_are_rectified():
    block = filled(SSPCAB(1), 0, -1)
    nn.init.constant_(block.corners[0].bias, 3.5)
    assert block(torch.zeros(1, 1, 3, 3))[0, 0, 1, 1].item() == 0.25  # ReLU of each would give 1.75


@pytest.mark.parametrize("channels", [8, 64])
def test_check_8_unit_fill(channels):
    y = unit_fill(SSPCAB(channels))(torch.ones(1, channels, 8, 8))
    figures = [y.mean().item(), y[0, 0, 4, 4].item(), y[0, 0, 0, 0].item()]
    assert figures == pytest.approx([2.035464, 3.618602, 0.904651], rel=1e-4)


def test_the_gate_weighs_each_channel_of_each_image():
    """Gates from the mean of the rectified sum; one image's must not depend on the others."""
    torch.manual_seed(0)
    block, x = SSPCAB(16), torch.randn(3, 16, 6, 6)
    nn.init.ones_(block.gate[2].bias)  # above the ReLU, or the gates would be constants
    together = block(x)
    torch.testing.assert_close(together, torch.cat([block(image) for image in x.split(1)]))
    restored = filled(SSPCAB(16), 0, 0)
    restored.corners.load_state_dict(block.corners.state_dict())
    restored = 2 * restored(x)  # that gate is one half
    gates = torch.sigmoid(block.gate[4](block.gate[2](restored.mean(dim=(2, 3))).relu()))
    torch.testing.assert_close(together, gates[:, :, None, None] * restored)
    assert gates.std(dim=0).min() > 0 and gates.std(dim=1).min() > 0


def test_fewer_channels_than_the_reduction():
    block = SSPCAB(3)
    assert block.gate[2].out_features == 1
    block(torch.randn(1, 3, 6, 6)).sum().backward()
    assert all(p.grad is not None for p in block.parameters())


# ---- the loss ------------------------------------------------------------------------------------------------


def test_losses_of_every_block_and_pass():
    torch.manual_seed(0)
    net = nn.Sequential(SSPCAB(4), nn.Conv2d(4, 8, 1), SSPCAB(8))
    first, second = torch.randn(2, 2, 4, 8, 8)
    with sspcab_losses(net) as losses:
        net(first)
        net(second)
    expected = []
    for x in (first, second):
        for block, given in ((net[0], x), (net[2], net[1](net[0](x)))):
            expected.append((block(given) - given).pow(2).mean())
    torch.testing.assert_close(losses, expected)


def test_gradient_reaches_the_input():
    """Not detached: the target is drawn towards what can be predicted, besides what comes through the block."""
    block = filled(SSPCAB(2), 0, -1)  # the output is zero whatever the input: only the target can learn
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    with sspcab_losses(block) as losses:
        block(x)
    sum(losses).backward()
    torch.testing.assert_close(x.grad, 2 * x.detach() / x.numel())


def test_loss_is_float32_under_autocast():
    """Squares of half-precision maps overflow: 300^2 is beyond what float16 holds."""
    block, x = filled(SSPCAB(8), 0, 0), torch.full((1, 8, 4, 4), 300.0, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.float16), sspcab_losses(block) as losses:
        block(x)
    assert losses[0].dtype == torch.float32 and losses[0].item() == 90_000


def test_what_follows_may_work_in_place():
    block = SSPCAB(4)
    with sspcab_losses(nn.Sequential(block, nn.ReLU(inplace=True))) as losses:
        nn.Sequential(block, nn.ReLU(inplace=True))(torch.randn(1, 4, 6, 6))
    losses[0].backward()
    assert block.corners[0].weight.grad.abs().sum() > 0


def test_hooks_are_gone_afterwards():
    net, x = nn.Sequential(SSPCAB(4)), torch.randn(1, 4, 6, 6)
    with sspcab_losses(net) as losses:
        net(x)
    with pytest.raises(ZeroDivisionError), sspcab_losses(net) as failed:
        raise ZeroDivisionError
    net(x)
    assert (len(losses), len(failed)) == (1, 0)
    assert not net[0]._forward_hooks
