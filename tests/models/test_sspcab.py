"""SSPCAB: values computed with its formulas (Ristea et al., CVPR 2022, section 3) by hand, and its pitfalls."""

import pytest
import torch
from torch import nn

from models.blocks import BASIC, PredictiveResidual
from models.dbfad import DBFADStudent
from models.reverse_distillation import Bottleneck, Decoder, ReverseStudent
from models.sspcab import SSPCAB, prediction_loss
from tests.unit_fill import unit_fill

CHANNELS = [8, 8, 16]  # of a small teacher's levels


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
    [(8, 1, 313), (64, 1, 17_736), (2048, 1, 17_836_288), (8, 2, 1_081), (8, 3, 2_361)],
)
def test_parameters(channels, kernel_dim, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in SSPCAB(channels, kernel_dim).parameters()) == count


@pytest.mark.parametrize("kernel_dim", [1, 2, 3])
@pytest.mark.parametrize("dilation", [0, 1, 2])
def test_the_size_is_kept(kernel_dim, dilation):
    x = torch.randn(2, 8, 11, 13)
    assert SSPCAB(8, kernel_dim, dilation)(x).shape == x.shape


@pytest.mark.parametrize(("corner", "position"), [(0, (6, 6)), (1, (2, 6)), (2, (6, 2)), (3, (2, 2))])
def test_each_branch_sees_its_corner(corner, position):
    block = filled(SSPCAB(1), 0, 0)
    nn.init.ones_(block.corners[corner].weight)
    impulse = torch.zeros(1, 1, 9, 9)
    impulse[..., 4, 4] = 1
    assert [tuple(p) for p in block(impulse)[0, 0].nonzero().tolist()] == [position]


@pytest.mark.parametrize(
    ("kernel_dim", "dilation", "offsets"),
    [(1, 0, [1]), (1, 1, [2]), (1, 2, [3]), (2, 1, [2, 3]), (3, 2, [3, 4, 5])],
)
def test_the_receptive_field_is_four_corners(kernel_dim, dilation, offsets):
    """The gate is constant, so only the masked convolution is left: it reads neither the centre nor an edge."""
    block = filled(SSPCAB(1, kernel_dim, dilation), 1, 0)
    x = torch.ones(1, 1, 15, 15, requires_grad=True)
    block(x)[0, 0, 7, 7].backward()
    read = {(row - 7, column - 7) for row, column in x.grad[0, 0].nonzero().tolist()}
    both = [*offsets, *(-k for k in offsets)]
    assert read == {(row, column) for row in both for column in both}


def test_padding_is_zero():
    y = filled(SSPCAB(8), 0.25, 0)(torch.ones(1, 8, 8, 8))
    assert torch.equal(y[0, :, 4, 4], torch.full((8,), 0.5))
    assert torch.equal(y[0, :, 0, 4], torch.full((8,), 0.25)) and torch.equal(y[0, :, 4, 7], torch.full((8,), 0.25))
    assert torch.equal(y[0, :, 0, 7], torch.full((8,), 0.125))


@pytest.mark.parametrize(("bias", "output"), [(1, 2.0), (-1, 0.0)])
def test_the_sum_of_the_branches_is_rectified(bias, output):
    y = filled(SSPCAB(8), 0, bias)(torch.ones(1, 8, 5, 5))
    assert torch.equal(y, torch.full_like(y, output))


def test_branches_are_summed_before_they_are_rectified():
    block = filled(SSPCAB(1), 0, -1)
    nn.init.constant_(block.corners[0].bias, 3.5)
    assert block(torch.zeros(1, 1, 3, 3))[0, 0, 1, 1].item() == 0.25  # ReLU of each would give 1.75


def test_output_with_known_weights():
    y = unit_fill(SSPCAB(8))(torch.ones(1, 8, 8, 8))
    values = [y.mean().item(), y[0, 0, 4, 4].item(), y[0, 0, 0, 0].item()]
    assert values == pytest.approx([2.035464, 3.618602, 0.904651], rel=1e-4)


