"""Residual blocks and the structures of ResNets that they form."""

import pytest
import timm
import torch
from torch import nn

from models.blocks import BASIC, PredictiveResidual, Residual, StudentPlan, init_convolutions, stem, student_plan
from models.teachers.features import outline
from tests.conftest import count
from tests.unit_fill import unit_fill
from utils.errors import UserError

NARROW = StudentPlan((1, 1, 1, 1), 0.25)  # of bottleneck blocks


@pytest.mark.parametrize(
    ("backbone", "plan"),
    [
        ("resnet18", BASIC),
        ("resnet34", StudentPlan((3, 4, 6, 3), None)),
        ("resnet50", StudentPlan((3, 4, 6, 3), 0.25)),
        ("wide_resnet50_2", StudentPlan((3, 4, 6, 3), 0.5)),
    ],
)
def test_the_plan_of_a_resnet(backbone, plan):
    assert student_plan(backbone, [1, 2, 3]) == plan


@pytest.mark.parametrize(
    ("backbone", "levels", "inner"),
    [
        ("tf_efficientnet_lite0", [1, 2, 3], (32, 64, 128)),  # its own are 24, 40 and 112
        ("regnetx_002", [0, 1], (32, 32)),  # 32 and 24
        ("convnext_atto", [0, 1, 2, 3], (64, 128, 256, 512)),  # 40 to 320; its level 0 has stride 4
        ("densenet121", [1, 2, 3], (64, 128, 256)),  # 256 to 1024
    ],
)
def test_the_student_of_another_network_is_about_as_wide_as_its_teacher_and_not_wider_than_a_resnet18(
    backbone, levels, inner
):
    assert student_plan(backbone, levels) == ((2, 2, 2, 2), None, inner)
    resnet18 = tuple(16 * stride for stride in outline(backbone, levels).reduction)
    assert student_plan(backbone, levels, None).inner == resnet18
    assert student_plan(backbone, levels, [9] * len(levels)).inner == (9,) * len(levels)


def test_widths_that_fit_no_student():
    with pytest.raises(UserError, match=r"widths \[8\]: give one for each level of out_indice \[1, 2\]"):
        student_plan("efficientnet_b0", [1, 2], [8])
    with pytest.raises(UserError, match="widths: a ResNet's student .'resnet18'. has the teacher's channels; leave"):
        student_plan("resnet18", [1, 2], [8, 8])


def test_layers_between_teacher_and_student_exist_only_where_channels_are_their_own():
    own, plan = [4, 6], BASIC._replace(inner=(8, 16))
    assert all(isinstance(layer, nn.Identity) for layer in (*BASIC.enter(own), *BASIC.leave(own)))
    maps = [torch.randn(2, c, 5, 5) for c in own]
    entered = [layer(m) for layer, m in zip(plan.enter(own), maps, strict=True)]
    assert [m.shape[1] for m in entered] == [8, 16]
    left = [layer(m) for layer, m in zip(plan.leave(own), entered, strict=True)]
    assert [m.shape[1] for m in left] == own and all(m.min() < 0 for m in left)


@pytest.mark.parametrize(
    ("backbone", "channels"), [("resnet18", (64, 64, 128, 256)), ("wide_resnet50_2", (64, 256, 512, 1024))]
)
def test_stages_are_as_large_as_those_of_the_resnet(backbone, channels):
    with torch.device("meta"):
        net, plan = timm.create_model(backbone), student_plan(backbone, [1, 2, 3])
        assert count(stem()) == count(net.conv1) + count(net.bn1)
        for k, resample in ((0, "same"), (1, "down"), (2, "down")):
            stage = plan.stage(channels[k], channels[k + 1], plan.depths[k], resample)
            assert count(stage) == count(getattr(net, f"layer{k + 1}"))


@pytest.mark.parametrize("plan", [BASIC, NARROW], ids=["basic", "bottleneck"])
@pytest.mark.parametrize(("resample", "size"), [("down", (3, 4)), ("same", (6, 8)), ("up", (12, 16))])
def test_only_the_first_block_of_a_stage_changes_size_and_channels(plan, resample, size):
    stage = plan.stage(8, 16, 3, resample)
    maps, x = [], torch.rand(2, 8, 6, 8)
    for block in stage:
        x = block(x)
        maps.append(tuple(x.shape))
    assert maps == [(2, 16, *size)] * 3
    assert [isinstance(block.skip, nn.Identity) for block in stage] == [False, True, True]


def test_the_reduced_student_is_made_of_ordinary_blocks():
    with torch.device("meta"):
        assert count(BASIC.stage(64, 64, 1, "down")) == 78_208


def test_a_block_is_rectified_after_the_shortcut_is_added():
    class Minus(nn.Module):
        def forward(self, x):
            return -2 * x

    x = torch.tensor([-1.0, 0.0, 3.0])
    assert Residual(Minus(), nn.Identity())(x).tolist() == [1, 0, 0]


def test_the_stem_quarters_the_size():
    maps = unit_fill(stem())(torch.ones(1, 3, 64, 96))
    assert maps.shape == (1, 64, 16, 24)
    assert maps[..., 2:-2, 2:-2].unique().item() == pytest.approx(1, abs=1e-4)


def test_convolutions_are_kaiming_normal_and_transposed_ones_as_they_were():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ConvTranspose2d(64, 64, 2, 2))
    transposed = net[1].weight.clone()
    init_convolutions(net)
    assert net[0].weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    assert torch.equal(net[1].weight, transposed)


@pytest.mark.parametrize("plan", [BASIC, NARROW], ids=["basic", "bottleneck"])
@torch.no_grad()
def test_a_predictive_block_differs_in_its_second_to_last_convolution(plan):
    """With that convolution in the SSPCAB's place it is the block that it was made of."""
    block = plan.block(8, 8, "same").eval()
    conv = [module for module in block.main.modules() if isinstance(module, nn.Conv2d)][-2]
    predictive, x = PredictiveResidual(block).eval(), torch.rand(2, 8, 6, 6)
    maps, loss = predictive.forward_with_loss(x)
    assert torch.equal(predictive(x), maps) and loss > 0 and not torch.allclose(maps, block(x))
    predictive.sspcab = conv
    assert torch.equal(predictive(x), block(x))
