"""Memories and the networks that have them (Gu et al., ICCV 2023), by hand and as in the only public code.

The public code is not the authors' (github.com/SimonThomine/RememberingNormality, b851e06).
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.blocks import BASIC, student_plan
from models.losses import squared_distance
from models.memory import NormalityMemory, RememberingStudent
from models.reverse_distillation import Bottleneck, Decoder
from models.teachers.features import Features
from tests.conftest import count
from tests.memories import memory
from tests.unit_fill import unit_fill

R18 = [64, 128, 256]


def query(*vector):
    return torch.tensor(vector, dtype=torch.float32).view(1, -1, 1, 1)


def test_a_memory_is_learned_and_saved():
    """The earlier toolkit's were tensors on the GPU that were in no optimizer and no file."""
    net = NormalityMemory(50, 64)
    assert count(net) == 6400 and set(net.state_dict()) == {"keys", "values"}


def test_parameters_of_the_forward_students_parts():
    with torch.device("meta"):
        net = RememberingStudent(student_plan("resnet18", [1, 2, 3]), R18, [NormalityMemory(50, c) for c in R18[:-1]])
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
        decoder = Decoder(student_plan(backbone, [1, 2, 3]), channels, memory)
    assert count(decoder.memories) == memories and count(decoder) == without + memories


def test_a_memory_of_two_items_by_hand():
    net = memory([[0.0, 1.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 4.0]])
    q = query(3, 0)
    torch.testing.assert_close(net(q), query(0.537883, 2.924234), atol=1e-5, rtol=0)
    torch.testing.assert_close(net.embed(q), query(1.462117, 1.075766), atol=1e-5, rtol=0)
    assert 0.5 * squared_distance(q, net.embed(q)).item() == pytest.approx(0.194528, abs=1e-5)
    assert net.alignment().tolist() == [[0, 1], [1, 0]]


def test_weights_of_50_items_are_nearly_uniform_at_temperature_1():
    keys, values = -torch.ones(50, 1), torch.zeros(50, 1)
    keys[0], values[0] = 1, 1
    assert memory(keys, values)(query(5)).item() == pytest.approx(0.1310371, abs=1e-6)
    one_hot = memory(torch.eye(50), torch.eye(50))(query(*torch.eye(50)[0])).flatten()
    assert one_hot[0].item() == pytest.approx(0.0525594, abs=1e-6)
    torch.testing.assert_close(one_hot[1:], torch.full((49,), 0.0193355), atol=1e-6, rtol=0)


def test_a_low_temperature_picks_one_item():
    net = memory(torch.eye(50), torch.eye(50))
    net.temperature = 0.1
    assert net(query(*torch.eye(50)[0])).flatten()[0].item() == pytest.approx(0.9978, abs=1e-4)


def test_recall_by_its_definition():
    torch.manual_seed(0)
    net, maps = NormalityMemory(50, 64), torch.randn(3, 64, 4, 5)
    expected = torch.empty_like(maps)
    for b, y, x in np.ndindex(3, 4, 5):
        weights = F.cosine_similarity(maps[b, :, y, x][None], net.keys).softmax(0)
        expected[b, :, y, x] = net.values.T @ weights
    torch.testing.assert_close(net(maps), expected)


def test_equal_keys_and_values_recall_what_they_embed():
    same, maps = memory(torch.eye(64)[:50], torch.eye(64)[:50]), torch.randn(2, 64, 3, 3)
    torch.testing.assert_close(same(maps), same.embed(maps))


def test_reading_is_done_in_full_precision():
    """The weights are nearly equal; in half precision their difference would be lost."""
    net, maps = NormalityMemory(50, 64), torch.rand(1, 64, 4, 4)
    exact = net(maps)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(maps), exact) and net.alignment().dtype == torch.float32


@torch.inference_mode()
def test_shapes_for_a_wide_teacher():
    plan, channels = student_plan("wide_resnet50_2", [1, 2, 3]), [256, 512, 1024]
    forward = RememberingStudent(plan, channels, [NormalityMemory(50, c) for c in channels[:-1]])
    reverse = Decoder(plan, channels, {k: NormalityMemory(50, n) for k, n in enumerate((2048, 1024, 512))})
    for maps in (forward(torch.ones(1, 3, 256, 256)), reverse(torch.ones(1, 2048, 8, 8))):
        assert [tuple(m.shape[1:]) for m in maps] == [(256, 64, 64), (512, 32, 32), (1024, 16, 16)]


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
    plan = student_plan("resnet18", [1, 2, 3])
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


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@torch.inference_mode()
def test_a_stage_reads_its_map_and_then_what_the_memory_recalls(reverse):
    """A memory that recalls nothing leaves a stage the features only, which are its first input channels."""
    plan, memory = student_plan("resnet18", [1, 2]), NormalityMemory(50, 64 if not reverse else 128)
    net = Decoder(plan, R18[:2], {1: memory}) if reverse else RememberingStudent(plan, R18[:2], [memory])
    seen = []
    net.stages[1].register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    maps = net.eval()(torch.rand(1, 256, 4, 4) if reverse else torch.rand(1, 3, 64, 64))
    first = maps[1] if reverse else maps[0]
    torch.testing.assert_close(seen[0], torch.cat([first, memory(first)], dim=1), rtol=0, atol=0)


@torch.inference_mode()
def test_a_memory_lives_among_the_teachers_features_whatever_the_student_is_like():
    """With other channels inside, memories read what is compared with the teacher."""
    plan = BASIC._replace(inner=(8, 16))
    forward = RememberingStudent(plan, (5, 7), [NormalityMemory(50, 5)]).eval()
    reverse = Decoder(plan, (5, 7), {0: NormalityMemory(50, 9), 1: NormalityMemory(50, 7)}, embedding=9).eval()
    for maps in (forward(torch.rand(1, 3, 64, 64)), reverse(torch.rand(1, 9, 4, 4))):
        assert [tuple(m.shape[1:]) for m in maps] == [(5, 16, 16), (7, 8, 8)]
        assert all(m.min() < 0 < m.max() for m in maps)