def test_the_gate_weighs_each_channel_of_each_image():
    """Gates come from the mean of the rectified sum; one image's gates must not depend on the others."""
    torch.manual_seed(0)
    block, x = SSPCAB(16), torch.randn(3, 16, 6, 6)
    nn.init.ones_(block.gate[2].bias)  # above the ReLU; otherwise the gates would be constant
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


# The loss


def test_the_loss_is_the_mean_squared_difference():
    block, x = filled(SSPCAB(8), 0.25, 0), torch.ones(1, 8, 8, 8)
    assert prediction_loss(x, block(x)).item() == 0.53515625


def test_the_losss_gradient_reaches_the_input():
    """Not detached: the loss also trains the target, besides the gradient through the block."""
    block = filled(SSPCAB(2), 0, -1)  # the output is zero for any input: only the target can learn
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    prediction_loss(x, block(x)).backward()
    torch.testing.assert_close(x.grad, 2 * x.detach() / x.numel())


def test_the_loss_is_float32_under_autocast():
    """Squares of half-precision maps overflow: 300^2 is too large for float16."""
    block, x = filled(SSPCAB(8), 0, 0), torch.full((1, 8, 4, 4), 300.0, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = prediction_loss(x, block(x))
    assert loss.dtype == torch.float32 and loss.item() == 90_000


# In the students


def reverse_student(sspcab=True):
    torch.manual_seed(0)
    return ReverseStudent(Bottleneck(BASIC, CHANNELS), Decoder(BASIC, CHANNELS, sspcab=sspcab)).eval()


def teacher_maps(sizes):
    random = torch.Generator().manual_seed(1)
    return [torch.rand(2, c, n, n, generator=random) for c, n in sizes]


def dbfad_student():
    torch.manual_seed(0)
    return DBFADStudent([8, 8, 16, 32]).eval()


@pytest.mark.parametrize(
    ("make", "sizes"),
    [(reverse_student, [(8, 16), (8, 8), (16, 4)]), (dbfad_student, [(8, 24), (8, 24), (16, 12), (32, 6)])],
)
def test_a_students_loss_comes_back_beside_its_maps(make, sizes):
    """As a return value: without hooks on modules, and without results stored on them."""
    student, teacher = make(), teacher_maps(sizes)
    before = [set(vars(module)) for module in student.modules()]
    maps, loss = student.forward_with_loss(teacher)
    again, same_loss = student.forward_with_loss(teacher)
    assert loss.shape == () and loss.item() == same_loss.item() > 0
    assert all(torch.equal(a, b) for a, b in zip(maps, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(maps, student(teacher), strict=True))
    assert [set(vars(module)) for module in student.modules()] == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())


@torch.no_grad()
def test_a_decoder_with_sspcab_differs_in_one_convolution():
    """The last but one; all else is the same, so with that convolution in SSPCAB's place the maps are the same too."""
    plain, predictive = (reverse_student(sspcab) for sspcab in (False, True))
    block, replaced = plain.decoder.stages[-1][-1], predictive.decoder.predictive
    assert isinstance(replaced, PredictiveResidual) and isinstance(block.main[0][0], nn.Conv2d)
    predictive.bottleneck.load_state_dict(plain.bottleneck.state_dict())
    stages = plain.decoder.stages.state_dict()
    predictive.decoder.stages.load_state_dict({k: v for k, v in stages.items() if not k.startswith("2.1.")})
    replaced.after[0].load_state_dict(block.main[0][1].state_dict())
    replaced.after[2].load_state_dict(block.main[2].state_dict())
    teacher = teacher_maps([(8, 16), (8, 8), (16, 4)])
    *deeper_first, expected = plain(teacher)[::-1]
    found = predictive(teacher)
    assert all(torch.equal(a, b) for a, b in zip(found[:0:-1], deeper_first, strict=True))
    assert not torch.allclose(found[0], expected)
    replaced.sspcab = block.main[0][0]
    torch.testing.assert_close(predictive(teacher)[0], expected)
